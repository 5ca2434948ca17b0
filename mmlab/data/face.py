"""Faces in colour, depth and infrared: what CASIASURF and CeFA have in common."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab.data.base import Split, SplitName, Transform
from mmlab.data.image import Normalise
from mmlab.data.packed import PackedDataset
from mmlab.data.packing import BadSample, Sample, pack
from mmlab.data.pictures import read_picture
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.types import AntiSpoofing, Modality

NAMES = ("rgb", "depth", "ir")
CLASSES = ("spoof", "live")
STORED_SIDE = 144
SIDE = 112
MEAN, STD = (127.5,), (128.0,)
LARGEST_ANGLE = 30  # degrees
CANVAS = 0.8  # of the canvas that would hold the whole turned image: it cuts most of the black corners off


class FaceDataset(PackedDataset, ABC):
    """Aligned pictures of faces by three cameras, and whether each face is living or an attack.

    They are packed as 144 x 144 pixels, and encoders see 112 x 112: see :class:`RandomTurnCropFlip`, which all three
    share.

    Args:
        root: folder of the raw data and of the pack.
    """

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``rgb``, ``depth`` and ``ir``, (3, 112, 112) each: three channels, as the files have them."""
        shape = (3, SIDE, SIDE)
        return (
            Modality("rgb", "image", shape, MEAN, STD, low=0.0, high=255.0),
            Modality("depth", "depth", shape, MEAN, STD, low=0.0, high=255.0),
            Modality("ir", "image", shape, MEAN, STD, low=0.0, high=255.0),
        )

    @property
    def task(self) -> AntiSpoofing:
        """1 is a living face, 0 an attack."""
        return AntiSpoofing(CLASSES)

    def transforms(self) -> dict[str, Transform]:
        """Turns, crops and flips, the same for all modalities."""
        return dict.fromkeys(NAMES, RandomTurnCropFlip(STORED_SIDE, SIDE, MEAN, STD, draw="face"))

    def splits(self) -> dict[SplitName, Split]:
        """Opens the pack.

        Raises:
            UserError: if the pictures are not prepared, or a split lacks living faces or attacks.
        """
        packed = self._packed
        train, validation, test = (np.flatnonzero(packed.split == name) for name in ("train", "val", "test"))
        splits = packed.parts(train, validation, test, {name: label for label, name in enumerate(CLASSES)})
        for name, split in splits.items():
            spoof, live = np.bincount(np.asarray(split.targets), minlength=2)
            if spoof == 0 or live == 0:
                raise UserError(
                    f"the {name} split in {self._folder} has {live} living faces and {spoof} attacks, but needs both; "
                    f"complete the raw pictures and run: {self._command}"
                )
        return splits

    @property
    def _folder(self) -> Path:
        return self.root / f"packed-{STORED_SIDE}px"

    def _pack(self, options: Mapping[str, Any], samples: Sequence[Sample], workers: int) -> None:
        """Packs triplets, see :func:`~mmlab.data.packing.pack`; one that lacks a picture is left out and named."""
        every = {**options, "synthetic": self._synthetic}
        layout = dict.fromkeys(NAMES, ((3, STORED_SIDE, STORED_SIDE), "uint8"))
        pack(self._folder, type(self).__name__, every, samples, layout, _decode, workers)
        self._forget()


