"""Pothole: roads with potholes in colour and depth, as label maps of whole frames or as classes of small patches."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mmlab.data.aligned import AlignedDepth, AlignedImage, AlignedLabels, Geometry
from mmlab.data.base import ProtocolName, Split, SplitName, Transform
from mmlab.data.class_weights import median_frequency_weights
from mmlab.data.npz import Layout, NpzDataset
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.types import Classification, Modality, Segmentation

PIXEL_CLASSES = ("road", "pothole")
PATCH_CLASSES = ("road", "edge", "inside")
HEIGHT, WIDTH = 144, 240
SIDE = 48
ZOOM = (1.0, 1.4)  # as the papers on RGB-D segmentation train on NYUv2

FRAMES: Layout = {
    "rgb": ("uint8", (None, HEIGHT, WIDTH, 3)),
    "depth": ("uint16", (None, HEIGHT, WIDTH)),
    "mask": ("uint8", (None, HEIGHT, WIDTH)),
    "dataset": ("uint8", (None,)),
    "frame": ("uint8", (None,)),
}
PATCHES: Layout = {
    "rgb": ("uint8", (None, SIDE, SIDE, 3)),
    "depth": ("uint16", (None, SIDE, SIDE)),
    "label": ("uint8", (None,)),
    "dataset": ("uint8", (None,)),
    "frame": ("uint8", (None,)),
    "yx": ("int16", (None, 2)),
}
CHECKSUMS = {
    "segmentation": {
        "seg_train.npz": "4e2fc0464a3e5c76a68f6703d01f03a0b4236061e66b583ce82245b2b1297d56",
        "seg_val.npz": "f2631a233b16b5691cedb28230098dd0c4a20a4a995dad1446b607be5de18900",
        "seg_test.npz": "65711e5371e01e22f44fbaee41a86d7da8fb604ea226196e366b8ff103de98bf",
    },
    "patches": {
        "patch_train.npz": "bd5d2768cafc120bd8d205f264eba5f93aa9f71a72dc659cdd875faf785a0840",
        "patch_val.npz": "899abf972bef1734205fe0beda396b069d38253eb538a105e876c8bd0c9aeb24",
        "patch_test.npz": "81b9ed92a5b3b4f0de1d9fcd563b6553640bca55212f49a005b8e25f929e7f6b",
    },
}

# Measured on the training part; depth over the valid pixels, as multiples of each frame's or patch's median.
RGB = {
    "segmentation": ((149.7, 148.7, 149.2), (27.9, 27.1, 26.3)),
    "patches": ((138.2, 136.3, 137.0), (34.4, 33.6, 31.4)),
}
DEPTH = {"segmentation": (0.991, 0.0626), "patches": (0.981, 0.136)}
HIGHEST = 2.0


class Pothole(NpzDataset):
    """Road potholes from a stereo camera: colour, and the disparity with the flat road made constant as depth.

    The recordings are those of Fan et al., "Pothole Detection Based on Disparity Transformation and Road Surface
    Modeling", IEEE TIP 2019. There is no official split; in this one no two parts share a pothole.

    - ``segmentation``: 35 / 9 / 23 frames of 144 x 240 pixels, road or pothole (2.4 % of the training pixels, 6.6 % of
      the test pixels). Training zooms in by up to 1.4, crops and mirrors, with one draw for colour, depth and labels.
      Evaluation is on the label maps in their own size.
    - ``patches``: 520 / 131 / 398 patches of 48 x 48 pixels from 288 x 480, which show no pothole (``road``), 15 to
      50 % (``edge``) or at least 75 % of it (``inside``). Training moves them by up to two pixels and mirrors them,
      with one draw for both modalities.

    Depth has a scale of its own in every frame: each frame is divided by the median of its valid pixels, and so is each
    patch, which comes without its frame. Invalid pixels are 0 after the normalisation, the mean.

    Args:
        root: folder of the ``.npz`` files; by default ``rgbd_pothole`` in what the environment variable MMLAB_DATA
            names, or else in ``../shared/data``.
        task: ``segmentation``, or ``patches`` for classification.
        size: height and width of what a network sees of a frame (segmentation only): half of the frame, at which a
            tiny network trains in about a minute on one core.
        median_frequency: weighs the classes in the training loss by median frequency, from the training labels
            (segmentation only).
        protocol: ``official`` trains on the training and the validation part and selects on the test split.

    Raises:
        UserError: if the size is smaller than 32 pixels or larger than the frame.
    """

    def __init__(
        self,
        root: str | None = None,
        task: Literal["segmentation", "patches"] = "segmentation",
        size: tuple[int, int] = (72, 120),
        median_frequency: bool = False,
        protocol: ProtocolName = "honest",
    ) -> None:
        super().__init__(root, "rgbd_pothole", protocol)
        if not (32 <= size[0] <= HEIGHT and 32 <= size[1] <= WIDTH):
            raise UserError(f"Pothole's size is {size[0]} x {size[1]}; choose 32 x 32 to {HEIGHT} x {WIDTH} pixels.")
        self._task: Literal["segmentation", "patches"] = task
        self._size = (int(size[0]), int(size[1]))
        self._median_frequency = median_frequency
        self.checksums = CHECKSUMS[task]

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``rgb`` (3, H, W) and ``depth`` (1, H, W); H and W are ``size``, or 48 for patches."""
        height, width = self._size if self._task == "segmentation" else (SIDE, SIDE)
        mean, std = DEPTH[self._task]
        return (
            Modality("rgb", "image", (3, height, width), *RGB[self._task], low=0.0, high=255.0),
            # As strong as the usual noise of pictures: a third of the spread.
            Modality("depth", "depth", (1, height, width), (mean,), (std,), 0.0, HIGHEST, noise=std / 3),
        )

    @property
    def task(self) -> Segmentation | Classification:
        """Road or pothole for every pixel, or what a patch shows."""
        if self._task == "patches":
            return Classification(PATCH_CLASSES)
        return Segmentation(PIXEL_CLASSES, weights=self._weights)

    def details(self) -> dict[str, object]:
        """The task in use and whether the data are a twin, as plain data for result.json."""
        size = f" {self._size[0]}x{self._size[1]}" if self._task == "segmentation" else ""
        weights = " median_frequency" if self._weights else ""
        return {"variant": self._task + size + weights, "synthetic": self.synthetic}

    @cached_property
    def _weights(self) -> tuple[float, ...] | None:
        if not self._median_frequency or self._task == "patches":
            return None
        return median_frequency_weights(self.splits()["train"].targets, len(PIXEL_CLASSES))

    def splits(self) -> dict[SplitName, Split]:
        """Reads the three files of the task into memory.

        Raises:
            UserError: if a file is absent or can't be read.
        """
        if self._task == "segmentation":
            parts = self.read_parts(FRAMES, len(PIXEL_CLASSES), "mask")
            return {name: _split(file, file["mask"]) for name, file in parts.items()}
        parts = self.read_parts(PATCHES, len(PATCH_CLASSES))
        return {name: _split(file, file["label"].astype(np.int64), file["yx"]) for name, file in parts.items()}

    def transforms(self) -> dict[str, Transform]:
        """One geometric draw for colour, depth and labels; depth relative to its median."""
        (rgb_mean, rgb_std), (depth_mean, depth_std) = RGB[self._task], DEPTH[self._task]
        if self._task == "patches":
            geometry = Geometry((SIDE, SIDE), shift=2, draw="patch")
        else:
            # Of the whole frame, so much is resized to the size of the crop.
            share = max(self._size[0] / HEIGHT, self._size[1] / WIDTH)
            geometry = Geometry(self._size, (share * ZOOM[0], share * ZOOM[1]), draw="frame")
        depth = AlignedDepth(geometry, depth_mean, depth_std, keep_invalid=True)
        transforms: dict[str, Transform] = {
            "rgb": AlignedImage(geometry, rgb_mean, rgb_std),
            "depth": RelativeDepth(depth),
        }
        if self._task == "segmentation":
            transforms["target"] = AlignedLabels(geometry)
        return transforms

    def synthetic_files(self) -> dict[str, dict[str, np.ndarray]]:
        """A twin for both tasks: bright road, and holes that are darker and deeper."""
        rng = np.random.default_rng(0)
        counts = {"train": 6, "val": 3, "test": 3}
        frames = {f"seg_{name}.npz": _synthetic_frames(rng, count) for name, count in counts.items()}
        return frames | {f"patch_{name}.npz": _synthetic_patches(rng, 6 * count) for name, count in counts.items()}


