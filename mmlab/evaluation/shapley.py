"""The Shapley value of each modality: its fair part of what all modalities gain together.

With the value v(S) of the decision from a subset S of M modalities:

    phi_m = sum_{S without m} |S|! (M - |S| - 1)! / M! (v(S + m) - v(S))

They add up to v(all) - v(none).

Source: Shapley, "A Value for n-Person Games", 1953.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import factorial

from mmlab.availability import Combination


def shapley_values(values: Mapping[Combination, float]) -> list[float]:
    """The exact values.

    Args:
        values: v of each of the 2^M subsets, the empty one too.

    Returns:
        One for each modality, in order.
    """
    modalities = len(next(iter(values)))
    found = [0.0] * modalities
    for subset, before in values.items():
        size = sum(subset)
        for m in (m for m in range(modalities) if not subset[m]):
            joined = (*subset[:m], True, *subset[m + 1 :])
            weight = factorial(size) * factorial(modalities - size - 1) / factorial(modalities)
            found[m] += weight * (values[joined] - before)
    return found
