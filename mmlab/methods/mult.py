"""MulT: every modality's sequence attends to those of the others.

Source: Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov, "Multimodal Transformer for Unaligned Multimodal Language
Sequences", ACL 2019.
Idea: for each ordered pair of modalities a crossmodal transformer adapts the source to the target, step by step, so
that sequences of different lengths and rates need no alignment; a self-attention transformer follows for each target.

Loss, with Z_m the convolved steps of x_m with positions, CM and SA the two kinds of transformer, and a residual head g:

    h_a = last step of SA([CM_{b -> a}(Z_a, Z_b) for b != a])
    L   = loss(g([h_1; ...; h_M]), y)

the task's loss: cross-entropy, or absolute error. Where a sample lacks a modality (ours), nothing is attended to in
it, and it is no target: its h is 0. MulT reads the steps themselves, so that it has no backbones to choose; a vector
counts as one step, and a text must come as features (frozen ones of a text model, say).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mmlab.backbones.config import NO_OVERRIDES
from mmlab.backbones.sequences import step_width, steps
from mmlab.errors import UserError
from mmlab.fusion.crossmodal import CrossmodalFusion
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory
from mmlab.precision import precise
from mmlab.types import Batch, Classification, Prediction, Regression


class MulT(Method):
    """Multimodal Transformer.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        width: d, of every step after its modality's convolution.
        heads: of every attention.
        layers: of every transformer.
        kernel: steps that a convolution sees, odd.
        dropout: of attention, blocks and head.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, or one that is neither a sequence nor a vector; or if an
            option doesn't fit.
    """

    tasks = (Classification, Regression)

    def __init__(
        self,
        spec: dict[str, Any],
        width: int = 40,
        heads: int = 10,
        layers: int = 4,
        kernel: int = 3,
        dropout: float = 0.1,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, None, NO_OVERRIDES, optimizer, scheduler)
        for modality in self.spec.modalities:
            if modality.kind not in ("sequence", "vector"):
                raise UserError(
                    f"MulT reads sequences and vectors, but {modality.name!r} of {self.spec.dataset} is of the kind "
                    f"{modality.kind}: choose a data set with features of each step, or another method."
                )
        values = {modality.name: step_width(modality) for modality in self.spec.modalities}
        longest = max(modality.shape[0] if modality.kind == "sequence" else 1 for modality in self.spec.modalities)
        self.fusion = CrossmodalFusion(values, longest, self.spec.task.outputs, width, heads, layers, kernel, dropout)

    def compilable(self) -> Iterable[nn.Module]:
        """The transformers and all around them."""
        return [self.fusion]

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """Decides on all targets' last steps; there is no decision of a modality alone."""
        sequences = {}
        for modality, has in zip(self.spec.modalities, present.unbind(dim=1), strict=True):
            values, belongs = steps(inputs[modality.name], modality)
            sequences[modality.name] = (values, belongs & has[:, None])
        return Prediction(self.fusion(sequences))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The task's loss of the fused decision."""
        logits = self(batch.inputs, batch.present).logits
        return {"loss": self.spec.task.criterion(precise(logits), batch.target).mean()}
