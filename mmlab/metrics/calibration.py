"""Calibration: whether decisions are right as often as the probabilities behind them say.

The expected calibration error is the sum of the bins of the reliability diagram. torchmetrics' counts probabilities of
exactly 1, which a network that is sure of itself says often, in a bin of their own, and so says too much.

Source: Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

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


def calibration_error(bins: Reliability) -> float:
    """The expected calibration error: the mean over samples of |accuracy - confidence| of their bin.

    Args:
        bins: from :func:`reliability`.
    """
    counts, confidence, accuracy = bins
    return ((counts * (accuracy - confidence).abs()).sum() / counts.sum()).item()
