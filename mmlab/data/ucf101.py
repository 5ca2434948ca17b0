"""UCF101: actions in short videos, as optical flow and one picture (Soomro, Zamir and Shah, 2012)."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mmlab.data.base import MultimodalDataset, ProtocolName, Split, SplitName, Transform, begin_twin
from mmlab.data.image import RandomClipCropFlip
from mmlab.data.optical_flow import dense_flow, flow_to_bytes, require_opencv, scale_flow_bytes
from mmlab.data.packing import BadSample, Packed, Sample, open_packed, pack
from mmlab.data.pictures import read_picture
from mmlab.data.ucf101_twin import write_images, write_lists, write_videos
from mmlab.data.video import count_frames, read_numbered_frames
from mmlab.errors import UserError, did_you_mean
from mmlab.types import Classification, Modality

if TYPE_CHECKING:
    from PIL.Image import Image

LENGTH = 10
"""Flow images in a clip."""
FLOW_MEAN, FLOW_STD = (127.5,), (1.0,)
FLOW_NOISE = 1.0
RGB_MEAN, RGB_STD = (106.46409, 101.46796, 93.22408), (68.28274, 66.40727, 67.58706)
RGB_TEST_MEAN, RGB_TEST_STD = (108.639244, 103.3139, 95.21823), (67.80855, 65.88047, 67.68048)
IMAGE_FOLDERS = {"rgb": "jpegs_256", "flow": "tvl1_flow/u", "flow_v": "tvl1_flow/v"}
VIDEO_FOLDER = "UCF-101"
_LISTED = re.compile(r"([^/\s]+)/(v_\S+_g\d+_c\d+)\.avi(?:\s+(\d+))?")


class UCF101(MultimodalDataset):
    """UCF101: 13,320 videos of 101 actions, as the optical flow of a clip and one of its pictures.

    The raw data lie in one of two ways, see ``source``:

    - ``images``, the public pre-computed set: pictures ``<root>/jpegs_256/<video>/frame000001.jpg``, TV-L1 flow to the
      right ``<root>/tvl1_flow/u/<video>/frame000001.jpg`` and down ``<root>/tvl1_flow/v/<video>/frame000001.jpg``,
      where a video is called ``v_<Class>_g<group>_c<clip>``. All are numbered from 1 without a gap, with or without
      zeros in front, and end in ``jpg`` or ``jpeg``;
    - ``videos``: ``<root>/UCF-101/<Class>/<video>.avi``. Flow is then computed at the stored size by OpenCV's DIS
      (medium preset) in place of TV-L1; numbers from both can't be compared. It is kept as TV-L1's usually is: 8 bits
      for -20 to 20 pixels.

    The official lists ``classInd.txt``, ``trainlist01.txt`` ... ``testlist03.txt`` lie in ``<root>/ucfTrainTestlist``
    or in ``<root>``; test lists may have labels or not. Upper and lower case are the same in the names of folders and
    videos, as releases differ in it (HandStandPushups).

    ``mmlab prepare`` packs ``clips`` clips of each video, evenly spread, one of them in the middle (it begins at
    n // 2 - 5 of n flow images), each with 10 flow images and one picture, into ``<root>/packed-...``. What is larger
    or smaller than ``frame_side`` x ``frame_side`` * 340 / 256 is resized until it covers that, and cut at the centre;
    displacements are scaled with it. A picture is first brought to its flow's size. A video of fewer than 10 flow
    images is repeated, each stream by itself. Videos that can't be decoded, lack one of their three folders or a frame
    between others, or have another number of u than of v images or fewer pictures than flow images, are left out and
    named. A clip takes 23 * ``frame_side`` * width bytes (2.0 MB), so all videos take 80 GB by default, 27 GB with
    ``clips`` 1, 20 GB with ``frame_side`` 128, and 7 GB with both. The three splits share a pack.

    Training draws one of the stored clips, a square window and a mirror image, the same for all its flow images and its
    picture; in the mirror u changes its sign. (The released code of DI-MML mirrors u without that and leaves v as it
    is, and it draws a place in the video and a picture of the clip once for all. Here the place is one of those stored,
    and the picture is always the same one of its clip.) Evaluation takes the middle clip's centre square.
    As the clip is drawn on the device, a training batch takes all of them there: 16 videos of 3 clips are 96 MB.

    There is no official validation part: the honest protocol carves one from the training list by group (videos of one
    group show the same people and place), the official one validates on the test list, as the paper's code does.

    Args:
        root: folder of the raw data and of the pack.
        split: which of the three official splits.
        source: ``images`` or ``videos``.
        clips: how many clips of each video are stored, an odd number.
        rgb_frame: which of a clip's ten pictures is stored, from 0; 6 is the one that the released code picks.
        frame_side: height of the stored pictures.
        image_size: side of the squares that an encoder sees, at most ``frame_side``.
        normalisation: ``training``: the statistics of the training pictures for all; ``official``: those of the test
            pictures in evaluation, as in the released code. Corruptions are given at the scale of the former.
        validation_share: of the groups of each class that is carved off for validation.
        split_seed: of that draw.
        protocol: ``honest``, or ``official`` for selection on the test list.

    Raises:
        UserError: if an option is out of range.
    """

    def __init__(
        self,
        root: str = "data/ucf101",
        split: Literal[1, 2, 3] = 1,
        source: Literal["images", "videos"] = "images",
        clips: int = 3,
        rgb_frame: int = 6,
        frame_side: int = 256,
        image_size: int = 224,
        normalisation: Literal["training", "official"] = "training",
        validation_share: float = 0.1,
        split_seed: int = 0,
        protocol: ProtocolName = "honest",
    ) -> None:
        if clips < 1 or clips % 2 == 0:
            raise UserError(f"clips is {clips}; choose an odd number, so that one of them is in the middle.")
        if not 0 <= rgb_frame < LENGTH:
            raise UserError(f"rgb_frame is {rgb_frame}, but a clip has {LENGTH} pictures: choose 0 to {LENGTH - 1}.")
        if frame_side < 16:  # optical flow needs as much
            raise UserError(f"frame_side is {frame_side}; choose 16 pixels or more.")
        if not 1 <= image_size <= frame_side:
            raise UserError(
                f"image_size is {image_size}, but pictures of {frame_side} pixels are stored: choose 1 to {frame_side} "
                "or a larger frame_side."
            )
        if not 0 < validation_share < 1:
            raise UserError(f"validation_share is {validation_share}; choose a share between 0 and 1.")
        self.root = Path(root)
        self.split = split
        self.source = source
        self.clips = clips
        self.rgb_frame = rgb_frame
        self.frame_side = frame_side
        self.image_size = image_size
        self.normalisation = normalisation
        self.validation_share = validation_share
        self.split_seed = split_seed
        self.protocol = protocol
        self._size = (frame_side, frame_side * 340 // 256)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``flow`` (2, 10, size, size), whose channels are u and v, and ``rgb`` (3, size, size).

        One unit of noise severity is one grey level of flow, 0.16 pixel. This is our choice; no source gives one.
        """
        side = self.image_size
        flow = Modality("flow", "flow", (2, LENGTH, side, side), FLOW_MEAN, FLOW_STD, 0.0, 255.0, noise=FLOW_NOISE)
        return flow, Modality("rgb", "image", (3, side, side), RGB_MEAN, RGB_STD, 0.0, 255.0)

    @property
    def task(self) -> Classification:
        """Which action it is, in the order of ``classInd.txt``.

        Raises:
            UserError: if that list can't be read.
        """
        return Classification(tuple(self._classes()))

    def transforms(self) -> dict[str, Transform]:
        """Clips, windows and mirror images, the same for both streams."""
        evaluation = (RGB_TEST_MEAN, RGB_TEST_STD) if self.normalisation == "official" else None
        return {
            "flow": RandomClipCropFlip(self.image_size, FLOW_MEAN, FLOW_STD, turned=0),
            "rgb": RandomClipCropFlip(self.image_size, RGB_MEAN, RGB_STD, evaluation=evaluation),
        }

    def splits(self) -> dict[SplitName, Split]:
        """Opens the pack; the lists and the protocol are applied here.

        Raises:
            UserError: if the videos are not prepared, a list is not as described above, or a split is empty.
        """
        packed = open_packed(self._folder, "UCF101", self._command)
        classes = self._classes()
        if packed.meta["options"]["classes"] != classes:
            raise UserError(f"{self._folder} was packed with other class names; run: {self._command}")
        index = {name: label for label, name in enumerate(classes)}
        train, test = (self._usable(part, packed) for part in ("train", "test"))
        validation = test
        if self.protocol == "honest":
            groups = np.array([packed.ids[position].lower().rpartition("_c")[0] for position in train])
            train, validation = packed.carve(train, index, self.validation_share, self.split_seed, groups)
        parts = packed.parts(train, validation, test, index)
        # Evaluation needs no more than the middle clip: a view of it spares the copy of the others.
        middle = {name: array[:, self.clips // 2][:, None] for name, array in packed.arrays.items()}
        return {name: part if name == "train" else replace(part, arrays=middle) for name, part in parts.items()}

    def prepare(self, workers: int = 1) -> None:
        """Decodes and packs every video of the two lists, or goes on where it was stopped.

        Args:
            workers: how many videos are decoded at the same time.

        Raises:
            UserError: if lists or raw data don't lie as described above, the pack can't be written, or a decoder is not
                installed.
        """
        if self.source == "videos":
            require_opencv()
        options = {
            "classes": self._classes(),
            "source": self.source,
            "clips": self.clips,
            "rgb_frame": self.rgb_frame,
            "synthetic": self._synthetic,
        }
        layout = {
            "flow": ((self.clips, 2, LENGTH, *self._size), "uint8"),
            "rgb": ((self.clips, 3, *self._size), "uint8"),
        }
        samples = self._find_images() if self.source == "images" else self._find_videos()
        decode = self._decode_images if self.source == "images" else self._decode_video
        pack(self._folder, "UCF101", options, samples, layout, decode, workers)

    def write_synthetic(self) -> None:
        """Writes 48 short videos of four classes in the raw layout of ``source``, and all lists.

        Raises:
            UserError: if the root holds anything, or PyAV is not installed, which ``videos`` needs.
        """
        begin_twin(self.root, "videos")
        write_lists(self.root)
        if self.source == "images":
            write_images(self.root)
        else:
            write_videos(self.root)

    def details(self) -> dict[str, object]:
        """What tells this variant from others, as plain data for the results."""
        return {
            "variant": f"split {self.split}" + (", DIS flow" if self.source == "videos" else ""),
            "split": self.split,
            "source": self.source,
            "clips": self.clips,
            "rgb_frame": self.rgb_frame,
            "frame_side": self.frame_side,
            "image_size": self.image_size,
            "normalisation": self.normalisation,
            "train_list_sha256": _sha256(self._list("train")),
            "test_list_sha256": _sha256(self._list("test")),
            "class_list_sha256": _sha256(self._lists / "classInd.txt"),
            "validation_share": self.validation_share,
            "split_seed": self.split_seed,
            "protocol": self.protocol,
            "synthetic": self._synthetic,
        }

    @property
    def _folder(self) -> Path:
        return self.root / f"packed-{self.source}-{self.frame_side}px-{self.clips}clips-rgb{self.rgb_frame}"

    @property
    def _command(self) -> str:
        options = f"--root {self.root}"
        defaults = {"split": 1, "source": "images", "clips": 3, "rgb_frame": 6, "frame_side": 256, "image_size": 224}
        for name, default in defaults.items():
            if getattr(self, name) != default:
                options += f" --{name} {getattr(self, name)}"
        return f"mmlab prepare UCF101 {options}"

    @property
    def _synthetic(self) -> bool:
        return (self.root / "SYNTHETIC").exists()

    @property
    def _lists(self) -> Path:
        folder = _child(self.root, "ucfTrainTestlist")
        return folder if folder.is_dir() else self.root

    def _list(self, part: str) -> Path:
        return self._lists / f"{part}list{self.split:02}.txt"

    def _classes(self) -> list[str]:
        """The class names of ``classInd.txt``, in order."""
        file = self._lists / "classInd.txt"
        classes: list[str] = []
        for number, line in enumerate(_lines(file), 1):
            words = line.split()
            if not words:
                continue
            if len(words) != 2 or words[0] != str(len(classes) + 1):
                raise UserError(
                    f"{file}, line {number}: {line!r} is not '{len(classes) + 1} <class name>'; correct it."
                )
            if words[1].lower() in (name.lower() for name in classes):
                raise UserError(f"{file}, line {number}: the class {words[1]} is there twice; remove one of the lines.")
            classes.append(words[1])
        if len(classes) < 2:
            raise UserError(f"{file} names {len(classes)} classes; write '<index> <class name>' on each line.")
        return classes

    def _listed(self, part: str) -> dict[str, str]:
        """The class of each video of a list, by the video's name, in the list's order."""
        file = self._list(part)
        classes = self._classes()
        by_lower = {name.lower(): name for name in classes}
        listed: dict[str, str] = {}
        line_of: dict[str, int] = {}
        for number, line in enumerate(_lines(file), 1):
            if not line.strip():
                continue
            found = _LISTED.fullmatch(line.strip())
            if found is None:
                raise UserError(
                    f"{file}, line {number}: {line!r} is not '<Class>/v_<Class>_g01_c01.avi', with or without a label; "
                    "correct it."
                )
            folder, name, label = found.groups()
            if folder.lower() not in by_lower:
                raise UserError(
                    f"{file}, line {number}: classInd.txt has no class {folder!r}{did_you_mean(folder, classes)}; "
                    "correct the line."
                )
            target = by_lower[folder.lower()]
            if label is not None and label != str(classes.index(target) + 1):
                raise UserError(
                    f"{file}, line {number}: the label of {target} is {classes.index(target) + 1} in classInd.txt, not "
                    f"{label}; correct the line."
                )
            if name.lower() in line_of:
                raise UserError(
                    f"{file}, line {number}: {name} is in line {line_of[name.lower()]} already; remove one of them."
                )
            line_of[name.lower()] = number
            listed[name] = target
        if not listed:
            raise UserError(f"{file} names no video; write '<Class>/v_<Class>_g01_c01.avi' on each line.")
        return listed

    def _both_lists(self) -> dict[str, str]:
        train, test = self._listed("train"), self._listed("test")
        both = sorted({name.lower() for name in train} & {name.lower() for name in test})
        if both:
            raise UserError(
                f"{self._list('test')} and {self._list('train').name} share {len(both)} videos (first: {both[0]}); "
                "remove them from one."
            )
        # By name, so that the three splits, which list the same videos, make the same pack.
        return dict(sorted((train | test).items()))

    def _usable(self, part: str, packed: Packed) -> np.ndarray:
        """Positions in the pack of the videos of a list, in its order, without those that were left out."""
        position_of = {name.lower(): position for position, name in enumerate(packed.ids)}
        bad = {entry["id"].lower() for entry in packed.meta["bad"]}
        listed = [name.lower() for name in self._listed(part)]
        unknown = [name for name in listed if name not in position_of and name not in bad]
        if unknown:
            raise UserError(
                f"{self._folder} was packed without {len(unknown)} videos of {self._list(part)} (first: {unknown[0]}); "
                f"run: {self._command}"
            )
        positions = [position_of[name] for name in listed if name in position_of]
        if not positions:
            raise UserError(
                f"No video of {self._list(part)} is usable, for the reasons in {self._folder / 'pack.json'}; replace "
                f"the raw files and run: {self._command}"
            )
        return np.array(positions)

    def _find_images(self) -> list[Sample]:
        folders = {name: _child(self.root, path) for name, path in IMAGE_FOLDERS.items()}
        for name, folder in folders.items():
            if not folder.is_dir():
                there = _child(self.root, VIDEO_FOLDER)
                other = f", or add --source videos to use {there}" if there.is_dir() else ""
                raise UserError(
                    f"There is no folder {folder}; put the pre-computed {name.removesuffix('_v')} images there as "
                    f"<video>/frame000001.jpg{other}."
                )
        entries = {name: _folders(folder) for name, folder in folders.items()}
        # Where a video's folder is missing, the one it should be in stands for it: putting it there changes that.
        return [
            Sample(video, "videos", target, {name: entries[name].get(video.lower(), folders[name]) for name in folders})
            for video, target in self._both_lists().items()
        ]

    def _find_videos(self) -> list[Sample]:
        folder = _child(self.root, VIDEO_FOLDER)
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}; put the videos there as <Class>/<video>.avi.")
        files = _by_name(file for file in folder.glob("*/*") if file.suffix.lower() == ".avi" and file.is_file())
        return [
            Sample(video, "videos", target, dict.fromkeys(("flow", "rgb"), files.get(f"{video}.avi".lower(), folder)))
            for video, target in self._both_lists().items()
        ]

    def _decode_images(self, sample: Sample) -> dict[str, np.ndarray]:
        from PIL.Image import Resampling

        for folder in sample.files.values():
            if folder.name.lower() != sample.id.lower():
                raise BadSample(f"there is no {folder}/{sample.id}")
        u, v, rgb = (_pictures(sample.files[name]) for name in ("flow", "flow_v", "rgb"))
        if len(u) != len(v):
            raise BadSample(f"{len(u)} u and {len(v)} v flow images")
        if not u:
            raise BadSample("no flow image")
        if len(rgb) < len(u):
            raise BadSample(f"{len(rgb)} pictures for {len(u)} flow images")
        places = clip_places(len(u), self.clips)
        flows, size = {}, _opened(u[0], "L").size
        # Displacements grow as the picture does.
        wider, higher = (new / old for new, old in zip(_scaled(size, self._size), size, strict=True))
        for place in np.unique(places):
            pair = [_opened(files[place], "L") for files in (u, v)]
            if any(image.size != size for image in pair):
                raise BadSample(f"flow images of different sizes, {u[place].name} for one")
            right, down = (_covering(image, self._size) for image in pair)
            flows[place] = np.stack((scale_flow_bytes(right, wider), scale_flow_bytes(down, higher)))
        pictures = []
        for place in places[:, self.rgb_frame]:
            image = _opened(rgb[place], "RGB")
            sized = image if image.size == size else image.resize(size, Resampling.BILINEAR)
            pictures.append(_covering(sized, self._size))
        return _stacked(places, flows, pictures)

    def _decode_video(self, sample: Sample) -> dict[str, np.ndarray]:
        from PIL import Image

        file = sample.files["rgb"]
        if file.name.lower() != f"{sample.id}.avi".lower():
            raise BadSample(f"there is no file {file}/{sample.target}/{sample.id}.avi")
        steps = count_frames(file) - 1
        if steps < 1:
            raise BadSample("fewer than two frames, which have no flow")
        places = clip_places(steps, self.clips)
        wanted = set(np.concatenate((places, places + 1)).flatten().tolist())
        frames = {
            number: _covering(Image.fromarray(frame), self._size)
            for number, frame in read_numbered_frames(file, wanted).items()
        }
        flows = {place: flow_to_bytes(dense_flow(frames[place], frames[place + 1])) for place in np.unique(places)}
        return _stacked(places, flows, [frames[place] for place in places[:, self.rgb_frame]])


def centre_offset(frames: int, length: int = LENGTH) -> int:
    """Where the clip in the middle of a video begins, from 0: frames // 2 - length // 2, as in DI-MML's code.

    Args:
        frames: the number of the video's flow images.
        length: of the clip; a shorter video's clip begins at its start.
    """
    return max(0, frames // 2 - length // 2)


def clip_places(frames: int, clips: int, length: int = LENGTH) -> np.ndarray:
    """Which flow images the stored clips of a video have.

    Args:
        frames: the number of the video's flow images.
        clips: an odd number; they are evenly spread from the start to the end, the middle one at ``centre_offset``.
        length: of a clip; a shorter video is repeated.

    Returns:
        (clips, length) int64, from 0.
    """
    offsets = np.rint(np.linspace(0, max(0, frames - length), clips)).astype(np.int64)
    offsets[clips // 2] = centre_offset(frames, length)
    return (offsets[:, None] + np.arange(length)) % frames


def _stacked(places: np.ndarray, flows: dict[int, np.ndarray], pictures: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The clips of one video: flow (clips, 2, 10, H, W) and pictures (clips, 3, H, W)."""
    clips = [np.stack([flows[place] for place in clip], axis=1) for clip in places]
    return {"flow": np.stack(clips), "rgb": np.stack(pictures).transpose(0, 3, 1, 2)}


def _scaled(size: tuple[int, int], wanted: tuple[int, int]) -> tuple[int, int]:
    """(width, height) with which a picture covers the wanted (height, width), its own where that is exact."""
    width, height = size
    factor = max(wanted[0] / height, wanted[1] / width)
    return max(wanted[1], round(width * factor)), max(wanted[0], round(height * factor))


def _covering(image: Image, wanted: tuple[int, int]) -> np.ndarray:
    """The picture resized until it covers the wanted (height, width), and cut at the centre."""
    from PIL.Image import Resampling

    width, height = _scaled(image.size, wanted)
    left, top = (width - wanted[1]) // 2, (height - wanted[0]) // 2
    if (width, height) != image.size:
        image = image.resize((width, height), Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + wanted[1], top + wanted[0])))


def _opened(file: Path, mode: Literal["RGB", "L"]) -> Image:
    return read_picture(file, f"{file.parent.name}/{file.name}", ("JPEG",), mode)


def _pictures(folder: Path) -> list[Path]:
    """The JPEG files of a folder, in the order of their numbers, which are 1 to their count."""
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if entry.name.lower().endswith((".jpg", ".jpeg")) and not entry.name.startswith(".") and entry.is_file()
        ]
    numbered = []
    for name in names:
        digits = re.search(r"(\d+)\.\w+$", name)
        if digits is None:
            raise BadSample(f"{name} in {folder.parent.name} has no number")
        numbered.append((int(digits[1]), name))
    numbered.sort()
    for place, (number, name) in enumerate(numbered, 1):
        if number > place:
            raise BadSample(f"frame {place} is missing in {folder.parent.name}")
        if number < place:
            raise BadSample(f"{name} in {folder.parent.name} is one too many: frames are numbered from 1, each once")
    return [folder / name for _, name in numbered]


def _folders(folder: Path) -> dict[str, Path]:
    return _by_name(each for each in folder.iterdir() if each.is_dir())


def _by_name(paths: Iterable[Path]) -> dict[str, Path]:
    """By their names in lower case; of two spellings, the one that isn't empty.

    Raises:
        UserError: if neither is.
    """
    found: dict[str, Path] = {}
    for path in sorted(paths):
        other = found.get(path.name.lower())
        if other is None or _is_empty(other):
            found[path.name.lower()] = path
        elif not _is_empty(path):
            raise UserError(f"{other} and {path} are two of one name, but for its case; remove one of them.")
    return found


def _is_empty(path: Path) -> bool:
    if path.is_file():
        return path.stat().st_size == 0
    return all(each.name.startswith(".") for each in path.iterdir())


def _child(folder: Path, path: str) -> Path:
    """The path below a folder, whatever the case of its parts; as it is given where there is none."""
    for part in path.split("/"):
        entries = _folders(folder) if folder.is_dir() else {}
        folder = entries.get(part.lower(), folder / part)
    return folder


def _lines(file: Path) -> list[str]:
    try:
        return _bytes(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no UTF-8 text ({error}); put the official list there.") from error


def _sha256(file: Path) -> str:
    return hashlib.sha256(_bytes(file)).hexdigest()


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(
            f"The list {file} can't be read ({error.strerror}); put UCF101's official lists there, or into a folder "
            "ucfTrainTestlist beside it."
        ) from error
