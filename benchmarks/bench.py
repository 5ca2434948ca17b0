"""Runs the benchmarks one after the other, and writes their tables into a document if it is asked for.

    python benchmarks/bench.py
    python benchmarks/bench.py --out docs/benchmarks.md

The document has a place for each table, between the lines `<!-- benchmark: NAME -->` and `<!-- end of benchmark -->`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from mmlab.runs.folder import write_text

HERE = Path(__file__).resolve().parent
NAMES = ("step_time", "hand_written_loop", "loader", "robustness_grid", "startup")
ON_DEVICE = ("step_time", "hand_written_loop")
"""Those that take ``--device``; the others measure what runs on the CPU in any case."""


def tables_of(name: str, flags: list[str]) -> str:
    """What a benchmark prints; it is printed here too.

    Raises:
        subprocess.CalledProcessError: if it fails; what it says about that goes to standard error.
    """
    print(f"## {name}\n", flush=True)
    words = [sys.executable, str(HERE / f"{name}.py"), *flags]
    printed = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    print(f"{printed}\n", flush=True)
    return printed


def filled(document: str, name: str, tables: str) -> str:
    """A document with a benchmark's place filled.

    Raises:
        ValueError: if it has no place for it, or several.
    """
    place = rf"(<!-- benchmark: {name} -->\n).*?(<!-- end of benchmark -->)"
    text, places = re.subn(place, lambda found: f"{found[1]}\n{tables}\n\n{found[2]}", document, flags=re.DOTALL)
    if places != 1:
        raise ValueError(
            f"it must have one place for {name}, between <!-- benchmark: {name} --> and <!-- end of benchmark -->, "
            f"but has {places}"
        )
    return text


def main(words: Iterable[str] | None = None) -> None:
    """Runs all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="these benchmarks")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="a short try of everything; the numbers mean nothing")
    parser.add_argument("--out", type=Path, help="a document with a place for each table")
    options = parser.parse_args(None if words is None else list(words))
    if options.out:
        try:  # what is wrong with the document is said before minutes pass
            for name in options.only:
                filled(options.out.read_text(encoding="utf-8"), name, "")
        except (OSError, ValueError) as error:
            parser.error(f"--out {options.out} can't be filled: {error}")
    for name in options.only:
        flags = [*(["--quick"] if options.quick else []), *(["--device", options.device] if name in ON_DEVICE else [])]
        try:
            tables = tables_of(name, flags)
        except subprocess.CalledProcessError as error:
            parser.error(f"{name} failed with the exit code {error.returncode}; its message stands above")
        if options.out:
            write_text(options.out, filled(options.out.read_text(encoding="utf-8"), name, tables))


if __name__ == "__main__":
    main()
