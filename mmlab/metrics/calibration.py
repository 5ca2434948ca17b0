"""Calibration: whether decisions are right as often as the probabilities behind them say.

The expected calibration error is torchmetrics'; here are the bins that it is the sum of, for a reliability diagram.

Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

BINS = 15


class Reliability(NamedTuple):
    """Decisions in bins of equal width of their probability, each (BINS,).

    Attributes:
        counts: of samples.
        confidence: the mean probability of the decided class; 0 in an empty bin.
        accuracy: the share of right decisions; 0 in an empty bin.
    """

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor


def reliability(probabilities: Tensor, target: Tensor) -> Reliability:
    """Sorts decisions into bins; the last one holds its upper edge too.

    Args:
        probabilities: (N, C).
        target: (N,) class indices.
    """
    confidence, decision = probabilities.double().max(dim=1)
    place = (confidence * BINS).long().clamp(max=BINS - 1)
    sums = torch.zeros(3, BINS, dtype=torch.float64, device=place.device)
    sums.index_add_(1, place, torch.stack([torch.ones_like(confidence), confidence, (decision == target).double()]))
    counts, confidences, right = sums
    return Reliability(counts.long(), confidences / counts.clamp(min=1), right / counts.clamp(min=1))


def calibration_error(probabilities: Tensor, target: Tensor) -> float:
    """The expected calibration error: the mean over samples of |accuracy - confidence| of their bin, 15 bins.

    Args:
        probabilities: (N, C).
        target: (N,) class indices.
    """
    classes = probabilities.shape[1]
    return multiclass_calibration_error(probabilities, target, classes, n_bins=BINS, norm="l1").item()
