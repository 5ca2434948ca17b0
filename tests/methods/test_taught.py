"""What all methods with a teacher share; the run is MMANet's."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmlab.backbones.config import BackboneConfig
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.methods.distillation import Distillation
from mmlab.methods.mmanet import MMANet
from mmlab.methods.taught import Taught, one_or_all
from tests.methods.toy import batch, spec
from tests.runs.test_ddp import in_two_processes
from tests.runs.test_resume import in_a_process_of_its_own

TINY = BackboneConfig(width=4)
# Of the student's four epochs, the first two are the warm-up: the first one is measured, the second one decides.
LINE = (
    "fit --model MMANet --model.warmup_epochs 1 --model.teacher_epochs 2 --wandb.mode off --trainer.max_epochs 4 "
    "--model.optimizer SGD --model.optimizer.lr 0.05 --model.mad_weight 1 "
)


def state(run: str | Path, stage: str, name: str = "last") -> dict[str, Tensor]:
    file = Path(run) / "checkpoints" / stage / f"{name}.ckpt"
    found: dict[str, Tensor] = torch.load(file, weights_only=True)["state_dict"]
    return found


def test_a_teachers_combinations_are_equally_likely() -> None:
    present = torch.ones(8000, 3, dtype=torch.bool)
    present[4000:, 1] = False
    found = one_or_all(Draws(0, 0, torch.arange(8000)), present)
    for rows, expected in (
        (found[:4000], {(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)}),
        (found[4000:], {(1, 0, 0), (0, 0, 1), (1, 0, 1)}),
    ):
        kinds, counts = rows.long().unique(dim=0, return_counts=True)
        assert {tuple(kind) for kind in kinds.tolist()} == expected
        torch.testing.assert_close(counts / 4000, torch.full((len(expected),), 1 / len(expected)), rtol=0, atol=0.03)


@pytest.mark.parametrize("method", [MMANet, Distillation])
def test_each_stage_trains_its_own(method: type[Any]) -> None:
    made: Taught = method(spec(3).to_dict(), backbone=TINY)
    for number, stage in enumerate(made.stages()):
        made.begin(stage)
        train = {name.split(".")[0] for name, each in made.named_parameters() if each.requires_grad}
        assert train == ({"teacher"} if number == 0 else {name for name, _ in made.named_children()} - {"teacher"})
        assert made.teacher.training == (number == 0)
        assert made.network.training == (number == 1)
        assert made.monitor == ("acc", "acc_average")[number]
        assert len(made.tested) == (1, 7)[number]


@pytest.mark.parametrize("method", [MMANet, Distillation])
def test_the_teacher_decides_in_its_stage_and_never_after(method: type[Any]) -> None:
    data = spec(2)
    samples = batch(data)
    made: Taught = method(data.to_dict(), backbone=TINY)
    for number, stage in enumerate(made.stages()):
        made.begin(stage)
        made.eval()
        before = made(samples.inputs, samples.present).logits
        with torch.no_grad():
            (made.teacher if number else made.network).head.classifier.bias += torch.arange(4.0)
        assert torch.equal(made(samples.inputs, samples.present).logits, before)
    for given in samples.inputs.values():
        given.requires_grad_()
    hidden, logits = made.taught(samples)
    assert not hidden.deep.requires_grad
    assert not logits.requires_grad


def test_the_teacher_sees_every_modality_unless_dropout_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    data = spec(3)
    samples = batch(data, samples=40)
    monkeypatch.setattr(Distillation, "draws", lambda self, batch: Draws(0, 0, batch.index))
    seen = []
    for dropout in (False, True):
        made = Distillation(data.to_dict(), backbone=TINY, teacher_dropout=dropout)
        made.begin(made.stages()[0])
        monkeypatch.setattr(
            made.teacher,
            "fuse",
            lambda encoded, present, fuse=made.teacher.fuse: seen.append(present) or fuse(encoded, present),
        )
        assert set(made.losses(samples)) == {"loss"}
    assert seen[0].all()
    assert {1, 3} == set(seen[1].sum(dim=1).tolist())


@pytest.mark.parametrize("method", [MMANet, Distillation])
@pytest.mark.parametrize(
    ("modalities", "options", "sentence"),
    [(1, {}, "has only audio: choose"), (2, {"teacher_epochs": 0}, "teacher_epochs is 0: give 1 or more")],
)
def test_what_cannot_be_is_refused(method: type[Any], modalities: int, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        method(spec(modalities).to_dict(), backbone=TINY, **options)


def test_a_frozen_teacher_stays_as_it_is(mmlab: Any, tiny: str) -> None:
    resnet = tiny.replace("--model.backbone.width 4", "--model.backbone test_resnet")
    short = "--trainer.max_epochs 2 --model.teacher_epochs 1 --trainer.limit_train_batches 2 --model.distil_from 0"
    mmlab(f"{LINE} {resnet} {short} --run_dir run --test false")
    taught, student = state("run", "teacher", "best"), state("run", "student")
    own = [name for name in taught if name.startswith("teacher.")]
    assert any("running_var" in name for name in own)
    assert all(torch.equal(taught[name], student[name]) for name in own)
    assert {int(student[name]) for name in own if "num_batches_tracked" in name} == {2}
    assert {int(student[name]) for name in student if name.startswith("network.") and "num_batches" in name} == {4}


def test_metrics_are_of_the_network_that_trains(mmlab: Any, tiny: str) -> None:
    mmlab(f"{LINE} {tiny} --run_dir run")
    result = json.loads(Path("run/result.json").read_text())
    assert result["monitor"] == "val/acc_average"
    assert result["epochs"] == 6
    assert [stage["stage"] for stage in result["stages"]] == ["teacher", "student"]
    assert {"acc", "acc_audio", "acc_image", "acc_average"} <= result["test"].keys()
    with open("run/metrics.csv", newline="") as text:
        rows = list(csv.DictReader(text))
    assert [row["stage"] for row in rows] == ["teacher"] * 2 + ["student"] * 4
    assert [row["val/acc_average"] != "" for row in rows] == [False] * 2 + [True] * 4
    assert [float(row["train/mad"] or 0) > 0 for row in rows] == [False] * 4 + [True] * 2
    assert [float(row["train/mar"] or 0) > 0 for row in rows] == [False] * 4 + [True] * 2
    saved = state("run", "student")
    # What two modalities leave out is one alone.
    assert saved["weak"].tolist() in ([True, False, False], [False, True, False])
    assert saved["weak"].tolist()[int(saved["distances"].argmax())] is False


@pytest.mark.parametrize(
    ("every", "step"),
    [
        pytest.param(2, 3, id="teacher"),
        pytest.param(2, 9, id="measured already"),
        pytest.param(0, 15, id="since the choice"),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(mmlab: Any, tiny: str, every: int, step: int) -> None:
    line = f"{LINE} {tiny} --model.teacher_epochs 1 --test false"
    mmlab(f"{line} --run_dir whole")
    # The teacher has 6 steps, so that a later one is the student's, who chooses after 12.
    kill = f"--checkpoint_every {every} --trainer.callbacks+=own_methods.KillAt --trainer.callbacks.step {step}"
    assert in_a_process_of_its_own(lambda: mmlab(f"{line} {kill} --run_dir killed")) == signal.SIGKILL
    assert Path("killed/checkpoints/teacher/finished.json").exists() == (step > 6)
    mmlab("fit --resume killed --trainer.callbacks null")
    for stage in ("teacher", "student"):
        one, other = state("whole", stage), state("killed", stage)
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["weak"].any()
    assert Path("whole/metrics.csv").read_text() == Path("killed/metrics.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "dataset"),
    [
        ("MMANet --model.warmup_epochs 1 --model.mad_weight 1", "Keypad"),
        (
            "MMANet --model.warmup_epochs 1 --model.mad_weight 1 --model.probabilistic true "
            "--model.mar_reduction official_outer --model.mar_weight 0.01",
            "own_datasets.Gaps",
        ),
        ("Distillation", "own_datasets.Gaps"),
    ],
)
def test_two_processes_equal_one(mmlab: Any, tiny: str, method: str, dataset: str) -> None:
    line = LINE.replace("MMANet --model.warmup_epochs 1", method).replace("--model.mad_weight 1 ", "", 1)
    line = f"{line} {tiny.replace('Keypad', dataset)}"
    mmlab(f"{line} --run_dir one")
    done = in_two_processes(f"{line} --run_dir two")
    assert done.returncode == 0, done.stderr
    for stage in ("teacher", "student"):
        one, two = state("one", stage), state("two", stage)
        for name, tensor in one.items():
            torch.testing.assert_close(
                two[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
    first, second = (json.loads(Path(run, "result.json").read_text())["test"] for run in ("one", "two"))
    assert second == pytest.approx(first, abs=1e-5)
