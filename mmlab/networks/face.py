"""The face network: maps of all modalities side by side, and the second half of a ResNet-18 over them.

Source: Wei, Luo, Luo, "MMANet", CVPR 2023, the released code for CASIA-SURF and CeFA.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn

from mmlab.backbones.base import Backbone
from mmlab.backbones.config import widths
from mmlab.backbones.face_resnet import residual_stage, start
from mmlab.backbones.shared import once
from mmlab.networks.base import Features, Network, SecondHead
from mmlab.networks.vector import LinearHead

WIDTH = 512


class FaceNetwork(Network):
    """``head(trunk([c_1 e_1(x_1); ...; c_M e_M(x_M)]))``, with c_m = 1 where the modality is available, else 0.

    Args:
        encoders: each from (B, channels, H, W) to maps (B, D_m, h, w), of the same size for all modalities.
        outputs: C.
    """

    def __init__(self, encoders: nn.ModuleDict, outputs: int) -> None:
        super().__init__()
        self.encoders = encoders
        self.width = WIDTH
        self._fused = sum(widths(encoders).values())
        self._outputs = outputs
        self.shared = FaceTrunk(self._fused)
        self.head = LinearHead(WIDTH, outputs)

    def encode(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """Each modality's maps (B, D_m, h, w), of all samples: batch normalisation within an encoder sees them all."""
        maps = []
        for name, encoder in self.encoders.items():
            assert isinstance(encoder, Backbone)
            maps.append(once(encoder.picture_maps, inputs[name]))
        return maps

    def fuse(self, encoded: list[Tensor], present: Tensor) -> Features:
        """(B, D_1 + ... + D_M, h, w), zero where a modality is missing."""
        columns = present.view(*present.shape, 1, 1, 1).unbind(dim=1)
        # Chosen and not multiplied: an infinite feature times zero would be nan.
        return Features(
            torch.cat([maps.masked_fill(~has, 0.0) for maps, has in zip(encoded, columns, strict=True)], dim=1)
        )

    def trunk(self, fused: Features) -> Features:
        """To (B, 512, h', w') at a quarter of the size, 4 x 4 for faces of 112 x 112."""
        return self.shared(fused)

    def compilable(self) -> Iterable[nn.Module]:
        """The encoders' parts: maps are asked for, and an encoder itself is never called."""
        return chain.from_iterable(encoder.children() for encoder in self.encoders.values())

    def second_head(self) -> SecondHead:
        """A trunk and a classifier of its own, from the fused maps; nothing is shared."""
        return SecondHead(LinearHead(WIDTH, self._outputs), FaceTrunk(self._fused))


class FaceTrunk(nn.Module):
    """The last two stages of ResNet-18.

    Args:
        channels: of the fused maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stages = nn.Sequential(residual_stage(channels, 256, stride=2), residual_stage(256, WIDTH, stride=2))
        start(self)

    def forward(self, fused: Features) -> Features:
        """(B, channels, h, w) to (B, 512, h / 4, w / 4), rounded up."""
        return Features(self.stages(fused.deep))
