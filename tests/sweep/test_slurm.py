"""Jobs through submitit: what sbatch is given, and a run that is stopped at its time's end and goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from mmlab.cli.main import main
from mmlab.sweep.plan import Plan, begin, make_plan, read_plan

submitit = pytest.importorskip("submitit", reason="needs mmlab[slurm]")


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: str) -> Plan:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    flags = f"--model MNL {tiny} --wandb.mode off --trainer.max_epochs 10".split()
    plan = make_plan([], [0, 1], {}, None, flags, False)
    begin(Path("o"), plan, {})
    return plan


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs of these names that take the script and answer as a cluster would; no cluster is there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, answer in (("srun", "true"), ("sbatch", "echo Submitted batch job 7")):
        (folder / name).write_text(f"#!/bin/sh\n{answer}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.usefixtures("sbatch")
def test_every_run_is_a_job_that_is_told_before_its_time_ends(mmlab, plan: Plan) -> None:
    out = mmlab("sweep --resume o --slurm time=240,partition=gpu,gpus_per_node=1,mem=32GB")
    assert "2 jobs submitted: 7_0 to 7_1\n" in out
    assert "mmlab sweep --show o\n" in out
    (script,) = Path("o/slurm").glob("7*_submission.sh")
    lines = script.read_text().splitlines()
    for option in ("time=240", "partition=gpu", "gpus-per-node=1", "mem=32GB", "signal=USR2@90", "job-name=o"):
        assert f"#SBATCH --{option}" in lines
    assert any(line.startswith("#SBATCH --array=0-1") for line in lines)
    assert len(list(Path("o/slurm").glob("*.pkl"))) == 2


@pytest.mark.usefixtures("sbatch")
def test_a_wrong_option_of_slurm_is_named(mmlab) -> None:
    err = mmlab("sweep --out new --model MNL --data.dataset Keypad --slurm time=9,partitoin=gpu", code=2)
    assert "partitoin" in err
    assert len(err.splitlines()) == 1
    assert not Path("new").exists()


def test_without_a_cluster_it_says_so(mmlab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "finds no srun here" in mmlab("sweep --out o --model MNL --data.dataset Keypad --slurm time=9", code=2)


def child_of(parent: str) -> int:
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    (child,) = (int(line.split()[0]) for line in listed.splitlines() if line.split()[1] == parent)
    return child


@pytest.mark.slow
def test_a_job_whose_time_is_over_saves_its_place_and_goes_on(plan: Plan) -> None:
    from mmlab.sweep.slurm import Job

    executor = submitit.LocalExecutor("jobs")
    executor.update_parameters(timeout_min=60)
    run, metrics = Path("o/seed0"), Path("o/seed0/metrics.csv")
    job = executor.submit(Job(Path("o"), "seed0"))
    while not (metrics.exists() and metrics.read_text().count("\n") > 2):
        assert not job.done(), job.stderr()
        time.sleep(0.1)
    # As SLURM does before a job's time is over; the executor then queues it again, as a cluster would.
    os.kill(child_of(job.job_id), signal.SIGUSR2)
    assert job.result() == str(run / "result.json")
    log = (run / "log.txt").read_text()
    stopped, resumed = f"stopped; go on with: mmlab fit --resume {run}\n", f"$ mmlab fit --resume {run}\n"
    assert log.index(stopped) < log.index(resumed)
    assert len(metrics.read_text().splitlines()) == 11
    assert json.loads((run / "result.json").read_text())["seed"] == 0
    assert main(["sweep", "--show", "o"]) == 0
    assert read_plan(Path("o")) == plan
