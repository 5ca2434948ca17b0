"""The task of a sentiment data set: a real number, or classes cut from it."""

from __future__ import annotations

from typing import Literal

import numpy as np

from mmlab.errors import UserError
from mmlab.types import Classification, Sentiment

SentimentTask = Literal["regression", "binary", "seven"]
Convention = Literal["mosi", "sims"]

HIGHEST = {"mosi": 3.0, "sims": 1.0}
BINARY = {"mosi": ("negative", "non-negative"), "sims": ("non-positive", "positive")}
SEVEN = ("-3", "-2", "-1", "0", "1", "2", "3")


def sentiment_task(task: SentimentTask, convention: Convention) -> Sentiment | Classification:
    """The task, see :func:`sentiment_targets` for what its targets are.

    Args:
        task: ``regression`` of the score, or its class among two (``binary``) or ``seven``.
        convention: ``mosi`` for scores from -3 to 3 (CMU-MOSI and MOSEI), ``sims`` for -1 to 1 (CH-SIMS).

    Raises:
        UserError: for seven classes of CH-SIMS, which has none.
    """
    if task == "regression":
        return Sentiment(-HIGHEST[convention], HIGHEST[convention], convention)
    if task == "binary":
        return Classification(BINARY[convention])
    if convention == "sims":
        raise UserError("CH-SIMS's scores, from -1 to 1, have no seven classes: set task to regression or binary.")
    return Classification(SEVEN)


def sentiment_targets(labels: np.ndarray, task: SentimentTask, convention: Convention) -> np.ndarray:
    """The targets of a task from real-valued labels, cut where MMSA's metrics cut them.

    Two classes: of ``mosi`` 0 is below 0, and 1 is 0 or above (Has0); of ``sims`` 0 is 0 or below, and 1 is above 0.
    Seven: the label clipped to [-3, 3] and rounded, half to even, plus 3.

    Args:
        labels: (N,) numbers.
        task: as given to :func:`sentiment_task`.
        convention: likewise.

    Returns:
        (N,) float32 numbers or int64 classes.
    """
    if task == "regression":
        return labels.astype(np.float32)
    if task == "binary":
        return (labels >= 0 if convention == "mosi" else labels > 0).astype(np.int64)
    return np.round(labels.clip(-3, 3)).astype(np.int64) + 3
