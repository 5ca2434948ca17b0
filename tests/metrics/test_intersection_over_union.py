from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from mmlab.metrics.intersection_over_union import IntersectionOverUnion


def test_it_agrees_with_torchmetrics_over_several_batches() -> None:
    metric = IntersectionOverUnion(("a", "b", "c"), 255)
    other = MulticlassJaccardIndex(3, average="macro", ignore_index=255)
    decision, target = torch.randint(0, 3, (4, 6, 5)), torch.randint(0, 3, (4, 6, 5))
    target[:, 0] = 255
    for rows in (slice(1), slice(1, 4)):
        metric.update(decision[rows], target[rows])
    assert metric.compute()["miou"].item() == pytest.approx(other(decision, target).item(), abs=1e-6)


def test_a_class_that_never_occurs_counts_in_one_mean_only() -> None:
    metric = IntersectionOverUnion(("road", "a pothole", "never"), 255)
    metric.update(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 0, 0, 1]]]))
    found = metric.compute()
    assert found["iou_road"].item() == pytest.approx(2 / 3)
    assert found["iou_a-pothole"].item() == pytest.approx(1 / 2)
    assert math.isnan(found["iou_never"].item())
    assert found["miou"].item() == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found["miou_all"].item() == pytest.approx((2 / 3 + 1 / 2) / 3)
    assert found["acc"].item() == 0.75


def test_labels_to_ignore_count_nowhere() -> None:
    metric = IntersectionOverUnion(("a", "b"), 255)
    metric.update(torch.zeros(1, 2, 2, dtype=torch.long), torch.full((1, 2, 2), 255))
    assert metric.confusion.sum() == 0
