"""QMF, quality-aware multimodal fusion: each modality is trusted by the energy of its own logits.

Paper: Zhang, Wu, Zhang, Hu, Fu, Zhou, Peng, "Provable Dynamic Fusion for Low-Quality Multimodal Data", ICML 2023. Idea:
late fusion f = sum_m sg(c^m) z^m with c^m = logsumexp(z^m) / 10; a modality's confidences are ranked so that a sample
whose cross-entropies have summed up to more in training is trusted less.

    L = CE(f, y) + sum_m u_m CE(z^m, y) + rank_weight * sum_m rank^m

The released text-image code subtracts the ranking's margin (ranking: released, the default), where the loss that it
adapts adds it (corrected_margin). Its RGB-D code lets gradient flow through the weights and ranks before the history
is written, which gives NaN in the first step; both are left out. Its text-image runs divide the loss over 24 steps:
that is the Trainer's accumulate_grad_batches.
"""

from __future__ import annotations

from typing import Any

import torch

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice, widths
from mmlab.fusion.qmf import QMFFusion
from mmlab.losses.confidence_ranking import Ranking
from mmlab.methods.base import OptimizerFactory, SchedulerFactory
from mmlab.methods.late import LateFusionMethod


class QMF(LateFusionMethod):
    """Quality-aware dynamic late fusion.

    The history, a number for each training sample and modality, is part of the checkpoint. A missing modality has
    weight 0, and is neither ranked nor written to the history (ours).

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        rank_weight: of the ranking losses: 1 for text and images, 0.1 for NYU Depth in the paper's code.
        ranking: the margin's sign, released or corrected_margin.
        unimodal_weights: weights u_m of the unimodal cross-entropies; all 1 unless given.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, or an option doesn't fit.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        rank_weight: float = 1.0,
        ranking: Ranking = "released",
        unimodal_weights: list[float] | None = None,
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, unimodal_weights, backbone, backbones, optimizer, scheduler)
        self.fusion = QMFFusion(
            widths(self.encoders), self.spec.task.outputs, self.spec.train_size, rank_weight, ranking
        )
