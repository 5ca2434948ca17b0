"""What data sets of captioned images share: lines of JSON, the pack of tokens and images, the transforms."""

from __future__ import annotations

import dataclasses
import json
import os
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from torchvision.transforms.functional import center_crop, resize

from mmlab.data.base import Split, SplitName, Transform
from mmlab.data.image import Normalise
from mmlab.data.packed import PackedDataset
from mmlab.data.packing import Sample, pack
from mmlab.data.pictures import read_picture
from mmlab.data.tokens import HALVES, LENGTH, TokensAsLong, WordPieces, file_sha256, tokenizer_file
from mmlab.errors import UserError, did_you_mean
from mmlab.types import Classification, Modality

RESIZED, CROPPED = 256, 224
GREY = 128
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")
DEFAULT_MODEL = Path("models/bert-base-uncased")
TWIN_MODEL = "tiny_bert"
# Of MNL's setting on MVSA-Single, in grey levels; that Food101 takes them too is our choice.
MEAN = (0.46777044 * 255, 0.44531429 * 255, 0.40661017 * 255)
STD = (0.12221994 * 255, 0.12145835 * 255, 0.14380469 * 255)
FILES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train.jsonl",),
    "val": ("dev.jsonl", "val.jsonl"),
    "test": ("test.jsonl",),
}


@dataclass(frozen=True)
class Line:
    """One line of a jsonl file.

    Attributes:
        place: the file and the number of the line, for messages.
        id: unique within the file.
        label: the class, by name.
        text: the caption, maybe empty.
        image: path below the root; None where the line names none.
    """

    place: str
    id: str
    label: str
    text: str
    image: str | None


class ImageText(PackedDataset, ABC):
    """A set of captioned images with a class each, as jsonl files.

    Args:
        root: folder of the jsonl files, of the images and of the pack.
        tokenizer: folder of the tokeniser.
    """

    published: dict[str, int]
    """Lines of each split (and number of classes) of the published set, to say when they differ."""

    def __init__(self, root: str, tokenizer: str | None) -> None:
        super().__init__(root)
        self.tokenizer = tokenizer

    @abstractmethod
    def class_names(self, labels: Set[str]) -> tuple[str, ...]:
        """The classes in the order of the logits, from the labels of the training lines."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``text`` (2, 512) and ``image`` (3, 224, 224)."""
        options = self._packed.meta["options"]
        text = Modality(
            "text", "text", (2, LENGTH), low=0.0, high=float(options["last_token"]), blank=options["blank_token"]
        )
        return (text, Modality("image", "image", (3, CROPPED, CROPPED), MEAN, STD, 0.0, 255.0))

    @property
    def task(self) -> Classification:
        """Classification of the pair."""
        return Classification(tuple(self._packed.meta["options"]["classes"]))

    def transforms(self) -> dict[str, Transform]:
        """Tokens as indices; normalised images. Nothing is augmented."""
        return {"text": TokensAsLong(), "image": Normalise(MEAN, STD)}

    def splits(self) -> dict[SplitName, Split]:
        """Opens the pack.

        Raises:
            UserError: if the files are not prepared, or were with another tokeniser than the one that is named.
        """
        packed = self._packed
        options = packed.meta["options"]
        if self.tokenizer is not None:
            file = tokenizer_file(Path(self.tokenizer))
            if file_sha256(file) != options["tokenizer_sha256"]:
                raise UserError(f"{self._folder} was packed with another tokeniser than {file}; run: {self._command}")
        index = {name: label for label, name in enumerate(options["classes"])}
        return {
            name: dataclasses.replace(packed.take(np.flatnonzero(packed.split == name), index), padded={"text": 2})
            for name in FILES
        }

    def prepare(self, workers: int = 1) -> None:
        """Reads the lines, tokenises the texts, decodes the images and packs both, or goes on where it was stopped.

        Args:
            workers: how many images are decoded at the same time.

        Raises:
            UserError: if the tokeniser or a line can't be used, or the pack can't be written.
        """
        synthetic = (self.root / "SYNTHETIC").exists()
        default = self.root / TWIN_MODEL if synthetic else DEFAULT_MODEL
        files = {split: self._file(names) for split, names in FILES.items()}
        tokenise = WordPieces(default if self.tokenizer is None else Path(self.tokenizer))
        parts = {split: read_lines(file) for split, file in files.items()}
        classes = self.class_names({line.label for line in parts["train"]})
        samples: list[Sample] = []
        lines: dict[tuple[str, str], Line] = {}
        for split, part in parts.items():
            for line in part:
                if line.label not in classes:
                    raise UserError(
                        f"{line.place}: unknown label {line.label!r}{did_you_mean(line.label, classes)}; correct it "
                        f"or remove the line."
                    )
                # An absent image is told when it is to be decoded: until then the line's file stands for it.
                named = self.root / line.image if line.image else files[split]
                image = named if os.path.isfile(named) else files[split]  # False for a name that is too long, too
                samples.append(Sample(line.id, split, line.label, {"image": image, "text": files[split]}))
                lines[split, line.id] = line

        def decode(sample: Sample) -> dict[str, np.ndarray]:
            line = lines[sample.split, sample.id]
            return {"text": tokenise(line.text), "image": read_image(self.root, line.image)}

        options = {
            "classes": classes,
            "tokenizer_sha256": tokenise.sha256,
            "last_token": tokenise.last,
            "blank_token": tokenise.blank,
            "synthetic": synthetic,
        }
        layout = {"text": ((2, LENGTH), "int32"), "image": ((3, CROPPED, CROPPED), "uint8")}
        pack(self._folder, type(self).__name__, options, samples, layout, decode, workers)
        self._forget()
        found = {"classes": len(classes)} | {split: len(part) for split, part in parts.items()}
        differing = [
            f"{name} {found[name]}, not {count}" for name, count in self.published.items() if found[name] != count
        ]
        if differing and not synthetic:
            print(f"These are not the published files of {type(self).__name__}: {'; '.join(differing)}.")
        trained = {line.id for line in parts["train"]}
        for split in ("val", "test"):
            common = [line.id for line in parts[split] if line.id in trained]
            if common:
                print(
                    f"Ids that {files['train'].name} and {files[split].name} share: {len(common)} (for example "
                    f"{common[0]!r}). Where they name the same sample, it leaks from training into {split}."
                )

    def details(self) -> dict[str, object]:
        """What tells this variant from others, as plain data for the results."""
        options: dict[str, Any] = self._packed.meta["options"]
        return {
            "classes": len(options["classes"]),
            "tokenizer_sha256": options["tokenizer_sha256"],
            "synthetic": options["synthetic"],
        }

    @property
    def _command(self) -> str:
        return super()._command + ("" if self.tokenizer is None else f" --tokenizer {self.tokenizer}")

    def _file(self, names: tuple[str, ...]) -> Path:
        for name in names:
            if (self.root / name).is_file():
                return self.root / name
        raise UserError(
            f"{self.root} holds no {' or '.join(names)}; put the jsonl files and the images of {type(self).__name__} "
            f"there, or point the option root to them."
        )


