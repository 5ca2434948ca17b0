"""What the sensor data sets share: windows of two sensors, by subject, as NumPy arrays."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmlab.data.base import ProtocolName, Split, SplitName, Transform, begin_twin
from mmlab.data.image import Normalise
from mmlab.data.packed import PackedDataset
from mmlab.data.packing import BadSample, Sample, pack
from mmlab.errors import UserError
from mmlab.types import Classification, Modality

PARTS = ("train", "test")


@dataclass(frozen=True)
class Sensor:
    """One sensor's arrays.

    Attributes:
        file: the name of a subject's array, with ``{part}`` for train or test.
        window: the shape of one window in it.
        time: the axis of the window that is time.
    """

    file: str
    window: tuple[int, ...]
    time: int

    @property
    def shape(self) -> tuple[int, int]:
        """The shape (T, D) of a window as a sequence."""
        length = self.window[self.time]
        return length, int(np.prod(self.window)) // length

    def sequence(self, window: np.ndarray) -> np.ndarray:
        """A window as a sequence (T, D), float32; what is too large for that becomes infinite."""
        with np.errstate(over="ignore"):
            return np.moveaxis(window, self.time, 0).reshape(self.shape).astype(np.float32)


class SensorDataset(PackedDataset, ABC):
    """Activities, each a window of every sensor, in a folder ``node_<number>`` for each subject.

    A subclass sets ``sensors`` and ``activities``.

    Args:
        root: folder of the subjects' folders and of the pack.
        nodes: the number or the numbers of the subjects that are used; all by default.
        validation_share: of the training windows of each class that is carved off for validation.
        split_seed: of that draw.
        protocol: ``honest``, or ``official`` for selection on the test split.

    Raises:
        UserError: if an option makes no sense.
    """

    sensors: Mapping[str, Sensor]
    """By modality, in order."""
    activities: tuple[str, ...]
    """The class of each label."""

    def __init__(
        self,
        root: str,
        nodes: int | list[int] | None,
        validation_share: float,
        split_seed: int,
        protocol: ProtocolName,
    ) -> None:
        nodes = [nodes] if isinstance(nodes, int) else nodes
        if not 0 < validation_share < 1:
            raise UserError(f"validation_share is {validation_share}; choose a share between 0 and 1.")
        if nodes is not None and (not nodes or len(set(nodes)) < len(nodes)):
            raise UserError(f"nodes is {nodes}; name each subject once, or leave it out for all of them.")
        super().__init__(root)
        self.nodes = nodes
        self.validation_share = validation_share
        self.split_seed = split_seed
        self.protocol = protocol

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """A sequence of each sensor."""
        return tuple(Modality(name, "sequence", sensor.shape) for name, sensor in self.sensors.items())

    @property
    def task(self) -> Classification:
        """Which activity it is."""
        return Classification(self.activities)

    def transforms(self) -> dict[str, Transform]:
        """The values as they are."""
        return {name: Normalise((0.0,), (1.0,)) for name in self.sensors}

    def splits(self) -> dict[SplitName, Split]:
        """Opens the pack; the protocol and the choice of subjects are applied here.

        Raises:
            UserError: if the arrays are not prepared, a subject isn't there, or a split is empty.
        """
        packed = self._packed
        known = packed.meta["options"]["nodes"]
        chosen = known if self.nodes is None else self.nodes
        for node in chosen:
            if node not in known:
                raise UserError(
                    f"{self._folder} has no node {node}, but {', '.join(map(str, known))}; choose among these or add "
                    f"{self.root / f'node_{node}'} and run: {self._command}"
                )
        names = {f"node_{node}" for node in chosen}
        used = np.array([name.split("/")[0] in names for name in packed.ids], dtype=bool)
        train, test = (np.flatnonzero(used & (packed.split == part)) for part in PARTS)
        if len(train) == 0 or len(test) == 0:
            raise UserError(
                f"{self._folder} has {len(train)} training and {len(test)} test windows of the chosen nodes, but needs "
                f"both; choose more nodes, or add windows and run: {self._command}"
            )
        index = {name: label for label, name in enumerate(self.activities)}
        validation = test
        if self.protocol == "honest":
            train, validation = packed.carve(train, index, self.validation_share, self.split_seed)
        return packed.parts(train, validation, test, index)

    def prepare(self, workers: int = 1) -> None:
        """Checks the arrays of every subject and packs their windows, or goes on where it was stopped.

        Args:
            workers: how many windows are read at the same time.

        Raises:
            UserError: if there are no arrays, they contradict themselves, or the pack can't be written.
        """
        folders = self._find()
        samples, arrays = self._read(folders)

        def decode(sample: Sample) -> dict[str, np.ndarray]:
            row = int(sample.id.rpartition("/")[2])
            sequences = {
                name: sensor.sequence(arrays[sample.files[name]][row]) for name, sensor in self.sensors.items()
            }
            for name, sequence in sequences.items():
                if not np.isfinite(sequence).all():
                    raise BadSample(f"the {name} holds values that are no finite numbers")
            return sequences

        options = {"nodes": list(folders), "synthetic": self._synthetic}
        layout = {name: (sensor.shape, "float32") for name, sensor in self.sensors.items()}
        pack(self._folder, type(self).__name__, options, samples, layout, decode, workers)
        self._forget()

    def write_synthetic(self) -> None:
        """Writes two subjects with four training and two test windows of each class, in the raw layout.

        Each sensor shows a wave whose frequency tells a part of the class; only together they tell all of it.

        Raises:
            UserError: if the root holds anything.
        """
        begin_twin(self.root, "windows")
        rng = np.random.default_rng(0)
        for node in (1, 2):
            folder = self.root / f"node_{node}"
            folder.mkdir()
            for part, windows in (("train", 4), ("test", 2)):
                labels = np.arange(len(self.activities)).repeat(windows)
                np.save(folder / f"y_{part}.npy", labels, allow_pickle=False)
                parts = (labels // 4, labels % 4)
                for sensor, tells in zip(self.sensors.values(), parts, strict=True):
                    np.save(folder / sensor.file.format(part=part), _waves(sensor, tells, rng), allow_pickle=False)

    def details(self) -> dict[str, object]:
        """What tells this variant from others, as plain data for the results."""
        return {
            "nodes": "all" if self.nodes is None else sorted(self.nodes),
            "validation_share": self.validation_share,
            "split_seed": self.split_seed,
            "protocol": self.protocol,
            "synthetic": self._synthetic,
        }

    def _find(self) -> dict[int, Path]:
        """The subjects' folders by number, in order."""
        found: dict[int, Path] = {}
        for folder in sorted(self.root.glob("node_*")):
            number = folder.name.removeprefix("node_")
            if folder.is_dir() and number.isdecimal():
                other = found.setdefault(int(number), folder)
                if other != folder:
                    raise UserError(f"{other} and {folder} are both node {int(number)}; rename or remove one of them.")
        if not found:
            raise UserError(
                f"{self.root} holds no folder node_<number>; put the arrays of Harmony's release there, or point "
                f"--root to the folder that holds them."
            )
        return dict(sorted(found.items()))

    def _read(self, folders: Mapping[int, Path]) -> tuple[list[Sample], dict[Path, np.ndarray]]:
        """Every window as a sample, and the arrays that hold them, by file."""
        samples: list[Sample] = []
        arrays: dict[Path, np.ndarray] = {}
        for node, folder in folders.items():
            for part in PARTS:
                labels = self._labels(folder / f"y_{part}.npy")
                files = {name: folder / sensor.file.format(part=part) for name, sensor in self.sensors.items()}
                for name, file in files.items():
                    arrays[file] = _load(file)
                    expected = (len(labels), *self.sensors[name].window)
                    if arrays[file].shape != expected:
                        raise UserError(
                            f"{file} holds an array of the shape {arrays[file].shape} where {expected} is expected, a "
                            f"window for each label of y_{part}.npy; copy {folder} anew from its source."
                        )
                samples += [
                    Sample(f"node_{node}/{part}/{row:05}", part, self.activities[label], files)
                    for row, label in enumerate(labels)
                ]
        if not samples:
            raise UserError(f"the arrays under {self.root} hold no window; copy them anew from their source.")
        return samples, arrays

    def _labels(self, file: Path) -> list[int]:
        labels = _load(file)
        if labels.ndim != 1:
            raise UserError(
                f"{file} holds an array of the shape {labels.shape} where one label for each window is expected; copy "
                f"the file anew from its source."
            )
        last = len(self.activities) - 1
        wrong = np.flatnonzero(~np.isin(labels, np.arange(last + 1)))
        if len(wrong):
            hint = " (if they count from 1, subtract 1 in every y_*.npy)" if labels[wrong[0]] == last + 1 else ""
            raise UserError(
                f"{file}, row {wrong[0]}: the label is {labels[wrong[0]]}, but labels are 0 to {last}{hint}; correct "
                f"it or copy the file anew from its source."
            )
        return [int(label) for label in labels]


def _load(file: Path) -> np.ndarray:
    """An array of numbers, memory-mapped."""
    if not file.is_file():
        raise UserError(f"There is no {file}; copy the folder {file.parent} anew from its source.")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} can't be read ({error}); copy the file anew from its source.") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        raise UserError(f"{file} holds no array of numbers; copy the file anew from its source.")
    return array


def _waves(sensor: Sensor, tells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, *window) float32: a wave of 2, 5, 8 or 11 periods, as ``tells`` has it, and noise."""
    length, values = sensor.shape
    time = np.arange(length)[:, None] / length
    phase = rng.uniform(0, 2 * np.pi, (len(tells), 1, 1)) + np.arange(values)
    wave = np.sin(2 * np.pi * (2 + 3 * tells[:, None, None]) * time + phase) + rng.normal(
        0, 0.2, (len(tells), length, values)
    )
    others = [size for axis, size in enumerate(sensor.window) if axis != sensor.time]
    return np.moveaxis(wave.reshape(len(tells), length, *others), 1, 1 + sensor.time).astype(np.float32)
