"""Feature vectors side by side and one linear layer: the audio-visual network of the methods for missing modalities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmlab.backbones.config import widths
from mmlab.backbones.shared import once
from mmlab.networks.base import Decision, Features, Head, Network, SecondHead


class VectorNetwork(Network):
    """``W [c_1 f_1(x_1); ...; c_M f_M(x_M)] + b``, with c_m = 1 where the modality is available, else 0.

    There is no trunk: what is fused goes to the head.

    Args:
        encoders: each from (B, *shape) to (B, D_m).
        outputs: C.
    """

    def __init__(self, encoders: nn.ModuleDict, outputs: int) -> None:
        super().__init__()
        self.encoders = encoders
        self.width = sum(widths(encoders).values())
        self._outputs = outputs
        self.head = LinearHead(self.width, outputs)

    def encode(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """Each modality's features (B, D_m), of all samples: a batch normalisation within an encoder sees them all."""
        return [once(encoder, inputs[name]) for name, encoder in self.encoders.items()]

    def fuse(self, encoded: list[Tensor], present: Tensor) -> Features:
        """(B, D_1 + ... + D_M), zero where a modality is missing."""
        # Chosen and not multiplied: an infinite feature times zero would be nan.
        columns = present.unbind(dim=1)
        return Features(
            torch.cat([each.masked_fill(~has[:, None], 0.0) for each, has in zip(encoded, columns, strict=True)], dim=1)
        )

    def trunk(self, fused: Features) -> Features:
        """The same."""
        return fused

    def second_head(self) -> SecondHead:
        """A linear layer of its own."""
        return SecondHead(LinearHead(self.width, self._outputs))


class LinearHead(Head):
    """A linear layer; maps are averaged over all places first.

    Args:
        width: D.
        outputs: C.
    """

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(width, outputs)

    def forward(self, features: Features) -> Decision:
        """(B, D) or (B, D, h, w) to (B, C)."""
        deep = features.deep
        return Decision(self.classifier(deep.mean(dim=(2, 3)) if deep.dim() == 4 else deep))
