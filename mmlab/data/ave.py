"""AVE: events that can be seen and heard, in clips of ten seconds (Tian, Shi, Li, Duan and Xu, 2018)."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mmlab.data.base import ProtocolName, Split, SplitName, Transform, begin_twin
from mmlab.data.clips import (
    RATE,
    SAMPLES,
    STORED_FRAMES,
    ClipDataset,
    evenly,
    mp4_files,
    name_missing,
    read_list,
    repeated,
    synthetic_clip,
)
from mmlab.data.packing import BadSample, Sample
from mmlab.data.spectrogram import DensitySpectrogram
from mmlab.data.video import read_audio, read_frames, write_video
from mmlab.draws import Draws
from mmlab.errors import UserError, did_you_mean
from mmlab.types import Classification, Modality

CLASSES = (
    "Church bell",
    "Male speech, man speaking",
    "Bark",
    "Fixed-wing aircraft, airplane",
    "Race car, auto racing",
    "Female speech, woman speaking",
    "Helicopter",
    "Violin, fiddle",
    "Flute",
    "Ukulele",
    "Frying (food)",
    "Truck",
    "Shofar",
    "Motorcycle",
    "Acoustic guitar",
    "Train horn",
    "Clock",
    "Banjo",
    "Goat",
    "Baby cry, infant cry",
    "Bus",
    "Chainsaw",
    "Cat",
    "Horse",
    "Toilet flush",
    "Rodents, rats, mice",
    "Accordion",
    "Mandolin",
)
LISTS = {"train": "trainSet.txt", "val": "valSet.txt", "test": "testSet.txt"}
PARTS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Event:
    """A line of a list.

    Attributes:
        video: its id.
        label: the name of its class.
        start: the second at which the event begins.
        end: the second at which it ends.
    """

    video: str
    label: str
    start: int
    end: int

    @property
    def empty(self) -> bool:
        """Whether it lasts no time."""
        return self.end <= self.start


class AVE(ClipDataset):
    """AVE: one of 28 events, seen and heard in a clip of ten seconds (Tian et al., 2018), as DI-MML uses it.

    The raw data lie as they are published: the videos ``<root>/AVE/<id>.mp4`` and the lists ``<root>/trainSet.txt``,
    ``valSet.txt`` and ``testSet.txt``, whose lines are ``class&id&quality&start&end``, seconds as whole numbers.
    ``Annotations.txt`` is not needed. ``mmlab prepare`` packs each video's event into
    ``<root>/packed-<frame_side>px``, about 2.3 MB a video at the default size: its sound (16 kHz, mono, repeated until
    10 s are full), and the first frame of every second from its start to its end. Where these are fewer than 10, other
    frames of the event are added, each the farthest in time from those that are there; of 11, 10 are picked evenly.
    Both rules are ours (the released code adds at random), and so is the size: squares of ``frame_side`` pixels cut
    from the centre are stored, not the full pictures.

    An encoder sees the log power density of the sound, standardised clip by clip, 257 x 1004, and ``frames`` of the 10
    frames in their order: in training drawn without replacement, afresh in every epoch; in evaluation the middle ones
    of as many equal segments. The released code draws anew from one seed every time, so that it sees the same frames
    of a video in every epoch.

    The published lists name some videos twice, with two classes: the first line counts. Some training videos are also
    validation or test videos. ``mmlab prepare`` names both kinds and validation videos that are also test videos, as
    well as events that last no time and videos that can't be decoded, which are left out. The honest protocol selects
    on the validation list, which DI-MML leaves unused; the official one selects on the test list.

    Args:
        root: folder of the raw data and of the pack.
        frames: how many of the 10 stored frames an encoder sees.
        frame_side: side of the stored frames, in pixels.
        image_size: side of the frames that an encoder sees, in pixels.
        leaks: what becomes of training videos that are also validation or test videos, and of validation videos that
            are also test videos: ``keep`` them, as published, or ``drop`` them from training or validation.
        protocol: ``honest``, or ``official`` for selection on the test list.
    """

    def __init__(
        self,
        root: str = "data/ave",
        frames: int = 4,
        frame_side: int = 256,
        image_size: int = 224,
        leaks: Literal["keep", "drop"] = "keep",
        protocol: ProtocolName = "honest",
    ) -> None:
        super().__init__(root, frames, frame_side, image_size, protocol)
        self.leaks = leaks
        self._audio_transform = DensitySpectrogram(SAMPLES, standardise=True)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``audio`` and ``visual``."""
        return Modality("audio", "audio", self._audio_transform.shape), self._visual

    @property
    def task(self) -> Classification:
        """Which event it is; the classes in the order in which the published test list first names them."""
        return Classification(CLASSES)

    def transforms(self) -> dict[str, Transform]:
        """Spectrograms; choice, crops and flips of the frames."""
        return {"audio": self._audio_transform, "visual": RandomFrames(self.frames, self._crops())}

    def splits(self) -> dict[SplitName, Split]:
        """Opens the pack; the protocol is applied here, and leaking videos are dropped where that is asked for.

        Raises:
            UserError: if the videos are not prepared, or a split is empty.
        """
        packed = self._packed
        index = {name: label for label, name in enumerate(CLASSES)}
        train, validation, test = (np.flatnonzero(packed.split == name) for name in LISTS)
        if self.leaks == "drop":
            ids = np.array(packed.ids)
            train = train[~np.isin(ids[train], ids[np.concatenate((validation, test))])]
            validation = validation[~np.isin(ids[validation], ids[test])]
        if self.protocol == "official":
            validation = test
        for name, positions in zip(LISTS, (train, validation, test), strict=True):
            if len(positions) == 0:
                raise UserError(
                    f"{self._folder} has no {PARTS[name]} videos; put those of {self.root / LISTS[name]} into "
                    f"{self.root / 'AVE'} and run: {self._command}"
                )
        return packed.parts(train, validation, test, index)

    def prepare(self, workers: int = 1) -> None:
        """Decodes and packs every listed event, or goes on where it was stopped; says what is odd about the lists.

        Args:
            workers: how many videos are decoded at the same time.

        Raises:
            UserError: if a list or all videos are absent, a line is not as described above, or the pack can't be
                written.
        """
        listed = {part: self._read(part) for part in LISTS}
        events = {(part, event.video): event for part in LISTS for event in _one_each(listed[part])}
        files = {file.stem: file for file in mp4_files((self.root / "AVE").glob("*"))}
        samples, missing = [], []
        for (part, video), event in events.items():
            file = files.get(video)
            if file is None:
                missing.append(video)
            else:
                samples.append(Sample(video, part, event.label, {"audio": file, "visual": file}))
        if not samples:
            raise UserError(f"{self.root / 'AVE'} holds none of the listed videos; put them there as <id>.mp4.")

        def decode(sample: Sample) -> dict[str, np.ndarray]:
            return _decode(sample, events[sample.split, sample.id], self.frame_side)

        hashes = {file: hashlib.sha256((self.root / file).read_bytes()).hexdigest() for file in LISTS.values()}
        self._pack({"lists_sha256": hashes}, samples, decode, workers)
        name_missing(self.root, missing, len(events))
        _report(listed)

    def write_synthetic(self) -> None:
        """Writes 4 s videos of four classes and the lists in the raw layout; stripes and pitch tell the class.

        Like the published lists, those of the twin have a training video with two classes, one that is also a
        validation video, one that is also a test video, and an event that lasts no time.

        Raises:
            UserError: if the root holds anything, or PyAV is not installed.
        """
        begin_twin(self.root, "videos")
        (self.root / "AVE").mkdir()
        rng = np.random.default_rng(0)
        lines: dict[str, list[str]] = {part: [] for part in LISTS}
        for label, name in enumerate(CLASSES[:4]):
            for part, videos in (("train", 6), ("val", 2), ("test", 3)):
                for number in range(videos):
                    video = f"{part}-_{label:02}{number:02}"
                    write_video(self.root / "AVE" / f"{video}.mp4", *synthetic_clip(label, rng), rate=RATE)
                    start = number % 2
                    lines[part].append(f"{name}&{video}&good&{start}&{start + 3}\n")
        write_video(self.root / "AVE" / "train-_empty.mp4", *synthetic_clip(0, rng), rate=RATE)
        lines["train"] += [
            f"{CLASSES[5]}&train-_0000&good&0&3\n",
            lines["val"][0],
            lines["test"][0],
            f"{CLASSES[0]}&train-_empty&good&2&2\n",
        ]
        for part, file in LISTS.items():
            (self.root / file).write_text("".join(lines[part]))
        header = "Category&VideoID&Quality&StartTime&EndTime\n"
        (self.root / "Annotations.txt").write_text(header + "".join("".join(each) for each in lines.values()))

    def details(self) -> dict[str, object]:
        """What tells this variant from others, as plain data for the results."""
        options = self._packed.meta["options"]
        return {
            "variant": "without leaks" if self.leaks == "drop" else None,
            "lists_sha256": options["lists_sha256"],
            "leaks": self.leaks,
            "frames": self.frames,
            "frame_side": self.frame_side,
            "image_size": self.image_size,
            "protocol": self.protocol,
            "synthetic": options["synthetic"],
        }

    def _read(self, part: str) -> list[Event]:
        file = self.root / LISTS[part]
        events = []
        for number, line in read_list(file, "put the three lists of AVE there, or point --root to them").items():
            # Names of classes hold commas, but no &.
            cells = [cell.strip() for cell in line.split("&")]
            if len(cells) != 5:
                raise UserError(
                    f"{file}, line {number}: {len(cells)} parts where five are expected; write "
                    "class&id&quality&start&end, without a header line."
                )
            label, video, _, start, end = cells
            if label not in CLASSES:
                raise UserError(
                    f"{file}, line {number}: unknown class {label!r}{did_you_mean(label, CLASSES)}; correct the line "
                    "(the list has no header line)."
                )
            if not (start.isdecimal() and end.isdecimal()):
                raise UserError(
                    f"{file}, line {number}: the event is from {start!r} to {end!r}; write both seconds as whole "
                    "numbers."
                )
            events.append(Event(video, label, int(start), int(end)))
        return events


