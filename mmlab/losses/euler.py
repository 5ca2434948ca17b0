"""Features read as angles: the Euler mapping and the phase term of ERL-MR.

Source: Han, Cai, Guo, Peng, "ERL-MR: Harnessing the Power of Euler Feature Representations for Balanced Multi-modal
Learning", ACM Multimedia 2024, as its released code has it, for two complete modalities. More of them and missing
ones are this project's, made so that two complete ones give the code's values.
"""

from __future__ import annotations

from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab.losses.late_fusion import mean_over

PhaseAxis = Literal["batch", "feature"]


def euler(feature: Tensor, amplitude: Tensor) -> Tensor:
    """A feature as the angle of a complex number: ``mu exp(i x) = mu cos x + i mu sin x``.

    Args:
        feature: (B, D) in radians, channel by channel: D = channels * length.
        amplitude: (channels, 1), mu, of either sign.

    Returns:
        (2, B, D), the real and the imaginary part.
    """
    angle = feature.unflatten(1, (len(amplitude), -1))
    return torch.stack([amplitude * angle.cos(), amplitude * angle.sin()]).flatten(2)


def phase_loss(phases: Tensor, present: Tensor, axis: PhaseAxis) -> Tensor:
    """How little the phases of the modalities agree: 1 minus their mean cosine, averaged over pairs of modalities.

    A feature that is 0 in all samples (a sample that is 0 in all features, along ``feature``) has cosine 0, and a
    cosine doesn't see scale: phases that are proportional agree.

    Args:
        phases: (B, M, H) in [0, pi / 2].
        present: (B, M) bool. A pair is compared on the samples that have both; one that no sample has is left out.
        axis: what a cosine is taken over: the ``batch`` (one for each feature, as in the released code) or the
            ``feature`` axis (one for each sample).

    Returns:
        A scalar in [0, 1], 0 where there is no pair.
    """
    distances, known = [], []
    for first, second in combinations(range(phases.shape[1]), 2):
        both = present[:, first] & present[:, second]
        one, other = phases[:, first] * both[:, None], phases[:, second] * both[:, None]
        if axis == "batch":
            cosine = F.cosine_similarity(one, other, dim=0).mean()
        else:
            cosine = mean_over(F.cosine_similarity(one, other, dim=1), both)
        distances.append(1 - cosine)
        known.append(both.any())
    return mean_over(torch.stack(distances), torch.stack(known))
