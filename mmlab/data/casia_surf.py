"""CASIA-SURF: living faces and printed ones in colour, depth and infrared (Zhang et al., CVPR 2019)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmlab.data.base import SplitName, begin_twin
from mmlab.data.face import CLASSES, NAMES, FaceDataset, write_face
from mmlab.data.packing import Sample
from mmlab.errors import UserError

LISTS: dict[SplitName, str] = {
    "train": "train_list.txt",
    "val": "val_private_list.txt",
    "test": "test_private_list.txt",
}


class CASIASURF(FaceDataset):
    """CASIA-SURF, from the files that its owners hand out.

    In the root lie ``train_list.txt``, ``val_private_list.txt``, ``test_private_list.txt`` and the pictures that they
    name: on each line the paths of the colour, the depth and the infrared picture, relative to the root, and the
    label, 1 for a living face and 0 for an attack, with spaces in between. The owners' other lists
    (``CASIA_SURF@p1_...``) name one picture a line and have the opposite labels; they are refused. ``mmlab prepare``
    resizes each picture to 144 x 144 (bilinear, antialiased) and packs the triplets into ``<root>/packed-144px``,
    0.2 MB each, 18 GB in all. Triplets with a picture that is absent or can't be decoded are left out and named.

    The three lists are the three splits: 29 266, 9 608 and 57 710 triplets. The validation list is disjoint from the
    test list, so the published protocol is honest and there is no other.

    Training turns each stored picture by a whole number of degrees from -30 to 30, cuts a square of 112 x 112 out of
    it and mirrors it with probability 1/2, all three modalities alike. Evaluation shows the whole picture, resized from
    the stored 144 to 112, where the released code of the methods resizes the file itself: values differ slightly.
    Channels are in the order red, green, blue, where that code has them reversed.

    Args:
        root: folder of the lists, the raw pictures and the pack.
    """

    def __init__(self, root: str = "data/casia_surf") -> None:
        super().__init__(root)

    def prepare(self, workers: int = 1) -> None:
        """Decodes and packs every triplet, or goes on where it was stopped.

        Args:
            workers: how many triplets are decoded at the same time.

        Raises:
            UserError: if a list is absent or a line is not as described above, or the pack can't be written.
        """
        self._pack({}, self._find(), workers)

    def write_synthetic(self) -> None:
        """Writes small pictures of faces with relief and of flat ones, in the raw layout.

        Raises:
            UserError: if the root holds anything.
        """
        begin_twin(self.root, "pictures")
        rng = np.random.default_rng(0)
        for split, lives, spoofs in (("train", 16, 24), ("val", 5, 7), ("test", 6, 10)):
            lines = []
            for number in range(lives + spoofs):
                label = int(number < lives)
                names = _names(split, number, label)
                write_face({name: self.root / path for name, path in names.items()}, bool(label), rng)
                lines.append(f"{' '.join(names.values())} {label}")
            # Like the owners' lists, without a new line at the end.
            (self.root / LISTS[split]).write_text("\n".join(lines))  # type: ignore[index]

    def details(self) -> dict[str, object]:
        """What tells this variant from others, as plain data for the results."""
        return {"protocol": self.protocol, "synthetic": self._synthetic}

    def _find(self) -> list[Sample]:
        samples: list[Sample] = []
        first_at: dict[str, str] = {}
        for split, name in LISTS.items():
            file = self.root / name
            for number, line in enumerate(_lines(file), 1):
                fields = line.split()
                if not fields:
                    continue
                place = f"{file}, line {number}"
                sample = self._sample(split, fields, file, place)
                if sample.id in first_at:
                    raise UserError(
                        f"{place}: {sample.id} stands at {first_at[sample.id]} already; remove one of the two lines."
                    )
                first_at[sample.id] = place
                samples.append(sample)
        if not samples:
            raise UserError(f"the lists in {self.root} are empty; get the owners' lists again.")
        return samples

    def _sample(self, split: str, fields: list[str], file: Path, place: str) -> Sample:
        if len(fields) != len(NAMES) + 1:
            raise UserError(
                f"{place}: {len(fields)} fields in place of a colour, a depth and an infrared path and a label; use "
                f"the owners' {file.name} (their CASIA_SURF@p1 lists name one picture a line, with opposite labels)."
            )
        *paths, label = fields
        if label not in ("0", "1"):
            raise UserError(f"{place}: the label is {label!r}; it must be 1 for a living face or 0 for an attack.")
        contrary = "fake_part" if label == "1" else "real_part"
        if contrary in Path(paths[0]).parts:
            raise UserError(
                f"{place}: the label is {label} for a picture under {contrary}, but 1 is a living face and 0 an "
                f"attack; use the owners' {file.name}."
            )
        files = {name: self.root / path for name, path in zip(NAMES, paths, strict=True)}
        there = {name: path for name, path in files.items() if path.is_file()}
        # The list goes along so that a triplet without any picture can still be named.
        return Sample(paths[0], split, CLASSES[int(label)], {**there, "list": file})


def _names(split: str, number: int, label: int) -> dict[str, str]:
    """A triplet's paths in the owners' layout, which is another one for training than for the rest."""
    if split == "train":
        part = "real_part" if label else "fake_part"
        clip = f"Training/{part}/SYNTH{number // 4:04}/01_en_b.rssdk"
        folders = {"rgb": "color", "depth": "depth", "ir": "ir"}
        return {name: f"{clip}/{folder}/{number % 4:02}.jpg" for name, folder in folders.items()}
    folder = {"val": "Val", "test": "Testing"}[split]
    endings = {"rgb": "color", "depth": "depth", "ir": "ir"}
    return {name: f"{folder}/0000/{number:06}-{ending}.jpg" for name, ending in endings.items()}


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        others = sorted(other.name for other in file.parent.glob("CASIA_SURF@*"))
        also = f" ({others[0]} has another layout and the opposite labels)" if others else ""
        raise UserError(
            f"there is no list {file}{also}; put CASIA-SURF's {', '.join(LISTS.values())} there, or point --root to "
            "the folder that holds them."
        )
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} can't be read ({error}); get the owners' list again.") from error
