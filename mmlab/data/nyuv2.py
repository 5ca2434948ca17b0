"""NYU Depth V2: rooms in colour and depth, and what each pixel shows (Silberman, Hoiem, Kohli and Fergus, 2012)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from mmlab.data.aligned import Geometry
from mmlab.data.base import ProtocolName, begin_twin
from mmlab.data.class_weights import median_frequency_weights
from mmlab.data.clips import read_list
from mmlab.data.packing import BadSample, Sample, pack
from mmlab.data.pictures import read_picture
from mmlab.data.scenes import VOID, SceneDataset, read_levels
from mmlab.errors import UserError
from mmlab.types import Segmentation

FILE = "nyu_depth_v2_labeled.mat"
IMAGES = 1449
SCALE = (1.0, 1.4)
# In millimetres; the published ones, of refined and of raw depth.
DEPTH_MEAN, DEPTH_STD = 2841.94941272766, 1417.2594281672277
FARTHEST = 10_000.0
NAMES = {
    40: (
        "wall",
        "floor",
        "cabinet",
        "bed",
        "chair",
        "sofa",
        "table",
        "door",
        "window",
        "bookshelf",
        "picture",
        "counter",
        "blinds",
        "desk",
        "shelves",
        "curtain",
        "dresser",
        "pillow",
        "mirror",
        "floor mat",
        "clothes",
        "ceiling",
        "books",
        "refridgerator",  # so in the published list
        "television",
        "paper",
        "towel",
        "shower curtain",
        "box",
        "whiteboard",
        "person",
        "night stand",
        "toilet",
        "sink",
        "lamp",
        "bathtub",
        "bag",
        "otherstructure",
        "otherfurniture",
        "otherprop",
    ),
    13: (
        "bed",
        "books",
        "ceiling",
        "chair",
        "floor",
        "furniture",
        "objects",
        "picture",
        "sofa",
        "table",
        "tv",
        "wall",
        "window",
    ),
}
# The training images, numbered from 1 (the others are for testing), and the published maps of classes, 0 for void.
FACTS: dict[str, list[int]] = json.loads((Path(__file__).parent / "nyuv2.json").read_text())
TO_40, TO_13 = np.array(FACTS["to_40"]), np.array(FACTS["to_13"])
SIZE = (480, 640)
TWIN = (64, 96)


class NYUv2(SceneDataset):
    """NYU Depth V2: a class for each pixel of 1449 pictures of rooms with their depth.

    Put the public file ``nyu_depth_v2_labeled.mat`` into the root, or the images that others unpack from it:
    ``<root>/train.txt`` and ``test.txt`` with one image number of four digits on each line, and
    ``<root>/<train|test>/<rgb|depth|depth_raw|labels_40>/0003.png``, 480 x 640 pixels each, depth in millimetres with
    16 bits, label 0 for pixels without one. ``mmlab prepare`` checks them and packs pictures, both depths and the label
    maps of 40 and of 13 classes into ``<root>/packed``, 4.0 GB, which every variant shares. Images that can't be
    decoded are left out and named. The file needs h5py: ``pip install "mmlab[hdf5]"``.

    The split is the standard one, 795 images for training and 654 for testing. There is no validation split: the
    honest protocol carves one off the training images, whole scenes at a time. Unpacked images don't say their scene:
    of these, runs of consecutive numbers stay together, as images of one scene mostly follow one another. The official
    protocol trains on all of them and validates on the test split, as the papers do.

    Depth is normalised by the published mean and deviation. In training, one draw rescales picture, depth and label
    map by 1.0 to 1.4, cuts them and mirrors them (see :class:`~mmlab.data.aligned.Geometry`); colours are jittered.
    The loss weighs classes by median frequency, from the label maps trained on.

    Args:
        root: folder of the raw files and of the pack.
        classes: 40 or 13.
        depth: ``refined``, without holes, or ``raw``, where what was not measured is 0, after normalising too.
        size: (height, width) that a network sees. Label maps of evaluation keep theirs, 480 x 640.
        validation_share: of the scenes (or runs of numbers) that is carved off for validation.
        split_seed: of that draw.
        protocol: ``honest``, or ``official`` for selection on the test split.

    Raises:
        UserError: for a size or a share that makes no sense.
    """

    def __init__(
        self,
        root: str = "data/nyuv2",
        classes: Literal[40, 13] = 40,
        depth: Literal["refined", "raw"] = "refined",
        size: tuple[int, int] = (480, 640),
        validation_share: float = 0.1,
        split_seed: int = 0,
        protocol: ProtocolName = "honest",
    ) -> None:
        self.classes = classes
        self.depth = depth
        self.size = size
        super().__init__(
            root,
            Geometry(size, SCALE),
            (DEPTH_MEAN, DEPTH_STD),
            FARTHEST,
            depth == "raw",
            "depth" if depth == "refined" else "depth_raw",
            f"labels_{classes}",
            validation_share,
            split_seed,
            protocol,
        )

    @cached_property
    def task(self) -> Segmentation:
        """A class for each pixel, weighted by median frequency.

        Raises:
            UserError: if the files are not prepared, or a class never occurs in the training images.
        """
        train, _, _ = self._positions
        weights = median_frequency_weights(self._label_maps(train), self.classes, VOID)
        return Segmentation(NAMES[self.classes], VOID, weights)

    def prepare(self, workers: int = 1) -> None:
        """Checks and packs every image, or goes on where it was stopped.

        Args:
            workers: how many images are read at the same time.

        Raises:
            UserError: if the raw files don't lie as described above or are damaged, h5py is not installed, or the pack
                can't be written.
        """
        if (self.root / FILE).exists():
            self._prepare_file(workers)
        else:
            self._prepare_images(workers)
        self._forget()

    def write_synthetic(self) -> None:
        """Writes small noisy mosaics of all classes, each with a colour and a distance of its own.

        As ``nyu_depth_v2_labeled.mat``, or, where h5py is not installed, as unpacked images.

        Raises:
            UserError: if the root holds anything.
        """
        begin_twin(self.root, "images")
        rng = np.random.default_rng(0)
        scenes = [_synthetic_scene(rng) for _ in range(28)]
        try:
            import h5py
        except ImportError:
            _write_images(self.root, scenes)
            return
        with h5py.File(self.root / FILE, "w") as file:
            # MATLAB stores the last axis first.
            file["images"] = np.stack([scene["rgb"] for scene in scenes]).transpose(0, 3, 2, 1)
            file["depths"] = np.stack([scene["depth"] for scene in scenes]).transpose(0, 2, 1)
            file["rawDepths"] = np.stack([scene["depth_raw"] for scene in scenes]).transpose(0, 2, 1)
            file["labels"] = np.stack([scene["labels"] for scene in scenes]).transpose(0, 2, 1)
            names = [np.frombuffer(f"room_{number // 2:04}".encode(), np.uint8) for number in range(len(scenes))]
            for number, name in enumerate(names):
                file[f"#refs#/{number}"] = name.astype(np.uint16)[:, None]
            references = [[file[f"#refs#/{number}"].ref for number in range(len(names))]]
            file.create_dataset("scenes", data=references, dtype=h5py.ref_dtype)

    def details(self) -> dict[str, object]:
        """What tells this variant from others, as plain data for the results."""
        return {
            "variant": f"{self.classes} classes" + (", raw depth" if self.depth == "raw" else ""),
            "classes": self.classes,
            "depth": self.depth,
            "size": list(self.size),
            "carved_by": self._packed.meta["options"]["carved_by"],
            "validation_share": self.validation_share,
            "split_seed": self.split_seed,
            "protocol": self.protocol,
            "synthetic": self._synthetic,
        }

    @property
    def _stored(self) -> tuple[int, int]:
        """(height, width) of the images."""
        return TWIN if self._synthetic else SIZE

    @property
    def _layout(self) -> dict[str, tuple[tuple[int, ...], str]]:
        size = self._stored
        return {
            "rgb": ((3, *size), "uint8"),
            "depth": ((1, *size), "uint16"),
            "depth_raw": ((1, *size), "uint16"),
            "labels_40": (size, "uint8"),
            "labels_13": (size, "uint8"),
        }

    def _forget(self) -> None:
        super()._forget()
        vars(self).pop("task", None)

    def _prepare_file(self, workers: int) -> None:
        path = self.root / FILE
        try:
            import h5py
        except ImportError as error:
            raise UserError(
                f'Reading {FILE} needs h5py, which is not installed: run pip install "mmlab[hdf5]".'
            ) from error
        again = "download it anew"
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise UserError(f"{path} is no HDF5 file or is damaged ({error}); {again}.") from error
        with file:
            absent = [name for name in ("images", "depths", "rawDepths", "labels", "scenes") if name not in file]
            if absent:
                raise UserError(f"{path} lacks {', '.join(absent)}; {again}.")
            try:
                scenes = ["".join(map(chr, file[each][()].ravel())) for each in file["scenes"][()].ravel()]
            except (OSError, TypeError, ValueError, AttributeError) as error:
                raise UserError(f"{path} doesn't name the images' scenes ({error}); {again}.") from error
            count = len(scenes)
            if count != IMAGES and not self._synthetic:
                raise UserError(f"{path} holds {count} images instead of {IMAGES}; {again}.")
            # MATLAB stores the last axis first.
            height, width = self._stored
            maps = dict.fromkeys(("depths", "rawDepths", "labels"), (count, width, height))
            for name, shape in {"images": (count, 3, width, height), **maps}.items():
                if getattr(file[name], "shape", None) != shape:
                    raise UserError(f"{path} doesn't hold {count} {name} of {width} x {height} pixels; {again}.")
            files = dict.fromkeys(self._layout, path)
            trained = set(FACTS["train"])
            samples = [
                Sample(f"{number:04}", "train" if number in trained else "test", scene, files)
                for number, scene in enumerate(scenes, 1)
            ]

            def decode(sample: Sample) -> dict[str, np.ndarray]:
                row = int(sample.id) - 1
                try:
                    depth, raw = (millimetres(file[name][row].T) for name in ("depths", "rawDepths"))
                    rgb, labels = file["images"][row].transpose(0, 2, 1), file["labels"][row].T
                except OSError as error:
                    raise BadSample(f"image {sample.id} can't be read: {error}") from error
                if labels.max() >= len(TO_40):
                    raise BadSample(f"image {sample.id} holds the label {labels.max()}, but the last is 894")
                return {"rgb": rgb, "depth": depth[None], "depth_raw": raw[None], **_label_maps(TO_40[labels])}

            self._pack("scene", samples, decode, workers)

    def _prepare_images(self, workers: int) -> None:
        folders = ("rgb", "depth", "depth_raw", "labels_40")
        lists = [self.root / f"{split}.txt" for split in ("train", "test")]
        if not all(file.is_file() for file in lists):
            raise UserError(
                f"{self.root} holds neither {FILE} nor unpacked images with train.txt and test.txt; put the file "
                "there, or point --root to the folder that holds it."
            )
        samples: list[Sample] = []
        first_at: dict[int, str] = {}
        for listed in lists:
            for line, text in read_list(listed, "copy it anew from its source").items():
                place, number = f"{listed}, line {line}", text.strip()
                if not number.isdecimal():
                    raise UserError(f"{place}: {number!r} is no image number; correct the line.")
                split = "train" if int(number) in FACTS["train"] else "test"
                if split != listed.stem:
                    raise UserError(f"{place}: {number} is a {split} image of the standard split; move it there.")
                other = first_at.setdefault(int(number), place)
                if other != place:
                    raise UserError(f"{place}: {number} stands at {other} already; remove one of the lines.")
                files = {folder: self.root / listed.stem / folder / f"{number}.png" for folder in folders}
                absent = next((file for file in files.values() if not file.is_file()), None)
                if absent is not None:
                    raise UserError(f"{place}: there is no {absent}; unpack it anew or remove the line.")
                samples.append(Sample(number, listed.stem, number, files | {"labels_13": files["labels_40"]}))
        height, width = self._stored

        def decode(sample: Sample) -> dict[str, np.ndarray]:
            rgb = np.asarray(read_picture(sample.files["rgb"], sample.files["rgb"].name, ("PNG",)))
            depth, raw, labels = (read_levels(sample.files[name]) for name in folders[1:])
            if any(each.shape[:2] != (height, width) for each in (rgb, depth, raw, labels)):
                raise BadSample(f"image {sample.id} is not {width} x {height} in picture, depths and labels")
            if labels.max() > 40:
                raise BadSample(f"image {sample.id} holds the label {labels.max()}, but the last is 40")
            return {
                "rgb": rgb.transpose(2, 0, 1),
                "depth": depth[None],
                "depth_raw": raw[None],
                **_label_maps(labels),
            }

        self._pack("neighbours", _by_neighbours(samples), decode, workers)

    def _pack(
        self,
        carved_by: str,
        samples: list[Sample],
        decode: Callable[[Sample], Mapping[str, np.ndarray]],
        workers: int,
    ) -> None:
        options = {"carved_by": carved_by, "synthetic": self._synthetic}
        pack(self._folder, "NYUv2", options, samples, self._layout, decode, workers)


def millimetres(metres: np.ndarray) -> np.ndarray:
    """Depth in whole millimetres, cut off and not rounded, uint16 of the same shape."""
    return (metres * 1000).astype(np.uint16)


def _by_neighbours(samples: list[Sample]) -> list[Sample]:
    """The samples with the first of the consecutive numbers of one split that theirs belongs to as their target."""
    grouped: list[Sample] = []
    for sample in sorted(samples, key=lambda sample: int(sample.id)):
        last = grouped[-1] if grouped else None
        follows = last is not None and last.split == sample.split and int(sample.id) - int(last.id) == 1
        grouped.append(replace(sample, target=last.target) if last is not None and follows else sample)
    return grouped


def _label_maps(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Both label maps from the 40 classes counted from 1, 0 for void: counted from 0, 255 for void."""
    return {"labels_40": _from_zero(labels), "labels_13": _from_zero(TO_13[labels])}