class RelativeDepth:
    """Divides each depth map by the median of its valid pixels, which are those above 0; then goes on.

    Args:
        then: what takes the relative depth, (B, 1, H, W) float32.
    """

    def __init__(self, then: Transform) -> None:
        self._then = then

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, 1, H, W), of any type, to what ``then`` makes of it; a map without valid pixels is 0 everywhere."""
        depth = raw.to(torch.float32)
        median = depth.masked_fill(depth <= 0, torch.nan).flatten(1).nanmedian(dim=1).values
        return self._then(depth / median.nan_to_num(1.0).view(-1, 1, 1, 1), draws)


def _split(file: dict[str, np.ndarray], targets: np.ndarray, corners: np.ndarray | None = None) -> Split:
    ids = [f"{recording}/{frame}" for recording, frame in zip(file["dataset"], file["frame"], strict=True)]
    if corners is not None:
        ids = [f"{frame}/{y}-{x}" for frame, (y, x) in zip(ids, corners, strict=True)]
    return Split(
        ids=ids,
        targets=targets,
        rows=np.arange(len(ids)),
        arrays={"rgb": np.ascontiguousarray(file["rgb"].transpose(0, 3, 1, 2)), "depth": file["depth"][:, None]},
        present=np.ones((len(ids), 2), dtype=bool),
    )


def _synthetic_frames(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    y, x = rng.uniform(0.3, 0.7, (2, count, 1, 1)) * np.array([HEIGHT, WIDTH])[:, None, None, None]
    radius = rng.uniform(20, 40, (count, 1, 1))
    mask = np.hypot(np.arange(HEIGHT)[:, None] - y, np.arange(WIDTH) - x) < radius
    return {
        **_synthetic_views(rng, mask),
        "mask": mask.astype(np.uint8),
        "dataset": np.ones(count, np.uint8),
        "frame": np.arange(1, count + 1, dtype=np.uint8),
    }


def _synthetic_patches(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    label = np.arange(count) % len(PATCH_CLASSES)
    edge = np.array([0, SIDE // 3, SIDE])[label]
    mask = np.broadcast_to((np.arange(SIDE) < edge[:, None])[:, None], (count, SIDE, SIDE))
    return {
        **_synthetic_views(rng, mask),
        "label": label.astype(np.uint8),
        "dataset": np.ones(count, np.uint8),
        "frame": np.arange(count, dtype=np.uint8) // 6,
        "yx": np.stack((np.zeros(count), np.arange(count)), axis=1).astype(np.int16),
    }


def _synthetic_views(rng: np.random.Generator, hole: np.ndarray) -> dict[str, np.ndarray]:
    rgb = np.where(hole, 90, 150)[..., None] + rng.normal(0, 10, (*hole.shape, 3))
    depth = rng.uniform(45_000, 58_000, (len(hole), 1, 1)) * np.where(hole, 0.8, 1.0) + rng.normal(0, 300, hole.shape)
    invalid = rng.uniform(size=hole.shape) < 0.005
    return {"rgb": rgb.astype(np.uint8), "depth": np.where(invalid, 0, depth).astype(np.uint16)}
