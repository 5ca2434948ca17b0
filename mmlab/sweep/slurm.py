"""The runs of a sweep as jobs on a SLURM cluster, one each, through submitit."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmlab.errors import UserError
from mmlab.sweep.plan import Plan, read_plan, run_folder
from mmlab.sweep.run import how_it_failed, start

if TYPE_CHECKING:
    from submitit import Executor
    from submitit.helpers import DelayedSubmission

EXAMPLE = "--slurm time=240,partition=gpu,gpus_per_node=1,cpus_per_task=8"
# A run's place is saved whenever its time is over, so that each requeue goes on: this stops only a job that never can.
_MOST_REQUEUES = 100


class Job:
    """One run as a job: what submitit calls, and asks for what to do when the job's time is over.

    Args:
        folder: the sweep's.
        name: the run's.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._process: subprocess.Popen | None = None

    def __call__(self) -> str:
        """Does the run, or goes on with it.

        Raises:
            UserError: if it ends without a result, or another job is at it.
        """
        plan = read_plan(self._folder)
        run = next(run for run in plan.runs if run.name == self._name)
        result = run_folder(self._folder, run).result
        # Lightning would take the job's tasks for its ranks; this job is one task, whatever number of devices it has.
        environment = os.environ | {"SLURM_JOB_NAME": "interactive"}
        # SLURM sends this signal to every process of the job, and only submitit's knows what it means.
        process = start(self._folder, plan, run, environment, ignoring=signal.SIGUSR2)
        if process is None:
            if result.is_file():
                return str(result)
            raise UserError(f"{self._name}: another process is at it; wait for it, or cancel its job.")
        self._process = process
        while process.poll() is None:
            time.sleep(1)
        if not result.is_file():
            raise UserError(how_it_failed(self._folder, run, process))
        return str(result)

    def checkpoint(self) -> DelayedSubmission:
        """Lets the run save its place, as SIGTERM makes it do, and has the job queued again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.terminate()
            # This is called from within a signal, perhaps amid poll(): only look whether the process has ended.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(Job(self._folder, self._name))


def slurm_executor(folder: Path, options: str) -> Executor:
    """What submits to SLURM.

    Args:
        folder: the sweep's; jobs and their logs go to ``slurm`` in it.
        options: ``time=240,partition=gpu,...``: submitit's, which are sbatch's; the time in minutes.

    Raises:
        UserError: if submitit or SLURM isn't there, or an option is wrong.
    """
    given = _parse(options)
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise UserError("--slurm needs submitit, which isn't installed: pip install 'mmlab[slurm]'.") from None
    try:
        executor = SlurmExecutor(folder / "slurm", max_num_timeout=_MOST_REQUEUES)
    except RuntimeError:
        raise UserError("--slurm finds no srun here: run this on a login node of the cluster.") from None
    try:
        executor.update_parameters(job_name=folder.resolve().name, **given)
    except ValueError as error:
        raise UserError(f"--slurm {options}: {' '.join(str(error).split())}") from None
    return executor


def submit(executor: Executor, folder: Path, plan: Plan) -> list[str]:
    """Submits a job for each run that isn't finished.

    Returns:
        The jobs' numbers.
    """
    waiting = [run for run in plan.runs if not run_folder(folder, run).result.is_file()]
    if not waiting:
        return []
    with executor.batch():
        jobs = [executor.submit(Job(folder, run.name)) for run in waiting]
    return [str(job.job_id) for job in jobs]


def _parse(options: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for word in re.split(r",(?=\w+=)", options) if options else []:
        key, sign, value = word.partition("=")
        if not sign or not value:
            raise UserError(f"--slurm has {word!r}; write option=value with commas between, {EXAMPLE}.")
        given[key] = int(value) if value.isdigit() else value
    if not isinstance(given.get("time", given.get("timeout_min")), int):
        raise UserError(f"--slurm must say how many minutes a job may take before it is queued again: {EXAMPLE}.")
    for key in ("nodes", "ntasks_per_node", "tasks_per_node"):
        if given.get(key, 1) != 1:
            raise UserError(f"--slurm {key}={given[key]}: a run is one task on one node; take it out.")
    return given
