"""PDF, predictive dynamic fusion: each modality is trusted by what a small net predicts of it.

Paper: Cao, Xia, Ding, Zhang, Hu, "Predictive Dynamic Fusion", ICML 2024. Idea: late fusion f = sum_m w^m z^m; nets on
the (detached) features predict each modality's probability of the true class, r^m; with the holo-confidence o^m, which
is the smaller the more confident the others are, w = softmax_m(r^m + o^m). At test time r^m + o^m is scaled down where
a modality's distribution is nearer to the uniform one than another's.

    L = CE(f, y) + sum_m u_m CE(z^m, y) + sum_m mean |r^m - sg(p^m_y)|

The released code gives 0/0 where all distributions are uniform; the factors are 1 there. It decays the first layer of
one net and the second of the other; here it is the first layer of each.
"""

from __future__ import annotations

from typing import Any

import torch

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice, widths
from mmlab.fusion.pdf import PDFFusion
from mmlab.methods.base import OptimizerFactory, SchedulerFactory
from mmlab.methods.late import LateFusionMethod


class PDF(LateFusionMethod):
    """Predictive dynamic late fusion.

    As in the released code, validation (which selects) fuses without the calibration and the test with it. The first
    layer of each confidence net has weight decay 1. More than two modalities and missing ones are ours.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        unimodal_weights: weights u_m of the unimodal cross-entropies; all 1 unless given.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, or weights don't fit it.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        unimodal_weights: list[float] | None = None,
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, unimodal_weights, backbone, backbones, optimizer, scheduler)
        self.fusion = PDFFusion(widths(self.encoders), self.spec.task.outputs)
