"""What the methods of late fusion share: a fusion of logits, and a cross-entropy of each modality."""

from __future__ import annotations

from abc import ABC
from typing import Any

import torch
from torch import Tensor, nn

from mmlab.backbones.config import Backbones, Choice
from mmlab.fusion.late import LateDecision, WeightedFusion
from mmlab.losses.late_fusion import late_fusion_losses, weights_of_unimodal
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory
from mmlab.types import Batch, Prediction


class LateFusionMethod(Method, ABC):
    """Encoders, a classifier of each modality, and their weighted sum.

    A subclass sets ``fusion``.

    Args:
        spec: the data set's description as plain data.
        unimodal_weights: weights u_m of the unimodal cross-entropies; all 1 unless given.
        backbone: what encodes each modality.
        backbones: overrides for single modalities, by name.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser.
    """

    fusion: WeightedFusion
    unimodal_weights: Tensor

    def __init__(
        self,
        spec: dict[str, Any],
        unimodal_weights: list[float] | None,
        backbone: Choice,
        backbones: Backbones,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        u = weights_of_unimodal(unimodal_weights, self.spec.names)
        self.register_buffer("unimodal_weights", u, persistent=False)

    @property
    def linear_heads(self) -> list[nn.Linear]:
        """The modalities' classifiers, in order."""
        return list(self.fusion.heads)  # type: ignore[arg-type]

    def decide(self, inputs: dict[str, Tensor], present: Tensor) -> tuple[LateDecision, dict[str, Tensor]]:
        """The decision and the features behind it."""
        features = self.encode(inputs)
        return self.fusion(features, present, calibrate=not self.training and not self.selecting), features

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """Classifies by each modality and fuses the logits.

        The uncertainty of a dynamic fusion is 1 - its confidence: between 0 and 1 for PDF, without bounds for QMF.
        """
        decision, features = self.decide(inputs, present)
        unimodal = dict(zip(self.spec.names, decision.unimodal, strict=True))
        uncertainty = None if decision.confidence is None else 1 - decision.confidence
        return Prediction(decision.logits, unimodal, decision.weights, uncertainty, features)

    def own_options(self) -> dict[nn.Parameter, dict[str, float]]:
        """Those of encoders, and the weight decay of what the fusion decays by a weight of its own."""
        return super().own_options() | {each: {"weight_decay": decay} for each, decay in self.fusion.decays()}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The task's loss of the fused and of each modality's decision, and what the fusion itself trains by."""
        decision, _ = self.decide(batch.inputs, batch.present)
        fused, each = late_fusion_losses(
            decision.logits,
            decision.unimodal,
            batch.target,
            batch.present,
            self.spec.task.criterion,
            self.counts(batch.present),
        )
        own = self.fusion.objective(decision, batch.target, batch.index, batch.present, self.gathered)
        name = self.spec.task.loss
        return {
            "loss": fused + (self.unimodal_weights * each).sum() + sum(own.values(), torch.zeros_like(fused)),
            f"{name}_fused": fused,
            **{f"{name}_{modality}": part for modality, part in zip(self.spec.names, each, strict=True)},
            **own,
        }
