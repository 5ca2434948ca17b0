"""The time of the robustness grid over that of plain tests of the same run.

    python benchmarks/robustness_grid.py [--quick]

Trains late fusion on Keypad for two epochs (480 test samples, encoders of width 16). The grid has all corruptions that
Keypad can have, at severities 0, 2.5, 5, 7.5 and 10, each with all three subsets of the modalities. It is held against

- one plain test, and one for each cell: the passes over the data alone, within a run that was opened once;
- `mmlab test --corruption NAME --severity S --combinations true` for each cell, which makes the same numbers: whole
  commands, each of which opens the run anew, but in this process, so that no import is counted.

All take turns, round by round.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from measure import now, ratio, table, where

from mmlab.cli.finished import read_request
from mmlab.cli.main import main as mmlab
from mmlab.data.corruption import Name, possible_corruptions
from mmlab.evaluation.robustness import Plan, evaluate_grid, make_plan
from mmlab.runs.fit import evaluate
from mmlab.runs.folder import RunFolder, read_json

FIT = (
    "fit --model LateFusion --data.dataset Keypad --data.dataset.train_size 480 --data.dataset.val_size 96 "
    "--data.dataset.test_size 480 --data.batch_size 64 --model.backbone.width 16 --trainer.max_epochs 2 "
    "--trainer.accelerator cpu --trainer.enable_progress_bar false --wandb.mode off --test false"
)
SEVERITIES = (0.0, 2.5, 5.0, 7.5, 10.0)


def seconds_of(work: Callable[[], object]) -> float:
    """The time of some work, whose output is dropped."""
    begun = now()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    return now() - begun


def command(line: str) -> None:
    """A command of mmlab, in this process.

    Raises:
        SystemExit: if it fails.
    """
    code = mmlab(line.split())
    if code:
        raise SystemExit(code)


def passes(run: Path, names: Sequence[Name], severities: tuple[float, ...]) -> tuple[float, float, Plan]:
    """The seconds of the grid's pass and of a plain test's, and the grid's cells."""
    opened = read_request("robustness", ["--run", str(run)]).open(RunFolder.existing(run))
    once = seconds_of(lambda: evaluate(opened.trainer, opened.method, opened.data, "test"))
    plan = make_plan(possible_corruptions(names, opened.data.dataset.modalities)[0], list(severities), noise_seeds=1)
    return seconds_of(lambda: evaluate_grid(opened.trainer, opened.method, opened.data, plan)), once, plan


def apart(run: Path) -> float:
    """The seconds of a command for each cell of the grid."""
    lines = []
    for cell in read_json(RunFolder(run).robustness)["cells"]:
        # Severity 0 is the same for every corruption.
        name = cell["corruption"] if cell["severity"] else "gaussian"
        lines.append(f"test --run {run} --corruption {name} --severity {cell['severity']} --combinations true")
    return sum(seconds_of(lambda line=line: command(line)) for line in lines)  # type: ignore[misc]


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="a short try of few cells; the numbers mean nothing")
    quick = parser.parse_args().quick
    severities = SEVERITIES[::4] if quick else SEVERITIES
    names = get_args(Name)[:2] if quick else get_args(Name)
    rounds = 2 if quick else 5
    grids, ones, manys, commands, separate = [], [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        seconds_of(lambda: command(f"{FIT} --run_dir {run}"))
        passes(run, names, severities[:1])  # what the first one pays for once
        for _ in range(rounds):
            grid, once, plan = passes(run, names, severities)
            cells = sum(len(own) for _, own in plan)
            grids.append(grid)
            ones.append(once)
            manys.append(once * cells)
            listed = ",".join(map(str, severities))
            line = f"robustness --run {run} --again true --severities {listed} --corruptions {','.join(names)}"
            commands.append(seconds_of(lambda line=line: command(line)))  # type: ignore[misc]
            separate.append(apart(run))
    rows = [
        ["the grid's pass", "one test's pass", ratio(grids, ones)],
        ["the grid's pass", f"{cells} tests' passes", ratio(grids, manys)],
        ["`mmlab robustness`", f"{cells} `mmlab test --corruption`", ratio(commands, separate)],
    ]
    head = ["time of", "over", "ratio"]
    print(f"{cells} cells, 3 subsets each. Medians and quartiles of {rounds} rounds; {where()}.\n")
    print(f"{table(head, rows)}\n")


if __name__ == "__main__":
    main()
