"""The methods for incomplete modalities through the real command: a class of each pixel, faces, sound and image."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from tests.runs.test_balanced import SMALL, states
from tests.runs.test_ddp import in_two_processes
from tests.runs.test_resume import in_a_process_of_its_own

SETTINGS = ("Pothole", "CASIASURF", "KineticsSounds")
# Each beyond the epoch where what is special of it begins; the last stage is longer than the one before.
METHODS = {
    "ModalityDropout": "--trainer.max_epochs 2",
    "MMANet": "--model.teacher_epochs 1 --model.warmup_epochs 1 --trainer.max_epochs 3",
    "DMRNet": "--model.hard_epoch 1 --trainer.max_epochs 2",
    "OMD": "--model.teacher_epochs 1 --trainer.max_epochs 2",
    "Distillation": "--model.teacher_epochs 1 --trainer.max_epochs 2",
}
PRIVILEGED = {"Pothole": "[depth]", "CASIASURF": "[depth,ir]", "KineticsSounds": "[audio]"}
ON_EACH = pytest.mark.parametrize(
    ("method", "setting"), [(method, setting) for setting in SETTINGS for method in METHODS]
)
# Both tasks; sound and image differ from faces by the encoders alone.
ON_BOTH_TASKS = pytest.mark.parametrize(
    ("method", "setting"), [(method, setting) for setting in SETTINGS[:2] for method in METHODS]
)


def line(method: str, setting: str, twin) -> str:
    privileged = f"--model.privileged {PRIVILEGED[setting]}" if method == "OMD" else ""
    return f"fit --model {method} {privileged} {METHODS[method]} --data.dataset {setting} {twin(setting)} {SMALL}"


@pytest.mark.xdist_group("twins")
@ON_EACH
def test_it_is_killed_resumed_to_the_same_bits_and_tested(mmlab, twin, method: str, setting: str) -> None:
    command = f"{line(method, setting, twin)} --checkpoint_every 1"
    mmlab(f"{command} --run_dir whole")
    result = json.loads(Path("whole/result.json").read_text())
    steps = max(
        torch.load(file, weights_only=True)["global_step"] for file in Path("whole/checkpoints").rglob("last.ckpt")
    )
    kill = f"--trainer.callbacks+=own_methods.KillAt --trainer.callbacks.step {steps - 1}"
    assert in_a_process_of_its_own(lambda: mmlab(f"{command} {kill} --run_dir killed")) == signal.SIGKILL
    assert not Path("killed/result.json").exists()
    mmlab("fit --resume killed --trainer.callbacks null")
    one, other = states("whole"), states("killed")
    assert one.keys() == other.keys()
    assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []
    mmlab("test --run killed")
    tested = json.loads(Path("killed/test.json").read_text())
    # Not a number equals itself here: a class that the tiny twin lacks has no IoU.
    assert str(tested) == str(result["test"])
    metric = result["monitor"].removeprefix("val/").split("_")[0]
    names = [name for name in result["combinations"] if name != "+".join(result["modalities"])]
    assert {f"{metric}_{name}" for name in names} <= tested.keys()
    if method != "OMD":  # which is tested without what it had in training only
        assert {metric, f"{metric}_average"} <= tested.keys()
        assert len(names) == 2 ** len(result["modalities"]) - 2


@pytest.mark.slow
@pytest.mark.xdist_group("twins")
@ON_BOTH_TASKS
def test_two_processes_equal_one(mmlab, twin, method: str, setting: str) -> None:
    # Adam divides by the gradient: where that is next to nothing, the last bits decide. They decide too where features
    # of the twins' constant pictures tie at the kink of a ReLU. What is wrong moves weights much further.
    command = f"{line(method, setting, twin)} --model.optimizer SGD --model.optimizer.lr 0.001 --test false"
    mmlab(f"{command} --run_dir one")
    done = in_two_processes(f"{command} --run_dir two")
    assert done.returncode == 0, done.stderr
    one, two = states("one"), states("two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=3e-6, atol=5e-5, msg=lambda text, key=name: f"{key}: {text}")


@pytest.mark.xdist_group("twins")
@ON_BOTH_TASKS
def test_bf16_stays_near_full_precision(mmlab, twin, method: str, setting: str) -> None:
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        mmlab(f"{line(method, setting, twin)} --trainer.precision {precision} --test false --run_dir {precision}")
        header, *rows = Path(precision, "metrics.csv").read_text().splitlines()
        place = header.split(",").index("train/loss")
        losses.append(float(rows[0].split(",")[place]))
    full, half = losses
    assert half == pytest.approx(full, rel=0.03)
    assert half != full
