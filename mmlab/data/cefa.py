"""CASIA-SURF CeFA: living faces and attacks across races in colour, depth and infrared (Liu et al., WACV 2021)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from mmlab.data.base import SplitName, begin_twin
from mmlab.data.face import CLASSES, NAMES, FaceDataset, write_face
from mmlab.data.packing import Sample
from mmlab.errors import UserError

SubProtocol = Literal["4@1", "4@2", "4@3", "4@4", "4@5", "4@6"]
RACES = {"1": "AF", "2": "CA", "3": "EA"}
# Of training and validation, and of test.
CROSSINGS: dict[str, tuple[str, str]] = {
    "4@1": ("1", "2"),
    "4@2": ("1", "3"),
    "4@3": ("2", "1"),
    "4@4": ("2", "3"),
    "4@5": ("3", "1"),
    "4@6": ("3", "2"),
}
# Subjects, and attacks beside living faces (1): 4 is a screen, 2 a print on cloth.
PARTS: dict[SplitName, tuple[range, str]] = {
    "train": (range(200), "14"),
    "val": (range(200, 300), "14"),
    "test": (range(300, 500), "12"),
}
DEVICES = "13"
SESSIONS = "12"
FOLDERS = {"rgb": ("profile", "color"), "depth": ("depth",), "ir": ("ir",)}
VIDEO = re.compile(r"([123])_(\d{3})_(\d)_(\d)_(\d)")


class CeFA(FaceDataset):
    """CASIA-SURF CeFA, protocol 4 (another race and an attack that was not trained on), from its owners' files.

    The raw pictures lie in ``<root>/<AF, CA or EA>/<race>-<subject>/<video>/<profile, depth or ir>/<frame>.jpg``
    (``color`` in place of ``profile`` in the paper's release). A video's name ``R_III_D_S_P`` says race, subject,
    device, session and attack; the sub-protocol takes it by these:

    ========== ============================= ========= ======= ======== ================
    split      race                          subjects  devices sessions attacks
    ========== ============================= ========= ======= ======== ================
    train      first                         000-199   1, 3    1, 2     living, screen
    validation first                         200-299   1, 3    1, 2     living, screen
    test       second                        300-499   1, 3    1, 2     living, cloth
    ========== ============================= ========= ======= ======== ================

    with the races AF to CA in 4@1, AF to EA in 4@2, CA to AF in 4@3, CA to EA in 4@4, EA to AF in 4@5 and EA to CA in
    4@6. These are the rules of MMANet's and DMRNet's released code. The owners' own test list of 4@5 is larger: it
    holds both other races and the mask attacks. Results on the two can't be compared.

    Every frame is a sample. The three pictures of a frame are paired by video and file name; a frame that lacks one, or
    whose pictures can't be decoded, is left out and named. ``mmlab prepare`` resizes each picture to 144 x 144
    (bilinear, antialiased) and packs the sub-protocol's frames into ``<root>/packed-<sub-protocol>-144px``, 0.2 MB
    each. A living face is class 1, an attack class 0, as in CASIA-SURF, whatever CeFA's own lists have.

    The development subjects are the validation split and have no part in training or test, so the published protocol is
    honest and there is no other.

    Training turns each stored picture by a whole number of degrees from -30 to 30, cuts a square of 112 x 112 out of
    it and mirrors it with probability 1/2, all three modalities alike. Evaluation shows the whole picture, resized from
    the stored 144 to 112, where the released code of the methods resizes the file itself: values differ slightly.
    Channels are in the order red, green, blue, where that code has them reversed.

    Args:
        root: folder of the raw pictures and of the pack.
        subprotocol: which race is trained on and which is tested.
    """

    def __init__(self, root: str = "data/cefa", subprotocol: SubProtocol = "4@5") -> None:
        super().__init__(root)
        self.subprotocol = subprotocol
        self._trained, self._tested = CROSSINGS[subprotocol]

    def prepare(self, workers: int = 1) -> None:
        """Decodes and packs every frame of the sub-protocol, or goes on where it was stopped.

        Args:
            workers: how many frames are decoded at the same time.

        Raises:
            UserError: if there are no videos for a split, a folder is not as described above, or the pack can't be
                written.
        """
        self._pack({"subprotocol": self.subprotocol}, self._find(), workers)

    def write_synthetic(self) -> None:
        """Writes small pictures of faces with relief and of flat ones, of all races, in the raw layout.

        Raises:
            UserError: if the root holds anything.
        """
        begin_twin(self.root, "pictures")
        rng = np.random.default_rng(0)
        for race, folder in RACES.items():
            for subject in (0, 1, 2, 3, 200, 201, 300, 301):
                for attack in "124":
                    video = self.root / folder / f"{folder}-{subject:03}" / f"{race}_{subject:03}_1_1_{attack}"
                    for frame in range(1, 4):
                        files = {name: video / kinds[0] / f"{frame:04}.jpg" for name, kinds in FOLDERS.items()}
                        write_face(files, attack == "1", rng)

    def details(self) -> dict[str, object]:
        """What tells this variant from others, as plain data for the results."""
        return {
            "variant": self.subprotocol,
            "trained_race": RACES[self._trained],
            "test": f"{RACES[self._tested]} only, living faces and cloth prints",
            "protocol": self.protocol,
            "synthetic": self._synthetic,
        }

    @property
    def _folder(self) -> Path:
        return self.root / f"packed-{self.subprotocol}-144px"

    @property
    def _command(self) -> str:
        chosen = "" if self.subprotocol == "4@5" else f" --subprotocol {self.subprotocol}"
        return super()._command + chosen

    def _find(self) -> list[Sample]:
        samples: list[Sample] = []
        for split, (subjects, attacks) in PARTS.items():
            race = self._tested if split == "test" else self._trained
            found = [
                (folder, fields[4])
                for folder, fields in self._videos(race)
                if int(fields[1]) in subjects
                and fields[2] in DEVICES
                and fields[3] in SESSIONS
                and fields[4] in attacks
            ]
            if not found:
                raise UserError(
                    f"{self.root / RACES[race]} holds no videos of the {split} split (subjects {subjects[0]:03} to "
                    f"{subjects[-1]:03}); put them there as <race>-<subject>/<video>/<profile, depth or ir>/<frame>.jpg"
                    ", or point --root to the folder that holds them."
                )
            for folder, attack in found:
                samples += _frames(folder, split, CLASSES[int(attack == "1")])
        return samples

    def _videos(self, race: str) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """The videos of one race, sorted, and the fields of their names."""
        seen: dict[str, Path] = {}
        for folder in sorted((self.root / RACES[race]).glob("*/*"), key=lambda folder: (folder.name, folder)):
            named = VIDEO.fullmatch(folder.name)
            if named is None or not folder.is_dir():
                continue
            if named[1] != race:
                raise UserError(
                    f"{folder} lies under {RACES[race]}, but its name begins with {named[1]}, which is "
                    f"{RACES[named[1]]}; move it there."
                )
            if folder.name in seen:
                raise UserError(f"{folder} and {seen[folder.name]} have the name of one video; remove one of them.")
            seen[folder.name] = folder
            yield folder, named.groups()


def _frames(video: Path, split: str, target: str) -> list[Sample]:
    """A video's frames in order, each with the pictures that there are of it."""
    pictures: dict[str, dict[str, Path]] = {}
    for name in NAMES:
        folders = [video / folder for folder in FOLDERS[name] if (video / folder).is_dir()]
        if len(folders) > 1:
            raise UserError(f"{folders[0]} and {folders[1]} are both colour pictures of one video; remove one of them.")
        for file in folders[0].iterdir() if folders else ():
            if file.suffix.lower() == ".jpg" and not file.name.startswith(".") and file.is_file():
                pictures.setdefault(file.stem, {})[name] = file
    if not pictures:
        # Without a single picture the video itself is named as the one that lacks them.
        return [Sample(video.name, split, target, {"video": video})]
    return [Sample(f"{video.name}/{frame}", split, target, pictures[frame]) for frame in sorted(pictures)]
