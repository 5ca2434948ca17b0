"""Late fusion: each modality has its own classifier, their logits are summed with weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmlab.fusion.several import require_several
from mmlab.precision import precise

Gathered = Callable[[Tensor, bool], Tensor]
"""From a process's rows to those of all processes; the second argument says whether gradient flows through."""


@dataclass
class LateDecision:
    """What late fusion says of a batch.

    Attributes:
        logits: (B, C), fused.
        unimodal: (M, B, C).
        weights: (B, M) without gradient, 0 where a modality is missing.
        confidence: (B, M), what dynamic weights were made from, with its gradient; None for fixed weights.
    """

    logits: Tensor
    unimodal: Tensor
    weights: Tensor
    confidence: Tensor | None = None


def fuse(logits: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum over modalities.

    Args:
        logits: (M, B, C).
        weights: (B, M).

    Returns:
        (B, C), in float32 at least: sums in half precision make ties.
    """
    logits = precise(logits)
    return (weights.T[..., None].to(logits.dtype) * logits).sum(dim=0)


class WeightedFusion(nn.Module, ABC):
    """A linear classifier for each modality; a subclass says how their logits are weighed.

    Args:
        widths: each modality's feature width, in the data set's order.
        outputs: C.

    Raises:
        UserError: if there is only one modality.
    """

    def __init__(self, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        require_several(widths)
        self.names = tuple(widths)
        self.heads = nn.ModuleList(nn.Linear(width, outputs) for width in widths.values())

    def forward(self, features: Mapping[str, Tensor], present: Tensor, calibrate: bool = False) -> LateDecision:
        """Classifies.

        Args:
            features: (B, D) by modality, in the order of ``widths``.
            present: (B, M) bool, at least one true in each row.
            calibrate: whether weights are corrected at test time, by fusions that do so.
        """
        inputs = list(features.values())
        # The heads are tiny, and logits rounded to half precision would tie where methods compare modalities.
        with torch.autocast(inputs[0].device.type, enabled=False):
            precision = next(self.heads.parameters()).dtype
            inputs = [feature.to(precision) for feature in inputs]
            unimodal = torch.stack([head(feature) for head, feature in zip(self.heads, inputs, strict=True)])
            return self.decide(unimodal, inputs, present, calibrate)

    @abstractmethod
    def decide(
        self, unimodal: Tensor, features: Sequence[Tensor], present: Tensor, calibrate: bool = False
    ) -> LateDecision:
        """Weighs and sums the logits.

        Args:
            unimodal: (M, B, C) logits.
            features: (B, D_m), in order.
            present: (B, M) bool, at least one true in each row.
            calibrate: see :meth:`forward`.
        """

    def decays(self) -> list[tuple[nn.Parameter, float]]:
        """Parameters with a weight decay of their own; none unless a subclass has some."""
        return []

    def objective(
        self, decision: LateDecision, target: Tensor, index: Tensor, present: Tensor, gathered: Gathered
    ) -> dict[str, Tensor]:
        """The fusion's own training losses by name, each multiplied by its weight; none unless a subclass has some.

        Args:
            decision: for this batch.
            target: (B,) class indices.
            index: (B,) positions of the samples in the training split.
            present: (B, M) bool.
            gathered: joins the rows of all processes.
        """
        return {}
