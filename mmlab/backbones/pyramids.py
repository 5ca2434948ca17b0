"""Backbones for dense tasks: five levels of maps, each half the size of the one before."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from mmlab.backbones.small_conv import block, check_width

STRIDES = (2, 4, 8, 16, 32)


class Pyramid(nn.Module):
    """The contract of a backbone for dense tasks: five stages that a network walks through one by one.

    Between two stages the network may change the map, by adding those of other modalities, say.

    Attributes:
        stages: stage i takes the map of stage i - 1, the first one the picture (B, channels, H, W), and halves its
            height and width, rounded up.
        channels: of each stage's map.
        strides: from the picture to each stage's map.
        norm: the normalisation that a network puts around these stages.
        decoder: the widths of a decoder's three modules, from the coarsest.
    """

    stages: nn.ModuleList
    channels: tuple[int, ...]
    strides: tuple[int, ...] = STRIDES
    norm: Literal["batch", "group"] = "batch"
    decoder: tuple[int, int, int] = (512, 256, 128)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The maps of all stages, the finest first, with nothing changed between them."""
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return tuple(maps)


class SmallPyramid(Pyramid):
    """Five blocks of 3 x 3 convolution, group normalisation and ReLU: ``small_conv`` for dense tasks.

    Channels double from block to block up to ``8 * width``; a decoder's widths are ``8 * width`` and less.

    Args:
        channels: of the input.
        width: channels of the first block, a multiple of 4.

    Raises:
        UserError: if ``width`` is not a positive multiple of 4.
    """

    norm = "group"

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        check_width(width)
        self.channels = (width, 2 * width, 4 * width, 8 * width, 8 * width)
        self.decoder = (8 * width, 4 * width, 2 * width)
        before = (channels, *self.channels[:-1])
        self.stages = nn.ModuleList(
            block(narrow, wide, stride=2) for narrow, wide in zip(before, self.channels, strict=True)
        )
