"""The runs of a sweep, side by side, each a process of its own; stopped and gone on with as a whole."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from mmlab.errors import UserError
from mmlab.sweep.plan import Plan, Run, fit_words, run_folder
from mmlab.sweep.ranking import selecting

LOG = "log.txt"


@dataclass
class Outcome:
    """How a sweep ended.

    Attributes:
        failed: names of the runs that ended without a result.
        stopped_by: the number of the signal that stopped the sweep; None if none did.
    """

    failed: list[str] = field(default_factory=list)
    stopped_by: int | None = None


def run_all(folder: Path, plan: Plan, jobs: int, gpus: list[str]) -> Outcome:
    """Does what isn't finished of a sweep.

    A run that fails is named with the last line of its log, and the others go on. After Ctrl-C or SIGTERM every run
    that is at work is told to save its place (SIGTERM); the second signal kills them.

    Args:
        folder: the sweep's.
        plan: its runs.
        jobs: how many runs at a time.
        gpus: by number or id; runs at a time share them evenly. Empty for none.
    """
    waiting = deque(run for run in plan.runs if not run_folder(folder, run).result.is_file())
    outcome = Outcome()
    running: dict[int, tuple[Run, subprocess.Popen]] = {}
    heard = 0
    with (
        _signals() as signals,
        tqdm(
            total=len(plan.runs), initial=len(plan.runs) - len(waiting), desc="Sweep", unit="run", disable=None
        ) as bar,
    ):
        try:
            while running or (waiting and not signals):
                for slot in range(jobs):
                    if slot not in running and waiting and not signals:
                        run = waiting.popleft()
                        process = start(folder, plan, run, _environment(slot, jobs, gpus))
                        if process is not None:
                            running[slot] = run, process
                        else:
                            tqdm.write(f"{run.name}: another process is at it, or has finished it")
                            bar.update()
                for slot, (run, process) in list(running.items()):
                    if process.poll() is not None:
                        del running[slot]
                        _say_end(folder, run, process, bool(signals), outcome)
                        bar.update()
                if len(signals) > heard:
                    heard = len(signals)
                    _pass_on([process for _, process in running.values()], heard)
                time.sleep(0.2)
        finally:
            for _, process in running.values():
                process.terminate()
    outcome.stopped_by = signals[0] if signals else None
    return outcome


def start(
    folder: Path, plan: Plan, run: Run, environment: dict[str, str], ignoring: int | None = None
) -> subprocess.Popen | None:
    """Starts one run, or goes on with it; what it prints goes to log.txt in its folder.

    Args:
        folder: the sweep's.
        plan: of the sweep.
        run: of the plan.
        environment: of the process.
        ignoring: the number of a signal that the run is deaf to.

    Returns:
        The process; None if the run is finished, or another process is at it.
    """
    path = run_folder(folder, run)
    path.path.mkdir(parents=True, exist_ok=True)
    with open(path.path / LOG, "a", encoding="utf-8") as log:
        # The run inherits the open log and with it the lock: it lasts for as long as the run lives, whoever started it.
        if not _locked(log.fileno()) or path.result.is_file():
            return None
        words = fit_words(folder, plan, run)
        print(f"$ mmlab {shlex.join(words)}", file=log, flush=True)
        return subprocess.Popen(
            [sys.executable, "-m", "mmlab", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal reaches the sweep alone, which passes it on as SIGTERM
            preexec_fn=None if ignoring is None else lambda: _ignore(ignoring),
        )


def how_it_failed(folder: Path, run: Run, process: subprocess.Popen) -> str:
    """One sentence on a run that ended without a result: how it ended, its last line, its log."""
    log = run_folder(folder, run).path / LOG
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    code = process.returncode
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{run.name} failed ({how}), its last line: {last} [{log}]"


def find_gpus() -> list[str]:
    """The GPUs that this process may use, without importing torch: by CUDA_VISIBLE_DEVICES, else by nvidia-smi."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [word.strip() for word in visible.split(",") if word.strip() not in ("", "-1")]
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return []


def _say_end(folder: Path, run: Run, process: subprocess.Popen, stopped: bool, outcome: Outcome) -> None:
    path = run_folder(folder, run)
    if path.result.is_file():
        try:
            metric, value = selecting(path.result)
        except UserError as error:
            tqdm.write(f"{run.name}: {error}")
        else:
            tqdm.write(f"{run.name}: val {metric} {value:.4f}")
    elif not stopped:
        outcome.failed.append(run.name)
        tqdm.write(how_it_failed(folder, run, process))


def _pass_on(processes: list[subprocess.Popen], heard: int) -> None:
    if heard == 1:
        tqdm.write(f"stopping: {len(processes)} runs save their place; once more to kill them")
    for process in processes:
        if heard == 1:
            # Not to its loaders' workers: without them it couldn't end its batch and save.
            process.terminate()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _environment(slot: int, jobs: int, gpus: list[str]) -> dict[str, str]:
    environment = dict(os.environ)
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    if jobs > 1:
        # Each run alone would take a thread for each core, and all of them would wait for one another.
        environment.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // jobs, 1)))
    return environment


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks: nothing can be known of other processes
    return True


def _ignore(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM in place of being ended by them."""
    heard: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: heard.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
