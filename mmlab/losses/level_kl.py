"""The Kullback-Leibler divergence of UDML: a Gaussian at every place, drawn to a prior that is as wide as the noise.

Source: Wei, Zhang, Chen, He, Duan, "Unbiased Dynamic Multimodal Fusion", CVPR 2026 Findings, as its released code has
it, which takes the noise level for the prior's variance.
"""

from __future__ import annotations

from torch import Tensor

_LEAST = 1e-8  # added to a variance before its logarithm is taken


def level_kl(mean: Tensor, std: Tensor, level: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(0, level)), summed over channels and places; 0 where mean is 0 and std^2 is the level.

    ``sum 1/2 (std^2 / l + mean^2 / l - ln((std^2 + 1e-8) / l) - 1)``

    Args:
        mean: (N, ...).
        std: (N, ...), not negative.
        level: (N,), the prior's variance, above 0.

    Returns:
        (N,), in the precision of the maps: hand them over in float32, sums over whole maps are large.
    """
    prior = level.to(mean.dtype).view(-1, *[1] * (mean.dim() - 1))
    variance = std.square()
    each = variance / prior + mean.square() / prior - ((variance + _LEAST) / prior).log() - 1
    return 0.5 * each.flatten(1).sum(dim=1)
