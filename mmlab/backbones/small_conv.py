"""A small convolutional network for tiny inputs, 8 x 8 and larger."""

from __future__ import annotations

from torch import Tensor, nn

from mmlab.backbones.base import Backbone
from mmlab.errors import UserError


class SmallConvNet(Backbone):
    """Four blocks of 3 x 3 convolution, group normalisation and ReLU; from the second on, each halves the size.

    Args:
        channels: of the input.
        width: channels of the first block, a multiple of 4; each block doubles them, so D = 8 * width.

    Raises:
        UserError: if ``width`` is not a positive multiple of 4.
    """

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        if width < 4 or width % 4:
            raise UserError(f"small_conv can't be {width} channels wide: give a positive multiple of 4 as its width.")
        sizes = [channels, width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.Sequential(
            *(
                _block(before, after, stride)
                for before, after, stride in zip(sizes[:-1], sizes[1:], (1, 2, 2, 2), strict=True)
            )
        )
        self.width = sizes[-1]

    def picture_maps(self, pictures: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, D, h, w), where h and w are an eighth of H and W, rounded up."""
        return self.blocks(pictures)


def _block(before: int, after: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False),
        # Not batch normalisation: results must not depend on how a batch is split over devices.
        nn.GroupNorm(after // 4, after),
        nn.ReLU(),
    )
