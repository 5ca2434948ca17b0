"""The segmentation network: an encoder for each modality, joined at five depths, and one decoder.

Source: ESANet (Seichter et al., ICRA 2021) in the form of MMANet's released code (Wei, Luo, Luo, CVPR 2023), which
DMRNet's starts from too. There are two modalities, RGB and depth; the rule for any number is ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import cast

from torch import Tensor, nn

from mmlab.backbones.pyramids import STRIDES, Pyramid
from mmlab.backbones.shared import once
from mmlab.errors import UserError
from mmlab.networks.base import Features, Network, SecondHead
from mmlab.networks.blocks import ChannelGate, convolution
from mmlab.networks.context import PyramidPooling
from mmlab.networks.decoder import Decoder
from mmlab.types import DataSpec


class SegmentationNetwork(Network):
    """Adds up the modalities' gated maps after each of five stages; the sum goes on through the first one's encoder.

    With c_m = 1 where modality m is available, else 0, the map x_m of level l is joined and handed on as

        f_l = sum_m gate_ml(c_m x_ml),   x_1(l+1) = stage_1(f_l),   x_m(l+1) = stage_m(c_m x_ml) for m > 1

    The trunk is pyramid pooling over the last sum and a convolution over each of the three before it; the head is a
    :class:`~mmlab.networks.decoder.Decoder`. What is new beside the encoders starts as torch does.

    Attributes:
        skips: channels of the finer maps that leave the trunk, the finest first.
        norm: the normalisation of all that is new beside the encoders.

    Args:
        spec: pictures of one size, whose height and width are multiples of 4, at least 20.
        encoders: pyramids of the same channels for all modalities.

    Raises:
        UserError: if the pictures or the encoders don't fit together.
    """

    def __init__(self, spec: DataSpec, encoders: nn.ModuleDict) -> None:
        super().__init__()
        size = common_size(spec)
        pyramids = [cast(Pyramid, encoder) for encoder in encoders.values()]
        first = pyramids[0]
        for name, pyramid in zip(encoders, pyramids, strict=True):
            if pyramid.channels != first.channels:
                raise UserError(
                    f"the maps of all modalities are added up, but those of {name!r} have {pyramid.channels} channels "
                    f"and those of {spec.names[0]!r} {first.channels}: give all the same backbone."
                )
        self.encoders = encoders
        self.gates = nn.ModuleList(
            nn.ModuleList(ChannelGate(channels) for _ in pyramids) for channels in first.channels
        )
        self.width = first.decoder[0]
        self.norm = first.norm
        coarsest = (-(-size[0] // STRIDES[-1]), -(-size[1] // STRIDES[-1]))
        self.context = PyramidPooling(first.channels[-1], self.width, coarsest, self.norm)
        self.skips = tuple(reversed(first.decoder))
        self.skip_convolutions = nn.ModuleList(
            convolution(before, after, 1, self.norm)
            for before, after in zip(first.channels[1:4], self.skips, strict=True)
        )
        self._classes = spec.task.outputs
        self.head = self._decoder()

    def encode(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """Each modality's map after the first stage, the only one before which nothing is joined."""
        return [once(cast(Pyramid, encoder).stages[0], inputs[name]) for name, encoder in self.encoders.items()]

    def fuse(self, encoded: list[Tensor], present: Tensor) -> Features:
        """The last sum as ``deep``, those of the second to the fourth stage as ``skips``."""
        lacks = (~present).view(*present.shape, 1, 1, 1).unbind(dim=1)
        maps, sums = list(encoded), []
        for level, gates in enumerate(self.gates):
            if level:
                encoders = self.encoders.values()
                maps = [cast(Pyramid, encoder).stages[level](x) for encoder, x in zip(encoders, maps, strict=True)]
            # Chosen and not multiplied: an infinite feature times zero would be nan.
            maps = [x.masked_fill(lack, 0.0) for x, lack in zip(maps, lacks, strict=True)]
            gated = [gate(x) for gate, x in zip(cast(nn.ModuleList, gates), maps, strict=True)]
            maps[0] = sum(gated[1:], gated[0])
            sums.append(maps[0])
        return Features(sums[-1], tuple(sums[1:4]))

    def trunk(self, fused: Features) -> Features:
        """The context of the deepest sum, (B, width, h, w), and a convolution of each skip."""
        skips = zip(self.skip_convolutions, fused.skips, strict=True)
        return Features(self.context(fused.deep), tuple(convolve(skip) for convolve, skip in skips))

    def compilable(self) -> Iterable[nn.Module]:
        """The encoders' stages, between which the modalities are joined."""
        return chain.from_iterable(cast(Pyramid, encoder).stages for encoder in self.encoders.values())

    def second_head(self) -> SecondHead:
        """A decoder of its own, from what leaves the trunk."""
        return SecondHead(self._decoder())

    def _decoder(self) -> Decoder:
        return Decoder(self.width, self.skips, self._classes, self.norm)


def common_size(spec: DataSpec) -> tuple[int, int]:
    """(H, W) of the pictures.

    Raises:
        UserError: if they differ, or the encoders can't halve them five times and the decoder double them again.
    """
    sizes = {modality.name: modality.shape[1:] for modality in spec.modalities}
    first = spec.modalities[0]
    for name, size in sizes.items():
        if size != first.shape[1:]:
            raise UserError(
                f"a class of each pixel needs modalities that lie upon one another, but {name!r} of {spec.dataset} is "
                f"{' x '.join(map(str, size))} and {first.name!r} {' x '.join(map(str, first.shape[1:]))}: give all "
                f"the same size."
            )
    # The last stage would halve a single row or column, of which torch's CPU kernel for bfloat16 makes a gradient from
    # memory that nobody has written to.
    if any(side % 4 or side <= 16 for side in first.shape[1:]):
        raise UserError(
            f"the pictures of {spec.dataset} are {' x '.join(map(str, first.shape[1:]))}, but segmentation needs a "
            f"height and a width that are multiples of 4 and at least 20: choose such a size for the data set."
        )
    return first.shape[1], first.shape[2]
