"""ModelNet40: CAD models of forty kinds of objects, seen from the front and from behind (Wu et al., 2015)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from mmlab.data.base import MultimodalDataset, ProtocolName, Split, SplitName, Transform, begin_twin
from mmlab.data.image import IMAGENET_MEAN, IMAGENET_STD, RandomResizedCropFlip
from mmlab.data.meshes import Mesh, read_off, render
from mmlab.data.packing import BadSample, Packed, Sample, open_packed, pack
from mmlab.data.pictures import read_picture
from mmlab.errors import UserError, did_you_mean
from mmlab.types import Classification, Modality

CLASSES = (
    "airplane",
    "bathtub",
    "bed",
    "bench",
    "bookshelf",
    "bottle",
    "bowl",
    "car",
    "chair",
    "cone",
    "cup",
    "curtain",
    "desk",
    "door",
    "dresser",
    "flower_pot",
    "glass_box",
    "guitar",
    "keyboard",
    "lamp",
    "laptop",
    "mantel",
    "monitor",
    "night_stand",
    "person",
    "piano",
    "plant",
    "radio",
    "range_hood",
    "sink",
    "sofa",
    "stairs",
    "stool",
    "table",
    "tent",
    "toilet",
    "tv_stand",
    "vase",
    "wardrobe",
    "xbox",
)
VIEWS = 12
FOLDERS = {"images": "modelnet40_images_new_12x", "meshes": "ModelNet40"}
LAYOUTS = {
    "images": "<class>/<train|test>/<class>_<id>.obj.shaded_v<view>.png",
    "meshes": "<class>/<train|test>/<class>_<id>.off",
}
PICTURE = re.compile(r"(.+)\.obj\.shaded_v(\d{3})\.(?i:png)")


class ModelNet40(MultimodalDataset):
    """ModelNet40: 12,311 CAD models of 40 classes, each seen from the front and from behind.

    The raw data are one of two, under the names and in the folders in which they are published:

    - pictures, ``<root>/modelnet40_images_new_12x/<class>/<train|test>/<class>_<id>.obj.shaded_v001.png`` to ``v012``:
      12 views of each object, one every 30 degrees, as DI-MML uses them (Fan et al., 2024): front v001, rear v007;
    - meshes, ``<root>/ModelNet40/<class>/<train|test>/<class>_<id>.off``, from which the same two views are rendered.
      The renderer is ours: perspective, 30 degrees above the ground, two-sided shading in grey on black. Its pictures
      are like those above, but not the same; view 1 looks along +y, and the views go round to the right.

    ``mmlab prepare`` packs the two views, grey, into ``<root>/packed-<source>-<view_side>px-v<front>-v<rear>``, 0.1 MB
    an object at the default size. Objects without one of the two views, and files that can't be read, are left out and
    named.

    The classes are those of the 40 whose folders hold training objects, in alphabetical order, so that a part of
    ModelNet40 will do, such as ModelNet10 (its folder renamed). The split is the published one, by folder: 9843
    training and 2468 test objects in all. It has no validation part: the honest protocol carves one from the training
    objects, by class; the official one validates on the test objects, as DI-MML's released code does.

    Training cuts a random box out of each view (8 to 100 % of its area), resizes it to ``image_size`` and mirrors it
    with probability 1/2, with draws of its own for each view. The grey of a picture is its red, green and blue.

    Args:
        root: folder of the raw data and of the pack.
        source: ``images`` or ``meshes``.
        front: number of the view that is the front, 1 to 12.
        rear: number of the view that is the rear.
        view_side: side of the stored views, in pixels.
        image_size: side of what an encoder sees, in pixels.
        validation_share: of the training objects of each class that is carved off for validation.
        split_seed: of that draw.
        protocol: ``honest``, or ``official`` for selection on the test split.

    Raises:
        UserError: if an option is out of its range.
    """

    def __init__(
        self,
        root: str = "data/modelnet40",
        source: Literal["images", "meshes"] = "images",
        front: int = 1,
        rear: int = 7,
        view_side: int = 224,
        image_size: int = 224,
        validation_share: float = 0.1,
        split_seed: int = 0,
        protocol: ProtocolName = "honest",
    ) -> None:
        for name, view in (("front", front), ("rear", rear)):
            if not 1 <= view <= VIEWS:
                raise UserError(f"{name} is view {view}, but there are {VIEWS}: choose 1 to {VIEWS}.")
        if front == rear:
            raise UserError(f"front and rear are both view {front}; choose two.")
        if view_side < 1 or image_size < 1:
            raise UserError(f"view_side is {view_side} and image_size {image_size}; choose at least 1 pixel.")
        if not 0 < validation_share < 1:
            raise UserError(f"validation_share is {validation_share}; choose a share between 0 and 1.")
        self.root = Path(root)
        self.source = source
        self.views = {"front": front, "rear": rear}
        self.view_side = view_side
        self.image_size = image_size
        self.validation_share = validation_share
        self.split_seed = split_seed
        self.protocol = protocol

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``front`` and ``rear``, (3, image_size, image_size) each."""
        shape = (3, self.image_size, self.image_size)
        return (
            Modality("front", "image", shape, IMAGENET_MEAN, IMAGENET_STD, 0.0, 255.0),
            Modality("rear", "image", shape, IMAGENET_MEAN, IMAGENET_STD, 0.0, 255.0),
        )

    @property
    def task(self) -> Classification:
        """Which kind of object it is.

        Raises:
            UserError: if the objects are not prepared.
        """
        return Classification(tuple(self._open().meta["options"]["classes"]))

    def transforms(self) -> dict[str, Transform]:
        """Crops and flips, drawn for each view. Normalising by three means makes three channels of the grey one."""
        return {
            name: RandomResizedCropFlip(self.image_size, IMAGENET_MEAN, IMAGENET_STD, draw=name) for name in self.views
        }

    def splits(self) -> dict[SplitName, Split]:
        """Opens the pack; the protocol is applied here.

        Raises:
            UserError: if the objects are not prepared, or no usable one is left for training or test.
        """
        packed = self._open()
        index = {name: label for label, name in enumerate(packed.meta["options"]["classes"])}
        train, test = (np.flatnonzero(packed.split == name) for name in ("train", "test"))
        if len(train) == 0 or len(test) == 0:
            raise UserError(
                f"{self._folder} has {len(train)} training and {len(test)} test objects that can be used; put objects "
                f"into {self.root / FOLDERS[self.source]} and run: {self._command}"
            )
        if self.protocol == "official":
            return packed.parts(train, test, test, index)
        return packed.parts(*packed.carve(train, index, self.validation_share, self.split_seed), test, index)

    def prepare(self, workers: int = 1) -> None:
        """Reads or renders both views of every object and packs them, or goes on where it was stopped.

        Args:
            workers: how many objects are worked on at the same time.

        Raises:
            UserError: if the raw data don't lie as described above, or the pack can't be written.
        """
        samples = self._find()
        classes = sorted({sample.target for sample in samples if sample.split == "train"})
        if len(classes) < 2:
            raise UserError(
                f"{self.root / FOLDERS[self.source]} has training objects of {len(classes)} class, but two or more are "
                f"needed; put them there as {LAYOUTS[self.source]}."
            )
        for sample in samples:
            if sample.target not in classes:
                raise UserError(
                    f"{self.root / FOLDERS[self.source] / sample.target} has test objects but none for training; put "
                    "some there or remove the folder."
                )
        options = {
            "source": self.source,
            "views": self.views,
            "view_side": self.view_side,
            "classes": classes,
            "synthetic": self._synthetic,
        }
        layout = dict.fromkeys(self.views, ((1, self.view_side, self.view_side), "uint8"))
        decode = self._read_pictures if self.source == "images" else self._render_mesh
        pack(self._folder, "ModelNet40", options, samples, layout, decode, workers)
        packed = self._open()
        for split, part in (("train", "training"), ("test", "test")):
            absent = [name for name in classes if name not in packed.targets[packed.split == split]]
            if absent:
                print(f"No usable {part} object of {', '.join(absent)}.")
        if len(classes) < len(CLASSES):
            print(f"{len(classes)} of the {len(CLASSES)} classes are there: {', '.join(classes)}.")

    def write_synthetic(self) -> None:
        """Writes meshes of a bottle, a chair and a lamp in many sizes, and small pictures of them, in the raw layouts.

        Raises:
            UserError: if the root holds anything.
        """
        begin_twin(self.root, "objects")
        rng = np.random.default_rng(0)
        for name in SYNTHETIC:
            for split, numbers in (("train", range(1, 11)), ("test", range(11, 15))):
                meshes, pictures = (
                    self.root / folder / name / split for folder in (FOLDERS["meshes"], FOLDERS["images"])
                )
                meshes.mkdir(parents=True)
                pictures.mkdir(parents=True)
                for number in numbers:
                    object_name = f"{name}_{number:04}"
                    file = meshes / f"{object_name}.off"
                    # Some of ModelNet40's files have no line break behind OFF.
                    file.write_text(_off(_boxes(name, rng), "OFF" if number % 2 else "OFF\n"))
                    mesh = read_off(file)
                    for view in range(1, VIEWS + 1):
                        picture = Image.fromarray(_view(mesh, view, side=48)).convert("RGB")
                        picture.save(pictures / f"{object_name}.obj.shaded_v{view:03}.png")

    def details(self) -> dict[str, object]:
        """What tells this variant from others, as plain data for the results."""
        changed: list[str] = [self.source] if self.source != "images" else []
        if self.views != {"front": 1, "rear": 7}:
            changed.append("views {front} and {rear}".format(**self.views))
        return {
            "variant": ", ".join(changed) or None,
            "source": self.source,
            **self.views,
            "view_side": self.view_side,
            "image_size": self.image_size,
            "validation_share": self.validation_share,
            "split_seed": self.split_seed,
            "protocol": self.protocol,
            "synthetic": self._synthetic,
        }

    @property
    def _folder(self) -> Path:
        views = "-".join(f"v{view:03}" for view in self.views.values())
        return self.root / f"packed-{self.source}-{self.view_side}px-{views}"

    @property
    def _command(self) -> str:
        options = f"--root {self.root}"
        for name, value, default in (
            ("source", self.source, "images"),
            ("front", self.views["front"], 1),
            ("rear", self.views["rear"], 7),
            ("view_side", self.view_side, 224),
        ):
            if value != default:
                options += f" --{name} {value}"
        return f"mmlab prepare ModelNet40 {options}"

    @property
    def _synthetic(self) -> bool:
        return (self.root / "SYNTHETIC").exists()

    def _open(self) -> Packed:
        return open_packed(self._folder, "ModelNet40", self._command)

    def _find(self) -> list[Sample]:
        folder = self.root / FOLDERS[self.source]
        samples: list[Sample] = []
        for each in sorted(folder.glob("[!.]*/")):
            if each.name not in CLASSES:
                raise UserError(
                    f"{each} is no class of ModelNet40{did_you_mean(each.name, CLASSES)}; rename or remove the folder."
                )
            for split in ("train", "test"):
                objects = self._pictures(each / split) if self.source == "images" else _meshes(each / split)
                samples += [Sample(name, split, each.name, files) for name, files in sorted(objects.items())]
        if not samples:
            (other,) = set(FOLDERS) - {self.source}
            there = self.root / FOLDERS[other]
            hint = f" (for those in {there}, add --source {other})" if there.is_dir() else ""
            raise UserError(
                f"{folder} holds no objects{hint}; put them there as {LAYOUTS[self.source]}, or point --root to the "
                "folder above it."
            )
        return samples

    def _pictures(self, folder: Path) -> dict[str, dict[str, Path]]:
        """By object, the files of its front and rear; an object that has neither is there with another view of its."""
        modality = {view: name for name, view in self.views.items()}
        objects: dict[str, dict[str, Path]] = {}
        for file in sorted(folder.glob("[!.]*")):
            parts = PICTURE.fullmatch(file.name)
            if parts is not None:
                name = modality.get(int(parts[2]), "other")
                # For a link to a file that is gone stands the folder: the object is then named as a bad one.
                there = {name: file} if file.is_file() else {"other": folder}
                objects.setdefault(parts[1], {}).update(there)
        return objects

    def _read_pictures(self, sample: Sample) -> dict[str, np.ndarray]:
        for name, view in self.views.items():
            if name not in sample.files:
                raise BadSample(f"there is no {sample.id}.obj.shaded_v{view:03}.png, its {name}")
        return {name: _grey(sample.files[name], self.view_side)[None] for name in self.views}

    def _render_mesh(self, sample: Sample) -> dict[str, np.ndarray]:
        mesh = read_off(sample.files["front"])
        return {name: _view(mesh, view, self.view_side)[None] for name, view in self.views.items()}


