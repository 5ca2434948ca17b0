"""Confidence ranking: what was hard to learn shall be trusted less.

Source: Zhang, Wu, Zhang, Hu, Fu, Zhou, Peng, "Provable Dynamic Fusion for Low-Quality Multimodal Data" (QMF), ICML
2023, as its released text-image code has it; that loss adapts the correctness ranking of Moon et al. (ICML 2020).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mmlab.losses.late_fusion import mean_over

Ranking = Literal["released", "corrected_margin"]


def relative_history(loss_sum: Tensor, index: Tensor) -> Tensor:
    """Where samples stand between the least and the largest accumulated loss of the whole training set.

    Args:
        loss_sum: (M, N), the loss that each training sample has accumulated.
        index: (B,) positions in the training set.

    Returns:
        (M, B) in [0, 1]; 0 as long as the whole history is the same.
    """
    low, high = torch.aminmax(loss_sum, dim=1, keepdim=True)
    span = high - low
    return torch.where(span < 1e-12, 0.0, (loss_sum[:, index] - low) / span.clamp(min=1e-12))


def ranking_losses(confidence: Tensor, history: Tensor, present: Tensor, ranking: Ranking) -> Tensor:
    """The ranking loss of each modality over neighbours in the batch, the last beside the first.

    For neighbours i, j with histories u and confidences c, ``t = sign(u_i - u_j)`` and ``d = |u_i - u_j|``:
    ``max(0, t (c_i - c_j) - d)`` in the released code. The loss that it adapts adds the margin d
    (``corrected_margin``); the subtraction seems to come from flipping the target but not the margin.

    Args:
        confidence: (M, B), with gradient.
        history: (M, B), see :func:`relative_history`.
        present: (B, M) bool; a pair counts where both samples have the modality (ours: QMF has no missing ones).
        ranking: the sign of the margin.

    Returns:
        (M,), means over the pairs that count, 0 where none does.
    """
    difference = history - history.roll(-1, dims=1)
    margin = difference.abs() if ranking == "corrected_margin" else -difference.abs()
    each = (difference.sign() * (confidence - confidence.roll(-1, dims=1)) + margin).clamp(min=0)
    return mean_over(each, (present & present.roll(-1, dims=0)).T)
