"""Cross-entropy of pixels, weighted by class and normalised by the weights; for logits of any size.

``L = sum_i w_{y_i} CE_i / sum_i w_{y_i}`` over the labelled pixels i of the batch. For logits smaller than the label
map, the map is shrunk by taking the nearest pixel.

Source: the segmentation code of Wei, Luo, Luo, "MMANet", CVPR 2023, after ESANet (Seichter et al., ICRA 2021), which
adds the loss up over four sizes. There a size without a labelled pixel gives 0 / 0; here it gives 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab.precision import precise
from mmlab.types import Segmentation


def summed_over_sizes(
    sizes: Sequence[Tensor],
    target: Tensor,
    task: Segmentation,
    kept: Tensor | None,
    gathered: Callable[[Tensor], Tensor],
) -> Tensor:
    """The losses of logits of several sizes for the same labels, added up, a scalar.

    Args:
        sizes: (B, C, h, w) each.
        target: (B, H, W) class indices or the label to ignore.
        task: its weights and the label to ignore.
        kept: (B,) bool, the samples whose pixels count; None for all.
        gathered: joins the rows of all processes; the mean of their losses then is what one process would have.
    """
    if kept is not None:
        target = target.masked_fill(~kept.view(-1, 1, 1), task.ignore_index)
    return torch.stack([pixel_cross_entropy(logits, target, task, gathered) for logits in sizes]).sum()


def pixel_cross_entropy(
    logits: Tensor, target: Tensor, task: Segmentation, gathered: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """The loss of one size, a scalar.

    Args:
        logits: (B, C, h, w).
        target: (B, H, W) class indices or the label to ignore.
        task: its weights and the label to ignore.
        gathered: joins the rows of all processes; None where the batch is whole.
    """
    labels = shrunk(target, (logits.shape[2], logits.shape[3]))
    logits = precise(logits)
    weights = None if task.weights is None else _table(task.weights, logits.dtype, logits.device)
    summed = F.cross_entropy(logits, labels, weights, ignore_index=task.ignore_index, reduction="sum")
    total = _total_weight(labels, task)
    if gathered is not None:
        total = gathered(total[None]).mean(dim=0)
    return summed / torch.where(total > 0, total, 1).to(summed.dtype)


def _total_weight(labels: Tensor, task: Segmentation) -> Tensor:
    """The weights of the labelled pixels added up, a scalar."""
    labelled = labels != task.ignore_index
    if task.weights is None:
        return labelled.sum().double()
    table = _table(task.weights, torch.float64, labels.device)
    return (table[labels.clamp(0, len(task.weights) - 1)] * labelled).sum()


@functools.cache
def _table(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Kept, since to copy it to the device in every step would wait for the device.
    return torch.tensor(weights, dtype=dtype, device=device)


def shrunk(target: Tensor, size: tuple[int, ...]) -> Tensor:
    """The nearest label at each place of a smaller map, (B, h, w)."""
    if target.shape[1:] == size:
        return target
    return F.interpolate(target[:, None].float(), size=size, mode="nearest")[:, 0].to(target.dtype)
