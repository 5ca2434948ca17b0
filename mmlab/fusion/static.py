"""Late fusion with fixed weights: each modality has its own classifier, their logits are summed with weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmlab.errors import UserError
from mmlab.fusion.several import require_several


def static_weights(given: Sequence[float] | None, names: Sequence[str]) -> Tensor:
    """One weight for each modality, summing to 1.

    Args:
        given: the weights in the order of ``names``, in any scale; None for equal ones.
        names: the modalities.

    Returns:
        (M,) float64.

    Raises:
        UserError: if their number is wrong or one of them is not a positive number.
    """
    if given is None:
        given = [1.0] * len(names)
    if len(given) != len(names) or not all(math.isfinite(weight) and weight > 0 for weight in given):
        raise UserError(
            f"the fusion weights {list(given)} don't fit the data set: give one positive number for each of "
            f"{', '.join(names)}."
        )
    weights = torch.tensor(given, dtype=torch.float64)
    return weights / weights.sum()


def present_weights(weights: Tensor, present: Tensor) -> Tensor:
    """Renormalises weights over the modalities that a sample has.

    Args:
        weights: (M,) or (B, M), positive.
        present: (B, M) bool, at least one true in each row.

    Returns:
        (B, M), 0 where a modality is missing, each row summing to 1.
    """
    kept = weights * present
    return kept / kept.sum(dim=1, keepdim=True)


def fuse(logits: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum over modalities.

    Args:
        logits: (M, B, C).
        weights: (B, M).

    Returns:
        (B, C), in float32 at least: sums in half precision make ties.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (weights.T[..., None].to(logits.dtype) * logits).sum(dim=0)


class StaticLateFusion(nn.Module):
    """A linear classifier for each modality and the weighted sum of their logits.

    Args:
        widths: each modality's feature width, in the data set's order.
        outputs: C.
        weights: see :func:`static_weights`.

    Raises:
        UserError: if there is only one modality or the weights don't fit.
    """

    weights: Tensor

    def __init__(self, widths: Mapping[str, int], outputs: int, weights: Sequence[float] | None) -> None:
        super().__init__()
        require_several(widths)
        self.heads = nn.ModuleList(nn.Linear(width, outputs) for width in widths.values())
        # Not saved: it follows from the constructor's arguments.
        self.register_buffer("weights", static_weights(weights, list(widths)).float(), persistent=False)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Classifies.

        Args:
            features: (B, D) by modality, in the order of ``widths``.
            present: (B, M) bool, at least one true in each row.

        Returns:
            Fused logits (B, C), unimodal logits (M, B, C) and weights (B, M).
        """
        inputs = list(features.values())
        # The heads are tiny, and logits rounded to half precision would tie where methods compare modalities.
        with torch.autocast(inputs[0].device.type, enabled=False):
            precision = next(self.heads.parameters()).dtype
            each = [head(feature.to(precision)) for head, feature in zip(self.heads, inputs, strict=True)]
            unimodal = torch.stack(each)
            weights = present_weights(self.weights, present)
            return fuse(unimodal, weights), unimodal, weights
