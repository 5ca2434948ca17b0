"""NYU Depth V2 scenes: rooms, as a picture and a depth map (Silberman, Hoiem, Kohli and Fergus, 2012)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmlab.data.base import ProtocolName, Split, SplitName, Transform, begin_twin
from mmlab.data.image import RandomCropFlip
from mmlab.data.packed import PackedDataset
from mmlab.data.packing import BadSample, Sample, pack
from mmlab.data.pictures import read_picture
from mmlab.errors import UserError, did_you_mean
from mmlab.types import Classification, Modality

FOLDERS = ("train", "val", "test")
SUFFIXES = (".png", ".jpg", ".jpeg")
STORED_SIDE = 256
SIDE = 224
# In grey levels; the released code uses them for depth too.
MEAN = (0.4951 * 255, 0.3601 * 255, 0.4587 * 255)
STD = (0.1474 * 255, 0.1950 * 255, 0.1646 * 255)


class NYUScenes(PackedDataset):
    """NYU Depth V2 scenes: which kind of room it is, from a picture and its depth map.

    The raw images lie in ``<root>/train/<class>/<name>.png`` (or jpg, jpeg) and ``<root>/test/<class>/...``, and may
    have a ``val`` folder beside them. Each holds the picture (left half) and the depth map (right half, as three
    channels) side by side, the layout of QMF's released code (Zhang et al., 2023). ``mmlab prepare`` cuts them at half
    their width, resizes both halves to 256 x 256 (bicubic) and packs them into ``<root>/packed-256px``, 0.4 MB an
    image. Images that can't be decoded are left out and named. The classes are the folders of ``train``, sorted:
    10 in the published setting.

    Training shows a crop of 224 x 224, mirrored with probability 1/2. Picture and depth map share both draws; the
    released code draws them apart, which breaks the alignment of their pixels. Evaluation shows the whole image,
    resized from the stored 256 to 224, where the released code resizes the file itself: values differ slightly.

    The honest protocol validates on the ``val`` folder, or, without one, on a share of each class of ``train``, drawn
    by image: file names don't say which images show the same room, so a room may be on both sides. The official
    protocol trains on all of ``train`` and validates on the test split, as the released code does; a ``val`` folder
    is then not used.

    Args:
        root: folder of the raw images and of the pack.
        validation_share: of the images of each class that is carved off for validation.
        split_seed: of that draw.
        protocol: ``honest``, or ``official`` for selection on the test split.

    Raises:
        UserError: if the share is not between 0 and 1, or the seed is negative.
    """

    def __init__(
        self,
        root: str = "data/nyu_scenes",
        validation_share: float = 0.1,
        split_seed: int = 0,
        protocol: ProtocolName = "honest",
    ) -> None:
        if not 0 < validation_share < 1:
            raise UserError(f"validation_share is {validation_share}; choose a share between 0 and 1.")
        super().__init__(root)
        self.validation_share = validation_share
        self.split_seed = split_seed
        self.protocol = protocol

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``rgb`` and ``depth``, (3, 224, 224) each.

        One unit of noise severity is one grey level, as in QMF's test script, which noises other images ten times
        as much.
        """
        shape = (3, SIDE, SIDE)
        return (
            Modality("rgb", "image", shape, MEAN, STD, low=0.0, high=255.0, noise=1.0),
            Modality("depth", "depth", shape, MEAN, STD, low=0.0, high=255.0, noise=1.0),
        )

    @property
    def task(self) -> Classification:
        """Classification into the folders of ``train``.

        Raises:
            UserError: if the images are not prepared.
        """
        return Classification(tuple(self._packed.meta["options"]["classes"]))

    def transforms(self) -> dict[str, Transform]:
        """Crops and flips, the same for both modalities."""
        aligned = RandomCropFlip(SIDE, MEAN, STD, draw="scene")
        return {"rgb": aligned, "depth": aligned}

    def splits(self) -> dict[SplitName, Split]:
        """Opens the pack; the protocol is applied here.

        Raises:
            UserError: if the images are not prepared, or a split is empty.
        """
        packed = self._packed
        index = {name: label for label, name in enumerate(packed.meta["options"]["classes"])}
        for name in packed.meta["options"]["splits"]:
            if name not in packed.split:
                raise UserError(
                    f"{self._folder} has no usable image of {self.root / name}; replace the raw images that its "
                    f"pack.json names as bad and run: {self._command}"
                )
        train, validation, test = (np.flatnonzero(packed.split == name) for name in FOLDERS)
        if self.protocol == "official":
            validation = test
        elif len(validation) == 0:
            train, validation = packed.carve(train, index, self.validation_share, self.split_seed)
        return packed.parts(train, validation, test, index)

    def prepare(self, workers: int = 1) -> None:
        """Decodes and packs every image, or goes on where it was stopped.

        Args:
            workers: how many images are decoded at the same time.

        Raises:
            UserError: if the raw images don't lie as described above, or the pack can't be written.
        """
        samples = self._find()
        options = {
            "classes": sorted({sample.target for sample in samples}),
            "splits": sorted({sample.split for sample in samples}),
            "synthetic": self._synthetic,
        }
        shape = (3, STORED_SIDE, STORED_SIDE)
        layout = {"rgb": (shape, "uint8"), "depth": (shape, "uint8")}
        pack(self._folder, "NYUScenes", options, samples, layout, _decode, workers)
        self._forget()

    def write_synthetic(self) -> None:
        """Writes small images of three classes, each with a colour and a slope of its own, in the raw layout.

        Raises:
            UserError: if the root holds anything.
        """
        from PIL import Image

        begin_twin(self.root, "images")
        rng = np.random.default_rng(0)
        for label, name in enumerate(("bedroom", "kitchen", "office")):
            for split, images in (("train", 12), ("test", 5)):
                folder = self.root / split / name
                folder.mkdir(parents=True)
                for image in range(images):
                    Image.fromarray(_synthetic_image(label, rng)).save(folder / f"{image:04}.png")

    def details(self) -> dict[str, object]:
        """What tells this variant from others, as plain data for the results."""
        return {
            "validation_share": self.validation_share,
            "split_seed": self.split_seed,
            "protocol": self.protocol,
            "synthetic": self._synthetic,
        }

    @property
    def _folder(self) -> Path:
        return self.root / f"packed-{STORED_SIDE}px"

    def _find(self) -> list[Sample]:
        samples: list[Sample] = []
        classes: list[str] = []
        for split in ("train", "test", "val"):  # train first: it says which classes there are
            folder = self.root / split
            if split == "val" and not folder.is_dir():
                continue
            found = _folders(folder)
            if split == "train":
                classes = [each.name for each in found]
            least = 2 if split == "train" else 1
            if len(found) < least:
                raise UserError(
                    f"{folder} holds {len(found)} class folders, but needs {least} or more; put the images there as "
                    "<class>/<name>.png, RGB and depth side by side, or point --root to the folder that holds them."
                )
            for each in found:
                if each.name not in classes:
                    raise UserError(
                        f"{each} is a class that {self.root / 'train'} lacks{did_you_mean(each.name, classes)}; "
                        "rename the folder, or put training images of this class there."
                    )
                samples += _images(each, split)
        return samples


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _images(folder: Path, split: str) -> list[Sample]:
    files = sorted(
        file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
    if not files:
        raise UserError(f"{folder} holds no {', '.join(SUFFIXES)} image; put some there or remove the folder.")
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is no file, or a link to one that is gone; replace or remove it.")
    return [Sample(f"{folder.name}/{file.name}", split, folder.name, {"rgb": file, "depth": file}) for file in files]


def _decode(sample: Sample) -> dict[str, np.ndarray]:
    from PIL.Image import Resampling

    file = sample.files["rgb"]
    both = read_picture(file, file.name, ("PNG", "JPEG"))
    width, height = both.size
    if width < 2:
        raise BadSample(f"{width} x {height} pixels can't be cut into two halves")
    halves = {"rgb": (0, 0, width // 2, height), "depth": (width // 2, 0, width, height)}
    square = (STORED_SIDE, STORED_SIDE)
    # Cut first: the resize must not blend one half into the other.
    return {
        name: np.asarray(both.crop(box).resize(square, Resampling.BICUBIC)).transpose(2, 0, 1)
        for name, box in halves.items()
    }


def _synthetic_image(label: int, rng: np.random.Generator) -> np.ndarray:
    """(32, 64, 3) uint8: the class's colour beside a ramp in the class's direction, both with noise."""
    picture = np.full((32, 32, 3), 80.0)
    picture[:, :, label] += rng.uniform(60, 120)
    rows, columns = np.mgrid[0:32, 0:32] * 6.0
    ramp = (rows, columns, 186 - rows)[label][:, :, None] + rng.uniform(0, 60)
    both = np.concatenate((picture, np.repeat(ramp, 3, axis=2)), axis=1)
    return (both + rng.normal(0, 12, both.shape)).clip(0, 255).astype(np.uint8)
