from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch

from mmlab.metrics.sentiment import SentimentMetrics

CUTS = {"Mult_acc_2": [0.0], "Mult_acc_3": [-0.1, 0.1], "Mult_acc_5": [-0.7, -0.1, 0.1, 0.7]}


def values(
    convention: Literal["mosi", "sims"],
    prediction: Any,
    truth: Any,
    dtype: torch.dtype = torch.float64,
    batch: int = 7,
) -> dict[str, float]:
    metrics = SentimentMetrics(convention)
    for own, true in zip(
        torch.tensor(prediction, dtype=dtype).split(batch), torch.tensor(truth, dtype=dtype).split(batch), strict=True
    ):
        metrics.update(own, true)
    return {name: value.item() for name, value in metrics.compute().items()}


def accuracy(own: list[Any], true: list[Any]) -> float:
    return sum(a == b for a, b in zip(own, true, strict=True)) / len(own) if own else math.nan


def weighted_f1(own: list[bool], true: list[bool]) -> float:
    total = 0.0
    for label in (False, True):
        hits = sum(a == b == label for a, b in zip(own, true, strict=True))
        if hits:
            precision, recall = hits / own.count(label), hits / true.count(label)
            total += 2 * precision * recall / (precision + recall) * true.count(label)
    return total / len(true) if true else math.nan


