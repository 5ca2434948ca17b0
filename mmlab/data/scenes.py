"""What NYUv2 and Cityscapes share: a pack of pictures, depth and label maps, its splits, and one draw for all three."""

from __future__ import annotations

from abc import ABC
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmlab.data.aligned import AlignedDepth, AlignedImage, AlignedLabels, Geometry
from mmlab.data.base import LabelMaps, ProtocolName, Split, SplitName, Transform, carve_validation
from mmlab.data.image import IMAGENET_MEAN, IMAGENET_STD
from mmlab.data.packed import PackedDataset
from mmlab.data.packing import BadSample
from mmlab.errors import UserError
from mmlab.types import Modality

VOID = 255
"""The label of pixels that have none."""


class SceneDataset(PackedDataset, ABC):
    """A data set whose pack holds ``rgb``, depth and label maps, with the splits ``train`` and ``test``.

    Samples whose target has one name in the pack are never torn apart when a validation split is carved off.

    Args:
        root: folder of the raw files and of the pack.
        geometry: of the transforms.
        depth_scale: mean and deviation of the depths, in their unit.
        farthest: the largest depth.
        keep_invalid: whether a depth of 0 stays 0 after normalising.
        depth_array: which array of the pack it is.
        label_array: which array of the pack holds the label maps.
        validation_share: of the groups of ``train`` that is carved off for validation.
        split_seed: of that draw.
        protocol: ``honest``, or ``official`` for selection on the test split.

    Raises:
        UserError: for a size or a share that makes no sense.
    """

    def __init__(
        self,
        root: str,
        geometry: Geometry,
        depth_scale: tuple[float, float],
        farthest: float,
        keep_invalid: bool,
        depth_array: str,
        label_array: str,
        validation_share: float,
        split_seed: int,
        protocol: ProtocolName,
    ) -> None:
        if not 0 < validation_share < 1:
            raise UserError(f"validation_share is {validation_share}; choose a share between 0 and 1.")
        if min(geometry.size) < 1:
            raise UserError(f"size is {list(geometry.size)}; give [height, width], each 1 pixel or more.")
        super().__init__(root)
        self.validation_share = validation_share
        self.split_seed = split_seed
        self.protocol = protocol
        self._geometry = geometry
        self._depth_scale = depth_scale
        self._farthest = farthest
        self._keep_invalid = keep_invalid
        self._arrays = {"rgb": "rgb", "depth": depth_array}
        self._label_array = label_array

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``rgb``, in ImageNet's scale, and ``depth``, in its own."""
        size, (mean, std) = self._geometry.size, self._depth_scale
        noise = self._farthest / 255  # as much of the range as one grey level is of a picture's
        return (
            Modality("rgb", "image", (3, *size), IMAGENET_MEAN, IMAGENET_STD, low=0.0, high=255.0),
            Modality("depth", "depth", (1, *size), (mean,), (std,), low=0.0, high=self._farthest, noise=noise),
        )

    def transforms(self) -> dict[str, Transform]:
        """One geometric draw for the picture, its depth and its label map; colours are jittered in training."""
        return {
            "rgb": AlignedImage(self._geometry, IMAGENET_MEAN, IMAGENET_STD, jitter=True),
            "depth": AlignedDepth(self._geometry, *self._depth_scale, self._keep_invalid),
            "target": AlignedLabels(self._geometry),
        }

    def splits(self) -> dict[SplitName, Split]:
        """Opens the pack; the protocol is applied here.

        Raises:
            UserError: if the files are not prepared, or a split is empty.
        """
        train, validation, test = self._positions
        return {"train": self._take(train), "val": self._take(validation), "test": self._take(test)}

    @cached_property
    def _positions(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the training, validation and test samples in the pack."""
        packed = self._packed
        train, test = (np.flatnonzero(packed.split == name) for name in ("train", "test"))
        if len(train) == 0 or len(test) == 0:
            raise UserError(
                f"{self._folder} has {len(train)} usable training and {len(test)} test images; replace the raw files "
                f"that its pack.json names as bad and run: {self._command}"
            )
        if self.protocol == "official":
            return train, test, test
        everywhere = np.zeros(len(train), dtype=np.int64)
        kept, carved = carve_validation(everywhere, self.validation_share, self.split_seed, packed.targets[train])
        if len(carved) == 0:
            raise UserError(
                f"all training images of {self._folder} belong together ({packed.targets[train][0]}), so that no "
                f"validation split can be carved off: add others and run: {self._command}"
            )
        return train[kept], train[carved], test

    def _forget(self) -> None:
        super()._forget()
        vars(self).pop("_positions", None)

    def _label_maps(self, positions: np.ndarray) -> LabelMaps:
        return LabelMaps(self._packed.arrays[self._label_array], self._packed.rows[positions])

    def _take(self, positions: np.ndarray) -> Split:
        packed = self._packed
        return Split(
            ids=[packed.ids[position] for position in positions],
            targets=self._label_maps(positions),
            rows=packed.rows[positions],
            arrays={name: packed.arrays[array] for name, array in self._arrays.items()},
            present=np.ones((len(positions), 2), dtype=bool),
        )


def read_levels(file: Path) -> np.ndarray:
    """The whole numbers of a one-channel png: labels, depths or disparities.

    Args:
        file: with 8 or 16 bits for each pixel; of one with a palette the numbers and not the colours.

    Returns:
        (H, W) uint8 or uint16.

    Raises:
        BadSample: if it can't be decoded or has several channels.
    """
    try:
        with Image.open(file, formats=("PNG",)) as image:
            if image.mode not in ("L", "P", "I;16", "I;16B", "I"):
                raise BadSample(f"{file.name} is a picture of mode {image.mode}, not one channel of whole numbers")
            levels = np.asarray(image)
    except UnidentifiedImageError as error:
        raise BadSample(f"{file.name} is no PNG image") from error
    # PIL raises SyntaxError on broken png files.
    except (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadSample(f"{file.name} can't be decoded: {error}") from error
    return levels if levels.dtype == np.uint8 else levels.astype(np.uint16)
