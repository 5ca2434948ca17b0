"""A run that was killed ends with the same numbers as one that was not, to the last bit."""

from __future__ import annotations

import csv
import functools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmlab.cli.main import main
from tests.conftest import KEYPAD

EPOCHS = "--wandb.mode off --trainer.max_epochs 3 "
METHOD = f"--model own_methods.WithDropout {EPOCHS}"
# With the released margin, the ranking of so short a run is zero, and what it has to remember without effect.
RANKED = f"--model QMF --model.ranking corrected_margin {EPOCHS}"
GUIDED = f"--model MNL --model.fusion qmf --model.ranking corrected_margin {EPOCHS}"
PREDICTED = f"--model PDF {EPOCHS}"
MAPPED = f"--model ERLMR {EPOCHS}"
MODULATED = f"--model OGMGE {EPOCHS}"
NOISY = f"--model UDML --model.noise_epoch 1 --model.dynamic_epoch 2 {EPOCHS}"


def in_a_process_of_its_own(action: Callable[[], object]) -> int:
    """Runs something in a forked process; returns the number of the signal that ended it, 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def weights(run: str) -> dict[str, torch.Tensor]:
    return torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_same_run(one: str, other: str) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
    assert (Path(one) / "metrics.csv").read_text() == (Path(other) / "metrics.csv").read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """A method's run that nobody kills; neither workers nor checkpoints change its numbers."""

    @functools.cache
    def run(method: str) -> str:
        folder = tmp_path_factory.mktemp("whole") / "run"
        assert main(f"fit {method} {KEYPAD} --run_dir {folder}".split()) == 0
        return str(folder)

    return run


@pytest.mark.parametrize(
    ("method", "every", "step", "workers"),
    [
        pytest.param(METHOD, 2, 9, 0, id="mid-epoch"),
        pytest.param(METHOD, 2, 9, 2, id="mid-epoch, workers"),
        pytest.param(METHOD, 0, 9, 0, id="since the epoch's start"),
        pytest.param(METHOD, 3, 6, 0, id="at the end of an epoch"),
        pytest.param(METHOD, 3, 12, 2, id="at an end, workers"),
        pytest.param(RANKED, 2, 9, 0, id="QMF, mid-epoch"),
        pytest.param(RANKED, 0, 9, 0, id="QMF, since the epoch's start"),
        pytest.param(GUIDED, 2, 9, 0, id="MNL with qmf, mid-epoch"),
        pytest.param(PREDICTED, 2, 9, 0, id="PDF, mid-epoch"),
        pytest.param(MAPPED, 2, 9, 0, id="ERLMR, mid-epoch"),
        pytest.param(MODULATED, 2, 9, 0, id="OGMGE, mid-epoch"),
        pytest.param(NOISY, 2, 3, 0, id="UDML, before the noise"),
        pytest.param(NOISY, 2, 9, 0, id="UDML, with noise"),
    ],
)
def test_killed_run_resumes_to_the_same_bits(mmlab, tiny, whole, method, every: int, step: int, workers: int) -> None:
    line = f"fit {method} {tiny} --checkpoint_every {every} --data.workers {workers}"
    kill = f"--trainer.callbacks+=own_methods.KillAt --trainer.callbacks.step {step}"
    assert in_a_process_of_its_own(lambda: mmlab(f"{line} {kill} --run_dir killed")) == signal.SIGKILL
    assert not Path("killed/result.json").exists()
    # The killer strikes once: the resumed run is past its step.
    mmlab("fit --resume killed --trainer.callbacks null")
    assert_same_run(whole(method), "killed")
    assert Path("killed/result.json").exists()
    for name, memory in weights("killed").items():
        if name in ("history", "fusion.loss_sum"):
            assert (memory > 0).all()
    with open("killed/metrics.csv", newline="") as text:
        ranks = [float(row[key]) for row in csv.DictReader(text) for key in row if key.startswith("train/rank_")]
    assert all(rank > 0 for rank in ranks)
    assert bool(ranks) == ("corrected_margin" in method)


