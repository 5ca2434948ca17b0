"""What a data set is: its modalities, its splits of raw arrays, and the way from raw arrays to encoder inputs."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.types import Batch, DataSpec, Modality, Task

SplitName = Literal["train", "val", "test"]
ProtocolName = Literal["honest", "official"]


class Transform(Protocol):
    """From raw values to what an encoder sees, batched, on the device that the tensor is on."""

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """Turns (B, ...) raw values into (B, *shape) float32.

        Args:
            raw: as the arrays hold it (uint8, int16, float16 ...).
            draws: the batch's random draws in training; None in evaluation, which must not depend on chance.
        """
        ...


@dataclass(frozen=True)
class LabelMaps:
    """Label maps that stay on the disk, as the targets of a split.

    Attributes:
        array: (rows, H, W) uint8, memory-mapped, or in memory.
        rows: (N,) int64, each sample's row.
    """

    array: np.ndarray
    rows: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W)."""
        return (len(self.rows), *self.array.shape[1:])

    @property
    def ndim(self) -> int:
        """3."""
        return self.array.ndim

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, positions: np.ndarray) -> np.ndarray:
        """Reads the maps at some positions, (n,) int64, into memory, (n, H, W)."""
        return _copied(self.array, self.rows[positions])

    def __iter__(self) -> Iterator[np.ndarray]:
        """One map (H, W) after the other; only one is in memory."""
        return (np.array(self.array[row]) for row in self.rows)


@dataclass
class Split(Dataset[Batch]):
    """One part of a data set: rows of arrays that lie on the disk (memory-mapped) or in memory.

    Attributes:
        ids: one name for each sample, unique within the split.
        targets: (N,) int64 class indices or float32 numbers, or (N, H, W) label maps: int64, or of a smaller type where
            the data set has a transform of the ``target``.
        rows: (N,) int64, the sample's row in each array; several splits share the same arrays.
        arrays: by modality, (rows, ...) in the raw type.
        present: (N, M) bool, in the order of the modalities.
        padded: modalities whose arrays end in zeros along an axis, and which axis of the array that is (1 for the steps
            of (rows, T, D)); a batch keeps what its longest sample needs.
    """

    ids: Sequence[str]
    targets: np.ndarray | LabelMaps
    rows: np.ndarray
    arrays: dict[str, np.ndarray]
    present: np.ndarray
    padded: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitems__(self, indices: list[int]) -> Batch:
        """A raw batch: nothing but bytes is copied here (called in the workers)."""
        where = np.asarray(indices, dtype=np.int64)
        rows = self.rows[where]
        inputs = {}
        for name, array in self.arrays.items():
            block = _copied(array, rows)
            if name in self.padded:
                axis = self.padded[name]
                used = np.flatnonzero(block.any(axis=tuple(other for other in range(block.ndim) if other != axis)))
                block = block[(slice(None),) * axis + (slice(used[-1] + 1 if len(used) else 1),)]
            inputs[name] = torch.from_numpy(block)
        return Batch(
            inputs=inputs,
            target=torch.from_numpy(self.targets[where]),
            present=torch.from_numpy(self.present[where]),
            index=torch.from_numpy(where),
            complete=bool(self.present[where].all()),
        )

    def digest(self) -> str:
        """SHA-256 over the ids and targets in order: two runs with one digest saw the same split."""
        digest = hashlib.sha256()
        for name, target in zip(self.ids, self.targets, strict=True):
            value = str(target) if self.targets.ndim == 1 else hashlib.sha256(target.tobytes()).hexdigest()
            digest.update(f"{name}\t{value}\n".encode())
        return digest.hexdigest()


class MultimodalDataset(ABC):
    """A data set. Building one is cheap; :meth:`splits` opens the arrays.

    A subclass takes its options as constructor arguments (the command line reads them from the signature) and
    lists nothing anywhere: the command line finds it by its class name.
    """

    protocol: ProtocolName = "honest"
    """``official`` where a person asked for the habit of the papers (selection on the test split, say)."""

    @property
    @abstractmethod
    def modalities(self) -> tuple[Modality, ...]:
        """In the order that everything else follows."""

    @property
    @abstractmethod
    def task(self) -> Task:
        """What is to be predicted."""

    @abstractmethod
    def splits(self) -> dict[SplitName, Split]:
        """Opens ``train``, ``val`` and ``test``.

        Raises:
            UserError: if the data are absent, not prepared, or can't be read.
        """

    @abstractmethod
    def transforms(self) -> dict[str, Transform]:
        """The way from raw to encoder input, by modality.

        A label map that must share the modalities' geometry has its own under ``target``.
        """

    def prepare(self, workers: int = 1) -> None:
        """Checks the data, and decodes and packs them where they aren't arrays yet. Shows a progress bar.

        Args:
            workers: threads that decode.
        """
        self.splits()

    def write_synthetic(self) -> None:
        """Writes a tiny fake of the raw layout to where this data set looks for its raw files.

        Raises:
            UserError: if there is something already.
        """
        raise UserError(f"{type(self).__name__} has no raw layout of its own to fake: it needs no synthetic twin.")

    def details(self) -> dict[str, object]:
        """The variant in use, as plain data for result.json."""
        return {}

    def spec(self, train_size: int) -> DataSpec:
        """What a method must know."""
        return DataSpec(type(self).__name__, self.modalities, self.task, train_size)


def _copied(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    # In ascending order, which reads a memory-mapped file front to back; one by one, so that no byte is copied twice.
    source, block = np.asarray(array), np.empty((len(rows), *array.shape[1:]), array.dtype)
    for place in np.argsort(rows, kind="stable").tolist():
        block[place] = source[rows[place]]
    return block


def refuse_existing(path: Path) -> None:
    """Refuses to write a synthetic twin where there are files.

    Raises:
        UserError: if the folder exists and holds anything.
    """
    if path.exists() and any(path.iterdir()):
        raise UserError(
            f"{path} is not empty; a synthetic twin is only written to a new folder: choose another --root."
        )


def begin_twin(root: Path, samples: str) -> None:
    """Makes the folder of a synthetic twin, with the file ``SYNTHETIC`` by which results say what they are of.

    Args:
        root: the folder.
        samples: what is generated: images, clips ...

    Raises:
        UserError: if the folder exists and holds anything.
    """
    refuse_existing(root)
    root.mkdir(parents=True, exist_ok=True)
    (root / "SYNTHETIC").write_text(f"These {samples} are generated; results on them mean nothing.\n")


def carve_validation(
    targets: np.ndarray, share: float, seed: int, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Splits a training part into training and validation, stratified by class and seeded.

    Args:
        targets: (N,) class indices of the training part.
        share: of each class that goes to validation; a class with two samples or more gives at least one.
        seed: of the draw; part of the split's name, not of the run.
        groups: (N,) labels that must not be torn apart (several clips of one video); None for none.

    Returns:
        Ascending positions of the training and of the validation samples.

    Raises:
        UserError: if the seed is negative.
    """
    if seed < 0:
        raise UserError(f"split_seed is {seed}; it must be 0 or more.")
    groups = np.arange(len(targets)) if groups is None else groups
    rng = np.random.default_rng(seed)
    validation = np.zeros(len(targets), dtype=bool)
    for label in np.unique(targets):
        members = np.unique(groups[targets == label])
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        validation |= np.isin(groups, rng.permutation(members)[:count]) if count > 0 else False
    return np.flatnonzero(~validation), np.flatnonzero(validation)