def slowly(convention: str, prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The definitions, number by number, in the arrays' own precision."""
    found: dict[str, float] = {}
    if convention == "mosi":
        pairs = list(zip(prediction, truth, strict=True))
        for name, kept, test in (
            ("Has0", pairs, lambda score: bool(score >= 0)),
            ("Non0", [pair for pair in pairs if pair[1] != 0], lambda score: bool(score > 0)),
        ):
            own, true = [test(a) for a, _ in kept], [test(b) for _, b in kept]
            found |= {f"{name}_acc_2": accuracy(own, true), f"{name}_F1_score": weighted_f1(own, true)}
        for name, bound in (("Mult_acc_5", 2), ("Mult_acc_7", 3)):
            # Python's round is half to even too.
            own, true = ([round(min(max(float(a), -bound), bound)) for a in each] for each in (prediction, truth))
            found[name] = accuracy(own, true)
    else:
        prediction, truth = (np.minimum(np.maximum(each, -1), 1) for each in (prediction, truth))
        for name, cuts in CUTS.items():
            cuts = [prediction.dtype.type(cut) for cut in cuts]
            own, true = ([sum(bool(a > cut) for cut in cuts) for a in each] for each in (prediction, truth))
            found[name] = accuracy(own, true)
        found["F1_score"] = weighted_f1([bool(a > 0) for a in prediction], [bool(b > 0) for b in truth])
    prediction, truth = prediction.astype(np.float64), truth.astype(np.float64)
    found["MAE"] = sum(abs(a - b) for a, b in zip(prediction, truth, strict=True)) / len(truth)
    found["Corr"] = float(np.corrcoef(prediction, truth)[0, 1])
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("convention", ["mosi", "sims"])
def test_the_metrics_are_what_their_definitions_say(convention, dtype) -> None:
    rng = np.random.default_rng(0)
    highest = 3 if convention == "mosi" else 1
    for size in (2, 5, 60, 400):
        prediction, truth = rng.normal(0, highest / 2, (2, size))
        # Scores on cuts, half-way between whole numbers, at 0 and out of range.
        borders = [-1.0, -0.7, -0.1, 0.0, 0.1, 0.7, 1.0, -3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5]
        for scores in (prediction, truth):
            placed = rng.random(size) < 0.5
            scores[placed] = rng.choice(borders, placed.sum())
        single = np.float32 if dtype == torch.float32 else np.float64
        expected = slowly(convention, prediction.astype(single), truth.astype(single))
        found = values(convention, prediction, truth, dtype)
        assert found.keys() == expected.keys()
        for name in expected:
            assert found[name] == pytest.approx(expected[name], rel=0, abs=1e-7 if dtype == torch.float32 else 1e-12)


def test_a_score_on_a_cut_belongs_below_it_in_either_precision() -> None:
    # The float32 number that 0.1 is read as lies above the real 0.1, that of 0.7 below it.
    for dtype in (torch.float32, torch.float64):
        found = values("sims", [-0.7, -0.1, 0.0, 0.1, 0.7], [-0.9, -0.2, -0.4, 0.05, 0.2], dtype)
        assert found["Mult_acc_5"] == pytest.approx(4 / 5)  # 0.0 and -0.4 lie in different classes
        assert found["Mult_acc_2"] == 1
        above = [
            math.nextafter(cut, 2) if dtype == torch.float64 else cut + 1e-7 for cut in (-0.7, -0.1, 0.0, 0.1, 0.7)
        ]
        found = values("sims", above, [-0.2, 0.0, 0.1, 0.2, 0.9], dtype)
        assert found["Mult_acc_5"] == 1


def test_rounding_is_half_to_even_after_clipping() -> None:
    found = values("mosi", [2.5, -0.5, 0.5, 1.5, 9.0, -2.6], [2.0, 0.0, -0.4, 2.4, 3.0, -3.0])
    assert found["Mult_acc_7"] == 1
    assert values("mosi", [2.5, 9.0], [3.0, 3.0])["Mult_acc_7"] == 0.5
    assert values("mosi", [2.5, 9.0, -2.6], [2.0, 3.0, -2.0])["Mult_acc_5"] == 1


def test_only_a_truth_of_0_leaves_a_sample_out_of_non0() -> None:
    found = values("mosi", [0.0, 1.0, -1.0], [0.0, 1.0, 1.0])
    assert found["Has0_acc_2"] == pytest.approx(2 / 3)
    assert found["Non0_acc_2"] == 0.5
    assert values("mosi", [0.0, 0.0], [1.0, -1.0])["Non0_acc_2"] == 0.5  # 0 is not positive
    nothing = values("mosi", [0.5, -0.5], [0.0, 0.0])
    assert math.isnan(nothing["Non0_acc_2"])
    assert math.isnan(nothing["Non0_F1_score"])
    assert nothing["Has0_acc_2"] == 0.5


def test_the_errors_of_sims_are_of_clipped_scores_and_those_of_mosi_are_not() -> None:
    assert values("sims", [5.0, -2.0], [1.0, -1.0])["MAE"] == 0
    assert values("mosi", [5.0, -3.0], [3.0, -3.0])["MAE"] == 1


@pytest.mark.parametrize("convention", ["mosi", "sims"])
def test_the_truth_is_perfect_and_a_constant_has_no_correlation(convention) -> None:
    truth = [-0.9, -0.5, -0.1, 0.3, 0.7]
    perfect = values(convention, truth, truth)
    assert perfect.pop("MAE") == 0
    assert list(perfect.values()) == pytest.approx([1.0] * len(perfect))
    # Whose mean in float64 is not exactly itself.
    assert values(convention, [0.1] * 5, truth)["Corr"] == 0
    assert values(convention, truth, [0.1] * 5, torch.float32)["Corr"] == 0
    rounded = [0.1 + error * 1e-7 for error in (0, 1, 2, 1, 3)]  # one number, computed in batches of several sizes
    assert values(convention, rounded, truth, torch.float32)["Corr"] == 0
    alone = values(convention, [0.4], [0.5])
    assert alone["Corr"] == 0
    assert alone["MAE"] == pytest.approx(0.1)


def test_a_correlation_far_from_0_is_exact() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=300)
    prediction = 1e7 + truth + rng.normal(size=300)
    expected = np.corrcoef(prediction - 1e7, truth)[0, 1]
    assert values("mosi", prediction, truth)["Corr"] == pytest.approx(expected, abs=1e-8)


def test_neither_the_batches_nor_half_precision_matter() -> None:
    rng = np.random.default_rng(2)
    prediction, truth = rng.normal(0, 1.5, (2, 100)).astype(np.float32)
    every = values("mosi", prediction, truth, torch.float32, batch=100)
    assert values("mosi", prediction, truth, torch.float32, batch=1) == every
    metrics = SentimentMetrics("mosi")
    half = torch.from_numpy(prediction).bfloat16()
    metrics.update(half, torch.from_numpy(truth))
    found = metrics.compute()
    assert found["MAE"].dtype == torch.float32
    assert found["MAE"].item() == pytest.approx(np.abs(half.float().numpy().astype(float) - truth).mean(), abs=1e-6)
