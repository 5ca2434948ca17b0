"""Maximum mean discrepancy: how far two sets of features are apart as distributions, whatever their order.

Five Gaussian kernels, each twice as wide as the one before, whose middle one is as wide as the mean squared distance
between the features of both sets. The biased estimate, with each feature's kernel to itself.

Source: the loss that Wei et al. released for MSH-Net ("Modality-Shared Hallucination with Joint Adaptation
Distillation", 2023), after Long et al., "Learning Transferable Features with Deep Adaptation Networks", ICML 2015.
There a batch of identical features gives nan; here it gives 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

KERNELS = 5
FACTOR = 2.0
_NARROWEST = 1e-12


def mmd(one: Tensor, other: Tensor, kept: Tensor | None = None) -> Tensor:
    """The squared discrepancy, ``mean_ij K(s_i, s_j) + K(t_i, t_j) - K(s_i, t_j) - K(t_i, s_j)``.

    ``K(x, y) = sum_k exp(-|x - y|^2 / (2^k h))`` for k = 0 ... 4, with h of :func:`base_bandwidth`, through which no
    gradient flows.

    Args:
        one: (B, ...), flattened to (B, D).
        other: as ``one``.
        kept: (B,) bool, the rows of both that take part; all unless given.

    Returns:
        A scalar from 0 to 10, in float32 at least; 0 where no row takes part. Memory goes with B^2, not with B^2 D.
    """
    precision = torch.promote_types(one.dtype, torch.float32)
    kept = torch.ones(len(one), dtype=torch.bool, device=one.device) if kept is None else kept
    with torch.autocast(one.device.type, enabled=False):
        both = torch.cat((one.flatten(1), other.flatten(1))).to(precision)
        rows = torch.cat((kept, kept))
        distances = squared_distances(both, rows)
        width = base_bandwidth(distances, rows)
        kernel = torch.stack([(-distances / (FACTOR**k * width)).exp() for k in range(KERNELS)]).sum(dim=0)
        sign = torch.cat((kept.to(precision), -kept.to(precision)))
        return sign @ kernel @ sign / kept.sum().clamp(min=1).square()


def squared_distances(features: Tensor, kept: Tensor) -> Tensor:
    """Between each two rows, (N, N), from their dot products.

    Args:
        features: (N, D).
        kept: (N,) bool; rows that take no part may hold anything finite.
    """
    # Distances don't change with the origin, but the digits that a difference of dot products loses do.
    mean = (features.detach() * kept[:, None]).sum(dim=0) / kept.sum().clamp(min=1)
    centred = features - mean
    products = centred @ centred.T
    lengths = products.diagonal()
    return (lengths[:, None] + lengths - 2 * products).clamp(min=0)


def base_bandwidth(distances: Tensor, kept: Tensor) -> Tensor:
    """The width h of the narrowest kernel: a quarter of the mean distance between different rows; a constant.

    Args:
        distances: (N, N), squared.
        kept: (N,) bool, the rows that count.
    """
    count = kept.sum()
    pairs = (count.square() - count).clamp(min=1)
    weight = kept.to(distances.dtype)
    mean = weight @ distances.detach() @ weight / pairs
    return (mean / FACTOR ** (KERNELS // 2)).clamp(min=_NARROWEST)
