"""A backbone of vectors."""

from __future__ import annotations

from torch import Tensor, nn

from mmlab.backbones.sequences import mean_of_steps, step_width, steps
from mmlab.types import Modality


class MLP(nn.Module):
    """Two linear layers, each followed by ReLU, with dropout between them, by the name ``mlp``.

    Of a sequence it sees the mean over the sample's steps. The sizes are ours.

    Args:
        modality: a vector, or a sequence, ragged or not.
        hidden: units of the first layer.
        width: D, units of the second and of the features.
        dropout: of the first layer's units.
    """

    def __init__(self, modality: Modality, hidden: int = 32, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.modality = modality
        self.layers = nn.Sequential(
            nn.Linear(step_width(modality), hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.ReLU(),
        )
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) from the modality's (B, D), (B, T, D) or (B, T, D + 1)."""
        return self.layers(mean_of_steps(*steps(x, self.modality)))
