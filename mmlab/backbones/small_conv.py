"""A small convolutional network for tiny inputs, 8 x 8 and larger."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmlab.backbones.base import Backbone
from mmlab.backbones.grid import averages
from mmlab.errors import UserError

GRID = (2, 4)
TIMES = 4


class SmallConvNet(Backbone):
    """Four blocks of 3 x 3 convolution, group normalisation and ReLU, the first three of which halve the size.

    Its features keep a coarse grid of when and where (2 x 4, and 4 times for frames), projected back to D: in a net
    this small, averaging over all of it would throw away what tells spoken words apart.

    Args:
        shape: of the input, (channels, H, W) or (channels, T, H, W).
        width: channels of the first block, a multiple of 4; each block doubles them, so D = 8 * width.

    Raises:
        UserError: if ``width`` is not a positive multiple of 4.
    """

    bins_t: Tensor
    bins_h: Tensor
    bins_w: Tensor

    def __init__(self, shape: tuple[int, ...], width: int = 16) -> None:
        super().__init__()
        check_width(width)
        sizes = [shape[0], width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.Sequential(
            *(
                block(before, after, stride)
                for before, after, stride in zip(sizes[:-1], sizes[1:], (2, 2, 2, 1), strict=True)
            )
        )
        self.width = sizes[-1]
        frames = shape[1] if len(shape) == 4 else 1
        halved = [frames, *(-(-side // 8) for side in shape[-2:])]
        grid = (TIMES if frames > 1 else 1, *GRID)
        for axis, size, bins in zip("thw", halved, grid, strict=True):
            self.register_buffer(f"bins_{axis}", averages(size, bins), persistent=False)
        self.projection = nn.Linear(self.width * math.prod(grid), self.width)

    def picture_maps(self, pictures: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, D, h, w), where h and w are an eighth of H and W, rounded up."""
        return self.blocks(pictures)

    def pool(self, maps: Tensor) -> Tensor:
        """(B, T, D, h, w) to (B, D), by way of the grid."""
        coarse = torch.einsum("btdhw,xt,yh,zw->bdxyz", maps, self.bins_t, self.bins_h, self.bins_w)
        return self.projection(coarse.flatten(1))


def check_width(width: int) -> None:
    """Refuses what can't be the channels of the first block.

    Raises:
        UserError: if ``width`` is not a positive multiple of 4.
    """
    if width < 4 or width % 4:
        raise UserError(f"small_conv can't be {width} channels wide: give a positive multiple of 4 as its width.")


def block(before: int, after: int, stride: int) -> nn.Module:
    """3 x 3 convolution, group normalisation of four channels each, ReLU."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False),
        # Not batch normalisation: results must not depend on how a batch is split over devices.
        nn.GroupNorm(after // 4, after),
        nn.ReLU(),
    )
