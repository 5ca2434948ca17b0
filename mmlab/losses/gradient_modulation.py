"""How much of each encoder's gradient is kept, and the noise that is added to it (OGM-GE).

Source: Peng, Wei, Deng, Wang, Hu, "Balanced Multimodal Learning via On-the-fly Gradient Modulation", CVPR 2022, for two
modalities: the factor is its Equation 10, the noise its generalisation enhancement.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Modulation = Literal["ogm_ge", "ogm", "acc", "noise"]

_LEAST = 1e-12  # a denominator is never smaller


def discrepancy_ratios(sums: Tensor, counts: Tensor) -> Tensor:
    """How far each modality is ahead: its mean score over the mean of the others' mean scores.

    For two modalities that all samples have, this is the paper's ratio of two sums. Means in place of sums, so that
    modalities that different samples have can be compared, and the mean of the others, are this project's.

    Args:
        sums: (M,), sum over the samples that have the modality of the probability it gives to their class.
        counts: (M,), the number of these samples.

    Returns:
        (M,); 1, which changes nothing, for a modality that no sample has and for one that has no other to compare to.
    """
    known = counts > 0
    means = torch.where(known, sums / counts.clamp(min=1), 0.0)
    others = (means.sum() - means) / (known.sum() - 1).clamp(min=1)
    return torch.where(known & (known.sum() > 1), means / others.clamp(min=_LEAST), 1.0)


def modulation_coefficients(ratios: Tensor, alpha: float, modulation: Modulation) -> Tensor:
    """The factor k^m of the gradient of each modality's encoder.

    ``ogm_ge`` and ``ogm`` slow down who is ahead: ``k = 1 - tanh(alpha rho)`` where rho > 1, else 1. ``acc``, from the
    released code of PMR (Fan et al., CVPR 2023), speeds up who is behind: ``k = 1 + tanh(alpha / rho)`` where rho < 1,
    which for two modalities has the other's ratio in the tanh. ``noise`` leaves all at 1.

    Args:
        ratios: (M,), see :func:`discrepancy_ratios`.
        alpha: strength of the modulation.
        modulation: which rule.

    Returns:
        (M,).
    """
    if modulation == "noise":
        return torch.ones_like(ratios)
    if modulation == "acc":
        return torch.where(ratios < 1, 1 + torch.tanh(alpha / ratios.clamp(min=_LEAST)), 1.0)
    return torch.where(ratios > 1, 1 - torch.tanh(alpha * ratios), 1.0)


def generalisation_noise(gradient: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian noise with the standard deviation of all the numbers of a gradient, and 1e-8 more.

    The paper asks for the covariance of the stochastic gradient, number by number; this one deviation for a whole
    parameter is what the released code puts in its place.

    Args:
        gradient: of one parameter, any shape.
        generator: on the gradient's device.

    Returns:
        The same shape.
    """
    noise = torch.randn(gradient.shape, generator=generator, device=gradient.device, dtype=gradient.dtype)
    return noise * (gradient.std(correction=min(1, gradient.numel() - 1)) + 1e-8)
