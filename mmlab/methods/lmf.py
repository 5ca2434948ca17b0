"""LMF: the tensor of all products at low rank, without making it.

Source: Liu, Shen, Lakshminarasimhan, Liang, Zadeh, Morency, "Efficient Low-rank Multimodal Fusion With
Modality-Specific Factors", ACL 2018.
Idea: TFN's linear layer on the outer product has a weight for every product; a weight of rank r, kept as factors of
each modality, gives the same decision from M small products.

Loss, with a product over modalities that is taken number by number:

    z = sum_i prod_m W_m^(i) [f_m(x_m); 1] + b,  i = 1 ... r
    L = loss(z, y)

the task's loss: cross-entropy, or absolute error. z is the decision itself. The released code weighs the
ranks by learned numbers, which the factors can hold as well; here, as in the paper's equation, it doesn't. A
missing modality is [0; 1] (ours).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice, widths
from mmlab.fusion.low_rank import LowRankFusion
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory
from mmlab.types import Batch, Classification, Prediction, Regression


class LMF(Method):
    """Low-rank Multimodal Fusion.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        rank: r.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, or the rank is below 1.
    """

    tasks = (Classification, Regression)

    def __init__(
        self,
        spec: dict[str, Any],
        rank: int = 4,
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        self.fusion = LowRankFusion(widths(self.encoders), self.spec.task.outputs, rank)

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """Decides by the products; there is no decision of a modality alone."""
        features = self.encode(inputs)
        return Prediction(self.fusion(features, present), features=features)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The task's loss of the fused decision."""
        logits = self.fusion(self.encode(batch.inputs), batch.present)
        return {"loss": self.spec.task.criterion(logits, batch.target).mean()}
