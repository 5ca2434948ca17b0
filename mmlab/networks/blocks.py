"""Small parts that networks for dense tasks are made of."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Norm = Literal["batch", "group"]
"""Batch normalisation, or group normalisation of four channels each, by which no sample depends on its batch."""


def normalisation(norm: Norm, channels: int, eps: float = 1e-5) -> nn.Module:
    """The normalisation of maps (B, channels, h, w); in groups, of vectors (B, channels) too."""
    if norm == "batch":
        return nn.BatchNorm2d(channels, eps=eps)
    return nn.GroupNorm(max(channels // 4, 1), channels, eps=eps)


def convolution(before: int, after: int, kernel: int, norm: Norm) -> nn.Sequential:
    """Convolution without bias, normalisation, ReLU; the size stays."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False),
        normalisation(norm, after),
        nn.ReLU(inplace=True),
    )


class ChannelGate(nn.Module):
    """Squeeze and excitation: weighs each channel by what the whole map says.

    ``x * sigmoid(W_2 relu(W_1 mean(x)))``, with a sixteenth of the channels between both.

    Args:
        channels: of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(channels // 16, 1)
        self.weigh = nn.Sequential(
            nn.Conv2d(channels, narrow, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, channels, kernel_size=1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w), the same."""
        return x * self.weigh(x.mean(dim=(2, 3), keepdim=True))
