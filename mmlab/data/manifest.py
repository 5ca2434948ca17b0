"""Your own data: a CSV file that names the samples' files."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmlab.data.aligned import AlignedDepth, AlignedImage, AlignedLabels, Geometry, normalised_depth
from mmlab.data.base import LabelMaps, MultimodalDataset, Split, SplitName, Transform, carve_validation
from mmlab.data.image import Normalise
from mmlab.data.packing import Packed, Sample, open_packed, pack, packed_options
from mmlab.data.pictures import nearest
from mmlab.data.spectrogram import LogMel
from mmlab.draws import Draws
from mmlab.errors import UserError, did_you_mean
from mmlab.types import Classification, Modality, Segmentation

SPLITS = ("train", "val", "test")
_PICTURES = (".png", ".jpg", ".jpeg", ".npy")
READABLE = {
    "audio": (".wav", ".flac", ".npy"),
    "image": _PICTURES,
    "rgb": _PICTURES,
    "depth": (".png", ".npy"),
    "ir": _PICTURES,
}
LABEL_MAPS = (".png", ".npy")
MELS = 40
# Rough scales that suit speech, music and photographs alike: no statistics of your data are needed.
LOG_MEL_MEAN, LOG_MEL_STD = -4.0, 4.0
GREY_MEAN, GREY_STD = 0.5 * 255, 0.25 * 255
DEPTH_MEAN, DEPTH_STD = 1.0, 0.5  # of depth as a multiple of its median
ZOOM = (1.0, 1.4)  # in training for segmentation


@dataclass(frozen=True)
class _Table:
    samples: list[Sample]
    lines: dict[tuple[str, str], int]
    """The line of each sample, by split and id."""
    modalities: tuple[str, ...]
    sha256: str


class Manifest(MultimodalDataset):
    """Your own data, from a CSV file and nothing else.

    Its columns are ``id``, ``split`` (train, val or test), ``target`` (the class), and one or several of ``audio``,
    ``image``, ``rgb``, ``depth`` and ``ir``, which name files. An empty cell says that the sample lacks the modality.

    - Audio files are wav, flac or npy (a waveform at ``sample_rate``: int16, or floats in [-1, 1]); they are mixed to
      mono, resampled, and cut or filled with silence to ``seconds``, both around the middle.
    - Files of ``image``, ``rgb`` and ``ir`` are png, jpg or npy (uint8, height x width or height x width x 3) and are
      resized, those of ``ir`` as grey levels.
    - Files of ``depth`` are png or npy (height x width, whole numbers such as 16-bit millimetres, or floats in any
      unit); what is not above 0 is invalid. Each map is divided by the median of its valid pixels, so that no unit and
      no statistics are needed, and what is absolute about it is lost. It is resized to the nearest pixel; invalid
      pixels are 0 after the normalisation, the mean.
    - For segmentation, ``target`` names a label map (png or npy of uint8, height x width: positions in ``classes``, 255
      for pixels that don't count), resized to the nearest pixel. Training zooms in by up to 1.4, crops and mirrors,
      with one draw for all pictures, depth and labels of a sample.

    The files are packed when they are first needed, and again when the CSV file or an option that matters changes (not
    when only a file it names does: run ``mmlab prepare`` then).

    Args:
        csv: the CSV file, in UTF-8.
        root: folder that the file names are relative to; by default the CSV file's own.
        image_size: side of the pictures, in pixels, or their height and width.
        sample_rate: of the packed audio, in Hz.
        seconds: length of the packed audio.
        classes: the classes in the order of the logits; by default those of the file, sorted. Needed for segmentation.
        validation_share: of each class of the training part (of all of it for segmentation) that is carved off for
            validation where the file has no ``val`` rows.
        split_seed: of that draw.
        out: folder for the packed data; by default the CSV file's name with ``.packed``.
        task: ``classification``, or ``segmentation`` for a class of each pixel.
    """

    def __init__(
        self,
        csv: str,
        root: str | None = None,
        image_size: int | tuple[int, int] = 64,
        sample_rate: int = 16_000,
        seconds: float = 1.0,
        classes: list[str] | None = None,
        validation_share: float = 0.1,
        split_seed: int = 0,
        out: str | None = None,
        task: Literal["classification", "segmentation"] = "classification",
    ) -> None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, width) < 1 or sample_rate < 1000 or seconds < 0.1:
            raise UserError(
                f"image_size {image_size}, sample_rate {sample_rate}, seconds {seconds}: "
                "choose at least 1 pixel, 1000 Hz and 0.1 s."
            )
        if task == "segmentation" and classes is None:
            raise UserError(
                "Manifest needs classes for segmentation: name them in the order of the labels, "
                "--data.dataset.classes '[road, pothole]'."
            )
        if not 0 < validation_share < 1:
            raise UserError(f"validation_share is {validation_share}; choose a share between 0 and 1.")
        self.csv = Path(csv)
        self.root = self.csv.parent if root is None else Path(root)
        self.size = (height, width)
        self.sample_rate = sample_rate
        self.seconds = seconds
        self.classes = classes
        self.validation_share = validation_share
        self.split_seed = split_seed
        self.segmentation = task == "segmentation"
        self.out = self.csv.with_name(self.csv.name + ".packed") if out is None else Path(out)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Those that the file has columns for."""
        grey = ((GREY_MEAN,), (GREY_STD,), 0.0, 255.0)
        known = {
            "audio": Modality("audio", "audio", self._log_mel.shape, (LOG_MEL_MEAN,), (LOG_MEL_STD,)),
            "image": Modality("image", "image", (3, *self.size), *grey),
            "rgb": Modality("rgb", "image", (3, *self.size), *grey),
            # As much of the spread as the usual noise of pictures is of theirs.
            "depth": Modality("depth", "depth", (1, *self.size), (DEPTH_MEAN,), (DEPTH_STD,), 0.0, noise=0.08),
            "ir": Modality("ir", "image", (1, *self.size), *grey),
        }
        return tuple(known[name] for name in self._table.modalities)

    @property
    def task(self) -> Classification | Segmentation:
        """Into ``classes``."""
        classes = tuple(self._index)
        return Segmentation(classes) if self.segmentation else Classification(classes)

    def transforms(self) -> dict[str, Transform]:
        """Log-mel spectrograms (40 bands, 25 ms frames every 10 ms), normalised pictures and depth, labels."""
        geometry = Geometry(self.size, ZOOM)
        picture: Transform = Normalise((GREY_MEAN,), (GREY_STD,))
        depth: Transform = _normalised_depth
        if self.segmentation:
            picture = AlignedImage(geometry, (GREY_MEAN,), (GREY_STD,))
            depth = AlignedDepth(geometry, DEPTH_MEAN, DEPTH_STD, keep_invalid=True)
        known: dict[str, Transform] = {
            "audio": self._log_mel,
            "image": picture,
            "rgb": picture,
            "depth": depth,
            "ir": picture,
        }
        transforms = {name: known[name] for name in self._table.modalities}
        return transforms | ({"target": AlignedLabels(geometry)} if self.segmentation else {})

    def splits(self) -> dict[SplitName, Split]:
        """Packs the files if need be, and opens the pack.

        Raises:
            UserError: if the CSV file, or a file that it names, is not as described above.
        """
        index = self._index
        if packed_options(self.out) != self._options:
            self.prepare()
        packed = open_packed(self.out, "Manifest", f"mmlab prepare Manifest --csv {self.csv}")
        train, validation, test = (np.flatnonzero(packed.split == name) for name in SPLITS)
        if self.segmentation:
            if len(validation) == 0:
                train, validation = self._carved(train)
            return {
                "train": _with_maps(packed, train),
                "val": _with_maps(packed, validation),
                "test": _with_maps(packed, test),
            }
        if len(validation) == 0:
            train, validation = packed.carve(train, index, self.validation_share, self.split_seed)
        return packed.parts(train, validation, test, index)

    def prepare(self, workers: int = 1) -> None:
        """Checks the CSV file and packs the files that it names.

        Raises:
            UserError: see :meth:`splits`.
        """
        _ = self._index  # checks the classes before hours of decoding
        for sample in self._table.samples:
            for file in sample.files.values():
                if not file.is_file():
                    raise UserError(
                        f"{self._place(sample)}: there is no file {file}{_looked_from(file)}; "
                        "correct the path or set root."
                    )
        trained = [sample for sample in self._table.samples if sample.split == "train"]
        for modality in self._table.modalities:
            if not any(modality in sample.files for sample in trained):
                raise UserError(
                    f"{self.csv} names no {modality} file in any train row; name some or remove the column {modality}."
                )
        coloured, grey = ((3, *self.size), "uint8"), ((1, *self.size), "uint8")
        known: dict[str, tuple[tuple[int, ...], str]] = {
            "audio": ((round(self.seconds * self.sample_rate),), "int16"),
            "image": coloured,
            "rgb": coloured,
            "depth": ((1, *self.size), "float16"),
            "ir": grey,
            "target": (self.size, "uint8"),
        }
        maps = ("target",) if self.segmentation else ()
        layout = {name: known[name] for name in (*self._table.modalities, *maps)}
        pack(self.out, "Manifest", self._options, self._table.samples, layout, self._decode, workers)

    def details(self) -> dict[str, object]:
        """What tells this data set from others, as plain data for the results."""
        given = any(sample.split == "val" for sample in self._table.samples)
        return {
            "csv": self.csv.name,
            **self._options,
            "validation": "given" if given else f"carved, share {self.validation_share}, seed {self.split_seed}",
        }

    @property
    def _options(self) -> dict[str, object]:
        height, width = self.size
        return {
            "csv_sha256": self._table.sha256,
            # Relative, so that a folder that was moved with its pack needn't be packed again.
            "root": os.path.relpath(self.root.resolve(), self.csv.parent.resolve()),
            "image_size": height if height == width else [height, width],
            "sample_rate": self.sample_rate,
            "seconds": self.seconds,
            **({"task": "segmentation", "classes": list(self._index)} if self.segmentation else {}),
        }

    @cached_property
    def _log_mel(self) -> LogMel:
        return LogMel(
            self.sample_rate,
            samples=round(self.seconds * self.sample_rate),
            n_fft=round(0.025 * self.sample_rate),
            hop=round(0.01 * self.sample_rate),
            mels=MELS,
            mean=LOG_MEL_MEAN,
            std=LOG_MEL_STD,
        )

    @cached_property
    def _index(self) -> dict[str, int]:
        """The index of each class name; checked."""
        used = {sample.target for sample in self._table.samples}
        names = sorted(used) if self.classes is None else self.classes
        # A label map's classes are seen when it is read.
        samples = [] if self.segmentation else self._table.samples
        for sample in samples:
            if sample.target not in names:
                raise UserError(
                    f"{self._place(sample)}: {sample.target!r} is not among the classes"
                    f"{did_you_mean(sample.target, names)}; correct the target or add it to classes."
                )
        trained = {sample.target for sample in samples if sample.split == "train"}
        for sample in samples:
            if self.classes is None and sample.target not in trained:
                raise UserError(
                    f"{self._place(sample)}: no train row has the class {sample.target!r}"
                    f"{did_you_mean(sample.target, trained)}; correct the target, or list it in classes."
                )
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise UserError(f"classes names {twice[0]!r} twice; name every class once.")
        if len(names) < 2:
            where = self.csv if self.classes is None else "classes"
            raise UserError(f"{where} has {len(names)} class; at least two are needed.")
        if self.segmentation and len(names) > 255:
            raise UserError(f"classes has {len(names)} names; a label map holds no more than 255 classes.")
        return {name: label for label, name in enumerate(names)}

    def _place(self, sample: Sample) -> str:
        return f"{self.csv}, line {self._table.lines[sample.split, sample.id]}"

    @cached_property
    def _table(self) -> _Table:
        """The CSV file, checked; no file that it names is opened."""
        try:
            content = self.csv.read_bytes()
            text = content.decode("utf-8-sig")
        except OSError as error:
            raise UserError(
                f"{self.csv} can't be read ({error.strerror}){_looked_from(self.csv)}; check the path."
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(f"{self.csv} is no UTF-8 text ({error}); save it as a CSV file in UTF-8.") from error
        first = text.lstrip().partition("\n")[0]
        for mark, name in ((";", "semicolons"), ("\t", "tabs")):
            if mark in first and "," not in first:
                raise UserError(f"{self.csv} separates its columns by {name}; save it with commas instead.")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            rows = [(reader.line_num, row) for row in reader if row]
        except csv.Error as error:
            raise UserError(f"{self.csv}, line {reader.line_num}: this is no CSV table ({error}).") from error
        if not rows:
            raise UserError(
                f"{self.csv} is empty; its first line must name the columns id, split, target and one of "
                f"{', '.join(READABLE)}."
            )
        columns = [column.strip() for column in rows[0][1]]
        modalities = self._modalities(columns)
        samples: list[Sample] = []
        lines: dict[tuple[str, str], int] = {}
        first_line: dict[str, int] = {}
        for line, row in rows[1:]:
            place = f"{self.csv}, line {line}"
            if len(row) != len(columns):
                raise UserError(
                    f"{place} has {len(row)} cells, but there are {len(columns)} columns; correct the line."
                )
            cells = {column: cell.strip() for column, cell in zip(columns, row, strict=True)}
            name, split = cells["id"], cells["split"]
            empty = [column for column in ("id", "split", "target") if not cells[column]]
            if empty:
                raise UserError(f"{place}: the cell of {empty[0]} is empty; fill it in.")
            if split not in SPLITS:
                raise UserError(
                    f"{place}: unknown split {split!r}{did_you_mean(split, SPLITS)}; use train, val or test."
                )
            if name in first_line:
                raise UserError(f"{place}: the id {name!r} is used in line {first_line[name]} already; make it unique.")
            files = {modality: self.root / cells[modality] for modality in modalities if cells[modality]}
            if not files:
                raise UserError(f"{place}: {name!r} names no file of any modality; name one or remove the line.")
            for modality, file in files.items():
                if file.suffix.lower() not in READABLE[modality]:
                    known = ", ".join(READABLE[modality])
                    raise UserError(
                        f"{place}: {file.name} is no {modality} file that can be read; convert it to {known}."
                    )
            if self.segmentation:
                if not cells["target"].lower().endswith(LABEL_MAPS):
                    raise UserError(
                        f"{place}: the target {cells['target']!r} names no label map; for segmentation it must be a "
                        f"file: {', '.join(LABEL_MAPS)}."
                    )
                files["target"] = self.root / cells["target"]
            first_line[name] = lines[split, name] = line
            samples.append(Sample(name, split, cells["target"], files))
        for split in ("train", "test"):
            if not any(sample.split == split for sample in samples):
                raise UserError(f"{self.csv} has no {split} rows; mark some samples with the split {split}.")
        return _Table(samples, lines, modalities, hashlib.sha256(content).hexdigest())

    def _modalities(self, columns: list[str]) -> tuple[str, ...]:
        needed, known = ("id", "split", "target"), ("id", "split", "target", *READABLE)
        for column in columns:
            if column not in known:
                raise UserError(
                    f"{self.csv} has an unknown column {column!r}{did_you_mean(column, known)}; "
                    f"rename or remove it: the columns are {', '.join(known)}."
                )
            if columns.count(column) > 1:
                raise UserError(f"{self.csv} has two columns {column!r}; remove one.")
        for column in needed:
            if column not in columns:
                raise UserError(f"{self.csv} has no column {column!r}; add it to the first line and to every row.")
        modalities = tuple(name for name in READABLE if name in columns)
        if not modalities:
            raise UserError(f"{self.csv} has no modality; add a column {' or '.join(READABLE)} that names files.")
        return modalities

    def _carved(self, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Training samples split into training and validation."""
        kept, carved = carve_validation(np.zeros(len(train)), self.validation_share, self.split_seed)
        if len(carved) == 0:
            raise UserError(
                f"{self.csv} has one train row, too few to carve a validation split: add some, or mark val rows."
            )
        return train[kept], train[carved]

    def _decode(self, sample: Sample) -> dict[str, np.ndarray]:
        values = {}
        for name, file in sample.files.items():
            try:
                values[name] = self._read(name, file)
            except (OSError, ValueError, EOFError, RuntimeError, SyntaxError, Image.DecompressionBombError) as error:
                # PIL raises SyntaxError on broken png files, soundfile RuntimeError on broken sound.
                raise UserError(
                    f"{self._place(sample)}: {file} can't be used ({error}); replace the file or remove the line."
                ) from error
        return values

    def _read(self, name: str, file: Path) -> np.ndarray:
        if name == "audio":
            return self._read_audio(file)
        if name == "depth":
            return self._read_depth(file)
        if name == "target":
            return self._read_labels(file)
        return self._read_image(file, "L" if name == "ir" else "RGB")

    def _read_audio(self, file: Path) -> np.ndarray:
        """(samples,) int16."""
        if file.suffix.lower() == ".npy":
            wave, rate = _float_wave(np.load(file, allow_pickle=False)), self.sample_rate
        else:
            import soundfile

            promised = soundfile.info(file).frames
            channels, rate = soundfile.read(file, dtype="float32", always_2d=True)
            if len(channels) < promised or _truncated_wav(file):
                raise ValueError("it is truncated")
            wave = channels.mean(axis=1)
        if len(wave) == 0 or not np.isfinite(wave).all():
            raise ValueError("it is empty or holds values that are not finite")
        if rate != self.sample_rate:
            from torchaudio.functional import resample

            wave = resample(torch.from_numpy(wave), rate, self.sample_rate).numpy()
        wanted = round(self.seconds * self.sample_rate)
        spare = wanted - len(wave)
        middle = np.pad(wave, (spare // 2, spare - spare // 2)) if spare > 0 else wave[-spare // 2 :][:wanted]
        return (middle * 32768).round().clip(-32768, 32767).astype(np.int16)

    def _read_image(self, file: Path, mode: Literal["RGB", "L"]) -> np.ndarray:
        """(3, height, width) uint8, or (1, height, width) for grey levels."""
        if file.suffix.lower() == ".npy":
            pixels = np.load(file, allow_pickle=False)
            if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
                raise ValueError(
                    f"it is {pixels.dtype} {pixels.shape}, not uint8 with (height, width) or (height, width, 3)"
                )
            image = Image.fromarray(pixels)
        else:
            image = ImageOps.exif_transpose(Image.open(file))
            if image.mode[0] in "IF":  # conversion would cut 16-bit grey levels at 255
                raise ValueError("it has more than 8 bits for each channel")
        resized = np.asarray(image.convert(mode).resize(self.size[::-1], Image.Resampling.BILINEAR))
        return resized.reshape(*self.size, -1).transpose(2, 0, 1)

    def _read_depth(self, file: Path) -> np.ndarray:
        """(1, height, width) float16, as a multiple of the median of the valid pixels; 0 where it is invalid."""
        depth = _plane(file)
        if not np.issubdtype(depth.dtype, np.number) or np.iscomplexobj(depth):
            raise ValueError(f"it holds {depth.dtype}, not numbers")
        # A double, as numbers of 32 bits have no exact place in a float.
        known = np.nan_to_num(depth.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        valid = known[known > 0]
        if not len(valid):
            raise ValueError("no pixel is above 0, so nothing was measured")
        relative = (known / np.median(valid)).clip(0, np.finfo(np.float16).max)
        return nearest(relative, self.size).astype(np.float16)[None]

    def _read_labels(self, file: Path) -> np.ndarray:
        """(height, width) uint8."""
        labels = _plane(file)
        if labels.dtype != np.uint8:
            raise ValueError(f"it holds {labels.dtype}, not 8-bit labels")
        classes = len(self._index)
        other = labels[(labels >= classes) & (labels != Segmentation.ignore_index)]
        if other.size:
            raise ValueError(
                f"it holds the label {other.min()}, but there are only the classes 0 to {classes - 1} and "
                f"{Segmentation.ignore_index} for no label"
            )
        return nearest(labels, self.size)


def _normalised_depth(raw: Tensor, draws: Draws | None) -> Tensor:
    return normalised_depth(raw.to(torch.float32), DEPTH_MEAN, DEPTH_STD, keep_invalid=True)


def _with_maps(packed: Packed, positions: np.ndarray) -> Split:
    """The samples at some positions as a split whose targets are label maps."""
    names = [name for name in packed.arrays if name != "target"]
    columns = [name != "target" for name in packed.arrays]
    return Split(
        ids=[packed.ids[position] for position in positions],
        targets=LabelMaps(packed.arrays["target"], packed.rows[positions]),
        rows=packed.rows[positions],
        arrays={name: packed.arrays[name] for name in names},
        present=packed.present[positions][:, columns],
    )


def _plane(file: Path) -> np.ndarray:
    """(height, width) of a png or npy file, as it is; of a png with a palette, the indices."""
    if file.suffix.lower() == ".npy":
        plane = np.load(file, allow_pickle=False)
    else:
        with Image.open(file) as image:
            plane = np.asarray(image)
    if plane.ndim != 2:
        raise ValueError(f"it is {plane.dtype} {plane.shape}, not (height, width): one number for each pixel")
    return plane


def _looked_from(path: Path) -> str:
    """For the message that a file is absent: where a relative path was looked for."""
    return "" if path.is_absolute() else f", looked for from {Path.cwd()}"


def _truncated_wav(file: Path) -> bool:
    # libsndfile reads what is left of a wav file without a word.
    with file.open("rb") as stream:
        head = stream.read(8)
    promised = int.from_bytes(head[4:], "little")
    # Programs that write to a pipe leave the size open with all bits set.
    return head[:4] == b"RIFF" and promised != 0xFFFFFFFF and file.stat().st_size < promised + 8


def _float_wave(wave: np.ndarray) -> np.ndarray:
    """A waveform (samples,) of int16, or of floats in [-1, 1], as float32."""
    if wave.ndim != 1 or not (wave.dtype == np.int16 or np.issubdtype(wave.dtype, np.floating)):
        raise ValueError(f"it is {wave.dtype} {wave.shape}, not int16 or floats with (samples,)")
    if wave.dtype == np.int16:
        return wave.astype(np.float32) / 32768
    if np.abs(wave).max(initial=0.0) > 1:
        raise ValueError("its values go beyond -1 and 1")
    return wave.astype(np.float32)
