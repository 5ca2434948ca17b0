"""Which combinations of modalities are weak: those whose decisions drift most from the decisions with all modalities.

Of the combinations that lack one modality, the one with the greatest distance is chosen, with all its subsets.

    d_c = KL(softmax(h_c) || softmax(h_full)), with h the frequencies of the decided classes

The softmax over frequencies keeps the distance finite where a class is never decided, and no labels are used.

Source: Wei, Luo, Luo, "MMANet", CVPR 2023, as its released code has it for two and three modalities; the rule for more
is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from mmlab.availability import Combination, subsets


def class_counts(decided: Tensor, classes: int) -> Tensor:
    """How often each class is decided, (C,) int64.

    Args:
        decided: (N,) class indices.
        classes: C.
    """
    return F.one_hot(decided, classes).sum(dim=0)


def decision_distances(counts: Tensor, full: Tensor) -> Tensor:
    """d_c of some combinations, (K,) float64, not negative but for rounding.

    Args:
        counts: (K, C), how often each class is decided with each combination; one decision at least.
        full: (C,), likewise with all modalities.
    """
    log, log_full = (frequencies(each).log_softmax(dim=-1) for each in (counts, full))
    return (log.exp() * (log - log_full)).sum(dim=-1)


def frequencies(counts: Tensor) -> Tensor:
    """Shares of the sum over the last dimension, float64.

    Args:
        counts: (..., C).
    """
    return counts.double() / counts.sum(dim=-1, keepdim=True)


def overlap_distances(overlaps: Tensor, full: Tensor) -> Tensor:
    """What stands for d_c where every pixel has a class: the squared gap of the mean IoU, (K,).

    Unlike the above this uses labels, as the released code does.

    Args:
        overlaps: (K,), the mean IoU with each combination.
        full: a scalar, the mean IoU with all modalities.
    """
    return (full - overlaps).square()


def weak_set(distances: Tensor, candidates: Sequence[Combination]) -> list[Combination]:
    """The candidate with the greatest distance, the first one on ties, and all its non-empty subsets.

    Args:
        distances: (K,).
        candidates: K.
    """
    known: list[float] = distances.tolist()
    return subsets(candidates[known.index(max(known))])


def seven_classes(values: Tensor, low: float, high: float) -> Tensor:
    """Numbers as one of seven classes, evenly spaced over their range: from -3 to 3 the nearest whole number, (N,).

    Args:
        values: (N,); what lies beyond the range counts at its end.
        low: the smallest target.
        high: the largest.
    """
    return ((values - low) / (high - low) * 6).round().clamp(0, 6).long()
