"""The methods of balanced learning through the real command, on sound and image, flow and image, front and rear."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from tests.runs.test_ddp import in_two_processes
from tests.runs.test_resume import in_a_process_of_its_own

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


def states(run: str) -> dict[str, torch.Tensor]:
    """What the last checkpoint of each stage holds."""
    return {
        f"{file.parent.name}/{name}": tensor
        for file in sorted(Path(run, "checkpoints").rglob("last.ckpt"))
        for name, tensor in torch.load(file, weights_only=True)["state_dict"].items()
    }


@pytest.mark.xdist_group("twins")
@ON_EACH
def test_it_is_killed_resumed_to_the_same_bits_and_tested(mmlab, twin, method: str, setting: str) -> None:
    command = f"{line(method, setting, twin)} --checkpoint_every 1"
    mmlab(f"{command} --run_dir whole")
    result = json.loads(Path("whole/result.json").read_text())
    folder = "whole/checkpoints/isolated" if method == "DIMML" else "whole/checkpoints"
    steps = torch.load(f"{folder}/last.ckpt", weights_only=True)["global_step"]
    kill = f"--trainer.callbacks+=own_methods.KillAt --trainer.callbacks.step {steps - 1}"
    assert in_a_process_of_its_own(lambda: mmlab(f"{command} {kill} --run_dir killed")) == signal.SIGKILL
    assert not Path("killed/result.json").exists()
    mmlab("fit --resume killed --trainer.callbacks null")
    one, other = states("whole"), states("killed")
    assert one.keys() == other.keys()
    assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []
    mmlab("test --run killed")
    tested = json.loads(Path("killed/test.json").read_text())
    assert tested == result["test"]
    assert {"acc", *(f"acc_{name}" for name in result["modalities"])} <= tested.keys()


@pytest.mark.slow
@pytest.mark.xdist_group("twins")
@ON_EACH
def test_two_processes_equal_one(mmlab, twin, method: str, setting: str) -> None:
    # Adam divides by the gradient: where that is next to nothing, the last bits decide.
    rate = 0.001 if method == "UDML" else 0.01  # its level regression is an exponential, in which the last bits grow
    command = f"{line(method, setting, twin)} --model.optimizer SGD --model.optimizer.lr {rate} --test false"
    mmlab(f"{command} --run_dir one")
    done = in_two_processes(f"{command} --run_dir two")
    assert done.returncode == 0, done.stderr
    one, two = states("one"), states("two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=3e-6, atol=1e-6, msg=lambda text, key=name: f"{key}: {text}")


@pytest.mark.xdist_group("twins")
@ON_EACH
def test_bf16_stays_near_full_precision(mmlab, twin, method: str, setting: str) -> None:
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        mmlab(f"{line(method, setting, twin)} --trainer.precision {precision} --test false --run_dir {precision}")
        header, first, *_ = Path(precision, "metrics.csv").read_text().splitlines()
        losses.append(float(first.split(",")[header.split(",").index("train/loss")]))
    full, half = losses
    assert half == pytest.approx(full, rel=0.03)
    assert half != full
