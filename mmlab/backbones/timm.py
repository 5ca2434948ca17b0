"""Any picture model of timm as a backbone."""

from __future__ import annotations

import logging
import math
from typing import Any

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import Tensor

from mmlab.backbones.base import Backbone, reason
from mmlab.backbones.grid import averages
from mmlab.errors import UserError

logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would tell each of its retries


class TimmBackbone(Backbone):
    """A timm model without its pooling and its classifier.

    Args:
        name: as timm calls it, a pretrained tag included if wanted.
        channels: of the input; timm adapts pretrained weights to other than three.
        size: (H, W) of the input.
        pretrained: starts from the published weights, which timm downloads once.
        grid: (h, w) to average the maps onto; the features are then the cells' features one after another, row by
            row, D * h * w wide. None for one average over everything. Frames are averaged in either case.

    Raises:
        UserError: if the model or its weights can't be had, it can't take inputs of this size, or the grid has no cell.
    """

    bins_h: Tensor
    bins_w: Tensor

    def __init__(
        self,
        name: str,
        channels: int,
        size: tuple[int, int],
        pretrained: bool = False,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        if grid is not None and min(grid) < 1:
            raise UserError(f"the grid of {name} can't be {grid[0]} x {grid[1]}: give two whole numbers from 1.")
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
            raise UserError(f"the backbone {name} can't be built ({reason(error)}): {remedy}.") from error
        try:
            self.eval()
            with torch.no_grad():
                maps = self.picture_maps(torch.zeros(1, channels, *size))
            self.train()
        except Exception as error:
            raise UserError(
                f"the backbone {name} can't encode inputs of {channels} x {size[0]} x {size[1]} ({reason(error)}): "
                f"{_REMEDY}."
            ) from error
        self._grid = grid
        self.width = maps.shape[1] * (1 if grid is None else grid[0] * grid[1])
        if grid is not None:
            self.register_buffer("bins_h", averages(maps.shape[2], grid[0]), persistent=False)
            self.register_buffer("bins_w", averages(maps.shape[3], grid[1]), persistent=False)

    def picture_maps(self, pictures: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, D, h, w); a transformer's patches on their grid, without its class tokens."""
        maps = self.model(pictures)
        if maps.dim() == 3:
            patches = maps[:, getattr(self.model, "num_prefix_tokens", 0) :]
            return patches.transpose(1, 2).unflatten(2, self._patches(patches.shape[1], pictures))
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return maps.permute(0, 3, 1, 2)
        return maps

    def pool(self, maps: Tensor) -> Tensor:
        """(B, T, D, h, w) to (B, D): the mean over time and place; with a grid, over time and within its cells."""
        if self._grid is None:
            return super().pool(maps)
        return torch.einsum("bdhw,yh,zw->byzd", maps.mean(dim=1), self.bins_h, self.bins_w).flatten(1)

    def _patches(self, patches: int, pictures: Tensor) -> tuple[int, int]:
        high, wide = getattr(getattr(self.model, "patch_embed", None), "grid_size", None) or (0, 0)
        if high * wide != patches:  # models that don't tell, or that merge patches on the way
            ratio = pictures.shape[-2] / pictures.shape[-1]
            high = max(1, round(math.sqrt(patches * ratio)))
            wide = patches // high
        if high * wide != patches:
            raise ValueError(f"its {patches} patches form no grid")
        return high, wide


_REMEDY = "choose another backbone or another input size"
