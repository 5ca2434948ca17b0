"""Pyramid pooling: what a map says about the whole picture, put beside what it says at each place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlab.backbones.grid import averages
from mmlab.networks.blocks import Norm, convolution


def context_bins(size: tuple[int, int]) -> tuple[int, ...]:
    """Into how many rows and columns a map is averaged.

    1 and 5 for maps up to 20 places wide and high, which a picture of 480 x 640 has (15 x 20); 1, 2, 4 and 8 for larger
    ones, which a crop of 512 x 1024 has (16 x 32). MMANet's released code has the former for NYUv2 and the latter for
    Cityscapes; to go by the size is our rule.

    Args:
        size: (h, w) of the map in training.
    """
    return (1, 5) if max(size) <= 20 else (1, 2, 4, 8)


class PyramidPooling(nn.Module):
    """Averages over coarse grids, each convolved, enlarged to the map's size and put beside the map; one convolution.

    A map larger than in training is averaged into more bins: as many times as many as it is larger, rounded.

    Source: the context module of ESANet (Seichter et al., ICRA 2021), as MMANet's released code has it.

    Args:
        channels: of the map.
        outputs: channels of the result.
        size: (h, w) of the map in training.
        norm: of the convolutions. With batch normalisation a batch of one can't train: the coarsest average is one
            number a channel.
    """

    def __init__(self, channels: int, outputs: int, size: tuple[int, int], norm: Norm) -> None:
        super().__init__()
        self.bins = context_bins(size)
        self.size = size
        narrow = channels // len(self.bins)
        self.branches = nn.ModuleList(convolution(channels, narrow, 1, norm) for _ in self.bins)
        self.joint = convolution(channels + narrow * len(self.bins), outputs, 1, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) to (B, outputs, h, w)."""
        size = (x.shape[2], x.shape[3])
        larger = [max(1, int(side / nominal + 0.5)) for side, nominal in zip(size, self.size, strict=True)]
        beside = [x]
        for bins, branch in zip(self.bins, self.branches, strict=True):
            rows, columns = (
                averages(side, bins * times, x.device).to(x.dtype) for side, times in zip(size, larger, strict=True)
            )
            coarse = torch.einsum("bchw,yh,xw->bcyx", x, rows, columns)
            beside.append(F.interpolate(branch(coarse), size=size, mode="nearest"))
        return self.joint(torch.cat(beside, dim=1))
