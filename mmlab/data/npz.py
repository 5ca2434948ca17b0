"""Data sets that come as ``.npz`` files: where they lie, how they are read, checked and written."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmlab.errors import UserError

Layout = Mapping[str, tuple[str, tuple[int | None, ...]]]
"""By array name: the dtype (``str`` for text of any length) and the shape, None where a length is free."""


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


def check_rows(path: Path, arrays: dict[str, np.ndarray], names: tuple[str, ...], classes: int) -> None:
    """Checks that the named arrays have one row for each label, and that the labels are classes.

    Raises:
        UserError: if they haven't or aren't.
    """
    label = arrays["label"]
    for name in names:
        if len(arrays[name]) != len(label):
            raise UserError(
                f"{path} holds {len(label)} labels but {len(arrays[name])} rows of {name!r}: "
                "copy the file anew from its source."
            )
    if len(label) == 0 or label.max() >= classes:
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
