"""Labels of single modalities from one label of all, and the loss that they weigh.

Source: Yu, Xu, Yuan and Wu, "Learning Modality-Specific Representations with Self-Supervised Multi-Task Learning for
Multimodal Sentiment Analysis", AAAI 2021, in the form of its released code: plain Euclidean distances, momentum on the
labels and none on the centres.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-8


def label_weights(labels: Tensor, multimodal: Tensor) -> Tensor:
    """``tanh |y_s - y_m|``: how much a modality's own loss counts, (M, B).

    Args:
        labels: (M, B), each modality's own.
        multimodal: (B,).
    """
    return (labels - multimodal).abs().tanh()


def weighted_errors(predictions: Tensor, labels: Tensor, multimodal: Tensor, kept: Tensor) -> Tensor:
    """Each modality's own loss ``(1/B) sum_i w_i |yhat_s,i - y_s,i|``, (M,).

    Args:
        predictions: (M, B).
        labels: (M, B), constants.
        multimodal: (B,), constants.
        kept: (M, B) bool; what a sample lacks is left out of the sum.
    """
    weighted = label_weights(labels, multimodal) * (predictions - labels).abs()
    return torch.where(kept, weighted, 0.0).mean(dim=1)


def centres(bank: Tensor, labels: Tensor, known: Tensor, exclude_zero: bool) -> tuple[Tensor, Tensor]:
    """The means of the positive and of the negative samples' features.

    Args:
        bank: (N, D), of all samples.
        labels: (N,), in the branch's own view.
        known: (N,) bool; the others belong to neither side.
        exclude_zero: whether a label of 0 belongs to neither side; else it is positive.

    Returns:
        (2, D), the positive one first, zeros where a side is empty; and (2,) bool, whether it isn't.
    """
    positive = labels > 0 if exclude_zero else labels >= 0
    sides = torch.stack([positive, labels < 0]) & known
    counts = sides.sum(dim=1)
    return sides.to(bank.dtype) @ bank / counts.clamp(min=1)[:, None], counts > 0


def closeness(features: Tensor, both: Tensor) -> Tensor:
    """``r = (d- - d+) / (d+ + eps)``, (B,): above 0 nearer to the positive centre, -1 at the negative one.

    Args:
        features: (B, D).
        both: (2, D), the positive and the negative centre.
    """
    positive, negative = (features - both[:, None]).norm(dim=2)
    return (negative - positive) / (positive + EPS)


def moved_labels(multimodal: Tensor, own: Tensor, fused: Tensor) -> Tensor:
    """``(r_s / r_m) y_m / 2 + (y_m + r_s - r_m) / 2``, (M, B): by ratio and by difference, half each; not clamped.

    Args:
        multimodal: (B,), y_m.
        own: (M, B), r_s of each modality, see :func:`closeness`.
        fused: (B,), r_m.
    """
    return 0.5 * own / (fused + EPS) * multimodal + 0.5 * (multimodal + own - fused)


def mixed_labels(old: Tensor, new: Tensor, epoch: int) -> Tensor:
    """``((e - 1) old + 2 new) / (e + 1)``: the later, the slower labels move.

    Args:
        old: labels.
        new: of the same shape.
        epoch: e, counted from 1.
    """
    return (epoch - 1) / (epoch + 1) * old + 2 / (epoch + 1) * new
