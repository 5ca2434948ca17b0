"""The methods for incomplete modalities through the real command: a class of each pixel, faces, sound and image."""

from __future__ import annotations

import pytest

from tests.runs.checks import bf16_stays_near_full_precision, killed_resumed_and_tested, two_processes_equal_one
from tests.runs.test_balanced import SMALL

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
    result, tested = killed_resumed_and_tested(mmlab, line(method, setting, twin))
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
    two_processes_equal_one(mmlab, command, atol=5e-5)


@pytest.mark.xdist_group("twins")
@ON_BOTH_TASKS
def test_bf16_stays_near_full_precision(mmlab, twin, method: str, setting: str) -> None:
    bf16_stays_near_full_precision(mmlab, line(method, setting, twin))