class RandomTurnCropFlip:
    """Training turns, cuts and mirrors; evaluation resizes; then the values are normalised.

    Training turns each picture about its centre by an angle a, a whole number of degrees from -30 to 30, onto a square
    canvas of int(0.8 side (|sin a| + |cos a|)) pixels with the same centre, 0 where the picture doesn't reach
    (bilinear); cuts a square out of the canvas, whose corner is drawn from the whole numbers 0 to canvas - size - 1;
    and mirrors it left to right with probability 1/2. These are the steps of MMANet's released code; here they are
    one resampling of the stored picture, in real numbers and not rounded to grey levels in between. Evaluation resizes
    the whole picture (bilinear, antialiased).

    Args:
        side: of the pictures that come in, in pixels, large enough that ``size`` is less than each canvas.
        size: side of the result, in pixels.
        mean: of the raw values, one number or one for each channel.
        std: likewise.
        draw: prefix of the draws' names: aligned modalities share it.
    """

    def __init__(
        self, side: int, size: int, mean: tuple[float, ...], std: tuple[float, ...], draw: str = "image"
    ) -> None:
        self._side = side
        self._size = size
        self._normalise = Normalise(mean, std)
        self._draw = draw
        turns = []
        for degrees in range(-LARGEST_ANGLE, LARGEST_ANGLE + 1):
            cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
            turns.append((cos, sin, int(side * (CANVAS * abs(sin)) + side * (CANVAS * abs(cos)))))
        self._turns = torch.tensor(turns)

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, C, side, side) to float32 (B, C, size, size)."""
        values = raw.to(torch.float32)
        if draws is None:
            sides = (self._size, self._size)
            changed = F.interpolate(values, sides, mode="bilinear", antialias=True, align_corners=False)
        else:
            places = self._places(raw.device, draws)
            changed = F.grid_sample(values, places, mode="bilinear", padding_mode="zeros", align_corners=False)
        return self._normalise(changed, draws)

    def _places(self, device: torch.device, draws: Draws) -> Tensor:
        """Where each pixel of the result lies in the picture, (B, size, size, 2), from -1 to 1 between its edges."""
        self._turns = self._turns.to(device)
        angle = (draws.uniform(f"{self._draw}/angle")[:, 0] * len(self._turns)).long()
        cos, sin, canvas = self._turns[angle].view(-1, 1, 1, 3).unbind(dim=3)
        left, top = draws.uniform(f"{self._draw}/place", 2).view(-1, 2, 1, 1).unbind(dim=1)
        left, top = ((part * (canvas - self._size)).floor() for part in (left, top))
        flips = draws.uniform(f"{self._draw}/flip").view(-1, 1, 1) < 0.5
        steps = torch.arange(self._size, device=device, dtype=torch.float32)
        columns = torch.where(flips, steps.flip(0), steps)  # (B, 1, size)
        # From the centre of the canvas, which is that of the picture; a pixel's centre lies half a pixel inside it.
        across = left + columns + 0.5 - canvas / 2
        down = top + steps[:, None] + 0.5 - canvas / 2
        places = torch.stack((cos * across - sin * down, sin * across + cos * down), dim=3)
        return places / (self._side / 2)


def write_face(files: Mapping[str, Path], live: bool, rng: np.random.Generator) -> None:
    """Writes one generated triplet: a living face has relief, an attack is flat; the other cameras tell less.

    Args:
        files: by modality, where the picture is written.
        live: whether the face is living.
        rng: of all that differs from face to face.
    """
    from PIL import Image

    height, width = rng.integers(36, 49, 2)
    rows, columns = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    relief = np.sqrt((1 - 0.6 * rows**2 - 0.9 * columns**2).clip(0)) if live else np.full((height, width), 0.5)
    face = (rows**2 + 1.4 * columns**2 < 0.95)[:, :, None]
    tone = np.array([200.0, 150.0, 120.0]) * rng.uniform(0.6, 1.0)
    pictures = {
        "rgb": face * (tone + (8.0 if live else 0.0)),
        "depth": face * np.repeat(60 + 180 * relief[:, :, None], 3, axis=2),
        "ir": face * np.full(3, rng.uniform(90, 170) + (25.0 if live else 0.0)),
    }
    for name, file in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        noisy = pictures[name] + rng.normal(0, 12, (height, width, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, quality=90)


def _decode(sample: Sample) -> dict[str, np.ndarray]:
    from PIL.Image import Resampling

    absent = [name for name in NAMES if name not in sample.files]
    if absent:
        raise BadSample(f"its {' and '.join(absent)} image is absent")
    square = (STORED_SIDE, STORED_SIDE)
    pictures = {
        name: read_picture(sample.files[name], f"{name} image {sample.files[name].name}", ("JPEG", "PNG", "BMP"))
        for name in NAMES
    }
    return {
        name: np.asarray(picture.resize(square, Resampling.BILINEAR)).transpose(2, 0, 1)
        for name, picture in pictures.items()
    }