def read_lines(file: Path) -> list[Line]:
    """Reads a jsonl file: on each line an object with ``id``, ``label``, ``text`` and, if it has an image, ``img``.

    Raises:
        UserError: if the file can't be read, or a line is not as described.
    """
    try:
        # Not splitlines: within a JSON string other characters that end lines may stand as they are.
        rows = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no UTF-8 text ({error}); save it in UTF-8.") from error
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}); check its permissions.") from error
    lines = [_line(f"{file}, line {number}", row) for number, row in enumerate(rows, 1) if row.strip()]
    if not lines:
        raise UserError(f"{file} holds no lines; download it again.")
    first: dict[str, Line] = {}
    for line in lines:
        if line.id in first:
            raise UserError(f"{line.place}: the id {line.id!r} stands in an earlier line too; remove one of them.")
        first[line.id] = line
    return lines


def _line(place: str, row: str) -> Line:
    try:
        content = json.loads(row)
    except ValueError as error:
        raise UserError(f"{place}: no JSON ({error}); correct the line or download the file again.") from error
    except RecursionError as error:
        raise UserError(
            f"{place}: its JSON is nested too deeply; write an object with id, label, text and img."
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{place}: {row[:40]!r} is no JSON object; write one with id, label, text and img.")
    for field, kinds in (("id", (str, int)), ("label", (str,)), ("text", (str,))):
        if not isinstance(content.get(field), kinds):
            raise UserError(
                f"{place}: {field} is {reprlib.repr(content.get(field))}; every line needs {field} as text."
            )
    image = content.get("img") or None
    if image is not None and not isinstance(image, str):
        raise UserError(f"{place}: img is {reprlib.repr(image)}; give the path of an image file, or leave it empty.")
    for field in ("id", "label", "img"):
        if HALVES.search(str(content.get(field))):
            raise UserError(
                f"{place}: {field} is {reprlib.repr(content[field])}, in which half of a surrogate pair stands alone; "
                f"correct the line."
            )
    if image is not None and (PurePath(image).is_absolute() or ".." in PurePath(image).parts):
        raise UserError(
            f"{place}: img is {_short(image)!r}; give a path below the folder of the jsonl files, relative to it and "
            f"without '..'."
        )
    return Line(place, str(content["id"]), content["label"], content["text"], image)


def read_image(root: Path, name: str | None) -> np.ndarray:
    """An image in RGB, its shorter side resized to 256 pixels (bilinear), and of that the square of 224 in the middle.

    What is no JPEG, PNG, GIF (its first frame), BMP or WebP by its content is not decoded, whatever its name.

    Args:
        root: that the name is relative to.
        name: of the file; None for a grey image.

    Returns:
        (3, 224, 224) uint8.

    Raises:
        BadSample: if the file is absent, can't be decoded, or has grey levels of more than 8 bits.
    """
    if name is None:
        return np.full((3, CROPPED, CROPPED), GREY, dtype=np.uint8)
    picture = read_picture(root / name, _short(name), FORMATS)
    return np.asarray(center_crop(resize(picture, [RESIZED]), [CROPPED])).transpose(2, 0, 1)


def _short(name: str) -> str:
    return name if len(name) <= 80 else f"{name[:80]}..."
