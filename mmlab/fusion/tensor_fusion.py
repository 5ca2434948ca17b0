"""Tensor fusion: the outer product of all modalities' features holds every interaction between them.

Source: Zadeh, Chen, Poria, Cambria, Morency, "Tensor Fusion Network for Multimodal Sentiment Analysis", EMNLP 2017,
for three modalities; any other number is the same equation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmlab.errors import UserError
from mmlab.fusion.joint import known_features
from mmlab.fusion.several import require_several
from mmlab.fusion.sizes import check_sizes

MOST_CELLS = 1_000_000
"""How many numbers the outer product of one sample may have: its first layer has ``hidden`` weights for each."""


def with_one(features: Mapping[str, Tensor], present: Tensor) -> list[Tensor]:
    """``[h_m; 1]`` of each modality, (B, D_m + 1), and ``[0; 1]`` where a sample lacks it (ours).

    An interaction with the modality then is gone, and those of the others among themselves stay.

    Args:
        features: (B, D_m) by modality, in the data set's order.
        present: (B, M) bool.
    """
    return [torch.cat([known, torch.ones_like(known[:, :1])], dim=1) for known in known_features(features, present)]


def outer_product(vectors: Sequence[Tensor]) -> Tensor:
    """``z_1 (x) ... (x) z_M`` of each sample, flattened with the last modality fastest.

    Args:
        vectors: (B, D_m) each.

    Returns:
        (B, D_1 ... D_M).
    """
    product = vectors[0]
    for vector in vectors[1:]:
        product = (product[:, :, None] * vector[:, None, :]).flatten(1)
    return product


class TensorFusion(nn.Module):
    """``Z = [h_1; 1] (x) ... (x) [h_M; 1]``, decided on by two hidden layers of ReLU and a linear one.

    ``h_m`` is a layer of ReLU on the encoder's features, the last one of the paper's subnetworks. The decision is
    linear for every task (ours: the paper ends in a sigmoid or a softmax).

    Args:
        widths: the encoders' feature widths D_m, in the data set's order.
        outputs: C.
        width: of each ``h_m``; there are (width + 1)^M numbers in Z.
        hidden: of the two hidden layers.
        dropout: after each layer of ReLU.

    Raises:
        UserError: if there is only one modality, a size can't be, or Z is too large.
    """

    def __init__(self, widths: Mapping[str, int], outputs: int, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        require_several(widths)
        check_sizes("TFN", {"width": width, "hidden": hidden}, dropout)
        cells = (width + 1) ** len(widths)
        if cells > MOST_CELLS:
            most = int((MOST_CELLS + 0.5) ** (1 / len(widths))) - 1
            raise UserError(
                f"TFN with {len(widths)} modalities of width {width} would make {cells:,} numbers of each "
                f"sample, more than {MOST_CELLS:,}: "
                + (f"choose a width of {most} or less, or the method LMF." if most > 0 else "choose the method LMF.")
            )
        self.subnetworks = nn.ModuleList(_hidden(before, width, dropout) for before in widths.values())
        self.inference = nn.Sequential(
            _hidden(cells, hidden, dropout), _hidden(hidden, hidden, dropout), nn.Linear(hidden, outputs)
        )

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Logits (B, C) from features (B, D_m) by modality."""
        # A product of several features overflows in half precision.
        with torch.autocast(present.device.type, enabled=False):
            precision = next(self.parameters()).dtype
            own = {
                name: layers(feature.to(precision))
                for (name, feature), layers in zip(features.items(), self.subnetworks, strict=True)
            }
            return self.inference(outer_product(with_one(own, present)))


def _hidden(before: int, after: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout))