def _from_zero(labels: np.ndarray) -> np.ndarray:
    return np.where(labels == 0, VOID, labels - 1).astype(np.uint8)


def _synthetic_scene(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """All of the 40 classes as a mosaic: colours, distances in metres with and without holes, raw labels."""
    height, width = TWIN
    cells = rng.permutation(np.arange(1, 41)).reshape(5, 8)
    classes = cells[np.arange(height)[:, None] * 5 // height, np.arange(width) * 8 // width]
    noise = rng.normal(0, 1, (height, width, 4))
    colours = np.random.default_rng(1).uniform(40, 215, (41, 3))[classes] + 12 * noise[..., :3]
    depth = (1 + 0.2 * classes + 0.05 * noise[..., 3]).astype(np.float32)
    labels = np.array([int(np.flatnonzero(label == TO_40)[0]) for label in range(41)])[classes]
    labels[rng.random((height, width)) < 0.05] = 0
    holes = rng.random((height, width)) < 0.1
    return {
        "rgb": colours.clip(0, 255).astype(np.uint8),
        "depth": depth,
        "depth_raw": np.where(holes, np.float32(0), depth),
        "labels": labels.astype(np.uint16),
    }


def _write_images(root: Path, scenes: list[dict[str, Any]]) -> None:
    """The twin as unpacked images."""
    trained = set(FACTS["train"])
    numbers: dict[str, list[str]] = {"train": [], "test": []}
    for number, scene in enumerate(scenes, 1):
        split = "train" if number in trained else "test"
        numbers[split].append(f"{number:04}\n")
        for folder, levels in (
            ("rgb", scene["rgb"]),
            ("depth", millimetres(scene["depth"])),
            ("depth_raw", millimetres(scene["depth_raw"])),
            ("labels_40", TO_40[scene["labels"]].astype(np.uint8)),
        ):
            (root / split / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(levels).save(root / split / folder / f"{number:04}.png")
    for split, lines in numbers.items():
        (root / f"{split}.txt").write_text("".join(lines))
