from __future__ import annotations

import json

import pytest
import torch

from mmlab.errors import UserError
from mmlab.types import Batch, Classification, DataSpec, Modality

SPEC = DataSpec(
    "Toy",
    (
        Modality("audio", "audio", (1, 4, 5), mean=(-3.0,), std=(2.0,), low=-10.0),
        Modality("image", "image", (3, 8, 8), mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), low=0.0, high=255.0),
    ),
    Classification(("a", "b", "c")),
    train_size=7,
)


def test_a_spec_survives_plain_data() -> None:
    assert DataSpec.from_dict(SPEC.to_dict()) == SPEC
    assert DataSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC  # lists in place of tuples


def test_modalities_are_found_by_name() -> None:
    assert SPEC.names == ("audio", "image")
    assert SPEC.position("image") == 1
    with pytest.raises(UserError, match=r"Toy has no modality 'imgae' \(did you mean 'image'\?\).* are audio, image\."):
        SPEC.position("imgae")


def test_a_classification_owns_its_criterion_decision_and_probabilities() -> None:
    task = SPEC.task
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    assert task.outputs == 3
    assert task.decision(logits).tolist() == [0, 1]  # the lowest index on ties
    torch.testing.assert_close(task.probabilities(logits).sum(dim=1), torch.ones(2))
    expected = -torch.log(torch.tensor([task.probabilities(logits)[0, 0], task.probabilities(logits)[1, 2]]))
    torch.testing.assert_close(task.criterion(logits, torch.tensor([0, 2])), expected)


def test_the_metrics_of_a_classification() -> None:
    metrics = SPEC.task.metrics()
    metrics.update(torch.eye(3)[[0, 0, 1, 1]], torch.tensor([0, 0, 0, 1]))
    metrics.update(torch.eye(3)[[1, 0]], torch.tensor([1, 0]))
    values = {name: float(value) for name, value in metrics.compute().items()}
    # Five of six; F1 of the two classes that occur: 6/7 and 4/5.
    assert values["acc"] == pytest.approx(5 / 6)
    assert values["f1"] == pytest.approx((6 / 7 + 4 / 5) / 2)


def test_a_batch_moves_as_a_whole() -> None:
    batch = Batch(
        {"audio": torch.zeros(2, 3)}, torch.tensor([0, 1]), torch.ones(2, 1, dtype=torch.bool), torch.arange(2)
    )
    moved = batch.to(torch.device("meta"))
    assert {tensor.device.type for tensor in (*moved.inputs.values(), moved.target, moved.present, moved.index)} == {
        "meta"
    }
    assert len(batch) == len(moved) == 2
    assert batch.target.device.type == "cpu"
