"""Packed data sets: memory-mapped arrays beside an index, written once and read by every run.

A packed folder holds one ``<modality>.npy`` for each modality (a row for each sample), ``index.csv`` (id, split,
target, row and one ``present_<modality>`` column each) and ``pack.json`` (what was packed, and how). It is built
in ``<folder>.partial`` and renamed when it is whole, so a folder under its final name is always complete.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from stat import S_ISDIR
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib.format import open_memmap
from tqdm import tqdm

from mmlab.data.base import Split, SplitName, carve_validation
from mmlab.errors import UserError

FORMAT = 1
_PICTURES = (".jpg", ".jpeg", ".png")
_BLOCK = 32  # samples between two marks of progress: what a killed run loses, and what waits in memory to be written
_SILENCE = 2.0  # seconds to wait for another process before saying so


class BadSample(Exception):
    """Raised by a decoder: the reason why a sample's file can't be used. The sample is left out, by name."""


@dataclass(frozen=True)
class Sample:
    """One sample that is to be packed.

    Attributes:
        id: its name, unique within its split.
        split: the part of the data set it belongs to.
        target: its class, by name.
        files: by modality, the file it is read from, or the folder of pictures; a modality that the sample lacks has no
            entry.
    """

    id: str
    split: str
    target: str
    files: Mapping[str, Path]


@dataclass
class Packed:
    """An open packed folder.

    Attributes:
        arrays: by modality, (rows, ...), memory-mapped and read-only.
        ids: (N,) names of the usable samples.
        split: (N,) the part that each belongs to.
        targets: (N,) class names.
        rows: (N,) int64, each sample's row in the arrays.
        present: (N, M) bool, in the order of ``arrays``.
        meta: the contents of ``pack.json``.
    """

    arrays: dict[str, np.ndarray]
    ids: list[str]
    split: np.ndarray
    targets: np.ndarray
    rows: np.ndarray
    present: np.ndarray
    meta: dict[str, Any]

    def take(self, positions: np.ndarray, classes: Mapping[str, int]) -> Split:
        """The samples at some positions as a split.

        Args:
            positions: of the samples, in the order that the split is to have.
            classes: the index of each class name.
        """
        return Split(
            ids=[self.ids[position] for position in positions],
            targets=np.array([classes[name] for name in self.targets[positions]], dtype=np.int64),
            rows=self.rows[positions],
            arrays=self.arrays,
            present=self.present[positions],
        )

    def parts(
        self, train: np.ndarray, validation: np.ndarray, test: np.ndarray, classes: Mapping[str, int]
    ) -> dict[SplitName, Split]:
        """The three splits, each by the positions of its samples, see :meth:`take`."""
        return {
            "train": self.take(train, classes),
            "val": self.take(validation, classes),
            "test": self.take(test, classes),
        }

    def carve(
        self,
        train: np.ndarray,
        classes: Mapping[str, int],
        share: float,
        seed: int,
        groups: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Splits training samples into training and validation, see :func:`~mmlab.data.base.carve_validation`.

        Args:
            train: positions of the samples.
            classes: the index of each class name.
            share: of each class that goes to validation.
            seed: of the draw.
            groups: labels, in the order of ``train``, that must not be torn apart; None for none.

        Raises:
            UserError: if there is one sample in each class, or the seed is negative.
        """
        labels = np.array([classes[name] for name in self.targets[train]])
        kept, carved = carve_validation(labels, share, seed, groups)
        if len(carved) == 0:
            raise UserError(
                f"{self.meta['dataset']} has one training sample in each class, too few to carve a validation split: "
                f"add samples and prepare again."
            )
        return train[kept], train[carved]


