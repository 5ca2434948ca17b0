"""The decoder of the segmentation network: from a coarse map and finer ones beside it to a class of each pixel.

Source: the decoder of ESANet (Seichter et al., ICRA 2021), as the released segmentation code of MMANet has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlab.networks.base import Decision, Features, Head
from mmlab.networks.blocks import Norm, convolution, normalisation


class Decoder(Head):
    """Three modules, after each of which the map is enlarged to the next skip's size and the skip is added.

    A convolution to the classes and two more enlargements then lead to the picture's size. In training each module
    decides too, at its own size.

    Args:
        deep: channels of the coarse map.
        skips: channels of the finer maps, the finest first; each is the width of the module before it.
        classes: C.
        norm: of the convolutions.
    """

    def __init__(self, deep: int, skips: Sequence[int], classes: int, norm: Norm) -> None:
        super().__init__()
        widths = list(reversed(skips))
        before = [deep, *widths[:-1]]
        self.parts = nn.ModuleList(
            nn.Sequential(convolution(narrow, wide, 3, norm), *(FactorisedBlock(wide, norm) for _ in range(3)))
            for narrow, wide in zip(before, widths, strict=True)
        )
        self.sides = nn.ModuleList(nn.Conv2d(width, classes, kernel_size=1) for width in widths)
        self.enlarge = nn.ModuleList(Enlarge(width) for width in widths)
        self.classifier = nn.Conv2d(widths[-1], classes, kernel_size=3, padding=1)
        self.enlarge_logits = nn.ModuleList(Enlarge(classes) for _ in range(2))

    def forward(self, features: Features) -> Decision:
        """Decides for each pixel.

        Args:
            features: ``deep`` (B, deep, h, w), ``skips`` of two, four and eight times its size, as near as rounding
                in the encoders came.

        Returns:
            Logits (B, C, H, W) of four times the finest skip's size; in training also those of each module, as coarse
            as the skips but the finest and the deep map, the finest first.
        """
        x = features.deep
        coarse = []
        for part, side, enlarge, skip in zip(
            self.parts, self.sides, self.enlarge, reversed(features.skips), strict=True
        ):
            x = part(x)
            if self.training:
                coarse.append(side(x))
            x = enlarge(x, (skip.shape[2], skip.shape[3])) + skip
        logits = self.classifier(x)
        for enlarge in self.enlarge_logits:
            logits = enlarge(logits, (2 * logits.shape[2], 2 * logits.shape[3]))
        return Decision(logits, tuple(reversed(coarse)))


class FactorisedBlock(nn.Module):
    """A residual block of two 3 x 3 convolutions, each as 3 x 1 and 1 x 3.

    Args:
        width: channels.
        norm: behind each pair.
    """

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.first = _factorised(width, norm)
        self.second = _factorised(width, norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w), the same."""
        return F.relu(x + self.second(F.relu(self.first(x), inplace=True)), inplace=True)


def _factorised(width: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, kernel_size=(3, 1), padding=(1, 0)),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, kernel_size=(1, 3), padding=(0, 1)),
        normalisation(norm, width, eps=1e-3),
    )


class Enlarge(nn.Module):
    """Enlarges by the nearest value, then smooths each channel by a 3 x 3 kernel that is learned.

    The kernel starts as the one that makes it bilinear inside the map; outside is zero.

    Args:
        channels: of the map.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.smooth = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=channels)
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        assert self.smooth.bias is not None
        with torch.no_grad():
            self.smooth.weight.copy_(torch.outer(line, line).expand_as(self.smooth.weight))
            self.smooth.bias.zero_()

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, channels, h, w) to (B, channels, *size)."""
        return self.smooth(F.interpolate(x, size=size, mode="nearest"))
