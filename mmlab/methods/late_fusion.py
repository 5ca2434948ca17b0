"""Late fusion: each modality decides by itself, the decisions are summed with fixed weights.

Idea: every modality has its own encoder and linear classifier; the logits z^m are fused linearly, and the fused and
the unimodal logits are all trained. The baseline that Multimodal Negative Learning (NeurIPS 2025) starts from.

Loss, with f = sum_m w_m z^m and weights u_m:

    L = CE(f, y) + sum_m u_m CE(z^m, y)

Where a sample lacks a modality (ours), its weight is 0 and the other weights are renormalised to sum 1; CE(z^m, y)
is averaged over the samples that have m.
"""

from __future__ import annotations

from typing import Any

import torch

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice, widths
from mmlab.fusion.static import StaticLateFusion
from mmlab.methods.base import OptimizerFactory, SchedulerFactory
from mmlab.methods.late import LateFusionMethod
from mmlab.types import Classification, Regression


class LateFusion(LateFusionMethod):
    """Static late fusion with unimodal cross-entropies.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        weights: fusion weights in the order of the modalities, scaled to sum 1; all equal unless given.
        unimodal_weights: weights u_m of the unimodal cross-entropies; all 1 unless given.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, or weights don't fit it.
    """

    tasks = (Classification, Regression)

    def __init__(
        self,
        spec: dict[str, Any],
        weights: list[float] | None = None,
        unimodal_weights: list[float] | None = None,
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, unimodal_weights, backbone, backbones, optimizer, scheduler)
        self.fusion = StaticLateFusion(widths(self.encoders), self.spec.task.outputs, weights)
