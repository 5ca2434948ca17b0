"""Late fusion with fixed weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmlab.errors import UserError
from mmlab.fusion.late import LateDecision, WeightedFusion, fuse


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


class StaticLateFusion(WeightedFusion):
    """The sum of the modalities' logits with fixed weights, renormalised over those that a sample has.

    Args:
        widths: each modality's feature width, in the data set's order.
        outputs: C.
        weights: see :func:`static_weights`.

    Raises:
        UserError: if there is only one modality or the weights don't fit.
    """

    weights: Tensor

    def __init__(self, widths: Mapping[str, int], outputs: int, weights: Sequence[float] | None) -> None:
        super().__init__(widths, outputs)
        # Not saved: it follows from the constructor's arguments.
        self.register_buffer("weights", static_weights(weights, list(widths)).float(), persistent=False)

    def decide(
        self, unimodal: Tensor, features: Sequence[Tensor], present: Tensor, calibrate: bool = False
    ) -> LateDecision:
        """The same weights for every sample that has all modalities."""
        weights = present_weights(self.weights, present)
        return LateDecision(fuse(unimodal, weights), unimodal, weights)
