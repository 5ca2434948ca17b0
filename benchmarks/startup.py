"""The time from a command to its answer, over bare Python and bare imports.

    python benchmarks/startup.py

Each command is a process of its own; all take turns. Each is held against a Python that does nothing, and against one
that imports torch and Lightning and does nothing more: what builds a method must import them, the other commands don't.
Compiled modules are kept in a folder of the benchmark's own: whether the installation has them doesn't matter.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from measure import now, ratio, table, where

ROOT = Path(__file__).resolve().parents[1]
PYTHON = "python -c pass"
IMPORTS = 'python -c "import torch, lightning"'
BARE = {PYTHON: ["-c", "pass"], IMPORTS: ["-c", "import torch, lightning"]}
# By what is typed: the words that Python is given.
COMMANDS = {
    "mmlab --help": ["-m", "mmlab", "--help"],
    "mmlab list": ["-m", "mmlab", "list"],
    "mmlab compare results/gridwords": ["-m", "mmlab", "compare", "results/gridwords"],
    "mmlab fit --config experiments/mnl_keypad.yaml --print_config": [
        *("-m", "mmlab", "fit", "--config", "experiments/mnl_keypad.yaml", "--print_config")
    ],
}
HEAVY = (IMPORTS, "mmlab fit --config experiments/mnl_keypad.yaml --print_config")
"""What imports torch."""


def seconds_of(words: list[str], environment: dict[str, str]) -> float:
    """One process."""
    start = now()
    subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return now() - start


def main(words: Iterable[str] | None = None) -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each command; 2 or more")
    parser.add_argument("--quick", action="store_true", help="a short try of the commands that don't import torch")
    options = parser.parse_args(None if words is None else list(words))
    every = BARE | COMMANDS
    if options.quick:
        options.rounds = 2
        every = {name: own for name, own in every.items() if name not in HEAVY}
    if options.rounds < 2:
        parser.error("give 2 rounds or more")

    seconds: dict[str, list[float]] = {name: [] for name in every}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        for number in range(options.rounds + 1):
            for name, own in every.items():
                passed = seconds_of(own, environment)
                if number:  # the first turn compiles
                    seconds[name].append(passed)
    rows = [
        [f"`{name}`", f"`{base}`", ratio(seconds[name], seconds[base]), f"{statistics.median(seconds[name]):.2f}"]
        for name in COMMANDS
        for base in BARE
        if name in seconds and base in seconds
    ]
    head = ["command", "over", "ratio", "s a command"]
    print(f"Medians of {options.rounds} rounds; {where()}.\n\n{table(head, rows)}\n")


if __name__ == "__main__":
    main()