def pack(
    folder: Path,
    dataset: str,
    options: dict[str, Any],
    samples: Sequence[Sample],
    layout: Mapping[str, tuple[tuple[int, ...], str]],
    decode: Callable[[Sample], Mapping[str, np.ndarray]],
    workers: int = 1,
) -> None:
    """Decodes samples into a packed folder, with a progress bar.

    A run that was killed goes on where it was, provided that options, samples and files are still the same. A folder
    that holds exactly this already is left alone. A sample that can't be used is left out of the index, and named
    with the reason in ``pack.json`` and in a summary line.

    Args:
        folder: the folder to make; an older pack there is replaced once the new one is whole.
        dataset: the data set's name.
        options: whatever the arrays depend on, as plain data for JSON.
        samples: in the order of the rows, at least one.
        layout: by modality, the shape of one sample and its NumPy type.
        decode: reads one sample: an array of that shape and type for each modality in its ``files``. Raises
            BadSample where the sample must be left out; anything else stops the packing.
        workers: threads that decode at the same time.

    Raises:
        UserError: if the folder holds something else or can't be written, the disk is too full, or no sample is usable.
    """
    partial = folder.with_name(folder.name + ".partial")
    lock = FileLock(f"{folder}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # In a folder that refuses new files the lock would be tried for ever.
        tempfile.TemporaryFile(dir=folder.parent).close()
        Path(lock.lock_file).touch()
        try:
            held = lock.acquire(timeout=_SILENCE)
        except Timeout:
            print(f"waiting for another process that packs {folder}", flush=True)
            held = lock.acquire()
    except OSError as error:
        raise UserError(
            f"{folder} can't be written ({error.strerror or error}); choose a folder that you may write to."
        ) from error
    # Several processes of one run may come here at once: one packs, the others wait and find it done.
    with held:
        fingerprint = _fingerprint(dataset, options, samples, layout)
        if folder.exists() and any(folder.iterdir()):
            if not (folder / "pack.json").exists():
                raise UserError(f"{folder} holds files that are no packed data; move them or choose another folder.")
            meta = _read_json(folder / "pack.json")
            if meta.get("dataset") != dataset:
                raise UserError(_of_another(folder, meta, dataset))
            if meta.get("fingerprint") == fingerprint:
                print(f"{folder} is prepared already.")
                return
        bad = _decode_all(partial, fingerprint, samples, layout, decode, workers)
        if len(bad) == len(samples):
            shutil.rmtree(partial)
            file = next(iter(samples[0].files.values()))
            raise UserError(
                f"{dataset} has no usable sample ({file}: {bad[0]}); check the raw files and prepare again."
            )
        _write_index(partial, dataset, options, fingerprint, samples, layout, bad)
        _move_into_place(partial, folder)
    summary = f"Packed {len(samples) - len(bad)} samples into {folder}"
    if bad:
        row, reason = next(iter(bad.items()))
        summary += f"; {len(bad)} bad ones are left out and named in pack.json (first: {samples[row].id}: {reason})"
    print(summary + ".")


def open_packed(folder: Path, dataset: str, command: str) -> Packed:
    """Opens a packed folder; nothing but the index is read.

    Args:
        folder: as given to :func:`pack`.
        dataset: likewise.
        command: the command that prepares it, for the errors.

    Raises:
        UserError: if it isn't there, was packed in another format or of another data set, or a file is missing,
            truncated or unreadable.
    """
    if not (folder / "pack.json").exists():
        raise UserError(f"{folder} is not prepared; run: {command}")
    meta = _read_json(folder / "pack.json")
    if meta.get("format") != FORMAT:
        raise UserError(f"{folder} was packed in another format ({meta.get('format')}); delete it and run: {command}")
    if meta["dataset"] != dataset:
        raise UserError(_of_another(folder, meta, dataset))

    def unreadable(file: Path, reason: object) -> UserError:
        return UserError(f"{file} can't be read ({reason}); delete {folder} and run: {command}")

    arrays: dict[str, np.ndarray] = {}
    for name, (shape, dtype) in meta["arrays"].items():
        file = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise unreadable(file, error) from error
        if arrays[name].shape != tuple(shape) or arrays[name].dtype != np.dtype(dtype):
            raise unreadable(file, f"{arrays[name].dtype} {arrays[name].shape} is not what pack.json says")
    file = folder / "index.csv"
    try:
        index = file.read_bytes()
    except OSError as error:
        raise unreadable(file, error) from error
    if hashlib.sha256(index).hexdigest() != meta["index_sha256"]:
        raise unreadable(file, "it was changed or truncated: its SHA-256 is not the one in pack.json")
    table = list(csv.DictReader(io.StringIO(index.decode(), newline="")))
    return Packed(
        arrays=arrays,
        ids=[line["id"] for line in table],
        split=np.array([line["split"] for line in table]),
        targets=np.array([line["target"] for line in table]),
        rows=np.array([int(line["row"]) for line in table], dtype=np.int64),
        present=np.array([[line[f"present_{name}"] == "1" for name in arrays] for line in table], dtype=bool),
        meta=meta,
    )


def _of_another(folder: Path, meta: dict[str, Any], dataset: str) -> str:
    return f"{folder} holds {meta.get('dataset')}, not {dataset}: give each data set a root of its own."


def packed_options(folder: Path) -> dict[str, Any] | None:
    """The options that a folder was packed with; None where there is no pack of this format."""
    if not (folder / "pack.json").exists():
        return None
    meta = _read_json(folder / "pack.json")
    return dict(meta["options"]) if meta.get("format") == FORMAT else None


def _fingerprint(
    dataset: str,
    options: dict[str, Any],
    samples: Sequence[Sample],
    layout: Mapping[str, tuple[tuple[int, ...], str]],
) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT, dataset, options, layout], sort_keys=True).encode())
    state = cache(_state)  # samples may share files
    for sample in samples:
        stats = {name: state(file) for name, file in sample.files.items()}
        digest.update(json.dumps([sample.id, sample.split, sample.target, stats], sort_keys=True).encode())
    return digest.hexdigest()