def test_run_ended_by_a_scheduler_saves_its_place(mmlab, tiny, whole) -> None:
    line = f"fit {METHOD} {tiny}"
    term = "--trainer.callbacks+=own_methods.KillAt --trainer.callbacks.step 9"
    term += f" --trainer.callbacks.number {signal.SIGTERM:d}"
    in_a_process_of_its_own(lambda: mmlab(f"{line} {term} --run_dir ended"))
    saved = torch.load("ended/checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 10
    mmlab("fit --resume ended --trainer.callbacks null")
    assert_same_run(whole(METHOD), "ended")


def test_resuming_a_finished_run_changes_nothing(mmlab, tiny) -> None:
    mmlab(f"fit {METHOD} {tiny} --run_dir done --trainer.max_epochs 1")
    before = {path: path.stat().st_mtime_ns for path in Path("done").rglob("*") if path.is_file()}
    mmlab("fit --resume done")
    assert {path: path.stat().st_mtime_ns for path in Path("done").rglob("*") if path.is_file()} == before


def test_a_second_run_in_the_same_folder_is_refused(mmlab, tiny) -> None:
    mmlab(f"fit {METHOD} {tiny} --run_dir done --trainer.max_epochs 1")
    assert "--resume done" in mmlab(f"fit {METHOD} {tiny} --run_dir done", code=2)


@pytest.mark.parametrize("step", [3, 13], ids=["first stage", "second stage"])
def test_each_stage_resumes_and_a_finished_one_is_not_trained_again(mmlab, tiny, step: int) -> None:
    line = f"fit --model own_methods.TwoStages --wandb.mode off {tiny} --checkpoint_every 1"
    mmlab(f"{line} --run_dir whole")
    stage_steps = step if step < 12 else step - 12  # each stage counts its own steps
    kill = f"--trainer.callbacks+=own_methods.KillAt --trainer.callbacks.step {stage_steps}"
    if step < 12:
        assert in_a_process_of_its_own(lambda: mmlab(f"{line} {kill} --run_dir killed")) == signal.SIGKILL
    else:
        # Let the first stage finish, then start again with the killer that strikes in the second.
        mmlab(f"{line} --run_dir killed")
        for path in (Path("killed/checkpoints/heads")).iterdir():
            path.unlink()
        Path("killed/result.json").unlink()
        assert in_a_process_of_its_own(lambda: mmlab(f"fit --resume killed {kill}")) == signal.SIGKILL
    first_stage = Path("killed/checkpoints/whole/finished.json")
    finished = first_stage.stat().st_mtime_ns if first_stage.exists() else None
    mmlab("fit --resume killed --trainer.callbacks null")
    for stage in ("whole", "heads"):
        one = torch.load(f"whole/checkpoints/{stage}/last.ckpt", weights_only=True)["state_dict"]
        other = torch.load(f"killed/checkpoints/{stage}/last.ckpt", weights_only=True)["state_dict"]
        assert all(torch.equal(one[name], other[name]) for name in one)
    if finished is not None:
        assert first_stage.stat().st_mtime_ns == finished
    before = torch.load("whole/checkpoints/whole/best.ckpt", weights_only=True)["state_dict"]
    after = torch.load("whole/checkpoints/heads/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("encoders."))
    assert any(not torch.equal(before[name], after[name]) for name in before if name.startswith("heads."))


@pytest.mark.parametrize(
    "options",
    [
        "--model.scheduler ReduceLROnPlateau --model.scheduler.mode max --model.scheduler.patience 0 "
        "--model.scheduler.factor 0.3",
        "--model.scheduler StepLR --model.scheduler.step_size 1 --model.scheduler.gamma 0.3 "
        "--model.backbones.audio.lr 0.01 --model.backbones.audio.weight_decay 0.1 --model.backbones.audio.width 4",
        "--trainer.accumulate_grad_batches 4",
    ],
    ids=["plateau", "steps", "accumulation"],
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_schedules_and_accumulation_resume_exactly(mmlab, tiny, options: str, number: int) -> None:
    line = f"fit {METHOD} {tiny} --checkpoint_every 2 {options}"
    mmlab(f"{line} --run_dir whole")
    step = 3 if "accumulate" in options else 9
    kill = (
        f"--trainer.callbacks+=own_methods.KillAt --trainer.callbacks.step {step} --trainer.callbacks.number {number:d}"
    )
    in_a_process_of_its_own(lambda: mmlab(f"{line} {kill} --run_dir killed"))
    assert not Path("killed/result.json").exists()
    Path("killed").rename("moved")  # a run's folder may be moved between two sittings
    mmlab("fit --resume moved --trainer.callbacks null")
    assert_same_run("whole", "moved")
    results = [json.loads(Path(run, "result.json").read_text()) for run in ("whole", "moved")]
    assert results[0]["best_epoch"] == results[1]["best_epoch"]
    assert results[0]["test"] == results[1]["test"]


def test_a_run_whose_patience_ended_is_not_trained_on(mmlab, tiny) -> None:
    mmlab(f"fit {METHOD} {tiny} --trainer.max_epochs 9 --patience 1 --model.optimizer.lr 1e-9 --run_dir run")
    before = weights("run")
    for name in ("result.json", "checkpoints/finished.json"):
        Path("run", name).unlink()
    mmlab("fit --resume run")
    assert all(torch.equal(before[name], tensor) for name, tensor in weights("run").items())
    assert json.loads(Path("run/result.json").read_text())["epochs"] < 9


def test_a_resumed_run_keeps_its_data_and_method(mmlab, tiny) -> None:
    mmlab(f"fit {METHOD} {tiny} --run_dir run --trainer.max_epochs 1 --test false")
    Path("run/result.json").unlink()
    assert "keeps its data" in mmlab("fit --resume run --data.batch_size 8", code=2)
    assert "keeps its seed" in mmlab("fit --resume run --seed 8", code=2)


def test_a_finished_run_refuses_flags(mmlab, tiny) -> None:
    mmlab(f"fit {METHOD} {tiny} --run_dir run --trainer.max_epochs 1 --test false")
    assert "is finished, and the flags" in mmlab("fit --resume run --trainer.max_epochs 5", code=2)


def test_a_run_over_a_part_of_the_data_says_so(mmlab, tiny) -> None:
    out = mmlab(f"fit {METHOD} {tiny} --run_dir run --trainer.max_epochs 1 --trainer.limit_test_batches 2")
    assert "only a part of the data is used (limit_test_batches 2" in out
    assert json.loads(Path("run/result.json").read_text())["partial"] != []
    assert weights("run")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--trainer.val_check_interval 1000", "val_check_interval"),
        ("--trainer.callbacks+=EarlyStopping --trainer.callbacks.monitor val/accc", "val/accc"),
        ("--model.optimizer SparseAdam", "SparseAdam"),
        ("--model.scheduler LambdaLR --model.scheduler.lr_lambda null", "schedule"),
    ],
)
def test_what_lightning_or_torch_refuses_is_a_sentence(mmlab, tiny, flags: str, words: str) -> None:
    err = mmlab(f"fit {METHOD} {tiny} --run_dir run {flags}", code=2)
    assert words in err
