"""GRIDLetters: spoken letters, sound and lips of one speaker, truly simultaneous."""

from __future__ import annotations

import math

import numpy as np

from mmlab.data.base import ProtocolName, Split, SplitName, Transform
from mmlab.data.image import RandomShift
from mmlab.data.npz import Layout, NpzDataset
from mmlab.data.spectrogram import LogMel
from mmlab.types import Classification, Modality

LETTERS = tuple("abcdefghijklmnopqrstuvxyz")
SAMPLE_RATE = 8000
SAMPLES = 3840

LAYOUT: Layout = {
    "audio": ("int16", (None, SAMPLES)),
    "video": ("uint8", (None, 12, 32, 48)),
    "label": ("uint8", (None,)),
    "sentence": ("str", (None,)),
    "words": ("str", (None,)),
}

# Measured on the 695 training samples.
LOG_MEL_MEAN, LOG_MEL_STD = -2.43, 3.52
VIDEO_MEAN, VIDEO_STD = 139.0, 21.9


class GRIDLetters(NpzDataset):
    """The letters of 994 sentences of speaker s1 of the GRID corpus (Cooke, Barker, Cunningham and Shao, 2006).

    695 / 99 / 200 clips of 0.48 s around the letter, 25 classes (w isn't among them): sound at 8 kHz, and 12 grey
    frames of the mouth. No two splits share a sentence.

    Args:
        root: folder of ``train.npz``, ``valid.npz`` and ``test.npz``; by default ``av_grid`` in what the
            environment variable MMLAB_DATA names, or else in ``../shared/data``.
        protocol: ``official`` trains on the training and the validation part and selects on the test split.
    """

    checksums = {
        "train.npz": "1b20f419d0b0bc642c0c09a73fcaa638313225a4d3abed53498391dbb6a66af2",
        "valid.npz": "3350d9084e7fc87beb3e3e8dfcffe062ec468714578ba0f0c7193a7b0f26d55a",
        "test.npz": "1718b646bb52f215979d1e87ab36cbc1b10cd6174e66d4808f993115dcef4761",
    }

    def __init__(self, root: str | None = None, protocol: ProtocolName = "honest") -> None:
        super().__init__(root, "av_grid", protocol)
        self._log_mel = LogMel(SAMPLE_RATE, SAMPLES, n_fft=256, hop=80, mels=40, mean=LOG_MEL_MEAN, std=LOG_MEL_STD)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``audio`` (1, 40, 49) and ``video`` (1, 12, 32, 48)."""
        return (
            Modality("audio", "audio", self._log_mel.shape, (LOG_MEL_MEAN,), (LOG_MEL_STD,), low=math.log(1e-6)),
            Modality("video", "frames", (1, 12, 32, 48), (VIDEO_MEAN,), (VIDEO_STD,), low=0.0, high=255.0),
        )

    @property
    def task(self) -> Classification:
        """Which letter is said."""
        return Classification(LETTERS)

    def splits(self) -> dict[SplitName, Split]:
        """Reads the three files into memory.

        Raises:
            UserError: if a file is absent or can't be read.
        """
        return {name: _split(file) for name, file in self.read_parts(LAYOUT, len(LETTERS)).items()}

    def transforms(self) -> dict[str, Transform]:
        """Log-mel spectrogram; shifts of up to two pixels in training, the same for all frames of a clip."""
        return {"audio": self._log_mel, "video": RandomShift(2, (VIDEO_MEAN,), (VIDEO_STD,), draw="video")}

    def synthetic_files(self) -> dict[str, dict[str, np.ndarray]]:
        """A twin of 125 clips: tones and bars, whose pitch and place tell the class."""
        return {f"{name}.npz": _synthetic(name, clips) for name, clips in (("train", 3), ("valid", 1), ("test", 1))}


def _split(file: dict[str, np.ndarray]) -> Split:
    count = len(file["label"])
    return Split(
        ids=file["sentence"].tolist(),
        targets=file["label"].astype(np.int64),
        rows=np.arange(count),
        arrays={"audio": file["audio"], "video": file["video"][:, None]},
        present=np.ones((count, 2), dtype=bool),
    )


def _synthetic(name: str, clips: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    label = np.arange(len(LETTERS)).repeat(clips)
    pitch = 250 + 140 * label[:, None]
    tones = 3000 * np.sin(2 * np.pi * pitch * np.arange(SAMPLES) / SAMPLE_RATE)
    video = rng.integers(0, 60, (len(label), 12, 32, 48))
    bars = np.arange(48) - 10 == label[:, None]
    video += 150 * bars[:, None, None, :]
    sentences = np.array([f"{name}{number}" for number in range(len(label))])
    return {
        "audio": tones.astype(np.int16),
        "video": video.astype(np.uint8),
        "label": label.astype(np.uint8),
        "sentence": sentences,
        "words": sentences,
    }
