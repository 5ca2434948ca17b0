"""Kinetics-Sounds: video clips of actions that can be seen and heard (Arandjelovic and Zisserman, 2017)."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np

from mmlab.data.base import ProtocolName, Split, SplitName, Transform, begin_twin
from mmlab.data.clips import RATE, SAMPLES, ClipDataset, decode_clip, mp4_files, synthetic_clip
from mmlab.data.packing import Packed, Sample
from mmlab.data.spectrogram import FLOOR, DensitySpectrogram, FilterBank, LogSpectrogram
from mmlab.data.video import write_video
from mmlab.errors import UserError, did_you_mean
from mmlab.types import Classification, Modality

FEWEST_FRAMES = 3
FOLDERS = ("train", "val", "test")
LISTS = {name: Path(__file__).parent / "class_lists" / f"kinetics_sounds_{name}.txt" for name in ("31", "34")}


class KineticsSounds(ClipDataset):
    """Kinetics-Sounds, from clips of Kinetics that you have downloaded.

    The raw clips lie in ``<root>/videos/<train|val|test>/<class name>/<YouTube id>_<start>_<end>.mp4``, as the usual
    downloaders of Kinetics leave them (underscores in a class folder's name count as spaces). ``mmlab prepare`` packs
    the first 10 s of sound (16 kHz mono, repeated where it is shorter) and 10 frames, evenly picked from the first
    frames of every second, into ``<root>/packed-<frame_side>px``, about 2.3 MB a clip at the default size. Every
    variant but ``frame_side`` shares this pack. Clips that can't be decoded, that lack sound or pictures, or
    that have fewer than 3 such frames are left out and named.

    There is no agreed list of classes: 31 to 34 are in use. "34" holds the names of the original paper, seven of which
    are not in Kinetics-400: four were renamed there, and their clips are found under either name; three
    (fingerpicking, patting, typing) are gone and usually stay without clips. "31" holds those that are left, under
    their names in Kinetics-400. Both are assembled from names and sorted. The list of 33 names that some repositories
    use is not shipped, nor is the map from the integer labels of the 31-class lists in circulation to names, so
    class indices may differ from theirs. What was used is stored with the results, by SHA-256.

    The ``test`` folder is the test split and ``val`` the validation split; without test clips, ``val`` is the test
    split, as in most papers, and the honest protocol carves the validation split from ``train``, by video. The
    official protocol trains on all of ``train`` and validates on the test split, as the papers do.

    Args:
        root: folder of the raw clips and of the pack.
        class_list: "31", "34", or a text file with one class name (the name of its folder) on each line.
        audio: what the encoder sees. ``stft``: ln of the magnitude of a 5 s window (n_fft 256, hop 128), 129 x 626;
            ``fbank``: Kaldi filter bank with 128 bands, 1024 frames; ``density``: log power density of the whole
            10 s, standardised clip by clip, 257 x 1004.
        frames: how many of the 10 stored frames an encoder sees.
        frame_side: side of the stored frames, in pixels.
        image_size: side of the frames that an encoder sees, in pixels.
        split_file: a CSV file with the columns ``id`` (a clip's file name without ``.mp4``) and ``split`` (train, val
            or test) in place of the folders; clips that it doesn't name are left out.
        validation_share: of the videos of each class that is carved off for validation.
        split_seed: of that draw.
        protocol: ``honest``, or ``official`` for selection on the test split.
    """

    def __init__(
        self,
        root: str = "data/kinetics_sounds",
        class_list: str = "31",
        audio: Literal["stft", "fbank", "density"] = "stft",
        frames: int = 3,
        frame_side: int = 256,
        image_size: int = 224,
        split_file: str | None = None,
        validation_share: float = 0.1,
        split_seed: int = 0,
        protocol: ProtocolName = "honest",
    ) -> None:
        if not 0 < validation_share < 1:
            raise UserError(f"validation_share is {validation_share}; choose a share between 0 and 1.")
        super().__init__(root, frames, frame_side, image_size, protocol)
        self.class_list = class_list
        self.audio = audio
        self.split_file = split_file
        self.validation_share = validation_share
        self.split_seed = split_seed
        self._list_file = LISTS.get(class_list, Path(class_list))
        self._classes = read_class_list(self._list_file)
        self._audio_transform: LogSpectrogram | FilterBank | DensitySpectrogram
        self._audio_low: float | None
        if audio == "stft":
            self._audio_scale, self._audio_low = (0.0, 1.0), FLOOR
            self._audio_transform = LogSpectrogram(SAMPLES, n_fft=256, hop=128, window_samples=5 * RATE)
        elif audio == "fbank":
            # FilterBank takes the logarithm of at least this much energy.
            self._audio_scale, self._audio_low = (-4.503877, 2 * 5.141276), math.log(np.finfo(np.float32).eps)
            self._audio_transform = FilterBank(SAMPLES, RATE, *self._audio_scale)
        else:
            self._audio_scale, self._audio_low = (0.0, 1.0), None
            self._audio_transform = DensitySpectrogram(SAMPLES, standardise=True)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``audio`` and ``visual``."""
        mean, std = self._audio_scale
        audio = Modality("audio", "audio", self._audio_transform.shape, (mean,), (std,), self._audio_low)
        return audio, self._visual

    @property
    def task(self) -> Classification:
        """Classification into the classes of the list, whether or not there are clips of each."""
        return Classification(tuple(self._classes))

    def transforms(self) -> dict[str, Transform]:
        """Spectrograms; crops and flips of the frames."""
        return {"audio": self._audio_transform, "visual": self._crops()}

    def splits(self) -> dict[SplitName, Split]:
        """Opens the pack; the protocol, the class list and the split file are applied here.

        Raises:
            UserError: if the clips are not prepared, or a split is empty.
        """
        packed = self._packed
        index = {folder: label for label, folders in enumerate(self._classes.values()) for folder in folders}
        unpacked = sorted(set(index) - set(packed.meta["options"]["classes"]))
        if unpacked:
            raise UserError(f"{self._folder} was packed without {', '.join(unpacked)}; run: {self._command}")
        part = packed.split if self.split_file is None else self._listed(packed, self.split_file)
        part = np.where(np.isin(packed.targets, list(index)), part, "")
        if "test" not in part:
            part = np.where(part == "val", "test", part)
        train, validation, test = (np.flatnonzero(part == name) for name in FOLDERS)
        if len(train) == 0 or len(test) == 0:
            among = "" if self.split_file is None else f" that {self.split_file} names"
            raise UserError(
                f"{self._folder} has {len(train)} training and {len(test)} test clips of the class list "
                f"{self.class_list!r}{among}; put clips into {self.root / 'videos'} and run: {self._command}"
            )
        if self.protocol == "official":
            validation = test
        elif len(validation) == 0:
            videos = np.array([_video(packed.ids[position]) for position in train])
            train, validation = packed.carve(train, index, self.validation_share, self.split_seed, videos)
        return packed.parts(train, validation, test, index)

    def prepare(self, workers: int = 1) -> None:
        """Decodes and packs every clip of the class list (and of the shipped lists), or goes on where it was stopped.

        Args:
            workers: how many clips are decoded at the same time.

        Raises:
            UserError: if there are no clips, or the pack can't be written.
        """
        # Packing the shipped lists' classes too lets the variants share one pack.
        lists = (self._classes, *(read_class_list(file) for file in LISTS.values()))
        classes = sorted({folder for names in lists for folders in names.values() for folder in folders})
        samples = self._find(classes)

        def decode(sample: Sample) -> dict[str, np.ndarray]:
            return decode_clip(sample, self.frame_side, FEWEST_FRAMES)

        self._pack({"classes": classes}, samples, decode, workers)
        found = {sample.target for sample in samples}
        empty = [name for name, folders in self._classes.items() if not found.intersection(folders)]
        if empty:
            print(f"No clips of {len(empty)} of the {len(self._classes)} classes: {', '.join(empty)}.")

    def write_synthetic(self) -> None:
        """Writes 4 s clips of four classes, each with a hue and a tone of its own, in the raw layout.

        Raises:
            UserError: if the root holds anything, or PyAV is not installed.
        """
        begin_twin(self.root, "clips")
        rng = np.random.default_rng(0)
        for label, folders in enumerate(list(self._classes.values())[:4]):
            for split, clips in (("train", 6), ("val", 3)):
                folder = self.root / "videos" / split / folders[0]
                folder.mkdir(parents=True)
                for clip in range(clips):
                    file = folder / f"{split[:2]}synth{label:02}{clip:02}_000000_000004.mp4"
                    write_video(file, *synthetic_clip(label, rng), rate=RATE)

    def details(self) -> dict[str, object]:
        """What tells this variant from others, as plain data for the results."""
        split_hash = None if self.split_file is None else hashlib.sha256(_bytes(Path(self.split_file))).hexdigest()
        return {
            "class_list": self.class_list,
            "class_list_sha256": hashlib.sha256(_bytes(self._list_file)).hexdigest(),
            "classes": len(self._classes),
            "audio": self.audio,
            "frames": self.frames,
            "frame_side": self.frame_side,
            "image_size": self.image_size,
            "split_file_sha256": split_hash,
            "validation_share": self.validation_share,
            "split_seed": self.split_seed,
            "protocol": self.protocol,
            "synthetic": self._synthetic,
        }

    @property
    def _command(self) -> str:
        own_list = "" if self.class_list in LISTS else f" --class_list {self.class_list}"
        return super()._command + own_list

    def _find(self, classes: Iterable[str]) -> list[Sample]:
        videos = self.root / "videos"
        wanted = set(classes)
        samples: dict[tuple[str, str], Sample] = {}
        for split in FOLDERS:
            for file in mp4_files((videos / split).glob("*/*")):
                target = file.parent.name.replace("_", " ")
                if target not in wanted:
                    continue
                twin = samples.get((split, file.stem))
                if twin is not None:
                    raise UserError(f"{file} and {twin.files['visual']} have the name of one clip; remove one of them.")
                samples[split, file.stem] = Sample(file.stem, split, target, {"audio": file, "visual": file})
        if not samples:
            raise UserError(
                f"{videos} holds no clips of Kinetics-Sounds; put them there as "
                "<train|val|test>/<class name>/<YouTube id>_<start>_<end>.mp4, or point --root to them."
            )
        return list(samples.values())

    def _listed(self, packed: Packed, split_file: str) -> np.ndarray:
        """The split of each packed clip in the split file, (N,), empty where it names none."""
        try:
            table = csv.DictReader(_bytes(Path(split_file)).decode("utf-8-sig").splitlines())
            lines = list(table)
        except UnicodeDecodeError as error:
            raise UserError(f"{split_file} is no UTF-8 text ({error}); save it as a CSV file in UTF-8.") from error
        if not {"id", "split"} <= set(table.fieldnames or ()):
            raise UserError(f"{split_file} lacks the columns id and split; its first line must be: id,split")
        split_of: dict[str, str] = {}
        for number, line in enumerate(lines, 2):
            if line["split"] not in FOLDERS:
                hint = did_you_mean(str(line["split"]), FOLDERS)
                raise UserError(
                    f"{split_file}, line {number}: unknown split {line['split']!r}{hint}; use train, val or test."
                )
            if line["id"] in split_of:
                raise UserError(
                    f"{split_file}, line {number}: {line['id']!r} is listed twice; remove one of the lines."
                )
            split_of[line["id"]] = line["split"]
        return np.array([split_of.get(name, "") for name in packed.ids])


def read_class_list(file: Path) -> dict[str, tuple[str, ...]]:
    """Reads a class list: on each line a name and, after tabs, other names that its folder may have.

    Empty lines and those that begin with ``#`` don't count.

    Returns:
        By class, in the order of the file, the names that its folder may have.

    Raises:
        UserError: if the file can't be read, a name is used twice, or there are fewer than two classes.
    """
    if not file.is_file():
        raise UserError(f"There is no class list {file}; choose 31, 34 or a text file with a class name on each line.")
    try:
        lines = _bytes(file).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no UTF-8 text ({error}); save the class list in UTF-8.") from error
    classes: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        folders = tuple(name.strip().replace("_", " ") for name in line.split("\t"))
        if len(set(folders)) < len(folders) or seen.intersection(folders):
            raise UserError(f"{file}, line {number}: {folders[0]!r} is used twice; every class needs names of its own.")
        seen.update(folders)
        classes[folders[0]] = folders
    if len(classes) < 2:
        raise UserError(f"{file} names {len(classes)} classes; write at least two, one on each line.")
    return classes


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}); check the path.") from error


def _video(clip: str) -> str:
    # A YouTube id may hold underscores itself.
    return clip.rsplit("_", 2)[0]
