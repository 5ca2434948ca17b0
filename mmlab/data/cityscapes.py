"""Cityscapes: streets in colour and depth, and what each pixel shows (Cordts et al., CVPR 2016)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from mmlab.data.aligned import Geometry
from mmlab.data.base import ProtocolName, begin_twin
from mmlab.data.packing import BadSample, Sample, pack
from mmlab.data.pictures import nearest, read_picture
from mmlab.data.scenes import VOID, SceneDataset, read_levels
from mmlab.errors import UserError
from mmlab.types import Segmentation

SCALE = (0.5, 2.0)
# In metres; the published ones.
DEPTH_MEAN, DEPTH_STD = 31.715617493177906, 38.70280704877372
FARTHEST = 300.0
# The evaluated classes in order, with the numbers that they have in the label files.
CLASSES = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
# By modality: the downloaded folder and the end of a file's name.
FILES = {
    "rgb": ("leftImg8bit", "leftImg8bit.png"),
    "depth": ("disparity", "disparity.png"),
    "labels": ("gtFine", "gtFine_labelIds.png"),
    "camera": ("camera", "camera.json"),
}
TWIN = (64, 128)


class Cityscapes(SceneDataset):
    """Cityscapes: one of 19 classes for each pixel of street scenes, with their depth from stereo.

    The downloaded folders lie in the root as they are: ``leftImg8bit``, ``gtFine``, ``disparity`` and ``camera``, each
    with ``<train|val>/<city>/<city>_..._<folder's own ending>``. ``mmlab prepare`` packs the 2975 images of ``train``
    and the 500 of ``val`` (the labels of ``test`` are not public) into ``<root>/packed-<height>x<width>``, 11 GB at the
    default size and 44 GB in full. Images that can't be decoded are left out and named.

    Depth in metres is baseline times focal length over disparity, kept with 16 bits; what was not measured, or is
    farther than 300 m, is 0, after normalising too. Depth is normalised by the published mean and deviation.

    By default images are stored at 512 x 1024, half their size, and evaluated so: this project's choice, for disks and
    memory. ``stored: [1024, 2048]`` is the published setting, which trains on crops of the full images and evaluates
    whole ones. In training, one draw rescales picture, depth and label map by 0.5 to 2.0, cuts them and mirrors them
    (see :class:`~mmlab.data.aligned.Geometry`); colours are jittered. At the default size a factor of less than 1
    leaves the whole image: a crop of ``size`` would not fit into a smaller one.

    ``val`` is the test split. The honest protocol carves the validation split from ``train``, by city. The official
    protocol trains on all of ``train`` and validates on the test split, as the papers do.

    Args:
        root: folder of the downloaded folders and of the pack.
        size: (height, width) of the crops that a network is trained on.
        stored: (height, width) of the stored images and label maps, with which the network is evaluated.
        validation_share: of the cities that is carved off for validation.
        split_seed: of that draw.
        protocol: ``honest``, or ``official`` for selection on the test split.

    Raises:
        UserError: for a size or a share that makes no sense.
    """

    def __init__(
        self,
        root: str = "data/cityscapes",
        size: tuple[int, int] = (512, 1024),
        stored: tuple[int, int] = (512, 1024),
        validation_share: float = 0.15,
        split_seed: int = 0,
        protocol: ProtocolName = "honest",
    ) -> None:
        if min(stored) < 1:
            raise UserError(f"stored is {list(stored)}; give [height, width], each 1 pixel or more.")
        self.size = size
        self.stored = stored
        super().__init__(
            root,
            Geometry(size, SCALE, evaluation=stored),
            (DEPTH_MEAN, DEPTH_STD),
            FARTHEST,
            True,
            "depth",
            "labels",
            validation_share,
            split_seed,
            protocol,
        )

    @property
    def task(self) -> Segmentation:
        """One of the 19 evaluated classes for each pixel, without weights."""
        return Segmentation(tuple(CLASSES), VOID)

    def prepare(self, workers: int = 1) -> None:
        """Decodes and packs every image, or goes on where it was stopped.

        Args:
            workers: how many images are decoded at the same time.

        Raises:
            UserError: if the raw files don't lie as described above, or the pack can't be written.
        """
        samples = [*self._find("train", "train"), *self._find("val", "test")]
        height, width = self.stored
        layout = {
            "rgb": ((3, height, width), "uint8"),
            "depth": ((1, height, width), "float16"),
            "labels": ((height, width), "uint8"),
        }
        options = {"stored": list(self.stored), "synthetic": self._synthetic}
        pack(self._folder, "Cityscapes", options, samples, layout, self._decode, workers)
        self._forget()

    def write_synthetic(self) -> None:
        """Writes small streets of coloured bands at growing distances, of six cities, in the raw layout.

        Raises:
            UserError: if the root holds anything.
        """
        begin_twin(self.root, "images")
        rng = np.random.default_rng(0)
        for folder, cities in (("train", ("aachen", "bremen", "ulm", "zurich")), ("val", ("frankfurt", "munster"))):
            for city in cities:
                for number in range(4):
                    _write_synthetic(self.root, folder, f"{city}_{number:06}_000019", rng)

    def details(self) -> dict[str, object]:
        """What tells this variant from others, as plain data for the results."""
        height, width = self.stored
        return {
            "variant": f"{height} x {width}",
            "size": list(self.size),
            "stored": list(self.stored),
            "validation_share": self.validation_share,
            "split_seed": self.split_seed,
            "protocol": self.protocol,
            "synthetic": self._synthetic,
        }

    @property
    def _folder(self) -> Path:
        height, width = self.stored
        return self.root / f"packed-{height}x{width}"

    @property
    def _command(self) -> str:
        height, width = self.stored
        return super()._command + ("" if self.stored == (512, 1024) else f" --stored [{height},{width}]")

    def _find(self, folder: str, split: str) -> list[Sample]:
        ending = "_" + FILES["rgb"][1]
        pictures = sorted((self.root / FILES["rgb"][0] / folder).glob(f"*/[!.]*{ending}"))
        if not pictures:
            raise UserError(
                f"{self.root / FILES['rgb'][0] / folder} holds no <city>/<name>{ending}; unpack the four downloads "
                "of Cityscapes (leftImg8bit, gtFine, disparity, camera) there, or point --root to them."
            )
        samples = []
        for picture in pictures:
            city, name = picture.parent.name, picture.name.removesuffix(ending)
            files = {part: self.root / top / folder / city / f"{name}_{end}" for part, (top, end) in FILES.items()}
            absent = next((file for file in files.values() if not file.is_file()), None)
            if absent is not None:
                raise UserError(f"there is no {absent}, which belongs to {picture}: unpack it, or remove the picture.")
            samples.append(Sample(name, split, city, files))
        return samples

    def _decode(self, sample: Sample) -> dict[str, np.ndarray]:
        height, width = self.stored
        rgb = read_picture(sample.files["rgb"], sample.files["rgb"].name, ("PNG",))
        disparity, labels = read_levels(sample.files["depth"]), read_levels(sample.files["labels"])
        if not disparity.shape == labels.shape == rgb.size[::-1]:
            raise BadSample("picture, disparity and labels have different sizes")
        depth = without_far(depth_from_disparity(disparity, *_camera(sample.files["camera"])))
        small = rgb.resize((width, height), Image.Resampling.BILINEAR) if rgb.size != (width, height) else rgb
        table = np.full(256, VOID, dtype=np.uint8)
        table[list(CLASSES.values())] = np.arange(len(CLASSES))
        return {
            "rgb": np.asarray(small).transpose(2, 0, 1),
            "depth": nearest(depth, self.stored)[None],
            "labels": table[nearest(labels.astype(np.uint8), self.stored)],
        }


def depth_from_disparity(disparity: np.ndarray, baseline: float, fx: float) -> np.ndarray:
    """Depth in metres, ``baseline * fx / v`` with ``v = (disparity - 1) / 256``; 0 where there is no disparity.

    Args:
        disparity: as the files hold it, whole numbers; 0 where nothing was measured.
        baseline: between both cameras, in metres.
        fx: focal length, in pixels.

    Returns:
        float16 of the same shape; what is too far for it is infinite.
    """
    shift = (disparity.astype(np.float64) - 1) / 256
    measured = shift > 0
    with np.errstate(over="ignore"):
        return np.where(measured, baseline * fx / np.where(measured, shift, 1), 0).astype(np.float16)


def without_far(depth: np.ndarray) -> np.ndarray:
    """Depth in metres with 0 in place of what is farther than 300 m, of the same type."""
    return np.where(depth > FARTHEST, 0, depth).astype(depth.dtype)


def _camera(file: Path) -> tuple[float, float]:
    """Baseline in metres and focal length in pixels."""
    try:
        content = json.loads(file.read_text())
        baseline, fx = float(content["extrinsic"]["baseline"]), float(content["intrinsic"]["fx"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadSample(f"{file.name} doesn't say baseline and focal length ({error!r})") from error
    if not (baseline > 0 and fx > 0):
        raise BadSample(f"{file.name} says baseline {baseline} and focal length {fx}")
    return baseline, fx


def _write_synthetic(root: Path, folder: str, name: str, rng: np.random.Generator) -> None:
    height, width = TWIN
    band = (np.arange(width) + rng.integers(width)) * len(CLASSES) // width % len(CLASSES)
    classes = np.broadcast_to(band, (height, width))
    noise = rng.normal(0, 1, (height, width, 4))
    colours = np.random.default_rng(1).uniform(40, 215, (len(CLASSES), 3))[classes] + 12 * noise[..., :3]
    disparity = 1000 + 500 * classes + 50 * noise[..., 3]
    disparity[rng.random((height, width)) < 0.1] = 0
    labels = np.array(list(CLASSES.values()), dtype=np.uint8)[classes]
    labels[-4:] = 1  # the car that carries the camera, which has no evaluated class
    content: Iterable[tuple[str, np.ndarray]] = (
        ("rgb", colours.clip(0, 255).astype(np.uint8)),
        ("depth", disparity.astype(np.uint16)),
        ("labels", labels),
    )
    places = {
        part: root / top / folder / name.split("_")[0] / f"{name}_{ending}" for part, (top, ending) in FILES.items()
    }
    for place in places.values():
        place.parent.mkdir(parents=True, exist_ok=True)
    for part, levels in content:
        Image.fromarray(levels).save(places[part])
    camera = {"extrinsic": {"baseline": 0.209313}, "intrinsic": {"fx": 2262.52}}
    places["camera"].write_text(json.dumps(camera))
