"""DUC, the contrastive loss of DI-MML that works on chosen feature dimensions, and the statistics that choose them.

A dimension of a modality's features is effective if it alone tells the classes apart better than the modality's
dimensions do on average. Where it is effective in one modality and not in another, the first teaches the second.

Source: Fan, Xu, Wang, Liu, Guo, "Detached and Interactive Multimodal Learning", ACM Multimedia 2024, as its released
code has it, which covers two complete modalities. Samples that lack a modality, and classes that have no sample, are
left out (ours).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab.losses.late_fusion import mean_over

_AT_ONCE = 2**24  # values in memory at a time: (N, C, D) of a whole training set would be gigabytes


def duc_loss(student: Tensor, teacher: Tensor, dims: Tensor, temperature: float, both: Tensor) -> Tensor:
    """Draws each sample's student features to its own teacher features, and away from those of all other samples.

    ``-mean_i log softmax_j(G_ij)_i`` with ``G_ij = sum_{d in dims} z^s_id sg(z^t_jd) / temperature``. Labels play no
    part, and features are not normalised. Without any dimension it is log B, a constant.

    Args:
        student: (B, D) features, which alone get gradient, and on ``dims`` only.
        teacher: (B, D) features.
        dims: (D,) bool.
        temperature: above 0.
        both: (B,) bool, which samples have both modalities; the others take no part.

    Returns:
        A scalar, 0 or more, in float32 at least: dot products of whole features overflow in half precision.
    """
    precision = torch.promote_types(student.dtype, torch.float32)
    with torch.autocast(student.device.type, enabled=False):
        agreement = (student.to(precision) * dims) @ teacher.detach().to(precision).T / temperature
        # A row without a single partner would be NaN; rows that don't count may hold anything finite.
        agreement = agreement.masked_fill(~both, float("-inf")).masked_fill(~both[:, None], 0.0)
        own = torch.arange(len(agreement), device=agreement.device)
        return mean_over(F.cross_entropy(agreement, own, reduction="none"), both)


def class_sums(features: Tensor, target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """What class means are made of; sums of several shares of the samples may be added.

    Args:
        features: (N, D).
        target: (N,) class indices.
        classes: C.

    Returns:
        The sums (C, D) in float64 and the numbers of samples (C,) in int64.
    """
    sums = torch.zeros(classes, features.shape[1], dtype=torch.float64, device=features.device)
    counts = torch.zeros(classes, dtype=torch.long, device=features.device)
    rows = max(1, _AT_ONCE // (classes + features.shape[1]))
    for part, labels in zip(features.split(rows), target.split(rows), strict=True):
        # A product and not a scattered sum, whose order of additions varies on a GPU.
        belongs = F.one_hot(labels, classes)
        sums += belongs.T.double() @ part.double()
        counts += belongs.sum(dim=0)
    return sums, counts


def class_means(sums: Tensor, counts: Tensor) -> Tensor:
    """(C, D) from :func:`class_sums`; zeros for a class without a sample."""
    return sums / counts.clamp(min=1)[:, None]


def nearest_hits(features: Tensor, target: Tensor, means: Tensor, counts: Tensor) -> Tensor:
    """How many samples each dimension alone puts nearest to the mean of their own class.

    A tie goes to the lowest class; a class without a sample is nobody's nearest.

    Args:
        features: (N, D).
        target: (N,) class indices.
        means: (C, D) float64.
        counts: (C,) samples of each class.

    Returns:
        (D,) int64; shares of the samples may be added.
    """
    hits = torch.zeros(features.shape[1], dtype=torch.long, device=features.device)
    empty = (counts == 0)[:, None]
    rows = max(1, _AT_ONCE // means.numel())
    for part, labels in zip(features.split(rows), target.split(rows), strict=True):
        distance = (part[:, None] - means).abs().masked_fill_(empty, float("inf"))
        hits += (distance.argmin(dim=1) == labels[:, None]).sum(dim=0)
    return hits


def effective_dims(hits: Tensor) -> Tensor:
    """(..., D) bool: which dimensions hit more often than all do on average. In whole numbers, so equal ones tie."""
    return hits * hits.shape[-1] > hits.sum(dim=-1, keepdim=True)


def one_sided_dims(effective: Tensor) -> Tensor:
    """Where one modality teaches another.

    Args:
        effective: (M, D) bool.

    Returns:
        (M, M, D) bool, at [t, s]: effective in the teacher t and not in the student s; so nothing at [t, t].
    """
    return effective[:, None] & ~effective
