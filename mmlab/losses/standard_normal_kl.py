"""The Kullback-Leibler divergence of a diagonal Gaussian from the standard normal, so that its variance can't vanish.

``KL(N(mu, exp(s)) || N(0, 1)) = sum_d 1/2 (exp(s_d) + mu_d^2 - 1 - s_d)``, 0 where mu = 0 and s = 0, above 0 elsewhere.

Source: Wei, Luo, Wang, Luo, "Robust Multimodal Learning via Representation Decoupling" (DMRNet), ECCV 2024, as its
released code has it. There the divergence of maps for segmentation has no gradient; here it has.
"""

from __future__ import annotations

import torch
from torch import Tensor


def standard_normal_kl(mean: Tensor, log_variance: Tensor, by_place: bool = False) -> Tensor:
    """The divergence of each sample, (B,), summed over all its numbers.

    Args:
        mean: (B, D) or (B, D, h, w), in float32 at least: sums over whole maps are large.
        log_variance: likewise, s.
        by_place: whether to average over the places of maps in place of summing over them (the form for segmentation).
    """
    # From s itself: a variance that has become 0 has no logarithm. expm1(s) is never below s, in floats neither.
    each = 0.5 * (mean.square() + (torch.expm1(log_variance) - log_variance))
    places = mean[0, 0].numel() if by_place else 1
    return each.flatten(1).sum(dim=1) / places