class RandomFrames:
    """Training draws some of the stored frames of each clip without replacement and keeps their order.

    Args:
        frames: how many are drawn.
        then: what is done with them; in evaluation, with all of them.
    """

    def __init__(self, frames: int, then: Transform) -> None:
        self._frames = frames
        self._then = then

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, stored, C, H, W) to what the other transform makes of (B, frames, C, H, W)."""
        if draws is None:
            return self._then(raw, draws)
        order = draws.uniform("visual/drawn", raw.shape[1]).argsort(dim=1)
        places = order[:, : self._frames].sort(dim=1).values
        return self._then(raw[torch.arange(len(raw), device=raw.device)[:, None], places], draws)


def _decode(sample: Sample, event: Event, frame_side: int) -> dict[str, np.ndarray]:
    if event.empty:
        raise BadSample(f"its event lasts no time, from second {event.start} to {event.end}")
    sound = read_audio(sample.files["audio"], RATE)[RATE * event.start : RATE * event.end]
    if len(sound) == 0:
        raise BadSample(f"no sound from second {event.start} to {event.end}")
    frames = read_frames(sample.files["visual"], frame_side, STORED_FRAMES, (event.start, event.end))
    return {"audio": repeated(sound, SAMPLES), "visual": evenly(frames, STORED_FRAMES)}


def _one_each(events: list[Event]) -> list[Event]:
    """The first event of each video; one that lasts no time only where there is no other."""
    first: dict[str, Event] = {}
    for event in events:
        if event.video not in first or first[event.video].empty:
            first[event.video] = event
    return list(first.values())


def _report(listed: dict[str, list[Event]]) -> None:
    """Prints which videos a list names more than once, and which are in two lists."""
    names = {part: Counter(event.video for event in events) for part, events in listed.items()}
    for part, counts in names.items():
        twice = sorted(video for video, count in counts.items() if count > 1)
        if twice:
            print(f"Named twice in {LISTS[part]}, where the first line counts: {len(twice)} ({', '.join(twice)}).")
    for one, other in combinations(LISTS, 2):
        common = sorted(set(names[one]).intersection(names[other]))
        if common:
            print(
                f"{PARTS[one].capitalize()} videos that are {PARTS[other]} videos too, kept as published unless leaks "
                f"is drop: {len(common)} ({', '.join(common)})."
            )
