"""The regression of UDML: what level of noise a modality was given.

Source: Wei, Zhang, Chen, He, Duan, "Unbiased Dynamic Multimodal Fusion", CVPR 2026 Findings, as its released code has
it. Samples that lack a modality are left out (ours).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmlab.losses.late_fusion import mean_over


def noise_level_loss(log_uncertainty: Tensor, levels: Tensor, present: Tensor, counts: Tensor | None = None) -> Tensor:
    """Squared error of the predicted level exp(x / 2), averaged over samples and summed over modalities.

    Args:
        log_uncertainty: (B, M), x, in float32 at least.
        levels: (B, M), the true ones.
        present: (B, M) bool.
        counts: (M,) how many samples have each modality, see :func:`~mmlab.losses.late_fusion.mean_over`.

    Returns:
        A scalar, with no gradient but to x. Where it would be infinite it is 0, as in the released code, and so is
        its gradient.
    """

    def loss(x: Tensor) -> Tensor:
        return mean_over(((x / 2).exp() - levels).square().T, present.T, counts).sum()

    known = log_uncertainty.masked_fill(~present, 0.0)
    overflows = loss(known.detach()).isinf()
    # Replaced before the exponential: behind it, the gradient of what is infinite would be NaN.
    finite = loss(torch.where(overflows, 0.0, known))
    return torch.where(overflows, 0.0, finite)
