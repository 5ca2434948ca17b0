"""Distillation of features and logits: the plain ways to learn from a teacher that sees every modality.

Idea: a student with a random combination of modalities shall have the features (Romero et al., "FitNets", ICLR 2015)
and the softened decisions (Hinton, Vinyals, Dean, 2015) of a frozen teacher with all of them. This is a baseline; the
papers have no missing modalities.

Loss, with h what leaves the trunk and z the logits of student S and teacher T:

    L = CE(z_S, y) + w_f mean (h_S - h_T)^2 + w_z t^2 KL(softmax(z_T / t) || softmax(z_S / t))

For segmentation, h are all maps that the decoder takes, whose mean squares are added up, and the divergence is averaged
over places. For regression, half the squared difference of the numbers takes the place of the divergence.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice
from mmlab.errors import UserError
from mmlab.losses.distillation import decision_divergence, feature_distillation, number_divergence
from mmlab.methods.base import OptimizerFactory, SchedulerFactory
from mmlab.methods.taught import Taught
from mmlab.types import Batch, Regression


class Distillation(Taught):
    """Modality dropout with a teacher's features and logits as further targets, in two stages.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        feature_weight: of the mean squared difference of the features; 0 switches it off.
        logit_weight: of the divergence of the decisions; 0 switches it off.
        temperature: softens the decisions.
        teacher_epochs: of the first stage; the Trainer's max_epochs by default.
        teacher_dropout: whether the teacher is trained with one modality or all of them, at random.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train; a fresh one for each stage.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, or an option doesn't fit.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        feature_weight: float = 1.0,
        logit_weight: float = 1.0,
        temperature: float = 4.0,
        teacher_epochs: int | None = None,
        teacher_dropout: bool = False,
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, teacher_epochs, teacher_dropout, backbone, backbones, optimizer, scheduler)
        for option, weight in {"feature_weight": feature_weight, "logit_weight": logit_weight}.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(f"Distillation's {option} is {weight}: give a number of 0 or more.")
        if not (math.isfinite(temperature) and temperature > 0):
            raise UserError(f"Distillation divides by temperature, which is {temperature}: give a number above 0.")
        self.feature_weight, self.logit_weight, self.temperature = feature_weight, logit_weight, temperature

    def student_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The task's loss with random modalities, and what the teacher asks for."""
        network = self.network
        hidden = network.trunk(network.fuse(network.encode(batch.inputs), self.available(batch)))
        decision = network.head(hidden)
        target, target_logits = self.taught(batch)
        task = self.task_loss(decision, batch.target)
        pairs = zip((hidden.deep, *hidden.skips), (target.deep, *target.skips), strict=True)
        features = torch.stack([feature_distillation(own, theirs) for own, theirs in pairs]).sum()
        if isinstance(self.spec.task, Regression):
            logits = number_divergence(decision.logits, target_logits).mean()
        else:
            logits = decision_divergence(decision.logits, target_logits, self.temperature).mean()
        return {
            "loss": task + self.feature_weight * features + self.logit_weight * logits,
            self.spec.task.loss: task,
            "features": features,
            "logits": logits,
        }
