"""What is asked of every method through the real command, whatever it is trained on."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch

from tests.conftest import Command
from tests.runs.test_ddp import in_two_processes
from tests.runs.test_resume import in_a_process_of_its_own


def states(run: str) -> dict[str, torch.Tensor]:
    """What the last checkpoint of each stage holds."""
    return {
        f"{file.parent.name}/{name}": tensor
        for file in sorted(Path(run, "checkpoints").rglob("last.ckpt"))
        for name, tensor in torch.load(file, weights_only=True)["state_dict"].items()
    }


def killed_resumed_and_tested(mmlab: Command, command: str) -> tuple[dict, dict]:
    """A run that is killed before its last step, in the longest stage, ends like one that isn't, to the last bit.

    Returns:
        The result, and the metrics of a test by a command of its own.
    """
    command = f"{command} --checkpoint_every 1"
    mmlab(f"{command} --run_dir whole")
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
    return json.loads(Path("whole/result.json").read_text()), json.loads(Path("killed/test.json").read_text())


def two_processes_equal_one(mmlab: Command, command: str, atol: float) -> None:
    """Two processes give the weights that one gives."""
    mmlab(f"{command} --run_dir one")
    done = in_two_processes(f"{command} --run_dir two")
    assert done.returncode == 0, done.stderr
    one, two = states("one"), states("two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=3e-6, atol=atol, msg=lambda text, key=name: f"{key}: {text}")


def bf16_stays_near_full_precision(mmlab: Command, command: str) -> None:
    """The loss of the first epoch is nearly the same, and not the same."""
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        mmlab(f"{command} --trainer.precision {precision} --test false --run_dir {precision}")
        header, first, *_ = Path(precision, "metrics.csv").read_text().splitlines()
        losses.append(float(first.split(",")[header.split(",").index("train/loss")]))
    full, half = losses
    assert half == pytest.approx(full, rel=0.03)
    assert half != full
