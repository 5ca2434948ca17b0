"""Joint training: all encoders and one fusion head, trained end to end. The baseline of balanced learning.

Idea: the features of all modalities go into one head, and one cross-entropy trains everything. Where one modality
is easier to learn, it takes over the loss and the others stay undertrained: what the other methods set out to mend.

Loss:

    L = CE(h(f_1(x_1), ..., f_M(x_M)), y)

with the head h by concatenation, sum, FiLM (Perez et al., AAAI 2018) or gate (Kiela et al., AAAI 2018), as compared
in Peng et al., CVPR 2022, or by cosines (MMCosine: Xu et al., ICASSP 2023):

    h(f_1, ..., f_M)_c = s sum_m cos(W^m_c, f_m)

A missing modality's feature counts as zero. Of concatenation, sum and mmcosine, whose logits are a sum over the
modalities, each one's part is reported as its own decision, as Peng et al. do: it shows who was left behind.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice, widths
from mmlab.errors import UserError
from mmlab.fusion.joint import ConcatFusion, FiLMFusion, GatedFusion, MMCosineFusion, SumFusion
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory
from mmlab.types import Batch, Classification, Prediction, Regression

FUSIONS = {
    "concat": ConcatFusion,
    "sum": SumFusion,
    "film": FiLMFusion,
    "gated": GatedFusion,
    "mmcosine": MMCosineFusion,
}
ADDITIVE = (ConcatFusion, SumFusion, MMCosineFusion)
"""The heads whose logits are a sum of parts, one of each modality."""


class JointTraining(Method):
    """One loss on one fused decision.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        fusion: the head; film and gated condition the other modalities on the first, mmcosine normalises each.
        scale: the factor s of mmcosine, 10 unless given.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, or an option doesn't fit.
    """

    tasks = (Classification, Regression)

    def __init__(
        self,
        spec: dict[str, Any],
        fusion: Literal["concat", "sum", "film", "gated", "mmcosine"] = "concat",
        scale: float | None = None,
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        sizes, outputs = widths(self.encoders), self.spec.task.outputs
        if fusion == "mmcosine" and not isinstance(self.spec.task, Classification):
            raise UserError(
                f"mmcosine is defined for classification, but {self.spec.dataset} asks for a number: choose another "
                f"fusion."
            )
        if scale is not None and fusion != "mmcosine":
            raise UserError(f"JointTraining uses scale only with fusion mmcosine, not with {fusion}: leave it out.")
        self.fusion = FUSIONS[fusion](sizes, outputs) if scale is None else MMCosineFusion(sizes, outputs, scale)

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """Fuses features, then classifies."""
        features = self.encode(inputs)
        unimodal = {}
        # A part of a number is no decision, unlike a part of logits.
        if isinstance(self.fusion, ADDITIVE) and isinstance(self.spec.task, Classification):
            unimodal = dict(zip(self.spec.names, self.fusion.parts(features, present), strict=True))
        return Prediction(self.fusion(features, present), unimodal, features=features)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the fused decision."""
        logits = self.fusion(self.encode(batch.inputs), batch.present)
        return {"loss": self.spec.task.criterion(logits, batch.target).mean()}
