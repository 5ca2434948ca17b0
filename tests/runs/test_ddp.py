"""Two processes give what one gives: the same weights, and every test sample counted once."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EPOCHS = "--wandb.mode off --trainer.max_epochs 2"
# With the released margin, the ranking of so short a run is zero, and what it has to remember without effect.
RANKED = "--model.ranking corrected_margin"
# Adam divides by the gradient: where that is next to nothing, the last bits decide.
UNSCALED = "--model.optimizer SGD --model.optimizer.lr 0.1"
# The regression of UDML's levels is an exponential: at larger steps, the last bits grow.
SLOW = "--model.noise_epoch 0 --model.dynamic_epoch 1 --model.optimizer SGD --model.optimizer.lr 0.001"


def in_two_processes(line: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: Lightning starts the second rank by running the same command again."""
    words = [*line.split(), "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-m", "mmlab", *words], capture_output=True, text=True, env=environment, check=False
    )


def weights(run: str | Path) -> dict[str, torch.Tensor]:
    return torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def assert_same_weights(one: str | Path, other: str | Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(
            second[name], tensor, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        "MNL",
        f"QMF {RANKED}",
        f"MNL --model.fusion qmf {RANKED}",
        "PDF",
        "ERLMR",
        "OGMGE",
        "UDML --model.noise_epoch 0 --model.dynamic_epoch 1",
    ],
)
def test_two_processes_equal_one(mmlab, tiny, method: str) -> None:
    line = f"fit --model {method} {EPOCHS} {tiny}"
    done = in_two_processes(line)  # no --run_dir: the second process must be told which one it is
    assert done.returncode == 0, done.stderr
    (two,) = Path("runs").glob("*_keypad/*")
    mmlab(f"{line} --run_dir one")
    assert_same_weights("one", two)
    one_result, two_result = (json.loads((run / "result.json").read_text()) for run in (Path("one"), two))
    assert two_result["devices"] == 2
    for split, samples in (("val", 36), ("test", 37)):  # 37 can't be halved
        for key, value in one_result[split].items():
            assert two_result[split][key] == pytest.approx(value, abs=1e-5), key
        assert two_result[split]["acc"] * samples == pytest.approx(round(two_result[split]["acc"] * samples), abs=1e-3)
    with open("one/metrics.csv", newline="") as one_csv, open(two / "metrics.csv", newline="") as two_csv:
        rows, others = list(csv.DictReader(one_csv)), list(csv.DictReader(two_csv))
    assert len(rows) == len(others) == 2
    for row, other in zip(rows, others, strict=True):
        for key in (key for key in row if key.startswith("train/")):
            # The file has six digits: the last may be rounded up in one and down in the other.
            assert float(other[key]) == pytest.approx(float(row[key]), rel=1e-5, abs=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize("method", ["MNL", "PDF", f"ERLMR {UNSCALED}", "OGMGE", f"UDML {SLOW}"])
def test_two_processes_equal_one_where_samples_lack_modalities(mmlab, tiny, method: str) -> None:
    line = f"fit --model {method} {EPOCHS} {tiny.replace('Keypad', 'own_datasets.Gaps')} --test false"
    mmlab(f"{line} --run_dir one")
    done = in_two_processes(f"{line} --run_dir two")
    assert done.returncode == 0, done.stderr
    assert_same_weights("one", "two")


@pytest.mark.slow
def test_a_memory_by_sample_holds_every_sample_of_every_process(mmlab, tiny) -> None:
    line = f"fit --model own_methods.WithDropout --model.dropout 0 {EPOCHS} {tiny}"
    mmlab(f"{line} --run_dir one")
    done = in_two_processes(f"{line} --run_dir two")
    assert done.returncode == 0, done.stderr
    one, two = weights("one"), weights("two")
    assert (one["history"] > 0).all()
    torch.testing.assert_close(two["history"], one["history"], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["own_methods.WithDropout", f"QMF {RANKED}"])
def test_a_killed_run_of_two_processes_resumes_to_the_same_bits(tiny, tmp_path, monkeypatch, method: str) -> None:
    monkeypatch.chdir(tmp_path)
    line = f"fit --model {method} {EPOCHS} {tiny} --checkpoint_every 2"
    assert in_two_processes(f"{line} --run_dir whole").returncode == 0
    kill = "--trainer.callbacks+=own_methods.KillAt --trainer.callbacks.step 9"
    assert in_two_processes(f"{line} {kill} --run_dir killed").returncode != 0
    assert not Path("killed/result.json").exists()
    resumed = in_two_processes("fit --resume killed --trainer.callbacks null")
    assert resumed.returncode == 0, resumed.stderr
    one, other = weights("whole"), weights("killed")
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.slow
def test_two_processes_see_the_same_corrupted_samples_as_one(mmlab, tiny) -> None:
    mmlab(f"fit --model PDF {EPOCHS} {tiny} --run_dir run --test false")
    line = "test --run run --corruption gaussian --severity 0,10 --noise_seeds 2"
    file = Path("run/corruption_gaussian.json")
    mmlab(line)
    one = json.loads(file.read_text())
    file.unlink()
    done = in_two_processes(line)
    assert done.returncode == 0, done.stderr
    two = json.loads(file.read_text())
    assert len(one["cells"]) == len(two["cells"]) == 3
    for first, second in zip(one["cells"], two["cells"], strict=True):
        assert second["test"] == pytest.approx(first["test"], abs=1e-5)
        assert (second["severity"], second["noise_seed"]) == (first["severity"], first["noise_seed"])
    assert two["splits"] == one["splits"]
