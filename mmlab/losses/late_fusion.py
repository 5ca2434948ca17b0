"""The losses of late fusion: one of the fused logits, one of each modality's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmlab.errors import UserError

Criterion = Callable[[Tensor, Tensor], Tensor]
"""From logits (B, C) and target (B,) to the loss of each sample, (B,)."""


def late_fusion_losses(
    fused: Tensor,
    unimodal: Tensor,
    target: Tensor,
    present: Tensor,
    criterion: Criterion,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The mean loss of the fused logits and of each modality's logits.

    Args:
        fused: (B, C) logits.
        unimodal: (M, B, C) logits.
        target: (B,) class indices.
        present: (B, M) bool. A modality's loss is averaged over the samples that have it, 0 where none has.
        criterion: the task's loss of each sample.
        counts: (M,) how many have it, see :func:`mean_over`.

    Returns:
        The fused loss, a scalar, and the unimodal losses, (M,); float32 at least, whatever the logits are.
    """
    precision = torch.promote_types(unimodal.dtype, torch.float32)
    each = torch.stack([criterion(logits.to(precision), target) for logits in unimodal])
    return criterion(fused.to(precision), target).mean(), mean_over(each, present.T, counts)


def mean_over(values: Tensor, kept: Tensor, counts: Tensor | None = None) -> Tensor:
    """The mean over the last dimension of the values that are kept, 0 where none is.

    Args:
        values: (..., B).
        kept: (..., B) bool.
        counts: (...) what to divide by; the number that is kept unless given. With several processes, the mean of
            their numbers makes the mean of their results what one process would have.
    """
    counts = kept.sum(dim=-1) if counts is None else counts
    return (values * kept).sum(dim=-1) / torch.where(counts > 0, counts, 1)


def mean_counts(present: Tensor, every: Tensor) -> Tensor:
    """How many samples have each modality, (M,): the mean over the processes.

    Args:
        present: (B, M) bool, of this process.
        every: (W * B, M), of all.
    """
    return every.sum(dim=0) * (len(present) / len(every))


def weights_of_unimodal(given: Sequence[float] | None, names: Sequence[str]) -> Tensor:
    """The weight of each modality's own loss, (M,) float32; all 1 unless given.

    Raises:
        UserError: if their number is wrong or one of them is negative or not finite.
    """
    if given is None:
        return torch.ones(len(names))
    if len(given) != len(names) or not all(math.isfinite(weight) and weight >= 0 for weight in given):
        raise UserError(
            f"unimodal_weights {list(given)} don't fit the data set: give one number of at least 0 for each of "
            f"{', '.join(names)}."
        )
    return torch.tensor(given, dtype=torch.float32)
