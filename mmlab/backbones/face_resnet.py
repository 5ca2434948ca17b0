"""The encoder of the face network: half a ResNet-18 and a gate over its channels.

Source: Wei, Luo, Luo, "MMANet", CVPR 2023, the released code for CASIA-SURF, which DMRNet's starts from too. The first
convolution is 3 x 3 there, not 7 x 7.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from mmlab.backbones.base import Backbone


class FaceResNet(Backbone):
    """Convolution, max pooling, two stages of ResNet-18, and a squeeze-and-excitation gate.

    From (B, channels, H, W) to maps (B, 128, h, w) at an eighth of the size, 14 x 14 for 112 x 112.

    Args:
        channels: of the input.
    """

    width = 128

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 64, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        self.layer1 = residual_stage(64, 64, stride=1)
        self.layer2 = residual_stage(64, 128, stride=2)
        self.gate = nn.Sequential(nn.Linear(128, 8), nn.ReLU(inplace=True), nn.Linear(8, 128), nn.Sigmoid())
        start(self)

    def picture_maps(self, pictures: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, 128, h, w)."""
        maps = self.layer2(self.layer1(self.stem(pictures)))
        return maps * self.gate(maps.mean(dim=(2, 3)))[:, :, None, None]


def residual_stage(before: int, after: int, stride: int) -> nn.Sequential:
    """Two basic blocks of ResNet, the first of which changes width and size."""
    shortcut = None
    if stride != 1 or before != after:
        shortcut = nn.Sequential(
            nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(after)
        )
    return nn.Sequential(BasicBlock(before, after, stride, shortcut), BasicBlock(after, after))


def start(module: nn.Module) -> None:
    """Draws convolutions Kaiming-normal by fan-out; the rest starts as torch does, normalisation at 1 and 0."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
