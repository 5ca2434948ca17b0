"""Margin-aware distillation: the student takes over how the teacher sees samples in relation to one another.

With the features H of a batch, one row for each sample, and what the teacher's softmax p_i says of sample i:

    G = H H^T      Ghat[i] = G[i] / |G[i]|      D[i, j] = (Ghat_S[i, j] - Ghat_T[i, j])^2
    u_i = - sum_c p_ic ln p_ic                  w_i = u_i / sum_k u_k
    L = sum_i w_i sum_j D[i, j]                 (row form; the column form is sum_j w_j sum_i D[i, j])

Samples near a class border, of which the teacher is uncertain, weigh more. Nothing is divided by the batch's size.

Source: Wei, Luo, Luo, "MMANet", CVPR 2023, as its released code has it, which weighs columns for classification and
rows for segmentation. There the entropy is nan once a probability underflows, here it is taken from logarithms.
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab.precision import precise

Axis = Literal["row", "column"]
_LEAST_NORM = 1e-12
_LEAST_ENTROPY = 1e-12


def entropy(logits: Tensor) -> Tensor:
    """Of the softmax, in nats, (N,); finite for all finite logits.

    Args:
        logits: (N, C).
    """
    log = precise(logits).log_softmax(dim=1)
    return -(log.exp() * log).sum(dim=1)


def margin_weights(uncertainty: Tensor) -> Tensor:
    """Shares of the uncertainty, (N,), adding up to 1; equal ones where nothing is uncertain.

    Args:
        uncertainty: (N,), not negative.
    """
    total = uncertainty.sum()
    return torch.where(total <= _LEAST_ENTROPY, 1 / len(uncertainty), uncertainty / total.clamp(min=_LEAST_ENTROPY))


def similarities(features: Tensor) -> Tensor:
    """Each sample's products with all samples, scaled to the length 1: Ghat, (B, B).

    Args:
        features: (B, ...), flattened.
    """
    rows = features.flatten(1)
    return F.normalize(rows @ rows.T, dim=1, eps=_LEAST_NORM)


def mad(student: Tensor, teacher: Tensor, weights: Tensor, axis: Axis = "row") -> Tensor:
    """The loss of a batch, a scalar: 0 where the features agree up to rotation and one common factor.

    Args:
        student: (B, ...), in float32 at least; with gradient.
        teacher: (B, ...), of any other width.
        weights: (B,).
        axis: whether a weight belongs to a sample's relations to all others, or to all others' relations to it.
    """
    gaps = (similarities(student) - similarities(teacher)).square()
    return (weights * gaps.sum(dim=1 if axis == "row" else 0)).sum()


def dense_mad(student: Tensor, teacher: Tensor, weights: Tensor, blocks: int = 2) -> Tensor:
    """The row form for many samples, such as the pixels of a batch, a scalar.

    As in the released code, the columns are cut into two blocks, the rows are scaled to the length 1 within each block,
    and the blocks' losses are added up.

    Args:
        student: (N, D), in float32 at least; with gradient.
        teacher: (N, D').
        weights: (N,).
        blocks: how many; the last one is the larger where N can't be divided.
    """
    size = len(student) // blocks
    edges = [block * size for block in range(blocks)] + [len(student)]
    gaps = [row_gaps(student, teacher, slice(first, end)) for first, end in itertools.pairwise(edges)]
    return (weights * torch.stack(gaps).sum(dim=0)).sum()


def row_gaps(student: Tensor, teacher: Tensor, columns: slice) -> Tensor:
    """``sum_j D[i, j]`` of each row, over some columns j among which rows are scaled to the length 1, (N,).

    The similarities themselves are only formed where they are smaller than the products of features,

        sum_j (s_i s_j) (t_i t_j) = s_i^T (sum_j s_j t_j^T) t_i

    which give the same sums (and lengths, with s for t) without any tensor of N x N.

    Args:
        student: (N, D), in float32 at least.
        teacher: (N, D').
        columns: which.
    """
    s, t = student[columns], teacher[columns]
    if len(s) <= min(s.shape[1], t.shape[1]):
        own, other = (F.normalize(rows @ part.T, dim=1, eps=_LEAST_NORM) for rows, part in ((student, s), (teacher, t)))
        return (own - other).square().sum(dim=1)
    own, other, both = (
        ((rows @ (left.T @ right)) * across).sum(dim=1)
        for rows, left, right, across in ((student, s, s, student), (teacher, t, t, teacher), (student, s, t, teacher))
    )
    own_norm, other_norm = own.clamp(min=_LEAST_NORM**2).sqrt(), other.clamp(min=_LEAST_NORM**2).sqrt()
    return own / own_norm.square() + other / other_norm.square() - 2 * both / (own_norm * other_norm)
