"""VGGSound: clips of ten seconds with a sound whose source can be seen (Chen, Xie, Vedaldi and Zisserman, 2020)."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter

import numpy as np

from mmlab.data.base import ProtocolName, Split, SplitName, Transform, begin_twin
from mmlab.data.clips import (
    RATE,
    SAMPLES,
    ClipDataset,
    decode_clip,
    mp4_files,
    name_missing,
    read_list,
    synthetic_clip,
)
from mmlab.data.packing import Sample
from mmlab.data.spectrogram import FLOOR, LogSpectrogram
from mmlab.data.video import write_video
from mmlab.errors import UserError, did_you_mean
from mmlab.types import Classification, Modality

LIST = "vggsound.csv"
FEWEST_FRAMES = 4


class VGGSound(ClipDataset):
    """VGGSound: 309 classes of sounds in about 200,000 clips of ten seconds (Chen et al., 2020).

    In ``root`` lie the published list ``vggsound.csv``, whose lines are ``YouTube id,start second,label,split`` (train
    or test), and the clips that you have: ``videos/<YouTube id>_<start second, six digits>.mp4``, or
    ``videos/<YouTube id>.mp4`` where the list has one clip of that video. Many videos are gone by now: listed clips
    without a file are counted and named in ``<root>/missing.txt``. The classes are all labels of the list, sorted
    (our order). Videos with clips in both train and test are counted and kept.

    ``mmlab prepare`` packs the first 10 s of sound (16 kHz mono, repeated where it is shorter) and 10 frames, evenly
    picked from the first frames of every second, into ``<root>/packed-<frame_side>px``. A clip takes 320,000 bytes of
    sound and 30 * frame_side^2 bytes of frames: 2.3 MB at the default size, 457 GB for 200,000 clips; 0.7 MB and 139 GB
    at a ``frame_side`` of 112. Clips that can't be decoded, that lack sound or pictures, or that have fewer than 4 such
    frames are left out and named. That 10 frames are stored and squares cut from the centre is our choice.

    An encoder hears ln of the STFT's magnitude (n_fft 256, hop 128) of 5 s, 129 x 626, a random window in training and
    the middle one in evaluation, and sees ``frames`` of the stored frames, one from each of as many equal segments: at
    random in training, the middle one in evaluation. How many frames the papers use is in no source that we had.

    The list has no validation part: the honest protocol carves one from the training clips, by video; the official one
    trains on all of them and validates on the test clips.

    Args:
        root: folder of the list, of the clips and of the pack.
        frames: how many of the 10 stored frames an encoder sees.
        frame_side: side of the stored frames, in pixels.
        image_size: side of the frames that an encoder sees, in pixels.
        validation_share: of the videos of each class that is carved off for validation.
        split_seed: of that draw.
        protocol: ``honest``, or ``official`` for selection on the test split.
    """

    def __init__(
        self,
        root: str = "data/vggsound",
        frames: int = 3,
        frame_side: int = 256,
        image_size: int = 224,
        validation_share: float = 0.1,
        split_seed: int = 0,
        protocol: ProtocolName = "honest",
    ) -> None:
        if not 0 < validation_share < 1:
            raise UserError(f"validation_share is {validation_share}; choose a share between 0 and 1.")
        super().__init__(root, frames, frame_side, image_size, protocol)
        self.validation_share = validation_share
        self.split_seed = split_seed
        self._audio_transform = LogSpectrogram(SAMPLES, n_fft=256, hop=128, window_samples=5 * RATE)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``audio`` and ``visual``."""
        return Modality("audio", "audio", self._audio_transform.shape, low=FLOOR), self._visual

    @property
    def task(self) -> Classification:
        """Classification into the labels of the list, whether or not there are clips of each.

        Raises:
            UserError: if the clips are not prepared.
        """
        return Classification(tuple(self._packed.meta["options"]["classes"]))

    def transforms(self) -> dict[str, Transform]:
        """Spectrograms; crops and flips of the frames."""
        return {"audio": self._audio_transform, "visual": self._crops()}

    def splits(self) -> dict[SplitName, Split]:
        """Opens the pack; the protocol is applied here.

        Raises:
            UserError: if the clips are not prepared, or a split is empty.
        """
        packed = self._packed
        index = {name: label for label, name in enumerate(packed.meta["options"]["classes"])}
        train, test = (np.flatnonzero(packed.split == name) for name in ("train", "test"))
        if len(train) == 0 or len(test) == 0:
            raise UserError(
                f"{self._folder} has {len(train)} training and {len(test)} test clips; put clips into "
                f"{self.root / 'videos'} and run: {self._command}"
            )
        if self.protocol == "official":
            return packed.parts(train, test, test, index)
        # Numbers, since comparing hundreds of thousands of names class by class would take minutes.
        _, videos = np.unique([packed.ids[position].rsplit("_", 1)[0] for position in train], return_inverse=True)
        train, validation = packed.carve(train, index, self.validation_share, self.split_seed, videos)
        return packed.parts(train, validation, test, index)

    def prepare(self, workers: int = 1) -> None:
        """Decodes and packs every listed clip that is there, or goes on where it was stopped.

        Args:
            workers: how many clips are decoded at the same time.

        Raises:
            UserError: if the list or all clips are absent, a line is not as described above, or the pack can't be
                written.
        """
        listed = self._read()
        clips_of = Counter(name.rsplit("_", 1)[0] for name in listed)
        files = {file.stem: file for file in mp4_files((self.root / "videos").glob("*"))}
        samples, missing = [], []
        for name, (label, split) in listed.items():
            video = name.rsplit("_", 1)[0]
            file = files.get(name) or (files.get(video) if clips_of[video] == 1 else None)
            if file is None:
                missing.append(name)
            else:
                samples.append(Sample(name, split, label, {"audio": file, "visual": file}))
        if not samples:
            raise UserError(
                f"{self.root / 'videos'} holds none of the clips of {LIST}; put them there as "
                "<YouTube id>_<start second, six digits>.mp4, or point --root to them."
            )

        def decode(sample: Sample) -> dict[str, np.ndarray]:
            return decode_clip(sample, self.frame_side, FEWEST_FRAMES)

        options = {
            "classes": sorted({label for label, _ in listed.values()}),
            "list_sha256": hashlib.sha256((self.root / LIST).read_bytes()).hexdigest(),
        }
        self._pack(options, samples, decode, workers)
        name_missing(self.root, missing, len(listed))
        train, test = (
            {name.rsplit("_", 1)[0] for name, (_, split) in listed.items() if split == part}
            for part in ("train", "test")
        )
        if train & test:
            print(
                f"Videos with clips in both train and test, kept as listed: {len(train & test)} (first: "
                f"{min(train & test)})."
            )

    def write_synthetic(self) -> None:
        """Writes a list of four classes and its 4 s clips, all but one; stripes and pitch tell the class.

        Raises:
            UserError: if the root holds anything, or PyAV is not installed.
        """
        begin_twin(self.root, "clips")
        (self.root / "videos").mkdir()
        rng = np.random.default_rng(0)
        rows: list[tuple[str, int, str, str]] = []
        for label, name in enumerate(("airplane flyby", "dog barking", "playing violin, fiddle", "toilet flushing")):
            for split, clips in (("train", 6), ("test", 3)):
                for clip in range(clips):
                    row = (f"{split}-_{label:02}{clip:02}", 10 * clip, name, split)
                    rows.append(row)
                    file = self.root / "videos" / f"{row[0]}_{row[1]:06}.mp4"
                    write_video(file, *synthetic_clip(label, rng), rate=RATE)
        rows.append(("gone-_00000", 30, "dog barking", "train"))
        with (self.root / LIST).open("w", newline="") as table:
            csv.writer(table, lineterminator="\n").writerows(rows)

    def details(self) -> dict[str, object]:
        """What tells this variant from others, as plain data for the results."""
        options = self._packed.meta["options"]
        return {
            "list_sha256": options["list_sha256"],
            "classes": len(options["classes"]),
            "frames": self.frames,
            "frame_side": self.frame_side,
            "image_size": self.image_size,
            "validation_share": self.validation_share,
            "split_seed": self.split_seed,
            "protocol": self.protocol,
            "synthetic": options["synthetic"],
        }

    def _read(self) -> dict[str, tuple[str, str]]:
        """By clip, ``<YouTube id>_<start second, six digits>``, its label and its split, in the order of the list."""
        file = self.root / LIST
        lines = read_list(file, "put the published list there, or point --root to its folder")
        clips: dict[str, tuple[str, str]] = {}
        for number, line in lines.items():
            place = f"{file}, line {number}"
            try:
                # One line at a time: a quote that is never closed must not swallow the lines below.
                (row,) = csv.reader([line])
            except csv.Error as error:
                raise UserError(f"{place}: this is no line of a CSV file ({error}); correct it.") from error
            if len(row) != 4:
                raise UserError(
                    f"{place}: {len(row)} columns where four are expected; write id,start,label,split, a label with "
                    "commas in quotes."
                )
            video, start, label, split = (cell.strip() for cell in row)
            if not start.isdecimal():
                raise UserError(
                    f"{place}: the start {start!r} is no whole number of seconds; correct it (the list has no header "
                    "line)."
                )
            if not label:
                raise UserError(f"{place}: the label is empty; write id,start,label,split.")
            if split not in ("train", "test"):
                hint = did_you_mean(split, ("train", "test"))
                raise UserError(f"{place}: unknown split {split!r}{hint}; use train or test.")
            name = f"{video}_{int(start):06}"
            if name in clips:
                raise UserError(f"{place}: the clip {name} is listed already; remove one of the lines.")
            clips[name] = (label, split)
        if len({label for label, _ in clips.values()}) < 2:
            raise UserError(f"{file} has clips of one label only, but two or more are needed; add others.")
        return clips