def _meshes(folder: Path) -> dict[str, dict[str, Path]]:
    """By object, the file that both of its views are rendered from."""
    return {
        file.stem: {"front": file, "rear": file}
        for file in sorted(folder.glob("[!.]*"))
        if file.suffix.lower() == ".off" and file.is_file()
    }


def _view(mesh: Mesh, number: int, side: int) -> np.ndarray:
    return render(mesh, azimuth=360 / VIEWS * (number - 1), side=side)


def _grey(file: Path, side: int) -> np.ndarray:
    """(side, side) uint8 of a picture, resized with no regard to its proportions."""
    grey = read_picture(file, file.name, ("PNG",), "L")
    return np.asarray(grey.resize((side, side), Image.Resampling.BILINEAR))


# Of the twin, by class: boxes as the bounds of x, y and z.
SYNTHETIC: dict[str, tuple[tuple[float, ...], ...]] = {
    "bottle": ((-2, 2, -2, 2, 0, 6), (-0.8, 0.8, -0.8, 0.8, 6, 9)),
    "chair": (
        (-3, 3, -3, 3, 3, 4),
        (-3, 3, 2, 3, 4, 9),
        (-3, -2, -3, -2, 0, 3),
        (2, 3, -3, -2, 0, 3),
        (-3, 3, 2, 3, 0, 3),
    ),
    "lamp": ((-2, 2, -2, 2, 0, 0.5), (-0.3, 0.3, -0.3, 0.3, 0.5, 7), (-3, 3, -3, 3, 7, 9)),
}


def _boxes(name: str, rng: np.random.Generator) -> np.ndarray:
    """(boxes, 3, 2) lower and upper bounds, each axis stretched at random."""
    return np.array(SYNTHETIC[name]).reshape(-1, 3, 2) * rng.uniform(0.7, 1.4, (3, 1))


def _off(boxes: np.ndarray, start: str) -> str:
    """Boxes as an OFF file; the faces have four corners."""
    lines = [f"{start}{8 * len(boxes)} {6 * len(boxes)} 0"]
    for x, y, z in boxes:
        lines += [f"{a:.4f} {b:.4f} {c:.4f}" for a in x for b in y for c in z]
    for first in range(0, 8 * len(boxes), 8):
        for face in ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)):
            lines.append(f"4 {' '.join(str(first + corner) for corner in face)}")
    return "\n".join(lines) + "\n"