def _state(file: Path) -> tuple[str | int, ...]:
    """What tells, without reading it, a file that was replaced between two runs; of a folder, any of its pictures."""
    stat = file.stat()
    if not S_ISDIR(stat.st_mode):
        return file.name, stat.st_size, stat.st_mtime_ns
    # The folder's own time doesn't change with what its files hold, but with files that nobody reads.
    with os.scandir(file) as entries:
        pictures = sorted(
            (entry.name, entry.stat().st_size, entry.stat().st_mtime_ns)
            for entry in entries
            if entry.name.lower().endswith(_PICTURES) and not entry.name.startswith(".") and entry.is_file()
        )
    return file.name, hashlib.sha256(json.dumps(pictures).encode()).hexdigest()


def _decode_all(
    partial: Path,
    fingerprint: str,
    samples: Sequence[Sample],
    layout: Mapping[str, tuple[tuple[int, ...], str]],
    decode: Callable[[Sample], Mapping[str, np.ndarray]],
    workers: int,
) -> dict[int, str]:
    """Fills the arrays in the partial folder; returns the reason for each bad row."""
    progress = _read_json(partial / "progress.json") if (partial / "progress.json").exists() else {}
    resumed = progress.get("fingerprint") == fingerprint
    done = int(progress["done"]) if resumed else 0
    bad = {int(row): str(reason) for row, reason in progress["bad"].items()} if resumed else {}
    if not resumed:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
    _check_space(partial, len(samples) - done, layout)
    arrays = {
        name: open_memmap(partial / f"{name}.npy", mode="r+")
        if resumed
        else open_memmap(partial / f"{name}.npy", mode="w+", dtype=np.dtype(dtype), shape=(len(samples), *shape))
        for name, (shape, dtype) in layout.items()
    }

    def attempt(sample: Sample) -> Mapping[str, np.ndarray] | str:
        try:
            return decode(sample)
        except BadSample as error:
            return str(error)

    def mark(done: int) -> None:
        # The marks must never be ahead of the bytes they vouch for.
        for array in arrays.values():
            array.flush()
        _write_json(partial / "progress.json", {"fingerprint": fingerprint, "done": done, "bad": bad})

    mark(done)
    pool = ThreadPoolExecutor(workers)
    bar = tqdm(total=len(samples), initial=done, desc=f"Packing {partial.stem}", unit="sample")
    try:
        for start in range(done, len(samples), _BLOCK):
            block = samples[start : start + _BLOCK]
            for row, values in enumerate(pool.map(attempt, block), start):
                if isinstance(values, str):
                    bad[row] = values
                else:
                    for name, value in values.items():
                        if value.shape != layout[name][0]:
                            raise ValueError(
                                f"{name} of {samples[row].id} has shape {value.shape}, not {layout[name][0]}"
                            )
                        arrays[name][row] = value
                bar.update()
            mark(start + len(block))
    finally:
        bar.close()
        pool.shutdown(cancel_futures=True)
    return bad


def _check_space(partial: Path, remaining: int, layout: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    # Writing to a mapped file on a full disk kills the process without a word, so look first.
    needed = remaining * sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in layout.values())
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise UserError(
            f"{partial.parent} has {free / 1e9:.1f} GB free, but packing needs {needed / 1e9:.1f} GB; "
            "make room or choose a smaller size."
        )


def _write_index(
    partial: Path,
    dataset: str,
    options: dict[str, Any],
    fingerprint: str,
    samples: Sequence[Sample],
    layout: Mapping[str, tuple[tuple[int, ...], str]],
    bad: dict[int, str],
) -> None:
    good = [(row, sample) for row, sample in enumerate(samples) if row not in bad]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "split", "target", "row", *(f"present_{name}" for name in layout)])
    for row, sample in good:
        present = [int(name in sample.files) for name in layout]
        writer.writerow([sample.id, sample.split, sample.target, row, *present])
    index = text.getvalue().encode()
    (partial / "index.csv").write_bytes(index)
    meta = {
        "format": FORMAT,
        "dataset": dataset,
        "options": options,
        "fingerprint": fingerprint,
        "index_sha256": hashlib.sha256(index).hexdigest(),
        "arrays": {name: [[len(samples), *shape], dtype] for name, (shape, dtype) in layout.items()},
        "classes": sorted({sample.target for _, sample in good}),
        "counts": dict(Counter(sample.split for _, sample in good)),
        "bad": [
            {"id": samples[row].id, "file": str(next(iter(samples[row].files.values()))), "reason": reason}
            for row, reason in bad.items()
        ],
    }
    _write_json(partial / "pack.json", meta)


def _move_into_place(partial: Path, folder: Path) -> None:
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(partial, folder)
    (folder / "progress.json").unlink()
    shutil.rmtree(old, ignore_errors=True)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} can't be read ({error}); delete the folder {file.parent} and prepare again."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{file} is no JSON object; delete the folder {file.parent} and prepare again.")
    return content


def _write_json(file: Path, content: dict[str, Any]) -> None:
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1))
    os.replace(temporary, file)
