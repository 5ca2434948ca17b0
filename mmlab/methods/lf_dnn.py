"""LF-DNN: late fusion by a deep network, the plain baseline of sentiment analysis.

Idea: a network for each modality makes its features; a network of hidden layers decides on all of them side by side.
The name is that of Yu et al., "CH-SIMS", ACL 2020, and of the MMSA platform's tables; it has no paper of its own, so
that the layers are our choice. (``JointTraining`` is the same with one linear layer, ``LateFusion`` fuses decisions.)

Loss, with the network g of three layers:

    L = loss(g([f_1(x_1); ...; f_M(x_M)]), y)

the task's loss: cross-entropy, or absolute error. A missing modality's feature counts as zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice, widths
from mmlab.fusion.deep import DeepFusion
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory
from mmlab.precision import precise
from mmlab.types import Batch, Classification, Prediction, Regression


class LFDNN(Method):
    """Late fusion by a deep network on the features of all modalities.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        hidden: width of the two hidden layers.
        dropout: of the concatenated features.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, or a size can't be.
    """

    tasks = (Classification, Regression)

    def __init__(
        self,
        spec: dict[str, Any],
        hidden: int = 128,
        dropout: float = 0.2,
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        self.fusion = DeepFusion(widths(self.encoders), self.spec.task.outputs, hidden, dropout)

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """Decides on all features together; there is no decision of a modality alone."""
        features = self.encode(inputs)
        return Prediction(self.fusion(features, present), features=features)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The task's loss of the fused decision."""
        logits = self.fusion(self.encode(batch.inputs), batch.present)
        return {"loss": self.spec.task.criterion(precise(logits), batch.target).mean()}
