"""Clips with sound, a few seconds long: what KineticsSounds, VGGSound and AVE have in common."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mmlab.data.packing import BadSample, Sample
from mmlab.data.video import read_audio, read_frames
from mmlab.errors import UserError

RATE = 16_000
SAMPLES = 10 * RATE
STORED_FRAMES = 10


def clip_layout(frame_side: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """What is packed of a clip: 10 s of sound, and 10 square frames whose sides have that many pixels."""
    return {"audio": ((SAMPLES,), "int16"), "visual": ((STORED_FRAMES, 3, frame_side, frame_side), "uint8")}


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


def read_list(file: Path, advice: str) -> list[str]:
    """The lines of a UTF-8 text file.

    Args:
        file: to read.
        advice: what to do where there is no such file, for the error.

    Raises:
        UserError: if it can't be read, or is no such text.
    """
    try:
        return file.read_bytes().decode("utf-8-sig").splitlines()
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}); {advice}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no UTF-8 text ({error}); save it in UTF-8.") from error


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
