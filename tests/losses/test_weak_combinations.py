from __future__ import annotations

import pytest
import torch

from mmlab.availability import every_combination, subsets, without_one
from mmlab.losses.weak_combinations import (
    class_counts,
    decision_distances,
    overlap_distances,
    seven_classes,
    weak_set,
)


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_with_the_same_decisions_everywhere_the_first_candidate_is_chosen(modalities: int) -> None:
    counts = torch.tensor([3, 0, 9]).repeat(modalities, 1)
    distances = decision_distances(counts, counts[0])
    assert distances.tolist() == [0.0] * modalities
    candidates = without_one(modalities)
    assert weak_set(distances, candidates) == subsets(candidates[0])


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_the_weak_ones_are_closed_under_subsets(modalities: int) -> None:
    distances = torch.arange(modalities).double()
    weak = weak_set(distances, without_one(modalities))
    assert len(weak) == 2 ** (modalities - 1) - 1
    assert all(inner in weak for outer in weak for inner in subsets(outer))
    assert all(combination in every_combination(modalities) for combination in weak)
    assert not any(combination[-1] for combination in weak)


def test_of_two_modalities_one_alone_is_weak() -> None:
    assert weak_set(torch.tensor([0.1, 0.2]), without_one(2)) == [(True, False)]
    assert weak_set(torch.tensor([0.2, 0.1]), without_one(2)) == [(False, True)]


def test_the_distance_is_the_divergence_of_softened_frequencies() -> None:
    decided = torch.tensor([0, 0, 2, 0])
    counts = class_counts(decided, 4)
    assert counts.tolist() == [3, 0, 1, 0]
    full = torch.tensor([1, 1, 1, 1])
    q = torch.tensor([0.75, 0, 0.25, 0], dtype=torch.float64).softmax(0)
    expected = (q * (q / 0.25).log()).sum().item()
    assert decision_distances(counts[None], full).item() == pytest.approx(expected)
    assert overlap_distances(torch.tensor([0.3, 0.5]), torch.tensor(0.5)).tolist() == pytest.approx([0.04, 0])


def test_numbers_fall_into_seven_classes() -> None:
    values = torch.tensor([-9.0, -3.0, -2.6, -0.4, 0.4, 0.6, 2.4, 3.0, 5.0])
    assert seven_classes(values, -3.0, 3.0).tolist() == [0, 0, 0, 3, 3, 4, 5, 6, 6]
    assert seven_classes(torch.tensor([10.0, 70.0]), 10.0, 70.0).tolist() == [0, 6]
