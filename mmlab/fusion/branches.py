"""Branches of a multi-task regression network: one of all modalities together, one of each.

Source: Yu et al., "Learning Modality-Specific Representations with Self-Supervised Multi-Task Learning for Multimodal
Sentiment Analysis", AAAI 2021; widths and dropout are those of MMSA's settings for CMU-MOSI.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor, nn

from mmlab.errors import UserError
from mmlab.types import DataSpec


@dataclass(frozen=True)
class BranchWidths:
    """How wide each branch's representation is.

    Attributes:
        fusion: of all modalities together.
        text: 32 unless given.
        audio: 16 unless given.
        vision: 32 unless given, as of any other modality.
    """

    fusion: int = 128
    text: int | None = None
    audio: int | None = None
    vision: int | None = None


@dataclass(frozen=True)
class BranchDropouts:
    """The share of its input's places that each branch drops in training.

    Attributes:
        fusion: of all modalities together.
        text: 0.1 unless given.
        audio: 0.1 unless given.
        vision: 0 unless given, as of any other modality.
    """

    fusion: float = 0.0
    text: float | None = None
    audio: float | None = None
    vision: float | None = None


USUAL_WIDTHS, USUAL_DROPOUTS = BranchWidths(), BranchDropouts()
WIDTHS, WIDTH = {"audio": 16}, 32
DROPOUTS, DROPOUT = {"text": 0.1, "audio": 0.1}, 0.0


class Branch(nn.Module):
    """``H = ReLU(A drop(x) + a)`` and ``yhat = c ReLU(B H + b) + d``.

    Args:
        inputs: width of x.
        width: of H.
        dropout: share of x's places that are dropped in training.

    Attributes:
        width: of H.
    """

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.dropout = nn.Dropout(dropout)
        self.representation = nn.Linear(inputs, width)
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The representation (B, width) and the decision (B, 1), which no function squashes."""
        representation = self.representation(self.dropout(x)).relu()
        return representation, self.output(self.hidden(representation).relu())


def build_branches(
    spec: DataSpec, encoded: dict[str, int], widths: BranchWidths, dropouts: BranchDropouts
) -> tuple[Branch, dict[str, Branch]]:
    """The branch of all modalities, and one of each by its name.

    Args:
        spec: of the data.
        encoded: the width of what each encoder puts out, in the data set's order.
        widths: of the branches.
        dropouts: of the branches.

    Raises:
        UserError: if an option names a modality that the data set lacks, or makes no sense.
    """
    for given in (widths, dropouts):
        for name in (field.name for field in fields(given)):
            value = getattr(given, name)
            if name != "fusion" and value is not None:
                spec.position(name)  # raises for a modality that the data set lacks
            if isinstance(given, BranchWidths) and value is not None and value < 1:
                raise UserError(f"the branch of {name} is {value} wide: set branch_widths.{name} to 1 or more.")
            if isinstance(given, BranchDropouts) and value is not None and not 0 <= value < 1:
                raise UserError(
                    f"the branch of {name} drops a share of {value}: set branch_dropouts.{name} to 0 or more and less "
                    f"than 1."
                )
    fused = Branch(sum(encoded.values()), widths.fusion, dropouts.fusion)
    unimodal = {}
    for name, inputs in encoded.items():
        width, dropout = getattr(widths, name, None), getattr(dropouts, name, None)
        unimodal[name] = Branch(
            inputs,
            WIDTHS.get(name, WIDTH) if width is None else width,
            DROPOUTS.get(name, DROPOUT) if dropout is None else dropout,
        )
    return fused, unimodal
