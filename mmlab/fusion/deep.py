"""A network on the concatenated features."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmlab.fusion.joint import known_features
from mmlab.fusion.several import require_several
from mmlab.fusion.sizes import check_sizes


class DeepFusion(nn.Module):
    """Concatenation, dropout, two hidden layers of ReLU and a linear one; a missing modality's feature is zero.

    Args:
        widths: each modality's feature width D_m, in the data set's order.
        outputs: C.
        hidden: of the two hidden layers.
        dropout: of the concatenated features.

    Raises:
        UserError: if there is only one modality, or a size can't be.
    """

    def __init__(self, widths: Mapping[str, int], outputs: int, hidden: int, dropout: float) -> None:
        super().__init__()
        require_several(widths)
        check_sizes("LF-DNN", {"hidden": hidden}, dropout)
        self.layers = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(sum(widths.values()), hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, outputs),
        )

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Logits (B, C) from features (B, D_m) by modality."""
        return self.layers(torch.cat(known_features(features, present), dim=1))
