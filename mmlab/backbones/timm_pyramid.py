"""Convolutional models of timm as backbones for dense tasks."""

from __future__ import annotations

import copy
import logging
from itertools import pairwise
from typing import Any

import timm
import torch
from torch import nn

from mmlab.backbones.base import reason
from mmlab.backbones.pyramids import STRIDES, Pyramid
from mmlab.errors import UserError

logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would tell each of its retries


class TimmPyramid(Pyramid):
    """A convolutional model of timm, cut where its map has been halved once more.

    Args:
        name: as timm calls it, a pretrained tag included if wanted.
        channels: of the input; timm adapts pretrained weights to other than three: to one by adding up the kernels of
            red, green and blue.
        pretrained: starts from the published weights, which timm downloads once.

    Raises:
        UserError: if the model or its weights can't be had, or it isn't a sequence of parts with maps at a half, a
            quarter, an eighth, a sixteenth and a thirty-second of the picture's size.
    """

    def __init__(self, name: str, channels: int, pretrained: bool = False) -> None:
        super().__init__()
        # timm, its models and what it downloads with raise all kinds of exceptions: each is told in the same way.
        try:
            model: Any = timm.create_model(name, pretrained=pretrained, in_chans=channels, features_only=True)
        except Exception as error:
            remedy = "fetch its weights once with a network, or set pretrained to false" if pretrained else _REMEDY
            raise UserError(
                f"the backbone {name} can't be built for dense tasks ({reason(error)}): {remedy}."
            ) from error
        try:
            stages = _stages(model, channels)
        except Exception as error:
            raise UserError(f"the backbone {name} can't serve dense tasks ({reason(error)}): {_REMEDY}.") from error
        self.stages = nn.ModuleList(stages)
        self.channels = tuple(model.feature_info.channels())


def _stages(model: nn.Module, channels: int) -> list[nn.Sequential]:
    """The model's parts in order, cut behind each of its five maps.

    Whether the parts form a sequence is nowhere declared: they are run one after another, and must give what the
    model gives.
    """
    random = torch.Generator().manual_seed(0)
    other = copy.deepcopy(model).eval()
    x = torch.rand(1, channels, *_PROBE, generator=random)
    ends: list[int] = []
    with torch.no_grad():
        for parameter in other.parameters():  # many models start with parts that hand on what they are given
            parameter.add_(torch.randn(parameter.shape, generator=random), alpha=0.01)
        maps = other(x)
        sizes = [tuple(each.shape[2:]) for each in maps]
        if sizes != [tuple(-(-side // stride) for side in _PROBE) for stride in STRIDES]:
            given = ", ".join(f"{high} x {wide}" for high, wide in sizes)
            raise ValueError(f"of a picture of {_PROBE[0]} x {_PROBE[1]} its maps are {given}")
        for number, part in enumerate(_parts(other), start=1):
            x = part(x.clone())  # some parts write into what they are given
            if x.shape == maps[len(ends)].shape and torch.equal(x, maps[len(ends)]):
                ends.append(number)
            if len(ends) == len(maps):
                break
    if len(ends) != len(maps):
        raise ValueError("its parts don't simply follow one another")
    parts = _parts(model)
    return [nn.Sequential(*parts[begin:end]) for begin, end in pairwise([0, *ends])]


def _parts(model: nn.Module) -> list[nn.Module]:
    return [
        part
        for child in model.children()
        for part in (child.children() if isinstance(child, nn.Sequential) else [child])
    ]


_PROBE = (72, 104)  # not every level's size is even
_REMEDY = "choose resnet18, resnet50, mobilenetv3_small_100, efficientnet_lite0 or small_conv"
