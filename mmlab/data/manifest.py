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

import numpy as np

from mmlab.data.base import MultimodalDataset, Split, SplitName, Transform
from mmlab.data.image import Normalise
from mmlab.data.packing import Sample, open_packed, pack, packed_options
from mmlab.data.spectrogram import LogMel
from mmlab.errors import UserError, did_you_mean
from mmlab.types import Classification, Modality

SPLITS = ("train", "val", "test")
READABLE = {"audio": (".wav", ".flac", ".npy"), "image": (".png", ".jpg", ".jpeg", ".npy")}
MELS = 40
# Rough scales that suit speech, music and photographs alike: no statistics of your data are needed.
LOG_MEL_MEAN, LOG_MEL_STD = -4.0, 4.0
GREY_MEAN, GREY_STD = 0.5 * 255, 0.25 * 255


@dataclass(frozen=True)
class _Table:
    samples: list[Sample]
    lines: dict[tuple[str, str], int]
    """The line of each sample, by split and id."""
    modalities: tuple[str, ...]
    sha256: str


class Manifest(MultimodalDataset):
    """Your own data, from a CSV file and nothing else.

    Its columns are ``id``, ``split`` (train, val or test), ``target`` (the class), and ``audio``, ``image`` or both,
    which name files. An empty cell says that the sample lacks the modality. Audio files are wav, flac or npy (a
    waveform at ``sample_rate``: int16, or floats in [-1, 1]); they are mixed to mono, resampled, and cut or filled with
    silence to ``seconds``, both around the middle. Image files are png, jpg or npy (uint8, height x width or height x
    width x 3) and are resized to a square. The files are packed when they are first needed, and again when the CSV
    file or an option that matters changes (not when only a file it names does: run ``mmlab prepare`` then).

    Args:
        csv: the CSV file, in UTF-8.
        root: folder that the file names are relative to; by default the CSV file's own.
        image_size: side of the images, in pixels.
        sample_rate: of the packed audio, in Hz.
        seconds: length of the packed audio.
        classes: the classes in the order of the logits; by default those of the file, sorted.
        validation_share: of each class of the training part that is carved off for validation where the file has
            no ``val`` rows.
        split_seed: of that draw.
        out: folder for the packed data; by default the CSV file's name with ``.packed``.
    """

    def __init__(
        self,
        csv: str,
        root: str | None = None,
        image_size: int = 64,
        sample_rate: int = 16_000,
        seconds: float = 1.0,
        classes: list[str] | None = None,
        validation_share: float = 0.1,
        split_seed: int = 0,
        out: str | None = None,
    ) -> None:
        if image_size < 1 or sample_rate < 1000 or seconds < 0.1:
            raise UserError(
                f"image_size {image_size}, sample_rate {sample_rate}, seconds {seconds}: "
                "choose at least 1 pixel, 1000 Hz and 0.1 s."
            )
        if not 0 < validation_share < 1:
            raise UserError(f"validation_share is {validation_share}; choose a share between 0 and 1.")
        self.csv = Path(csv)
        self.root = self.csv.parent if root is None else Path(root)
        self.image_size = image_size
        self.sample_rate = sample_rate
        self.seconds = seconds
        self.classes = classes
        self.validation_share = validation_share
        self.split_seed = split_seed
        self.out = self.csv.with_name(self.csv.name + ".packed") if out is None else Path(out)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``audio``, ``image`` or both, as the file has columns."""
        size = self.image_size
        known = {
            "audio": Modality("audio", "audio", self._log_mel.shape, (LOG_MEL_MEAN,), (LOG_MEL_STD,)),
            "image": Modality("image", "image", (3, size, size), (GREY_MEAN,), (GREY_STD,), 0.0, 255.0),
        }
        return tuple(known[name] for name in self._table.modalities)

    @property
    def task(self) -> Classification:
        """Classification into ``classes``."""
        return Classification(tuple(self._index))

    def transforms(self) -> dict[str, Transform]:
        """Log-mel spectrograms (40 bands, 25 ms frames every 10 ms) and normalised images."""
        known: dict[str, Transform] = {"audio": self._log_mel, "image": Normalise((GREY_MEAN,), (GREY_STD,))}
        return {name: known[name] for name in self._table.modalities}

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
        size, samples = self.image_size, round(self.seconds * self.sample_rate)
        known = {"audio": ((samples,), "int16"), "image": ((3, size, size), "uint8")}
        layout = {name: known[name] for name in self._table.modalities}
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
        return {
            "csv_sha256": self._table.sha256,
            # Relative, so that a folder that was moved with its pack needn't be packed again.
            "root": os.path.relpath(self.root.resolve(), self.csv.parent.resolve()),
            "image_size": self.image_size,
            "sample_rate": self.sample_rate,
            "seconds": self.seconds,
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
        for sample in self._table.samples:
            if sample.target not in names:
                raise UserError(
                    f"{self._place(sample)}: {sample.target!r} is not among the classes"
                    f"{did_you_mean(sample.target, names)}; correct the target or add it to classes."
                )
        trained = {sample.target for sample in self._table.samples if sample.split == "train"}
        for sample in self._table.samples:
            if self.classes is None and sample.target not in trained:
                raise UserError(
                    f"{self._place(sample)}: no train row has the class {sample.target!r}"
                    f"{did_you_mean(sample.target, trained)}; correct the target, or list it in classes."
                )
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise UserError(f"classes names {twice[0]!r} twice; name every class once.")
        if len(names) < 2:
            raise UserError(f"{self.csv} has {len(names)} class; at least two are needed.")
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
                f"{self.csv} is empty; its first line must name the columns id, split, target, audio, image."
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

    def _decode(self, sample: Sample) -> dict[str, np.ndarray]:
        values = {}
        for name, file in sample.files.items():
            try:
                values[name] = self._read_audio(file) if name == "audio" else self._read_image(file)
            except (OSError, ValueError, EOFError, RuntimeError, SyntaxError) as error:
                # PIL raises SyntaxError on broken png files, soundfile RuntimeError on broken sound.
                raise UserError(
                    f"{self._place(sample)}: {file} can't be used ({error}); replace the file or remove the line."
                ) from error
        return values

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
            import torch
            from torchaudio.functional import resample

            wave = resample(torch.from_numpy(wave), rate, self.sample_rate).numpy()
        wanted = round(self.seconds * self.sample_rate)
        spare = wanted - len(wave)
        middle = np.pad(wave, (spare // 2, spare - spare // 2)) if spare > 0 else wave[-spare // 2 :][:wanted]
        return (middle * 32768).round().clip(-32768, 32767).astype(np.int16)

    def _read_image(self, file: Path) -> np.ndarray:
        """(3, image_size, image_size) uint8."""
        from PIL import Image, ImageOps

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
        side = self.image_size
        square = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(square).transpose(2, 0, 1)


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
