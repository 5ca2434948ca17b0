"""The encoders of ERL-MR's sensor data: what a body wears, and where its joints are.

Sources: the convolutions of the USC-HAD encoder are the released code's of ERL-MR (Han, Cai, Guo, Peng, ACM Multimedia
2024). That code lacks the file of its MHAD encoders; they are here as in the code that its data come from, Harmony
(Ouyang et al., MobiSys 2023), and reading their features as 16 channels of 16 values is our guess at how ERL-MR
uses them. Lengths other than the published ones are ours.

All of them keep the sources' batch normalisation, and ``sensor_conv`` their dropout. In training, a sample's features
then depend on its batch; several processes don't give one process's results, since each normalises its own part of
the batch (with the Trainer's ``sync_batchnorm``, GPUs share it) and draws its own dropout.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from mmlab.errors import UserError

CHANNELS = 16
AXES = 3


class SensorConv(nn.Module):
    """Four convolutions over a sensor's time and axes, by the name ``sensor_conv``.

    2 x 2 to 64 channels, 2 x 2 to 64, 1 x 1 to 32 and 1 x 1 to 16, without padding, each followed by batch
    normalisation and ReLU, and all but the last by dropout of 0.5.

    Args:
        shape: (T, D) of the input.

    Attributes:
        width: 16 (T - 2) (D - 2), the channels one after another.
        channels: 16.

    Raises:
        UserError: if there are fewer than 3 steps or 3 axes.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        length, axes = shape
        if length < 3 or axes < 3:
            raise UserError(
                f"sensor_conv needs 3 steps of 3 axes or more, but the input has {length} of {axes}: use sensor_gru."
            )
        self.layers = nn.Sequential(
            *_convolution(1, 64, 2),
            nn.Dropout(0.5),
            *_convolution(64, 64, 2),
            nn.Dropout(0.5),
            *_convolution(64, 32, 1),
            nn.Dropout(0.5),
            *_convolution(32, CHANNELS, 1),
        )
        self.channels = CHANNELS
        self.width = CHANNELS * (length - 2) * (axes - 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) from (B, T, D)."""
        return self.layers(x.transpose(1, 2).unsqueeze(1)).flatten(1)


def _convolution(before: int, after: int, kernel: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, kernel), nn.BatchNorm2d(after), nn.ReLU()


class _ConvGRU(nn.Module):
    """Blocks, whose maps are read as 16 steps by a GRU of two layers with 16 units each.

    As in the source, a step is a group of neighbouring channels with all their places and times, not a time.

    Args:
        blocks: from (B, 1, *shape) to maps of a multiple of 16 channels.
        mapped: how many numbers a sample's maps hold.
    """

    def __init__(self, blocks: nn.Sequential, mapped: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.gru = nn.GRU(mapped // CHANNELS, 16, num_layers=2, batch_first=True)
        self.channels = CHANNELS
        self.width = CHANNELS * 16

    def features(self, picture: Tensor) -> Tensor:
        """(B, width) from (B, 1, *shape)."""
        steps = self.blocks(picture).reshape(len(picture), CHANNELS, -1)
        # cuDNN has no backward of a GRU in evaluation mode, which gradients by the input ask for.
        with nullcontext() if self.training else torch.backends.cudnn.flags(enabled=False):
            return self.gru(steps)[0].flatten(1)


class SensorGRU(_ConvGRU):
    """Three blocks of convolution over a sensor's time and axes, then a GRU, by the name ``sensor_gru``.

    A block is a 2 x 2 convolution with a padding of 1, batch normalisation and 2 x 2 maximum pooling; there is no
    activation, as in the source. The blocks have 32, 64 and 64 channels.

    Args:
        shape: (T, D) of the input, of any size.

    Attributes:
        width: 256, the GRU's 16 outputs after each of its 16 steps.
        channels: 16, the steps.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        length, axes = shape
        layers: list[nn.Module] = []
        for before, after in ((1, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(before, after, 2, padding=1), nn.BatchNorm2d(after), nn.MaxPool2d(2)]
            length, axes = (length + 1) // 2, (axes + 1) // 2
        super().__init__(nn.Sequential(*layers), 64 * length * axes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 256) from (B, T, D)."""
        return self.features(x.unsqueeze(1))


class SkeletonGRU(_ConvGRU):
    """Four blocks of convolution over time, axes and joints, then a GRU, by the name ``skeleton_gru``.

    A block is a convolution with a padding of 1, batch normalisation and 2 x 2 x 2 maximum pooling; there is no
    activation, as in the source. The blocks have 32, 64, 128 and 256 channels; the first convolution is 3 x 2 x 3, the
    others 2 x 2 x 2.

    Args:
        shape: (T, D) of the input: x of all joints, then y, then z.

    Attributes:
        width: 256, the GRU's 16 outputs after each of its 16 steps.
        channels: 16, the steps.

    Raises:
        UserError: if D is no multiple of 3, or there are fewer than 2 steps or 2 joints.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        length, joints = shape[0], shape[1] // AXES
        if shape[1] % AXES or length < 2 or joints < 2:
            raise UserError(
                f"skeleton_gru reads x, y and z of 2 joints or more at 2 steps or more, but the input has {shape[1]} "
                f"values at each of {length} steps: use sensor_gru."
            )
        layers: list[nn.Module] = []
        axes = AXES
        for before, after, kernel in (
            (1, 32, (3, 2, 3)),
            (32, 64, (2, 2, 2)),
            (64, 128, (2, 2, 2)),
            (128, 256, (2, 2, 2)),
        ):
            layers += [nn.Conv3d(before, after, kernel, padding=1), nn.BatchNorm3d(after), nn.MaxPool3d(2)]
            length, axes, joints = ((n + 3 - k) // 2 for n, k in zip((length, axes, joints), kernel, strict=True))
        super().__init__(nn.Sequential(*layers), 256 * length * axes * joints)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 256) from (B, T, D)."""
        return self.features(x.unflatten(2, (AXES, -1)).unsqueeze(1))
