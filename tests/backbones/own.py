"""Backbones such as a user brings along, found by import path in test_config.py."""

import torch
from torch import nn

from mmlab.backbones.pyramids import Pyramid


class MeanAndMax(nn.Module):
    def __init__(self, modality):
        super().__init__()
        self.width = 2 * modality.shape[-1]

    def forward(self, x):
        return torch.cat([x.mean(dim=1), x.amax(dim=1)], dim=1)


class WithoutWidth(nn.Module):
    def __init__(self, modality):
        super().__init__()


class AsItIs(nn.Module):
    """Features that were computed elsewhere: (channels, length) read channel by channel."""

    def __init__(self, modality):
        super().__init__()
        self.channels, length = modality.shape
        self.width = self.channels * length

    def forward(self, x):
        return x.flatten(1)


class WrongChannels(AsItIs):
    def __init__(self, modality):
        super().__init__(modality)
        self.channels += 1


class Halves(Pyramid):
    """Nothing but averages over two by two places."""

    def __init__(self, modality):
        super().__init__()
        self.channels = (modality.shape[0],) * 5
        self.stages = nn.ModuleList(nn.AvgPool2d(2, ceil_mode=True) for _ in range(5))
