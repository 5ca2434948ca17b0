"""GRIDWords: spoken words, one picture of the mouth and its motion."""

from __future__ import annotations

import numpy as np

from mmlab.data.base import ProtocolName, Split, SplitName, Transform
from mmlab.data.image import RandomShiftFlip
from mmlab.data.npz import Layout, NpzDataset
from mmlab.types import Classification, Modality

WORDS = ("bin", "lay", "place", "set", "blue", "green", "red", "white", "at", "by", "in", "with")

LAYOUT: Layout = {
    "rgb": ("uint8", (None, 48, 72, 3)),
    "flow": ("int8", (None, 10, 2, 24, 36)),
    "label": ("uint8", (None,)),
    "sentence": ("str", (None,)),
    "word_slot": ("uint8", (None,)),
}

# Measured on the 695 training samples. Flow is in 1/32 pixel; x averages to 0 because half of them are mirrored.
RGB_MEAN, RGB_STD = (180.6, 130.7, 89.1), (23.0, 26.5, 18.0)
FLOW_MEAN, FLOW_STD = (0.0, -0.3), (17.1, 17.3)
FLOW_NOISE = 1.7


class GRIDWords(NpzDataset):
    """One word of each of 994 sentences of speaker s1 of the GRID corpus (Cooke, Barker, Cunningham and Shao, 2006).

    695 / 99 / 200 clips, 12 classes (commands, colours and prepositions), balanced: the word's middle frame in colour,
    and dense optical flow (DIS) of the ten steps around it, at half that frame's resolution. No two splits share a
    sentence.

    Training moves both streams by -2, 0 or 2 pixels of the frame in each direction and mirrors them with probability
    1/2, where the flow's x changes its sign. They share both draws, so that they stay aligned.

    Args:
        root: folder of ``train.npz``, ``valid.npz`` and ``test.npz``; by default ``flow_grid`` in what the
            environment variable MMLAB_DATA names, or else in ``../shared/data``.
        protocol: ``official`` trains on the training and the validation part and selects on the test split.
    """

    checksums = {
        "train.npz": "06a951390e8230ead0c6bb4c7fab249ecfee1c631065019ec7efb2fd32b3de12",
        "valid.npz": "1f89706df16397d78d3e48095573c6e61399b8ea0533d33ea63bdd5eb4656e12",
        "test.npz": "53719ad86f566d07d516bfbb767ec17bfcbdd839440cff1ba04db6d21c72e2c9",
    }

    def __init__(self, root: str | None = None, protocol: ProtocolName = "honest") -> None:
        super().__init__(root, "flow_grid", protocol)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``rgb`` (3, 48, 72) and ``flow`` (2, 10, 24, 36), whose channels are x and y.

        One unit of noise severity is 1.7 units of flow, a tenth of its standard deviation or 0.05 pixel. This is our
        choice; no source gives one for flow.
        """
        return (
            Modality("rgb", "image", (3, 48, 72), RGB_MEAN, RGB_STD, low=0.0, high=255.0),
            Modality("flow", "flow", (2, 10, 24, 36), FLOW_MEAN, FLOW_STD, low=-127.0, high=127.0, noise=FLOW_NOISE),
        )

    @property
    def task(self) -> Classification:
        """Which word is said."""
        return Classification(WORDS)

    def details(self) -> dict[str, object]:
        """Whether the data are a twin, as plain data for result.json."""
        return {"synthetic": self.synthetic}

    def splits(self) -> dict[SplitName, Split]:
        """Reads the three files into memory.

        Raises:
            UserError: if a file is absent or can't be read.
        """
        return {name: _split(file) for name, file in self.read_parts(LAYOUT, len(WORDS)).items()}

    def transforms(self) -> dict[str, Transform]:
        """Shifts and mirror images, the same for both streams."""
        return {
            "rgb": RandomShiftFlip(1, 2, RGB_MEAN, RGB_STD, draw="mouth"),
            "flow": RandomShiftFlip(1, 1, FLOW_MEAN, FLOW_STD, turned=0, draw="mouth"),
        }

    def synthetic_files(self) -> dict[str, dict[str, np.ndarray]]:
        """A twin of 60 clips: a bright row and the direction of motion tell the class."""
        return {f"{name}.npz": _synthetic(name, clips) for name, clips in (("train", 3), ("valid", 1), ("test", 1))}


def _split(file: dict[str, np.ndarray]) -> Split:
    return Split(
        ids=file["sentence"].tolist(),
        targets=file["label"].astype(np.int64),
        rows=np.arange(len(file["label"])),
        arrays={
            "rgb": np.ascontiguousarray(file["rgb"].transpose(0, 3, 1, 2)),
            "flow": np.ascontiguousarray(file["flow"].transpose(0, 2, 1, 3, 4)),
        },
        present=np.ones((len(file["label"]), 2), dtype=bool),
    )


def _synthetic(name: str, clips: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    label = np.arange(len(WORDS)).repeat(clips)
    rgb = rng.integers(0, 60, (len(label), 48, 72, 3))
    rgb[np.arange(48) // 4 == label[:, None]] += 150
    # From straight down to straight up by way of one side: the mirror takes no class to another.
    angle = np.pi * (label / (len(WORDS) - 1) - 0.5)
    direction = 40 * np.stack((np.cos(angle), np.sin(angle)), axis=1)
    flow = direction[:, None, :, None, None] + rng.normal(0, 5, (len(label), 10, 2, 24, 36))
    return {
        "rgb": rgb.astype(np.uint8),
        "flow": flow.round().astype(np.int8),
        "label": label.astype(np.uint8),
        "sentence": np.array([f"{name}{number}" for number in range(len(label))]),
        "word_slot": (label // 4).astype(np.uint8),
    }
