"""Intersection over union of every class, from one confusion matrix over the whole split."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class IntersectionOverUnion(Metric):
    """``IoU_c = TP_c / (truth_c + decided_c - TP_c)`` over all labelled pixels of the split.

    ``miou`` is the mean over the classes that occur, in truth or in a decision; ``miou_all`` the mean over all
    classes, where one that never occurs counts as 0, the habit of released segmentation code. On splits in which every
    class occurs both are the same. Counts are exact whatever the number of processes.

    Args:
        classes: the names, in the order of the labels.
        ignore_index: the label of pixels that don't count.
    """

    higher_is_better = True
    full_state_update = False
    confusion: Tensor

    def __init__(self, classes: Sequence[str], ignore_index: int) -> None:
        super().__init__()
        self._classes = tuple(classes)
        self._ignore_index = ignore_index
        size = len(self._classes)
        self.add_state("confusion", torch.zeros(size, size, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, decision: Tensor, target: Tensor) -> None:
        """Counts pixels.

        Args:
            decision: (B, H, W) class indices.
            target: (B, H, W) class indices, or the label to ignore.
        """
        size = len(self._classes)
        labelled = target != self._ignore_index
        # What doesn't count goes into a cell of its own: picking out the others would wait for the device.
        cell = torch.where(labelled, target.clamp(0, size - 1) * size + decision, size * size)
        ones = torch.ones_like(cell.flatten(), dtype=torch.long)
        counts = torch.zeros(size * size + 1, dtype=torch.long, device=cell.device)
        self.confusion += counts.scatter_add_(0, cell.flatten(), ones)[:-1].view(size, size)

    def compute(self) -> dict[str, Tensor]:
        """``miou``, ``miou_all``, the pixel accuracy ``acc``, and each class's ``iou_<class>``, nan without a pixel."""
        counts = self.confusion.double()
        right = counts.diagonal()
        union = counts.sum(dim=0) + counts.sum(dim=1) - right
        each = right / union  # 0 / 0 is nan
        known = union > 0
        values = {
            "miou": torch.where(known, each, 0.0).sum() / known.sum(),
            "miou_all": torch.where(known, each, 0.0).mean(),
            "acc": right.sum() / counts.sum(),
            **{f"iou_{_word(name)}": value for name, value in zip(self._classes, each, strict=True)},
        }
        return {name: value.float() for name, value in values.items()}


def _word(name: str) -> str:
    return name.replace(" ", "-")
