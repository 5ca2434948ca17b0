"""AVDigits: spoken and handwritten digits, paired by class."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from mmlab.data.base import ProtocolName, Split, SplitName, Transform
from mmlab.data.image import RandomShift
from mmlab.data.npz import Layout, NpzDataset, check_rows, read_npz
from mmlab.data.spectrogram import LogMel
from mmlab.errors import UserError, did_you_mean
from mmlab.types import Classification, Modality

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
SAMPLE_RATE = 8000
SAMPLES = 8000

COMMON: Layout = {
    "audio": ("int16", (None,)),
    "audio_offset": ("int64", (None,)),
    "image": ("uint8", (None, 28, 28)),
    "image_pca25": ("uint8", (None, 28, 28)),
    "label": ("uint8", (None,)),
    "speaker": ("uint8", (None,)),
    "recording_index": ("uint8", (None,)),
    "mnist_index": ("int32", (None,)),
}
TRAIN: Layout = {**COMMON, "val": ("bool", (None,))}
TEST: Layout = {
    **COMMON,
    "ext_mnist_index": ("int32", (None, 10)),
    "ext_image": ("uint8", (None, 10, 28, 28)),
    "ext_image_pca25": ("uint8", (None, 10, 28, 28)),
}

# Measured on the 2400 training samples.
LOG_MEL_MEAN, LOG_MEL_STD = -10.05, 4.94
IMAGE_MEAN_STD = {"clean": (33.6, 78.9), "hard": (34.7, 54.2)}


class AVDigits(NpzDataset):
    """The Free Spoken Digit Dataset (3000 recordings, six speakers) with MNIST images of the same class.

    2400 / 300 / 300 pairs, 10 classes, balanced. Sound and image are independent given the class. The official
    test parts of both sources make up the test split.

    Args:
        root: folder of ``train.npz`` and ``test.npz``; by default ``avdigits`` in what the environment variable
            MMLAB_DATA names, or else in ``../shared/data``.
        variant: ``hard`` shows each image through its first four principal components only (28 % of the
            variance), which makes sound the stronger modality.
        unseen_speaker: trains and validates on the other speakers and tests on this one's test recordings: george,
            jackson, lucas, nicolas, theo or yweweler.
        extended_test: pairs every test recording with ten different test images instead of one.
        protocol: ``official`` trains on all training pairs and selects on the test split.

    Raises:
        UserError: if there is no such speaker.
    """

    checksums = {
        "train.npz": "a080426676c36c76077af2b9a04bb51d0c637ef1fbd492dff8a0ece893e00efc",
        "test.npz": "c898e8c1e0d3a220694369e6259346daa806def1371ae40464a738d56c7cfbcc",
    }

    def __init__(
        self,
        root: str | None = None,
        variant: Literal["clean", "hard"] = "clean",
        unseen_speaker: str | None = None,
        extended_test: bool = False,
        protocol: ProtocolName = "honest",
    ) -> None:
        if unseen_speaker is not None and unseen_speaker not in SPEAKERS:
            raise UserError(
                f"AVDigits has no speaker {unseen_speaker!r}{did_you_mean(unseen_speaker, SPEAKERS)}: "
                f"set unseen_speaker to one of {', '.join(SPEAKERS)}."
            )
        super().__init__(root, "avdigits", protocol)
        self._variant = variant
        self._unseen_speaker = unseen_speaker
        self._extended_test = extended_test
        self._log_mel = LogMel(SAMPLE_RATE, SAMPLES, n_fft=256, hop=125, mels=40, mean=LOG_MEL_MEAN, std=LOG_MEL_STD)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``audio`` (1, 40, 65) and ``image`` (1, 28, 28)."""
        mean, std = IMAGE_MEAN_STD[self._variant]
        return (
            Modality("audio", "audio", self._log_mel.shape, (LOG_MEL_MEAN,), (LOG_MEL_STD,), low=math.log(1e-6)),
            Modality("image", "image", (1, 28, 28), (mean,), (std,), low=0.0, high=255.0),
        )

    @property
    def task(self) -> Classification:
        """Which digit it is."""
        return Classification(tuple("0123456789"))

    def details(self) -> dict[str, object]:
        """The variant in use, as plain data for result.json."""
        return {
            "variant": self._variant,
            "unseen_speaker": self._unseen_speaker,
            "extended_test": self._extended_test,
        }

    def splits(self) -> dict[SplitName, Split]:
        """Reads both files into memory (60 MB of sound, cut or filled with zeros to one second).

        Raises:
            UserError: if a file is absent or can't be read.
        """
        train_file = self._read("train.npz", TRAIN)
        test_file = self._read("test.npz", TEST)
        heard = np.ones(len(SPEAKERS), dtype=bool)
        tested = np.ones(len(SPEAKERS), dtype=bool)
        if self._unseen_speaker is not None:
            tested = np.array([name == self._unseen_speaker for name in SPEAKERS])
            heard = ~tested
        training, validation = heard[train_file["speaker"]], train_file["val"]
        test = self._split(test_file, tested[test_file["speaker"]], self._extended_test)
        if self.protocol == "official":
            return {"train": self._split(train_file, training), "val": test, "test": test}
        return {
            "train": self._split(train_file, training & ~validation),
            "val": self._split(train_file, training & validation),
            "test": test,
        }

    def transforms(self) -> dict[str, Transform]:
        """Log-mel spectrogram; shifts of up to two pixels in training."""
        mean, std = IMAGE_MEAN_STD[self._variant]
        return {"audio": self._log_mel, "image": RandomShift(2, (mean,), (std,))}

    def synthetic_files(self) -> dict[str, dict[str, np.ndarray]]:
        """A twin of 180 pairs: tones and bars, whose pitch and place tell the class."""
        # Of every speaker and digit, as in the real set: 0-4 test, 5-44 train, 45-49 validation.
        train = _synthetic(recordings=(5, 45))
        test = _synthetic(recordings=(0,))
        extended = {f"ext_{name}": test[name][:, None].repeat(10, axis=1) for name in ("image", "image_pca25")}
        numbers = np.arange(10 * len(test["label"]), dtype=np.int32).reshape(-1, 10)
        return {
            "train.npz": {**train, "val": train["recording_index"] >= 45},
            "test.npz": {**test, **extended, "ext_mnist_index": numbers},
        }

    def _read(self, name: str, layout: Layout) -> dict[str, np.ndarray]:
        path = self._root / name
        arrays = read_npz(path, layout)
        check_rows(path, arrays, tuple(key for key in layout if not key.startswith("audio")), classes=10)
        offset = arrays["audio_offset"]
        ends_fit = len(offset) == len(arrays["label"]) + 1 and offset[0] == 0 and offset[-1] == len(arrays["audio"])
        if not ends_fit or (np.diff(offset) <= 0).any() or arrays["speaker"].max() >= len(SPEAKERS):
            raise UserError(
                f"{path} contradicts itself in audio_offset or speaker: copy the file anew from its source."
            )
        return arrays

    def _split(self, file: dict[str, np.ndarray], chosen: np.ndarray, extended: bool = False) -> Split:
        image = file["image"] if self._variant == "clean" else file["image_pca25"]
        number = file["mnist_index"]
        recording = np.flatnonzero(chosen)
        audio = _one_second(file["audio"], file["audio_offset"], recording)
        image, number = image[recording], number[recording]
        if extended:
            image = file["ext_image" if self._variant == "clean" else "ext_image_pca25"][recording].reshape(-1, 28, 28)
            number = file["ext_mnist_index"][recording].ravel()
            audio, recording = audio.repeat(10, axis=0), recording.repeat(10)
        spoken = zip(
            file["label"][recording].tolist(),
            file["speaker"][recording].tolist(),
            file["recording_index"][recording].tolist(),
            number.tolist(),
            strict=True,
        )
        return Split(
            ids=[f"{digit}_{SPEAKERS[speaker]}_{take}-mnist{image_row}" for digit, speaker, take, image_row in spoken],
            targets=file["label"][recording].astype(np.int64),
            rows=np.arange(len(recording)),
            arrays={"audio": audio, "image": image[:, None]},
            present=np.ones((len(recording), 2), dtype=bool),
        )


