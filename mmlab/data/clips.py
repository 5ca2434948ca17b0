"""Clips with sound, a few seconds long: what KineticsSounds, VGGSound and AVE have in common."""

from __future__ import annotations

import os
from abc import ABC
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmlab.data.base import ProtocolName
from mmlab.data.image import IMAGENET_MEAN, IMAGENET_STD, RandomResizedCropFlip
from mmlab.data.packed import PackedDataset
from mmlab.data.packing import BadSample, Sample, pack
from mmlab.data.video import read_audio, read_frames
from mmlab.errors import UserError
from mmlab.types import Modality

RATE = 16_000
SAMPLES = 10 * RATE
STORED_FRAMES = 10


class ClipDataset(PackedDataset, ABC):
    """Clips that are packed as 10 s of sound and 10 square frames each.

    Args:
        root: folder of the raw data and of the pack.
        frames: how many of the 10 stored frames an encoder sees.
        frame_side: side of the stored frames, in pixels.
        image_size: side of the frames that an encoder sees, in pixels.
        protocol: ``honest``, or ``official`` for selection on the test split.

    Raises:
        UserError: if an option is out of its range.
    """

    def __init__(self, root: str, frames: int, frame_side: int, image_size: int, protocol: ProtocolName) -> None:
        if not 1 <= frames <= STORED_FRAMES:
            raise UserError(f"frames is {frames}, but {STORED_FRAMES} are stored: choose 1 to {STORED_FRAMES}.")
        if frame_side < 1 or image_size < 1:
            raise UserError(f"frame_side is {frame_side} and image_size {image_size}; choose at least 1 pixel.")
        super().__init__(root)
        self.frames = frames
        self.frame_side = frame_side
        self.image_size = image_size
        self.protocol = protocol

    @property
    def _visual(self) -> Modality:
        shape = (3, self.frames, self.image_size, self.image_size)
        return Modality("visual", "frames", shape, IMAGENET_MEAN, IMAGENET_STD, 0.0, 255.0)

    def _crops(self) -> RandomResizedCropFlip:
        return RandomResizedCropFlip(self.image_size, IMAGENET_MEAN, IMAGENET_STD, frames=self.frames, draw="visual")

    @property
    def _folder(self) -> Path:
        return self.root / f"packed-{self.frame_side}px"

    @property
    def _command(self) -> str:
        return super()._command + ("" if self.frame_side == 256 else f" --frame_side {self.frame_side}")

    def _pack(
        self,
        options: Mapping[str, Any],
        samples: Sequence[Sample],
        decode: Callable[[Sample], Mapping[str, np.ndarray]],
        workers: int,
    ) -> None:
        """Packs the clips, see :func:`~mmlab.data.packing.pack`; to the options it adds those of every such set."""
        layout = {
            "audio": ((SAMPLES,), "int16"),
            "visual": ((STORED_FRAMES, 3, self.frame_side, self.frame_side), "uint8"),
        }
        every = {"frame_side": self.frame_side, **options, "synthetic": self._synthetic}
        pack(self._folder, type(self).__name__, every, samples, layout, decode, workers)
        self._forget()


def mp4_files(paths: Iterable[Path]) -> list[Path]:
    """Those that are mp4 files, in any case (``.MP4``), sorted; a link that leads nowhere is none."""
    return sorted(path for path in paths if path.suffix.lower() == ".mp4" and path.is_file())


def decode_clip(sample: Sample, frame_side: int, fewest: int) -> dict[str, np.ndarray]:
    """The first 10 s of a clip's sound and 10 of its frames, evenly picked from the first ones of every second.

    Args:
        sample: whose ``files`` name the clip under ``audio`` and ``visual``.
        frame_side: of the frames, in pixels.
        fewest: how many seconds the clip must have.

    Returns:
        ``audio`` (160000,) int16, 16 kHz, mono, repeated where it is shorter, and ``visual``
        (10, 3, frame_side, frame_side) uint8.

    Raises:
        BadSample: if it can't be decoded, lacks sound or pictures, or is too short.
        UserError: if PyAV is not installed.
    """
    frames = read_frames(sample.files["visual"], frame_side)
    if len(frames) < fewest:
        raise BadSample(f"only {len(frames)} of the {fewest} seconds that are needed")
    audio = repeated(read_audio(sample.files["audio"], RATE), SAMPLES)
    return {"audio": audio, "visual": evenly(frames, STORED_FRAMES)}


def repeated(wave: np.ndarray, samples: int) -> np.ndarray:
    """A wave that is repeated as often as it takes to fill a length, and cut there.

    This is what DI-MML's code does when it repeats a clip of CREMA-D 3 times and one of AVE 10 times, and 10 times
    more where that is too short; and what others do who double it.

    Args:
        wave: (any,), at least one sample.
        samples: the length.

    Returns:
        (samples,) of the same type.

    Raises:
        BadSample: if there is no sample.
    """
    if len(wave) == 0:
        raise BadSample("its sound is empty")
    return np.resize(wave, samples)


def evenly(frames: np.ndarray, count: int) -> np.ndarray:
    """The middle one of each of ``count`` equal segments; a frame comes twice where there are fewer than that."""
    places = (np.arange(count) + 0.5) * len(frames) / count
    return frames[places.astype(np.int64)]


def read_list(file: Path, advice: str) -> dict[int, str]:
    """The lines of a UTF-8 text file that aren't blank, by number.

    Args:
        file: to read.
        advice: what to do where there is no such file, for the error.

    Raises:
        UserError: if it can't be read, is no such text, or all of it is blank.
    """
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}); {advice}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no UTF-8 text ({error}); save it in UTF-8.") from error
    filled = {number: line for number, line in enumerate(lines, 1) if line.strip()}
    if not filled:
        raise UserError(f"{file} is empty; copy it anew from its source.")
    return filled


def name_missing(root: Path, missing: Sequence[str], listed: int) -> None:
    """Says how many of the listed clips have no file, and names all of them in ``<root>/missing.txt``.

    Args:
        root: folder of the data set.
        missing: names of the clips.
        listed: how many there should be.
    """
    file = root / "missing.txt"
    if not missing:
        file.unlink(missing_ok=True)
        return
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text("".join(f"{name}\n" for name in missing))
    os.replace(temporary, file)
    print(
        f"There is no video of {len(missing)} of the {listed} listed clips (first: {missing[0]}); they are left out "
        f"and named in {file}."
    )


def synthetic_clip(label: int, rng: np.random.Generator) -> tuple[np.ndarray, int, np.ndarray]:
    """Frames (20, 48, 64, 3) at 5 fps, the 5, and 4 s of sound: stripes and a tone that tell the class."""
    columns = np.arange(64) + 3 * np.arange(20)[:, None] + rng.integers(64)
    stripes = 0.5 + 0.5 * np.sin(2 * np.pi * columns * (label + 1) / 32)
    colour = np.array([label % 2, label // 2 % 2, 1.0])
    frames = 255 * stripes[:, None, :, None] * (0.2 + 0.8 * colour) + rng.normal(0, 10, (20, 48, 64, 3))
    time = np.arange(4 * RATE) / RATE
    sound = np.sin(2 * np.pi * 220 * 2 ** (label / 2) * time + rng.uniform(0, 6)) + rng.normal(0, 0.2, len(time))
    return frames.clip(0, 255).astype(np.uint8), 5, (8000 * sound).clip(-32768, 32767).astype(np.int16)
