import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from mmlab.metrics.calibration import BINS, calibration_error, reliability


def test_by_hand() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.92, 0.08], [0.45, 0.55], [0.0, 1.0]])
    target = torch.tensor([0, 1, 1, 1])
    bins = reliability(probabilities, target)
    assert bins.counts.tolist() == [0] * 8 + [1] + [0] * 4 + [2, 1]
    assert bins.accuracy[[8, 13, 14]].tolist() == [1.0, 0.5, 1.0]
    assert bins.confidence[[8, 13, 14]].tolist() == pytest.approx([0.55, 0.91, 1.0])
    assert calibration_error(reliability(probabilities, target)) == pytest.approx((0.45 + 2 * 0.41 + 0.0) / 4)


def test_certainty_shares_the_last_bin() -> None:
    probabilities = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.95, 0.05], [0.95, 0.05]])
    target = torch.tensor([0, 1, 0, 0])
    assert reliability(probabilities, target).counts.tolist() == [0] * 14 + [4]
    assert calibration_error(reliability(probabilities, target)) == pytest.approx(0.975 - 0.75)


def test_the_error_is_that_of_torchmetrics_where_nothing_is_certain() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = (3 * torch.randn(500, 6, generator=generator)).softmax(dim=1)
    target = torch.randint(6, (500,), generator=generator)
    counts, confidence, accuracy = reliability(probabilities, target)
    assert len(counts) == BINS
    assert counts.sum() == 500
    error = (counts * (accuracy - confidence).abs()).sum().item() / 500
    assert calibration_error(reliability(probabilities, target)) == pytest.approx(error, abs=1e-6)
    assert probabilities.max() < 1
    known = multiclass_calibration_error(probabilities, target, 6, n_bins=BINS, norm="l1").item()
    assert known == pytest.approx(error, abs=1e-6)
    assert error > 0.1
