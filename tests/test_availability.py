from __future__ import annotations

import torch

from mmlab.availability import (
    combination_name,
    every_combination,
    limited,
    membership,
    random_available,
    subsets,
    without_one,
)
from mmlab.draws import Draws


def draws(samples: int, epoch: int = 0) -> Draws:
    return Draws(0, epoch, torch.arange(samples))


def as_words(combinations: list) -> list[str]:
    return ["".join(str(int(has)) for has in each) for each in combinations]


def test_combinations_stand_in_the_papers_order() -> None:
    assert as_words(every_combination(3)) == ["100", "010", "001", "110", "101", "011", "111"]
    assert as_words(every_combination(2)) == ["10", "01", "11"]
    assert as_words(without_one(3)) == ["011", "101", "110"]
    assert without_one(1) == []
    assert as_words(subsets((True, False, True))) == ["100", "001", "101"]
    assert combination_name(("rgb", "depth", "ir"), (True, False, True)) == "rgb+ir"


def test_every_subset_is_equally_likely_and_none_is_empty() -> None:
    available = random_available(draws(70_000), torch.ones(70_000, 3, dtype=torch.bool))
    assert available.any(dim=1).all()
    counts = torch.bincount(available.long() @ torch.tensor([1, 2, 4]), minlength=8)
    assert counts[0] == 0
    # Seven cells of 10 000 expected: five standard deviations are 463.
    assert (counts[1:] - 10_000).abs().max() < 463


def test_a_sample_keeps_only_what_it_has() -> None:
    present = torch.tensor([[True, False, True], [False, True, False]]).repeat(30_000, 1)
    available = random_available(draws(60_000), present)
    assert not (available & ~present).any()
    first, second = available[::2], available[1::2]
    assert (second == torch.tensor([False, True, False])).all()
    counts = torch.bincount(first.long() @ torch.tensor([1, 0, 2]), minlength=4)
    assert counts[0] == 0
    assert (counts[1:] - 10_000).abs().max() < 410


def test_masks_differ_by_epoch_and_not_by_batch() -> None:
    present = torch.ones(64, 2, dtype=torch.bool)
    whole = random_available(draws(64), present)
    halves = [
        random_available(Draws(0, 0, torch.arange(64)[rows]), present[rows]) for rows in (slice(32), slice(32, 64))
    ]
    assert torch.equal(whole, torch.cat(halves))
    assert not torch.equal(whole, random_available(draws(64, epoch=1), present))


def test_membership_and_limited() -> None:
    available = torch.tensor([[True, False], [True, True], [False, True]])
    combinations = torch.tensor([[False, True], [True, False]])
    assert membership(available, combinations).tolist() == [[False, True], [False, False], [True, False]]
    assert limited(available, (True, False)).tolist() == [[True, False], [True, False], [False, False]]
