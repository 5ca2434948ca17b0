"""LDrawParts: toy bricks and their like, seen from the front and from the rear."""

from __future__ import annotations

from typing import Literal

import numpy as np

from mmlab.data.base import ProtocolName, Split, SplitName, Transform
from mmlab.data.image import RandomShift
from mmlab.data.npz import Layout, NpzDataset
from mmlab.types import Classification, Modality

CATEGORIES = (
    "Animal",
    "Baseplate",
    "Brick",
    "Container",
    "Door",
    "Hinge",
    "Minifig Accessory",
    "Minifig Headwear",
    "Panel",
    "Plate",
    "Slope",
    "Technic",
    "Tile",
    "Tyre",
    "Wedge",
    "Wheel",
    "Windscreen",
    "Window",
)
SIDE = 64

LAYOUT: Layout = {
    "front": ("uint8", (None, SIDE, SIDE)),
    "rear": ("uint8", (None, SIDE, SIDE)),
    "front_depth": ("uint8", (None, SIDE, SIDE)),
    "rear_depth": ("uint8", (None, SIDE, SIDE)),
    "label": ("uint8", (None,)),
    "part": ("str", (None,)),
    "description": ("str", (None,)),
}

# Measured on the 956 training samples, background (0) included.
FRONT_MEAN, FRONT_STD = 49.1, 81.4
REAR_MEAN_STD = {"shaded": (46.3, 78.3), "depth": (45.9, 76.5)}


class LDrawParts(NpzDataset):
    """Parts of the LDraw library, each rendered from the front and from the rear; the class is the part's category.

    956 / 148 / 369 parts, 18 classes of 45 to 100; no two splits share a part, but parts come in families. The
    pictures are grey, 64 x 64 pixels, with a margin of two. There is no official split: this one is drawn by class.

    Training moves each view by up to two pixels, with a draw of its own.

    Args:
        root: folder of ``train.npz``, ``val.npz`` and ``test.npz``; by default ``frontrear`` in what the environment
            variable MMLAB_DATA names, or else in ``../shared/data``.
        rear: ``depth`` shows the rear as a depth map (brighter is nearer) instead of a shaded picture, which sets the
            two views further apart.
        protocol: ``official`` trains on the training and the validation part and selects on the test split.
    """

    checksums = {
        "train.npz": "600b9f570a0ae3e545d6b8cc3414fb41aed1c47a679736244a7cc26f95ea699d",
        "val.npz": "d573d6eb27661576a32b538110a342a0cc5ebddd248410a608de836641afba29",
        "test.npz": "909e08866bbc44639cd9b942141d951d5c8e3935889b8eb11d797969caf2405c",
    }

    def __init__(
        self,
        root: str | None = None,
        rear: Literal["shaded", "depth"] = "shaded",
        protocol: ProtocolName = "honest",
    ) -> None:
        super().__init__(root, "frontrear", protocol)
        self._rear = rear

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``front`` and ``rear``, (1, 64, 64) each."""
        shape = (1, SIDE, SIDE)
        mean, std = REAR_MEAN_STD[self._rear]
        return (
            Modality("front", "image", shape, (FRONT_MEAN,), (FRONT_STD,), low=0.0, high=255.0),
            Modality("rear", "image" if self._rear == "shaded" else "depth", shape, (mean,), (std,), 0.0, 255.0),
        )

    @property
    def task(self) -> Classification:
        """Which category the part belongs to."""
        return Classification(CATEGORIES)

    def details(self) -> dict[str, object]:
        """The variant in use and whether the data are a twin, as plain data for result.json."""
        return {"variant": None if self._rear == "shaded" else "rear depth", "synthetic": self.synthetic}

    def splits(self) -> dict[SplitName, Split]:
        """Reads the three files into memory.

        Raises:
            UserError: if a file is absent or can't be read.
        """
        return {name: self._split(file) for name, file in self.read_parts(LAYOUT, len(CATEGORIES)).items()}

    def transforms(self) -> dict[str, Transform]:
        """Shifts of up to two pixels in training, drawn for each view."""
        mean, std = REAR_MEAN_STD[self._rear]
        return {
            "front": RandomShift(2, (FRONT_MEAN,), (FRONT_STD,), draw="front"),
            "rear": RandomShift(2, (mean,), (std,), draw="rear"),
        }

    def synthetic_files(self) -> dict[str, dict[str, np.ndarray]]:
        """A twin of 90 parts: the width of a block tells the class from the front, its height from the rear."""
        return {f"{name}.npz": _synthetic(name, parts) for name, parts in (("train", 3), ("val", 1), ("test", 1))}

    def _split(self, file: dict[str, np.ndarray]) -> Split:
        rear = file["rear" if self._rear == "shaded" else "rear_depth"]
        return Split(
            ids=file["part"].tolist(),
            targets=file["label"].astype(np.int64),
            rows=np.arange(len(file["label"])),
            arrays={"front": file["front"][:, None], "rear": rear[:, None]},
            present=np.ones((len(file["label"]), 2), dtype=bool),
        )


def _synthetic(name: str, parts: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    label = np.arange(len(CATEGORIES)).repeat(parts)
    reach = 3 + 1.5 * label[:, None]
    across = np.abs(np.arange(SIDE) - 31.5)
    inside, near = across < reach, across < 12
    front = near[:, None] & inside[:, None, :]
    rear = inside[:, :, None] & near
    shade = rng.integers(120, 250, (len(label), 1, 1))
    parts_named = np.array([f"{name}{number}.dat" for number in range(len(label))])
    return {
        "front": (front * shade).astype(np.uint8),
        "rear": (rear * shade).astype(np.uint8),
        "front_depth": (front * (shade // 2)).astype(np.uint8),
        "rear_depth": (rear * (shade // 2)).astype(np.uint8),
        "label": label.astype(np.uint8),
        "part": parts_named,
        "description": np.array([f"{CATEGORIES[index]} {number}" for number, index in enumerate(label)]),
    }
