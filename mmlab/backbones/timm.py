"""Any picture model of timm as a backbone."""

from __future__ import annotations

import logging
import math
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor

from mmlab.backbones.base import Backbone
from mmlab.errors import UserError

logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would tell each of its retries


class TimmBackbone(Backbone):
    """A timm model without its pooling and its classifier.

    Args:
        name: as timm calls it, a pretrained tag included if wanted.
        channels: of the input; timm adapts pretrained weights to other than three.
        size: (H, W) of the input.
        pretrained: starts from the published weights, which timm downloads once.

    Raises:
        UserError: if the model or its weights can't be had, or it can't take inputs of this size.
    """

    def __init__(self, name: str, channels: int, size: tuple[int, int], pretrained: bool = False) -> None:
        super().__init__()
        # timm, its models and what it downloads with raise all kinds of exceptions: each is told in the same way.
        try:
            config = get_pretrained_cfg(name)
            options: dict[str, Any] = {"img_size": size} if config is not None and config.fixed_input_size else {}
            # Without pooling rather than forward_features: some models normalise after pooling, and a layer that is
            # never used breaks distributed training.
            self.model = timm.create_model(
                name, pretrained=pretrained, in_chans=channels, num_classes=0, global_pool="", **options
            )
        except Exception as error:
            remedy = "fetch its weights once with a network, or set pretrained to false" if pretrained else _REMEDY
            raise UserError(f"the backbone {name} can't be built ({_reason(error)}): {remedy}.") from error
        try:
            self.eval()
            with torch.no_grad():
                maps = self.picture_maps(torch.zeros(1, channels, *size))
            self.train()
        except Exception as error:
            raise UserError(
                f"the backbone {name} can't encode inputs of {channels} x {size[0]} x {size[1]} ({_reason(error)}): "
                f"{_REMEDY}."
            ) from error
        self.width = maps.shape[1]

    def picture_maps(self, pictures: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, D, h, w); a transformer's patches on their grid, without its class tokens."""
        maps = self.model(pictures)
        if maps.dim() == 3:
            patches = maps[:, getattr(self.model, "num_prefix_tokens", 0) :]
            return patches.transpose(1, 2).unflatten(2, self._grid(patches.shape[1], pictures))
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return maps.permute(0, 3, 1, 2)
        return maps

    def _grid(self, patches: int, pictures: Tensor) -> tuple[int, int]:
        high, wide = getattr(getattr(self.model, "patch_embed", None), "grid_size", None) or (0, 0)
        if high * wide != patches:  # models that don't tell, or that merge patches on the way
            ratio = pictures.shape[-2] / pictures.shape[-1]
            high = max(1, round(math.sqrt(patches * ratio)))
            wide = patches // high
        if high * wide != patches:
            raise ValueError(f"its {patches} patches form no grid")
        return high, wide


_REMEDY = "choose another backbone or another input size"


def _reason(error: Exception) -> str:
    """The first line of what was raised, so that the message stays one sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
