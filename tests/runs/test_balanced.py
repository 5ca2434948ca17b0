"""The methods of balanced learning through the real command, on sound and image, flow and image, front and rear."""

from __future__ import annotations

import pytest

from tests.runs.checks import bf16_stays_near_full_precision, killed_resumed_and_tested, two_processes_equal_one

SETTINGS = ("KineticsSounds", "UCF101", "ModelNet40")
# Each beyond the epoch where what is special of it begins.
METHODS = {
    "DIMML": "--model.duc_start_epoch 1 --model.fusion_epochs 2 --trainer.max_epochs 2",
    "ERLMR": "--trainer.max_epochs 2",
    "OGMGE": "--trainer.max_epochs 2",
    "UDML": "--model.noise_epoch 1 --model.dynamic_epoch 2 --trainer.max_epochs 3",
}
ON_EACH = pytest.mark.parametrize(
    ("method", "setting"), [(method, setting) for setting in SETTINGS for method in METHODS]
)
SMALL = (
    "--model.backbone small_conv --model.backbone.width 4 --data.batch_size 8 --wandb.mode off "
    "--trainer.accelerator cpu --trainer.enable_progress_bar false"
)


def line(method: str, setting: str, twin) -> str:
    return f"fit --model {method} {METHODS[method]} --data.dataset {setting} {twin(setting)} {SMALL}"


@pytest.mark.xdist_group("twins")
@ON_EACH
def test_it_is_killed_resumed_to_the_same_bits_and_tested(mmlab, twin, method: str, setting: str) -> None:
    result, tested = killed_resumed_and_tested(mmlab, line(method, setting, twin))
    assert tested == result["test"]
    assert {"acc", *(f"acc_{name}" for name in result["modalities"])} <= tested.keys()


@pytest.mark.slow
@pytest.mark.xdist_group("twins")
@ON_EACH
def test_two_processes_equal_one(mmlab, twin, method: str, setting: str) -> None:
    # Adam divides by the gradient: where that is next to nothing, the last bits decide.
    rate = 0.001 if method == "UDML" else 0.01  # its level regression is an exponential, in which the last bits grow
    command = f"{line(method, setting, twin)} --model.optimizer SGD --model.optimizer.lr {rate} --test false"
    two_processes_equal_one(mmlab, command, atol=1e-6)


@pytest.mark.xdist_group("twins")
@ON_EACH
def test_bf16_stays_near_full_precision(mmlab, twin, method: str, setting: str) -> None:
    bf16_stays_near_full_precision(mmlab, line(method, setting, twin))
