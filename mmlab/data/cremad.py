"""CREMA-D: actors who say a sentence in one of six emotions (Cao et al., 2014)."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mmlab.data.base import (
    MultimodalDataset,
    ProtocolName,
    Split,
    SplitName,
    Transform,
    begin_twin,
)
from mmlab.data.clips import evenly, repeated
from mmlab.data.image import IMAGENET_MEAN, IMAGENET_STD, RandomResizedCropFlip
from mmlab.data.packing import BadSample, Packed, Sample, open_packed, pack
from mmlab.data.spectrogram import FLOOR, DensitySpectrogram, LogSpectrogram
from mmlab.data.video import read_audio, read_frames, write_video
from mmlab.draws import Draws
from mmlab.errors import UserError, did_you_mean
from mmlab.types import Classification, Modality

CLASSES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
STORED_FRAMES = 3
FOLDERS = {"audio": ("AudioWAV", ".wav"), "visual": ("VideoFlash", ".flv")}
TEST_SHARE = 0.1  # of the actors


class CREMAD(MultimodalDataset):
    """CREMA-D: 7442 clips of 91 actors who say a sentence in one of six emotions (Cao et al., 2014).

    The raw clips lie as CREMA-D is published: ``<root>/AudioWAV/<id>.wav`` and ``<root>/VideoFlash/<id>.flv``, where an
    id is ``<actor>_<sentence>_<emotion>_<level>``. ``mmlab prepare`` packs the sound (mono, repeated until it fills 3 s
    or 10 s) and 3 frames into ``<root>/packed-<frame_side>px-<rate>Hz-<seconds>s``, 0.7 to 0.9 MB a clip at the default
    size; the recipes ``udml`` and ``dmrnet`` share a pack. Clips that can't be decoded or lack one of the two files
    are left out and named.

    The frames are the first of every second. Where there are more than 3, they are 3 picked evenly; where there are
    fewer, others of the clip are added, each the farthest in time from those that are there. Both rules are ours (the
    papers' code picks and adds at random), and so is the size: squares of ``frame_side`` pixels cut from the centre are
    stored, not the full pictures.

    ``split: files`` is the common protocol: the lists ``train.csv`` (6698 clips) and ``test.csv`` (744), rows
    ``id,EMOTION`` without a header, which are not shipped. They were drawn over clips: the same 91 actors are in both,
    so that the test accuracy says nothing of actors that were never seen. They have no validation part: the honest
    protocol carves one from the training list, by class; the official one validates on the test list, as the papers
    do. ``split: speakers`` is ours: the actors are drawn into training, validation and test, and none is in two.

    Args:
        root: folder of the raw clips and of the pack.
        recipe: whose sound and how many frames an encoder sees. ``di_mml``: log power density of sound at 16 kHz,
            257 x 299, and 3 frames; ``udml``: ln of the STFT's magnitude (n_fft 512, hop 353, ends padded by
            reflection) of 3 s at 22,050 Hz, 257 x 188, and 1 frame, in training a random one of the 3 stored, in
            evaluation the middle one (that paper's code leaves out a clip's first frame where it has others);
            ``dmrnet``: the same, the sound standardised clip by clip.
        audio_seconds: 3, or with di_mml 10 (257 x 1004), which that paper's code reads but doesn't make: that the
            clip is repeated until it fills them is ours.
        standardise: with di_mml, whether the sound is standardised clip by clip; by default it isn't.
        frame_noise: standard deviation of Gaussian noise on the frames in training, where 1 is the range from black to
            white; fresh for every frame in every epoch. DI-MML's robustness study (0.1 to 0.4) has it in evaluation
            too, where frames stay clean here: ``mmlab test --corruption gaussian`` is the way to corrupt those.
        frame_side: side of the stored frames, in pixels.
        image_size: side of the frames that an encoder sees, in pixels.
        split: ``files`` for the lists, ``speakers`` for parts without common actors.
        train_list: the list of training clips; by default ``<root>/train.csv``.
        test_list: the list of test clips; by default ``<root>/test.csv``.
        validation_share: for validation: of the training clips of each class, or of the actors.
        split_seed: of that draw, and of the draw of the test actors (a tenth).
        protocol: ``honest``, or ``official`` for selection on the test list.
    """

    def __init__(
        self,
        root: str = "data/cremad",
        recipe: Literal["di_mml", "udml", "dmrnet"] = "di_mml",
        audio_seconds: Literal[3, 10] = 3,
        standardise: bool | None = None,
        frame_noise: float = 0.0,
        frame_side: int = 256,
        image_size: int = 224,
        split: Literal["files", "speakers"] = "files",
        train_list: str | None = None,
        test_list: str | None = None,
        validation_share: float = 0.1,
        split_seed: int = 0,
        protocol: ProtocolName = "honest",
    ) -> None:
        if recipe != "di_mml" and (audio_seconds != 3 or standardise is not None):
            raise UserError(
                f"audio_seconds and standardise belong to the recipe di_mml; leave them out, as {recipe} fixes both."
            )
        if frame_noise < 0:
            raise UserError(f"frame_noise is {frame_noise}; choose 0 for none or a standard deviation such as 0.1.")
        if frame_side < 1 or image_size < 1:
            raise UserError(f"frame_side is {frame_side} and image_size {image_size}; choose at least 1 pixel.")
        if not 0 < validation_share < 1:
            raise UserError(f"validation_share is {validation_share}; choose a share between 0 and 1.")
        if split == "speakers" and (train_list is not None or test_list is not None):
            raise UserError(
                "The split speakers reads no lists; leave train_list and test_list out, or set split files."
            )
        if split == "speakers" and protocol == "official":
            raise UserError("The split speakers is in no paper, so it has no official protocol; leave protocol honest.")
        self.root = Path(root)
        self.recipe = recipe
        self.audio_seconds = audio_seconds
        self.standardise = recipe == "dmrnet" if standardise is None else standardise
        self.frame_noise = frame_noise
        self.frame_side = frame_side
        self.image_size = image_size
        self.split = split
        self.train_list = self.root / "train.csv" if train_list is None else Path(train_list)
        self.test_list = self.root / "test.csv" if test_list is None else Path(test_list)
        self.validation_share = validation_share
        self.split_seed = split_seed
        self.protocol = protocol
        self.frames = 3 if recipe == "di_mml" else 1
        self._rate = 16_000 if recipe == "di_mml" else 22_050
        self._samples = audio_seconds * self._rate
        self._audio_transform: DensitySpectrogram | LogSpectrogram
        if recipe == "di_mml":
            self._audio_transform = DensitySpectrogram(self._samples, self.standardise)
        else:
            self._audio_transform = LogSpectrogram(
                self._samples, n_fft=512, hop=353, window_samples=self._samples, standardise=self.standardise
            )

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``audio`` and ``visual``."""
        low = None if self.standardise else FLOOR
        visual = (3, self.frames, self.image_size, self.image_size)
        return (
            Modality("audio", "audio", self._audio_transform.shape, low=low),
            Modality("visual", "frames", visual, IMAGENET_MEAN, IMAGENET_STD, 0.0, 255.0),
        )

    @property
    def task(self) -> Classification:
        """Which emotion is played."""
        return Classification(CLASSES)

    def transforms(self) -> dict[str, Transform]:
        """Spectrograms; crops and flips of the frames, and noise where it is asked for."""
        visual: Transform = RandomResizedCropFlip(
            self.image_size, IMAGENET_MEAN, IMAGENET_STD, frames=self.frames, draw="visual"
        )
        if self.frame_noise:
            visual = NoisyTraining(visual, self.frame_noise)
        return {"audio": self._audio_transform, "visual": visual}

    def splits(self) -> dict[SplitName, Split]:
        """Opens the pack; the lists or the draw of the actors are applied here.

        Raises:
            UserError: if the clips are not prepared, a list is not as described above, or a split is empty.
        """
        packed = open_packed(self._folder, "CREMAD", self._command)
        index = {name: label for label, name in enumerate(CLASSES)}
        train, validation, test = self._by_lists(packed, index) if self.split == "files" else self._by_speakers(packed)
        return packed.parts(train, validation, test, index)

    def prepare(self, workers: int = 1) -> None:
        """Decodes and packs every clip, or goes on where it was stopped.

        Args:
            workers: how many clips are decoded at the same time.

        Raises:
            UserError: if there are no clips, or the pack can't be written.
        """
        options = {
            "frame_side": self.frame_side,
            "rate": self._rate,
            "samples": self._samples,
            "synthetic": (self.root / "SYNTHETIC").exists(),
        }
        layout = {
            "audio": ((self._samples,), "int16"),
            "visual": ((STORED_FRAMES, 3, self.frame_side, self.frame_side), "uint8"),
        }
        pack(self._folder, "CREMAD", options, self._find(), layout, self._decode, workers)

    def write_synthetic(self) -> None:
        """Writes 72 clips of four actors in the raw layout, and both lists; hue and pitch tell the class.

        Raises:
            UserError: if the root holds anything, or PyAV is not installed.
        """
        import soundfile

        begin_twin(self.root, "clips")
        for folder, _ in FOLDERS.values():
            (self.root / folder).mkdir()
        rng = np.random.default_rng(0)
        lists: dict[str, list[str]] = {"train": [], "test": []}
        for actor in (1001, 1002, 1003, 1004):
            # The shortest have fewer seconds than frames are stored, the longest more.
            for sentence, seconds, part in (("IEO", 1.2, "train"), ("TIE", 2.4, "test"), ("DFA", 3.6, "train")):
                for label, emotion in enumerate(CLASSES):
                    name = f"{actor}_{sentence}_{emotion}_XX"
                    frames, sound = _synthetic_clip(label, seconds, rng)
                    soundfile.write(self.root / "AudioWAV" / f"{name}.wav", sound, 16_000)
                    write_video(self.root / "VideoFlash" / f"{name}.flv", frames, 10, sound, 16_000)
                    lists[part].append(f"{name},{emotion}\n")
        for part, lines in lists.items():
            (self.root / f"{part}.csv").write_text("".join(lines))

    def details(self) -> dict[str, object]:
        """What tells this variant from others, as plain data for the results."""
        listed = self.split == "files"
        return {
            "variant": self.recipe if listed else f"{self.recipe}, by speaker",
            "recipe": self.recipe,
            "audio_seconds": self.audio_seconds,
            "standardise": self.standardise,
            "frame_noise": self.frame_noise,
            "frame_side": self.frame_side,
            "image_size": self.image_size,
            "split": self.split,
            "train_list_sha256": hashlib.sha256(_bytes(self.train_list)).hexdigest() if listed else None,
            "test_list_sha256": hashlib.sha256(_bytes(self.test_list)).hexdigest() if listed else None,
            "validation_share": self.validation_share,
            "split_seed": self.split_seed,
            "protocol": self.protocol,
            "synthetic": (self.root / "SYNTHETIC").exists(),
        }

    @property
    def _folder(self) -> Path:
        return self.root / f"packed-{self.frame_side}px-{self._rate}Hz-{self.audio_seconds}s"

    @property
    def _command(self) -> str:
        options = f"--root {self.root}"
        if self.recipe != "di_mml":
            options += f" --recipe {self.recipe}"
        if self.audio_seconds != 3:
            options += f" --audio_seconds {self.audio_seconds}"
        if self.frame_side != 256:
            options += f" --frame_side {self.frame_side}"
        return f"mmlab prepare CREMAD {options}"

    def _find(self) -> list[Sample]:
        files: dict[str, dict[str, Path]] = {}
        for modality, (folder, ending) in FOLDERS.items():
            for file in (self.root / folder).glob(f"*{ending}"):
                files.setdefault(file.stem, {})[modality] = file
        if not files:
            raise UserError(
                f"{self.root} holds no clips of CREMA-D; put them there as AudioWAV/<id>.wav and VideoFlash/<id>.flv, "
                "or point --root to them."
            )
        return [Sample(name, "clips", _emotion(name), files[name]) for name in sorted(files)]

    def _decode(self, sample: Sample) -> dict[str, np.ndarray]:
        if not sample.target:
            raise BadSample("its name is not <actor>_<sentence>_<emotion>_<level>")
        for modality, (folder, ending) in FOLDERS.items():
            if modality not in sample.files:
                raise BadSample(f"there is no {folder}/{sample.id}{ending}")
        frames = read_frames(sample.files["visual"], self.frame_side, fewest=STORED_FRAMES)
        return {
            "audio": repeated(read_audio(sample.files["audio"], self._rate), self._samples),
            "visual": evenly(frames, STORED_FRAMES),
        }

    def _by_lists(self, packed: Packed, index: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions of the training, validation and test clips."""
        line_of: dict[str, str] = {}
        train, test = (self._listed(file, packed, line_of) for file in (self.train_list, self.test_list))
        if self.protocol == "official":
            return train, test, test
        return *packed.carve(train, index, self.validation_share, self.split_seed), test

    def _listed(self, file: Path, packed: Packed, line_of: dict[str, str]) -> np.ndarray:
        """Positions of the clips of a list, in its order; ``line_of`` says where each clip was listed so far."""
        try:
            lines = _bytes(file).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is no UTF-8 text ({error}); save the list in UTF-8.") from error
        position_of = {name: position for position, name in enumerate(packed.ids)}
        bad = {entry["id"] for entry in packed.meta["bad"]}
        positions = []
        for number, row in enumerate(csv.reader(lines), 1):
            place = f"{file}, line {number}"
            if not row:
                continue
            if len(row) != 2:
                raise UserError(
                    f"{place}: {len(row)} columns where two are expected; write id,EMOTION, without a header line."
                )
            name, emotion = (cell.strip() for cell in row)
            if name in bad:
                continue
            if name not in position_of:
                raise UserError(
                    f"{place}: there is no clip {name!r}{did_you_mean(name, position_of)}; correct the line (the list "
                    f"has no header line), or put the clip into {self.root} and run: {self._command}"
                )
            if emotion != _emotion(name):
                raise UserError(f"{place}: {name} is listed as {emotion!r}, but its name says {_emotion(name)}.")
            if name in line_of:
                raise UserError(f"{place}: {name} is listed already in {line_of[name]}; remove one of the lines.")
            line_of[name] = place
            positions.append(position_of[name])
        if not positions:
            raise UserError(f"{file} names no usable clip; write a line id,EMOTION for each.")
        return np.array(positions)

    def _by_speakers(self, packed: Packed) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions of the training, validation and test clips."""
        actor = np.array([name.split("_")[0] for name in packed.ids])
        drawn = np.random.default_rng(self.split_seed).permutation(np.unique(actor))
        test = max(1, round(TEST_SHARE * len(drawn)))
        validation = max(1, round(self.validation_share * len(drawn)))
        if test + validation >= len(drawn):
            raise UserError(
                f"{self._folder} has {len(drawn)} actors, of whom {test} go to test and {validation} to validation: "
                "none is left for training; add clips of others or choose a smaller validation_share."
            )
        parts = np.split(drawn, [test, test + validation])
        in_test, in_validation, in_train = (np.flatnonzero(np.isin(actor, part)) for part in parts)
        return in_train, in_validation, in_test


class NoisyTraining:
    """Adds Gaussian noise to what another transform makes of RGB frames for training; evaluation stays as it is.

    DI-MML adds the noise before it flips and normalises the frames. That it is added afterwards here changes nothing:
    a mirror image of noise is noise of the same distribution, and the scale is that of the normalised channels.

    Args:
        frames: the transform; it normalises by the statistics of ImageNet.
        noise: standard deviation, where 1 is the range from black to white.
    """

    def __init__(self, frames: Transform, noise: float) -> None:
        self._frames = frames
        self._std = noise * 255.0 / torch.tensor(IMAGENET_STD).view(3, 1, 1, 1)

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """As the other transform has it; (B, 3, T, size, size) float32."""
        seen = self._frames(raw, draws)
        if draws is None:
            return seen
        self._std = self._std.to(raw.device)
        return seen + self._std * draws.normal("visual/noise", seen[0].numel()).view(seen.shape)


def _emotion(name: str) -> str:
    """The class that a clip's name tells, or an empty string where it is no such name."""
    parts = name.split("_")
    return parts[2] if len(parts) == 4 and parts[2] in CLASSES else ""


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(
            f"The list {file} can't be read ({error.strerror}); put it there, name yours with train_list and "
            "test_list, or set split to speakers, which needs none."
        ) from error


def _synthetic_clip(label: int, seconds: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Frames (10 * seconds, 48, 64, 3) and sound at 16 kHz."""
    colour = np.array([label % 2, label // 2 % 2, label // 4]) * 160 + 40
    frames = colour + rng.normal(0, 15, (round(10 * seconds), 48, 64, 3))
    time = np.arange(round(16_000 * seconds)) / 16_000
    sound = np.sin(2 * np.pi * 220 * 2 ** (label / 2) * time + rng.uniform(0, 6)) + rng.normal(0, 0.2, len(time))
    return frames.clip(0, 255).astype(np.uint8), (8000 * sound).clip(-32768, 32767).astype(np.int16)
