from __future__ import annotations

import math

import torch

from mmlab.metrics.antispoofing import SpoofingErrors


def rates(decision: list[int], target: list[int]) -> dict[str, float]:
    metric = SpoofingErrors()
    for one, other in zip(decision, target, strict=True):  # one sample a batch: sums, not means of batches
        metric.update(torch.tensor([one]), torch.tensor([other]))
    return {name: value.item() for name, value in metric.compute().items()}


def test_each_error_is_over_its_own_class() -> None:
    found = rates([1, 0, 0, 0, 1, 0, 1], [0, 0, 0, 0, 1, 1, 1])
    assert math.isclose(found["apcer"], 1 / 4, rel_tol=1e-6)  # an attack accepted
    assert math.isclose(found["bpcer"], 1 / 3, rel_tol=1e-6)  # a living face rejected
    assert math.isclose(found["acer"], (1 / 4 + 1 / 3) / 2, rel_tol=1e-6)


def test_a_collapsed_network_is_half_wrong_and_an_absent_class_has_no_rate() -> None:
    assert rates([0, 0, 0], [0, 1, 1])["acer"] == 0.5
    found = rates([1, 1], [1, 1])
    assert math.isnan(found["acer"])
    assert math.isnan(found["apcer"])
    assert found["bpcer"] == 0
