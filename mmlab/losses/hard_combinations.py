"""Which combinations of modalities are hard to learn.

A combination is as hard as the mean variance that the network predicts for its samples. Of those that lack one
modality, the one with the largest is chosen, with all its subsets.

Source: Wei, Luo, Wang, Luo, "Robust Multimodal Learning via Representation Decoupling" (DMRNet), ECCV 2024, as its
released code has it for two modalities; more are our reading of the sets that it fixes by hand.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmlab.availability import Combination, every_combination, subsets


def variance_sums(log_variance: Tensor, members: Tensor) -> Tensor:
    """Sums of the samples' variances by combination, and how many samples they are of: (2, K) float64.

    A sample's variance is the mean over all its numbers. Sums of batches add up, in any order.

    Args:
        log_variance: (B, ...).
        members: (B, K) bool, which combination each sample has.
    """
    each = log_variance.detach().flatten(1).exp().mean(dim=1).double()
    rows = members.double()
    return torch.stack([(each[:, None] * rows).sum(dim=0), rows.sum(dim=0)])


def hardest(sums: Tensor, candidates: Sequence[int]) -> int | None:
    """The candidate with the largest mean variance, the first on ties; None if no sample had any.

    Args:
        sums: (2, K), sums and counts.
        candidates: the positions, among the K, of those that can be chosen.
    """
    total, count = sums[:, list(candidates)]
    mean = torch.where(count > 0, total / count.clamp(min=1), -torch.inf)
    return candidates[int(mean.argmax())] if count.any() else None


def mined(sums: Tensor, modalities: int) -> list[Combination]:
    """The hardest combination of those that lack one modality, and its subsets; none if no sample had any.

    Args:
        sums: (2, 2^M - 1), sums and counts in the order of every_combination.
        modalities: M.
    """
    every = every_combination(modalities)
    candidates = [number for number, combination in enumerate(every) if sum(combination) == modalities - 1]
    found = hardest(sums, candidates)
    return [] if found is None else subsets(every[found])