def _one_second(audio: np.ndarray, offset: np.ndarray, recordings: np.ndarray) -> np.ndarray:
    packed = np.zeros((len(recordings), SAMPLES), dtype=np.int16)
    for row, recording in enumerate(recordings.tolist()):
        clip = audio[offset[recording] : offset[recording + 1]]
        clip = clip[max(len(clip) - SAMPLES, 0) // 2 :][:SAMPLES]
        start = (SAMPLES - len(clip)) // 2
        packed[row, start : start + len(clip)] = clip
    return packed


def _synthetic(recordings: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    label, speaker, take = (axis.ravel() for axis in np.meshgrid(range(10), range(6), recordings, indexing="ij"))
    lengths = rng.integers(1200, 9000, len(label))
    tones = [
        3000 * np.sin(2 * np.pi * (250 + 300 * digit) * np.arange(length) / SAMPLE_RATE)
        for digit, length in zip(label.tolist(), lengths.tolist(), strict=True)
    ]
    image = rng.integers(0, 60, (len(label), 28, 28))
    rows = np.arange(28) // 2 - 2
    image[rows == label[:, None]] += 150
    return {
        "audio": np.concatenate(tones).astype(np.int16),
        "audio_offset": np.concatenate(([0], lengths.cumsum())),
        "image": image.astype(np.uint8),
        "image_pca25": (image // 2).astype(np.uint8),
        "label": label.astype(np.uint8),
        "speaker": speaker.astype(np.uint8),
        "recording_index": take.astype(np.uint8),
        "mnist_index": np.arange(len(label), dtype=np.int32),
    }
