"""Unimodal: one modality alone, the yardstick of every fusion method.

Idea: encoder, linear classifier, cross-entropy. What several modalities gain must be measured against the best
single one trained by itself, not against a head inside a joint model.

Loss, averaged over the samples that have the modality m:

    L = CE(W f_m(x_m) + b, y)

A sample without the modality is classified from the zeros in its place: all such get the same constant decision.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice, widths
from mmlab.losses.late_fusion import mean_over
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory
from mmlab.types import Batch, Classification, Prediction, Regression


class Unimodal(Method):
    """One modality alone.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        modality: the name of the one that is used.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has no such modality.
    """

    tasks = (Classification, Regression)

    def __init__(
        self,
        spec: dict[str, Any],
        modality: str,
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        self.position = self.spec.position(modality)
        self.modality = modality
        # An encoder without a gradient would stop distributed training.
        self.encoders = nn.ModuleDict({modality: self.encoders[modality]})
        self.classifier = nn.Linear(widths(self.encoders)[modality], self.spec.task.outputs)

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """Classifies by the one modality."""
        own = inputs[self.modality]
        has = present[:, self.position].view(-1, *[1] * (own.dim() - 1))
        features = self.encode({self.modality: own.masked_fill(~has, 0)})
        logits = self.classifier(features[self.modality])
        return Prediction(logits, unimodal={self.modality: logits}, features=features)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy over the samples that have the modality."""
        logits = self(batch.inputs, batch.present).logits
        each = self.spec.task.criterion(logits, batch.target)
        return {"loss": mean_over(each, batch.present[:, self.position], self.counts(batch.present)[self.position])}
