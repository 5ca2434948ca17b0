from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmlab.backbones.config import BackboneConfig
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.losses.distillation import decision_divergence, feature_distillation
from mmlab.methods.base import Method
from mmlab.methods.distillation import Distillation
from mmlab.types import Batch, DataSpec, Modality, Regression, Segmentation
from tests.methods.toy import batch, check, spec

TINY = BackboneConfig(width=4)
PICTURES = (Modality("rgb", "image", (3, 32, 64)), Modality("depth", "depth", (1, 32, 64)))


@pytest.fixture(autouse=True)
def _without_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws go by the run's seed and epoch; most tests have no run."""
    draws = Method.draws

    def drawn(self: Method, samples: Batch) -> Draws:
        return draws(self, samples) if self._trainer is not None else Draws(7, 0, samples.index)

    monkeypatch.setattr(Method, "draws", drawn)


def student(data: DataSpec, **options: Any) -> Distillation:
    method = Distillation(data.to_dict(), backbone=TINY, **options)
    method.begin(method.stages()[1])
    return method


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_losses_and_prediction(modalities: int, missing: bool) -> None:
    data = spec(modalities)
    samples = batch(data, missing=missing)
    method = student(data, feature_weight=0.3, logit_weight=0.7, temperature=2.0)
    losses = method.losses(samples)
    torch.testing.assert_close(losses["loss"], losses["ce"] + 0.3 * losses["features"] + 0.7 * losses["logits"])
    hidden = method.network.fuse(method.network.encode(samples.inputs), method.available(samples))
    teacher = method.teacher.fuse(method.teacher.encode(samples.inputs), samples.present)
    torch.testing.assert_close(losses["features"], feature_distillation(hidden.deep, teacher.deep))
    logits = method.network.head(hidden).logits, method.teacher.head(teacher).logits
    torch.testing.assert_close(losses["logits"], decision_divergence(*logits, 2.0).mean())
    check(method, samples)


def test_a_student_that_is_its_teacher_with_all_modalities_has_nothing_to_learn_from_it() -> None:
    data = spec(2)
    samples = batch(data)
    method = student(data)
    method.network.load_state_dict(method.teacher.state_dict())
    method.available = lambda batch: batch.present  # type: ignore[method-assign]
    losses = method.losses(samples)
    assert losses["features"].item() == 0
    assert losses["logits"].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("task", [Segmentation(("floor", "wall")), Regression(-3.0, 3.0)])
def test_pixels_and_numbers(task: Segmentation | Regression) -> None:
    data = DataSpec("Rooms", PICTURES, task, train_size=20)
    inputs = {each.name: torch.randn(4, *each.shape) for each in PICTURES}
    dense = isinstance(task, Segmentation)
    target = torch.randint(2, (4, 32, 64)) if dense else torch.randn(4)
    samples = Batch(inputs, target, torch.ones(4, 2, dtype=torch.bool), torch.arange(4))
    method = student(data)
    losses = method.losses(samples)
    assert losses["features"] > 0
    assert losses["logits"] > 0
    losses["loss"].backward()
    assert all(each.grad is not None for each in method.network.parameters())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"feature_weight": -1.0}, "feature_weight is -1.0"),
        ({"logit_weight": float("inf")}, "logit_weight is inf"),
        ({"temperature": 0.0}, "temperature, which is 0.0"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Distillation(spec(2).to_dict(), backbone=TINY, **options)  # type: ignore[arg-type]


def test_a_run(mmlab: Any, tiny: str) -> None:
    short = "--wandb.mode off --trainer.max_epochs 1 --run_dir run --trainer.precision bf16-mixed"
    mmlab(f"fit --model Distillation {tiny} {short}")
    result = json.loads(Path("run/result.json").read_text())
    assert result["monitor"] == "val/acc_average"
    assert "train/features" in Path("run/metrics.csv").read_text().splitlines()[0]
