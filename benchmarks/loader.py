"""The time of the training loader over that of a plain copy of the same bytes, and of decoding over reading the pack.

    python benchmarks/loader.py

The loader yields raw batches, as the data sets hold them; augmentation runs on the training device and is not in it.
The plain copy takes the same rows of the same arrays by NumPy's indexing, in the same order, and makes tensors of them.
Keypad's arrays are in memory, a few KiB a sample; those of KineticsSounds are memory-mapped files, a few MiB a sample.
The latter is the synthetic twin, whose training clips are read again and again, so that all comes from the page cache.

Decoding is what a data set without a pack would do for each sample of each epoch: the frames and the sound of the
clip's file, by PyAV. The twin's clips have 4 s of small pictures, those of Kinetics 10 s of larger ones, which take
longer.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import now, ratio, table, where

from mmlab.data.base import Split
from mmlab.data.clips import RATE
from mmlab.data.keypad import Keypad
from mmlab.data.kinetics_sounds import KineticsSounds
from mmlab.data.loader import TrainingLoader, TrainingOrder
from mmlab.data.video import read_audio, read_frames
from mmlab.errors import UserError


def repeated(split: Split, times: int) -> Split:
    """The samples of a split several times over, from the same rows."""
    return Split(
        ids=[f"{name}-{turn}" for turn in range(times) for name in split.ids],
        targets=np.tile(np.asarray(split.targets), times),
        rows=np.tile(split.rows, times),
        arrays=split.arrays,
        present=np.tile(split.present, (times, 1)),
    )


def through(loader: TrainingLoader) -> None:
    """An epoch of the loader."""
    for _ in loader:
        pass


def copied(split: Split, order: TrainingOrder) -> None:
    """An epoch of the same bytes by plain indexing."""
    for positions in order:
        rows = split.rows[positions]
        for array in split.arrays.values():
            torch.from_numpy(np.asarray(array)[rows])


def turns(sides: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side by round, after one that isn't measured, in which workers start."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, run in sides.items():
            start = now()
            run()
            seconds[name].append(now() - start)
    return {name: each[1:] for name, each in seconds.items()}


def loader_rows(name: str, split: Split, batch_size: int, rounds: int) -> list[list[str]]:
    """The loader's rows of the table, with and without workers."""
    order = TrainingOrder(len(split), batch_size, 0, 0, 1)
    size = sum(array[0].nbytes for array in split.arrays.values())
    sides: dict[str, Callable[[], None]] = {"copy": partial(copied, split, order)}
    for workers in (0, 2):
        own_order = TrainingOrder(len(split), batch_size, 0, 0, 1)
        sides[f"loader, {workers} workers"] = partial(through, TrainingLoader(split, own_order, workers))
    seconds = turns(sides, rounds)
    sides.clear()
    gc.collect()  # the loaders refer to themselves; their workers end before others start
    samples = len(order) * order.batch
    return [
        [f"{name} ({size / 1024:.0f} KiB)", side, "plain copy", ratio(own, seconds["copy"]), _rate(samples, own)]
        for side, own in seconds.items()
        if side != "copy"
    ]


def decoding_row(data: KineticsSounds, split: Split, side: int, clips: int, rounds: int) -> list[str]:
    """The row of decoding."""
    files = sorted((data.root / "videos" / "train").glob("*/*.mp4"))[:clips]
    order = TrainingOrder(len(split), len(split), 0, 0, 1)
    loader = TrainingLoader(split, order, workers=0)

    def decode() -> None:
        for file in files:
            read_frames(file, side)
            read_audio(file, RATE)

    seconds = turns({"decode": decode, "read": partial(through, loader)}, rounds)
    each = [
        [second / count for second in seconds[name]] for name, count in (("decode", len(files)), ("read", len(split)))
    ]
    return [
        "KineticsSounds' twin",
        "decoding",
        "loader, 0 workers",
        ratio(*each),
        _rate(len(files), seconds["decode"]),
    ]


def _rate(samples: int, seconds: list[float]) -> str:
    return f"{samples / float(np.median(seconds)):.0f}"


def main(words: Iterable[str] | None = None) -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side; 2 or more")
    parser.add_argument("--quick", action="store_true", help="a short try with few and small samples")
    options = parser.parse_args(None if words is None else list(words))
    times, sizes, side, count = 20, (4800, 12, 12), 256, 24
    if options.quick:
        options.rounds, times, sizes, side, count = 2, 2, (96, 12, 12), 32, 4
    if options.rounds < 2:
        parser.error("give 2 rounds or more")

    with tempfile.TemporaryDirectory() as folder:
        clips = KineticsSounds(str(Path(folder) / "kinetics_sounds"), frame_side=side)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                clips.write_synthetic()
                clips.prepare()
        except UserError as error:
            parser.error(str(error))
        split = clips.splits()["train"]
        rows = [
            *loader_rows("Keypad", Keypad(*sizes).splits()["train"], 64 if not options.quick else 16, options.rounds),
            *loader_rows("KineticsSounds' twin", repeated(split, times), 16, options.rounds),
            decoding_row(clips, split, side, count, options.rounds),
        ]
    head = ["data set (a sample)", "time of a sample", "over", "ratio", "samples a second"]
    print(f"Medians of {options.rounds} rounds; {where()}.\n\n{table(head, rows)}\n")


if __name__ == "__main__":
    main()
