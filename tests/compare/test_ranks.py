from __future__ import annotations

import pytest

from mmlab.compare.gather import gather
from mmlab.compare.ranks import rank
from mmlab.compare.significance import critical_difference, friedman
from tests.compare.made import result


def on(dataset: str, seeds: int = 1, **accs: float) -> list[dict]:
    return [
        result(method, seed, acc, dataset=dataset, dataset_details={})
        for method, acc in accs.items()
        for seed in range(seeds)
    ]


def test_ranks_of_a_full_table() -> None:
    runs = [*on("A", X=0.9, Y=0.8, Z=0.7), *on("B", X=0.6, Y=0.7, Z=0.5), *on("C", X=0.4, Y=0.4, Z=0.1)]
    found = rank(gather(runs, "test"))
    assert found.datasets == ("A, fused", "B, fused", "C, fused")
    assert found.places == {"X": (1, 2, 1.5), "Y": (2, 1, 1.5), "Z": (3, 3, 3)}
    assert found.mean("Z") == 3
    assert found.p == friedman([[1, 2, 3], [2, 1, 3], [1.5, 1.5, 3]])
    assert found.critical == critical_difference(3, 3)
    assert found.notes == ()


def test_less_is_better_in_an_error() -> None:
    runs = [
        result(method, dataset=dataset, dataset_details={}, monitor="val/mae", test={"mae": mae})
        for dataset in "ABC"
        for method, mae in (("X", 1.0), ("Y", 2.0), ("Z", 3.0))
    ]
    assert list(rank(gather(runs, "test")).places) == ["X", "Y", "Z"]


def test_the_largest_table_without_a_gap_goes_in() -> None:
    runs = [run for name in "ABC" for run in on(name, seeds=2, X=0.9, Y=0.8, Z=0.7)]
    runs += on("A", seeds=2, W=0.5) + on("D", seeds=2, W=0.5, V=0.4)
    runs += [result("U", 0, dataset=name, dataset_details={}) for name in "ABC"]  # lacks a seed
    found = rank(gather(runs, "test"))
    assert (list(found.places), found.datasets) == (["X", "Y", "Z"], ("A, fused", "B, fused", "C, fused"))
    assert found.notes == ("D, fused: too few of these methods.", "Not on all of these data sets: V; W.")


def test_what_is_synthetic_or_on_other_splits_is_not_ranked() -> None:
    runs = [run for name in "ABC" for run in on(name, X=0.9, Y=0.8, Z=0.7)]
    twin = [run | {"dataset_details": {"synthetic": True}} for run in on("T", X=0.9, Y=0.8, Z=0.7)]
    other = on("S", X=0.9, Y=0.8, Z=0.7)
    other[0]["splits"] = {"test": {"samples": 1, "sha256": "1"}}
    found = rank(gather([*runs, *twin, *other], "test"))
    assert len(found.datasets) == 3
    assert found.notes == ("S: its runs saw different splits.", "T (synthetic) is synthetic.")


def test_the_row_trained_as_most_stands_for_its_method() -> None:
    runs = [run for name in "ABC" for run in on(name, X=0.9, Y=0.8, Z=0.7)]
    for run in runs:
        run["config"] = {"patience": 8}
    runs.append(runs[0] | {"config": {"patience": 0}, "test": {"acc": 0.1}})
    found = rank(gather(runs, "test"))
    assert found.places["X"] == (1, 1, 1)
    assert found.notes == ("On A, X is the row X (patience 8).",)


@pytest.mark.parametrize("names", ["AB", ""])
def test_few_data_sets_are_not_ranked(names: str) -> None:
    runs = [run for name in names for run in on(name, X=0.9, Y=0.8, Z=0.7)]
    two = [run for name in "DEF" for run in on(name, X=0.9, Y=0.8)]
    assert rank(gather([*runs, *two], "test")) is None
