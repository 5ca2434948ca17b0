"""What the benchmarks share: ratios with their spread, tables, and the line that says where they were measured.

A benchmark lets what it compares take turns, round by round, so that what else the machine does falls on both sides. A
ratio is the median over rounds of one side's time divided by the other's in the same round; beside it stand the
quartiles, which say how steady the machine was.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from mmlab.runs.result import commit, hardware

SMALL = [
    *("--data.dataset.train_size", "36"),
    *("--data.dataset.val_size", "12"),
    *("--data.dataset.test_size", "12"),
]
"""Flags that make a computed data set as small as it can be."""


def now(device: str = "cpu") -> float:
    """Seconds of a clock; a GPU is waited for first."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def ratio(own: Sequence[float], base: Sequence[float]) -> str:
    """One side's times over the other's.

    Args:
        own: of each round, two or more.
        base: of the same rounds.

    Returns:
        The median of the ratios and, in brackets, their quartiles.
    """
    low, middle, high = statistics.quantiles(
        [above / below for above, below in zip(own, base, strict=True)], n=4, method="inclusive"
    )
    return f"{_short(middle)} ({_short(low)} to {_short(high)})"


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.2f}" if number >= 0.1 else f"{number:.2g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))


def where(device: str = "cpu") -> str:
    """The accelerator or the processor and its threads, the version of torch, mmlab's commit."""
    models = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next((line.partition(":")[2].strip() for line in models if line.startswith("model name")), "CPU")
    machine = hardware() if device == "cuda" else f"{model}, threads: {torch.get_num_threads()}"
    return f"{machine}; torch {torch.__version__}, mmlab {commit()}"
