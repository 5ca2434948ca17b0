"""Data sets that come as ``.npz`` files: where they lie, how they are read, checked and written."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmlab.data.base import MultimodalDataset, ProtocolName, SplitName, begin_twin
from mmlab.errors import UserError

Layout = Mapping[str, tuple[str, tuple[int | None, ...]]]
"""By array name: the dtype (``str`` for text of any length) and the shape, None where a length is free."""


class NpzDataset(MultimodalDataset, ABC):
    """A data set that is read from ``.npz`` files as they are; nothing is decoded or packed.

    Args:
        root: folder of the files; None for the folder of ``data_root``.
        folder: the name of that folder.
        protocol: ``honest``, or ``official`` for selection on the test split.
    """

    checksums: Mapping[str, str]
    """By file name, the SHA-256 of the published file."""

    def __init__(self, root: str | None, folder: str, protocol: ProtocolName) -> None:
        self._root = data_root(root, folder)
        self.protocol = protocol

    @abstractmethod
    def synthetic_files(self) -> dict[str, dict[str, np.ndarray]]:
        """The arrays of a synthetic twin, by file name."""

    @property
    def synthetic(self) -> bool:
        """Whether the files are a synthetic twin."""
        return (self._root / "SYNTHETIC").exists()

    def prepare(self, workers: int = 1) -> None:
        """Reads everything once and says of each file whether it is the published one.

        Args:
            workers: not used: nothing is decoded.

        Raises:
            UserError: if a file is absent or can't be read.
        """
        self.splits()
        for name, checksum in self.checksums.items():
            report_checksum(self._root / name, checksum)

    def write_synthetic(self) -> None:
        """Writes a small twin in the layout of the published files, whose classes are easy to tell.

        Raises:
            UserError: if the folder holds anything.
        """
        begin_twin(self._root, "samples")
        for name, arrays in self.synthetic_files().items():
            write_npz(self._root / name, arrays)

    def read_parts(self, layout: Layout, classes: int, label: str = "label") -> dict[SplitName, dict[str, np.ndarray]]:
        """The arrays of each split, where every split has a file of its own and a row for each sample.

        The official protocol trains on both the training and the validation file and validates on the test file.

        Args:
            layout: of every file; the files are those of ``checksums``, in the order train, val, test.
            classes: the number of classes.
            label: the array of class indices, of samples or of their pixels.

        Raises:
            UserError: if a file is absent, can't be read or contradicts itself.
        """
        train, val, test = (read_npz(self._root / name, layout) for name in self.checksums)
        for name, arrays in zip(self.checksums, (train, val, test), strict=True):
            check_rows(self._root / name, arrays, tuple(layout), classes, label)
        if self.protocol == "official":
            both = {name: np.concatenate((train[name], val[name])) for name in layout}
            return {"train": both, "val": test, "test": test}
        return {"train": train, "val": val, "test": test}


def data_root(root: str | None, name: str) -> Path:
    """The folder of a data set: ``root``, or else the folder ``name`` in what MMLAB_DATA names."""
    return Path(root) if root is not None else Path(os.environ.get("MMLAB_DATA", "../shared/data")) / name


def read_npz(path: Path, layout: Layout) -> dict[str, np.ndarray]:
    """Reads the arrays of a layout and checks them.

    Raises:
        UserError: if the file is absent or can't be read, or if an array is missing, of another type or of another
            shape.
    """
    if not path.is_file():
        raise UserError(
            f"There is no {path}: set the environment variable MMLAB_DATA to the folder that holds "
            f"{path.parent.name}/, or give the data set's root."
        )
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in layout if name not in file]
            if missing:
                raise UserError(f"{path} has no array {missing[0]!r}: copy the file anew from its source.")
            arrays = {name: file[name] for name in layout}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} can't be read ({error}): copy the file anew from its source.") from error
    for name, (dtype, shape) in layout.items():
        array = arrays[name]
        right_type = array.dtype.kind == "U" if dtype == "str" else array.dtype == dtype
        lengths = zip(array.shape, shape, strict=False)
        if not right_type or array.ndim != len(shape) or any(want not in (None, has) for has, want in lengths):
            wanted = ", ".join("any" if length is None else str(length) for length in shape)
            raise UserError(
                f"{path} holds {name!r} as {array.dtype} {array.shape} where {dtype} ({wanted}) is expected: "
                "copy the file anew from its source."
            )
    return arrays


def check_rows(
    path: Path, arrays: dict[str, np.ndarray], names: tuple[str, ...], classes: int, label: str = "label"
) -> None:
    """Checks that the named arrays have one row for each label, and that the labels are classes.

    Args:
        path: of the file, for messages.
        arrays: of the file.
        names: of those that have a row for each label.
        classes: the number of classes.
        label: the array of class indices, of samples or of their pixels.

    Raises:
        UserError: if they haven't or aren't.
    """
    labels = arrays[label]
    for name in names:
        if len(arrays[name]) != len(labels):
            raise UserError(
                f"{path} holds {len(labels)} labels but {len(arrays[name])} rows of {name!r}: "
                "copy the file anew from its source."
            )
    if len(labels) == 0 or labels.max() >= classes:
        raise UserError(f"{path} should hold labels from 0 to {classes - 1}: copy the file anew from its source.")


def report_checksum(path: Path, published: str) -> None:
    """Prints whether a file is the published one (SHA-256); a synthetic twin isn't."""
    with path.open("rb") as file:
        same = hashlib.file_digest(file, "sha256").hexdigest() == published
    print(f"{path}: {'the published file' if same else 'readable, but not the published file (SHA-256 differs)'}")


def write_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays to a compressed file, whole or not at all."""
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    os.replace(unfinished, path)
