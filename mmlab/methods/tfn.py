"""TFN: a tensor of all products of the modalities' features.

Source: Zadeh, Chen, Poria, Cambria, Morency, "Tensor Fusion Network for Multimodal Sentiment Analysis", EMNLP 2017.
Idea: with a 1 appended to each modality's vector, the outer product holds each modality alone, every pair and all
together; a network decides on it.

Loss, with h_m = ReLU(U_m f_m(x_m) + c_m) and the network g of two hidden layers:

    Z = [h_1; 1] (x) ... (x) [h_M; 1]
    L = loss(g(Z), y)

the task's loss: cross-entropy, or absolute error (the paper squares it). The paper's subnetworks are the encoders, of
any backbone, with h_m as their last layer. A missing modality is [0; 1] (ours): the products with it are gone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice, widths
from mmlab.fusion.tensor_fusion import TensorFusion
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory
from mmlab.types import Batch, Classification, Prediction, Regression


class TFN(Method):
    """Tensor Fusion Network.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        width: of each modality's vector h_m; the tensor has (width + 1)^M numbers.
        hidden: width of the two hidden layers that decide on it.
        dropout: after every layer of ReLU.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, a size can't be, or the tensor would be too large.
    """

    tasks = (Classification, Regression)

    def __init__(
        self,
        spec: dict[str, Any],
        width: int = 32,
        hidden: int = 128,
        dropout: float = 0.15,
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=5e-4),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        self.fusion = TensorFusion(widths(self.encoders), self.spec.task.outputs, width, hidden, dropout)

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """Decides on the tensor; there is no decision of a modality alone."""
        features = self.encode(inputs)
        return Prediction(self.fusion(features, present), features=features)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The task's loss of the fused decision."""
        logits = self.fusion(self.encode(batch.inputs), batch.present)
        return {"loss": self.spec.task.criterion(logits, batch.target).mean()}
