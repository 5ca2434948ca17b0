from __future__ import annotations

import numpy as np
import pytest

from mmlab.data.sentiment import sentiment_targets, sentiment_task
from mmlab.errors import UserError
from mmlab.types import Classification, Sentiment

LABELS = np.array([-3.0, -2.5, -1.5, -0.2, -0.0, 0.0, 0.4, 0.5, 1.5, 2.6], np.float32)


def test_a_score_stays_what_it_is() -> None:
    assert sentiment_task("regression", "mosi") == Sentiment(-3.0, 3.0, "mosi")
    assert sentiment_task("regression", "sims") == Sentiment(-1.0, 1.0, "sims")
    targets = sentiment_targets(LABELS.astype(np.float64), "regression", "mosi")
    assert targets.dtype == np.float32
    assert np.array_equal(targets, LABELS)


def test_0_is_not_negative_in_mosi_and_not_positive_in_sims() -> None:
    mosi, sims = sentiment_targets(LABELS, "binary", "mosi"), sentiment_targets(LABELS, "binary", "sims")
    assert mosi.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert sims.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    assert mosi.dtype == sims.dtype == np.int64
    assert sentiment_task("binary", "mosi") == Classification(("negative", "non-negative"))
    assert sentiment_task("binary", "sims") == Classification(("non-positive", "positive"))


def test_seven_classes_are_rounded_half_to_even() -> None:
    task = sentiment_task("seven", "mosi")
    assert isinstance(task, Classification)
    targets = sentiment_targets(LABELS, "seven", "mosi")
    assert [task.classes[label] for label in targets] == ["-3", "-2", "-2", "0", "0", "0", "0", "0", "2", "3"]
    assert sentiment_targets(np.array([-3.4, 3.6]), "seven", "mosi").tolist() == [0, 6]


def test_sims_has_no_seven_classes() -> None:
    with pytest.raises(UserError, match="no seven classes: set task to regression or binary"):
        sentiment_task("seven", "sims")
