"""What the sentiment sets in MMSA's layout share: the public pickle files, their pack, the splits and the modalities.

The layout is that of the data sets that MMSA (Mao et al., 2022) and Self-MM (Yu et al., 2021) give out. The rules for
lengths and for values that are no finite numbers are those of their loaders, clamped where the loaders would fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from abc import ABC
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from mmlab.data import restricted_pickle
from mmlab.data.base import Split, SplitName, Transform
from mmlab.data.image import Normalise
from mmlab.data.mmsa_twin import TwinSizes, write_twin
from mmlab.data.packed import PackedDataset
from mmlab.data.packing import BadSample, Sample, pack, packed_options
from mmlab.data.sentiment import HIGHEST, Convention, SentimentTask, sentiment_targets, sentiment_task
from mmlab.data.tokens import TokensAsLong
from mmlab.errors import UserError, did_you_mean
from mmlab.types import Classification, Modality, Sentiment

TextInput = Literal["features", "tokens"]
NAMES = ("text", "audio", "vision")
PARTS: dict[SplitName, str] = {"train": "train", "val": "valid", "test": "test"}
UNKNOWN_WORD = 100  # [UNK] of both bert-base-uncased and bert-base-chinese
_ID = re.compile(r"[^\x00-\x1f\ud800-\udfff]{1,200}")
_BLOCK = 1 << 24


@dataclass
class _Part:
    """One split as the pickle holds it.

    Attributes:
        ids: (N,) unique names.
        labels: (N,) float32.
        tokens: (N, L) tokens of BERT, 0 behind each text.
        values: by modality, (N, L, D) in the file's type.
        lengths: by modality, (N,) how many steps of the L each sample has.
    """

    ids: list[str]
    labels: np.ndarray
    tokens: np.ndarray
    values: dict[str, np.ndarray]
    lengths: dict[str, np.ndarray]


class MMSADataset(PackedDataset, ABC):
    """A sentiment set in MMSA's layout: text, audio and vision of an utterance, each a sequence, and a score.

    A subclass sets ``folder``, ``convention``, ``checksums`` and ``twin``.

    Args:
        root: the folder that holds ``folder``; the pack is made in there, too.
        files: where below ``folder`` the pickle may lie.
        aligned: whether it is of the sequences that are aligned to the words.
        text: what the encoder of the text sees.
        task: what is predicted.
    """

    folder: str
    """As MMSA calls the data set's folder."""
    convention: Convention
    """Whose range of scores and metrics."""
    checksums: Mapping[str, tuple[str, str] | None]
    """By file name, the SHA-256 in MMSA's README and the SHA-1 in Self-MM's; None where there are none."""
    twin: TwinSizes
    """Of the synthetic twin."""

    def __init__(self, root: str, files: tuple[str, ...], aligned: bool, text: TextInput, task: SentimentTask) -> None:
        super().__init__(root)
        self.aligned = aligned
        self.text = text
        self._files = tuple(Path(file) for file in files)
        self._task: SentimentTask = task
        self._sentiment = sentiment_task(task, self.convention)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``text``, ``audio`` and ``vision``, each a ragged sequence (T, D + 1), or the text as tokens (2, T)."""
        arrays = self._packed.arrays
        found = {name: Modality(name, "sequence", arrays[name].shape[1:], ragged=True) for name in NAMES}
        if self.text == "tokens":
            last = float(self._packed.meta["options"]["last_token"])
            shape = arrays["tokens"].shape[1:]
            found["text"] = Modality("text", "text", shape, low=0.0, high=last, blank=UNKNOWN_WORD)
        return tuple(found.values())

    @property
    def task(self) -> Sentiment | Classification:
        """The score, or its class."""
        return self._sentiment

    def transforms(self) -> dict[str, Transform]:
        """The values as they are: MMSA doesn't normalise them."""
        unchanged: dict[str, Transform] = {name: Normalise((0.0,), (1.0,)) for name in NAMES}
        return unchanged if self.text == "features" else unchanged | {"text": TokensAsLong()}

    def splits(self) -> dict[SplitName, Split]:
        """Opens the pack.

        Raises:
            UserError: if the file is not prepared.
        """
        packed = self._packed
        text = "text" if self.text == "features" else "tokens"
        arrays = {"text": packed.arrays[text], "audio": packed.arrays["audio"], "vision": packed.arrays["vision"]}
        labels = packed.targets.astype(np.float32)
        splits: dict[SplitName, Split] = {}
        for name, part in PARTS.items():
            positions = np.flatnonzero(packed.split == part)
            splits[name] = Split(
                ids=[packed.ids[position] for position in positions],
                targets=sentiment_targets(labels[positions], self._task, self.convention),
                rows=packed.rows[positions],
                arrays=arrays,
                present=np.ones((len(positions), len(NAMES)), dtype=bool),
                padded={"text": 1 if self.text == "features" else 2, "audio": 1, "vision": 1},
            )
        return splits

    def prepare(self, workers: int = 1) -> None:
        """Reads the pickle, checks it and packs it, or goes on where it was stopped.

        Args:
            workers: how many samples are converted at the same time.

        Raises:
            UserError: if the file is absent, tries to run code, is damaged or isn't as described, or the pack can't be
                written.
        """
        file = self._find()
        stat = file.stat()
        state = {"file": file.name, "bytes": stat.st_size, "changed": stat.st_mtime_ns, "synthetic": self._synthetic}
        seen = packed_options(self._folder)
        if seen is not None and {key: seen.get(key) for key in state} == state:
            print(f"{self._folder} is prepared already.")
            return
        sha256 = self._checked(file)
        print(f"Reading {file}, which takes as much memory as the file is large: {stat.st_size / 1e6:,.1f} MB.")
        parts = _read(file, self.aligned)
        shared, repeated = _report_shared(file, parts), _name_repeated(file, parts)
        not_finite, cut = _not_finite(parts), _cut_lengths(parts)
        if any(not_finite.values()):
            print(f"Values that are no finite numbers, which become 0: {_listed(not_finite)}.")
        if any(cut.values()):
            print(f"Lengths outside of what the arrays hold, which are cut to it: {_listed(cut)}.")
        options: dict[str, Any] = {
            **state,
            "sha256": sha256,
            "not_finite": not_finite,
            "lengths_cut": cut,
            "repeated_ids": repeated,
            "shared_ids": shared,
            "last_token": max(int(part.tokens.max(initial=UNKNOWN_WORD)) for part in parts.values()),
        }
        self._pack(file, parts, options, workers)

    def write_synthetic(self) -> None:
        """Writes pickles of 40 utterances in the public layout: each modality carries a third of the score.

        Their tokens are of ``tiny_bert``, a text model that is written beside them where transformers is installed.

        Raises:
            UserError: if the folder holds anything.
        """
        write_twin(self.root / self.folder, tuple(self.checksums), self.twin, self.convention)

    def details(self) -> dict[str, object]:
        """What tells this variant from others, and what was found in the file, as plain data for the results."""
        seen = self._packed.meta["options"]
        words = ["aligned" if self.aligned else "unaligned"] if len(self.checksums) > 1 else []
        words += ["tokens"] if self.text == "tokens" else []
        words += [self._task] if self._task != "regression" else []
        found = ("file", "sha256", "not_finite", "lengths_cut", "repeated_ids", "shared_ids", "synthetic")
        return {
            "variant": ", ".join(words),
            "aligned": self.aligned,
            "text": self.text,
            "task": self._task,
            **{key: seen[key] for key in found},
        }

    @property
    def _folder(self) -> Path:
        return self.root / self.folder / f"packed-{self._files[0].stem}"

    @property
    def _command(self) -> str:
        return super()._command + (" --aligned true" if self.aligned else "")

    @property
    def _synthetic(self) -> bool:
        return (self.root / self.folder / "SYNTHETIC").exists()

    def _find(self) -> Path:
        for name in self._files:
            if (self.root / self.folder / name).is_file():
                return self.root / self.folder / name
        wanted = " or ".join(str(Path(self.folder) / name) for name in self._files)
        above = self.root.parent if self.root.name == self.folder else None
        hint = f" (here: --root {above})" if above is not None else ""
        raise UserError(
            f"{self.root} holds no {wanted}; put MMSA's file there, or point --root to the folder that holds "
            f"{self.folder}/{hint}."
        )

    def _checked(self, file: Path) -> str:
        """The file's SHA-256; says so if it is no known one."""
        sha256, sha1 = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
        with (
            file.open("rb") as opened,
            tqdm(total=file.stat().st_size, desc="Checksums", unit="B", unit_scale=True) as bar,
        ):
            while block := opened.read(_BLOCK):
                sha256.update(block)
                sha1.update(block)
                bar.update(len(block))
        known = self.checksums[file.name]
        if self._synthetic or (known is not None and (sha256.hexdigest() == known[0] or sha1.hexdigest() == known[1])):
            return sha256.hexdigest()
        if known is None:
            what = f"no checksum of {self.folder}'s {file.name} is published, so which version it is can't be told"
        else:
            what = (
                f"it is none of the known versions of {self.folder}'s {file.name} (SHA-256 {known[0]} in MMSA's "
                f"README, SHA-1 {known[1]} in Self-MM's)"
            )
        print(f"Warning: {file} has the SHA-256 {sha256.hexdigest()}; {what}. It is read all the same.")
        return sha256.hexdigest()

    def _pack(self, file: Path, parts: Mapping[str, _Part], options: dict[str, Any], workers: int) -> None:
        highest = HIGHEST[self.convention]
        samples = [
            Sample(name, split, str(label), dict.fromkeys((*NAMES, "tokens"), file))
            for split, part in parts.items()
            for name, label in zip(part.ids, part.labels, strict=True)
        ]
        place = {(split, name): row for split, part in parts.items() for row, name in enumerate(part.ids)}

        def decode(sample: Sample) -> dict[str, np.ndarray]:
            part, row = parts[sample.split], place[sample.split, sample.id]
            if not abs(part.labels[row]) <= highest + 1e-6:  # false for nan, too
                raise BadSample(f"its label is {sample.target}, but labels are {-highest:g} to {highest:g}")
            made = {name: _ragged(part.values[name][row], int(part.lengths[name][row])) for name in NAMES}
            return made | {"tokens": _by_word(part.tokens[row])}

        values = parts["train"].values
        steps = {name: (values[name].shape[1], values[name].shape[2] + 1) for name in NAMES}
        layout: dict[str, tuple[tuple[int, ...], str]] = {name: (shape, "float32") for name, shape in steps.items()}
        layout["tokens"] = ((2, steps["text"][0]), "int32")
        pack(self._folder, type(self).__name__, options, samples, layout, decode, workers)
        self._forget()


def _read(file: Path, aligned: bool) -> dict[str, _Part]:
    """The three splits of a pickle, checked."""
    content = restricted_pickle.load(file)
    if not isinstance(content, dict):
        raise UserError(
            f"{file} holds an object of the type {type(content).__name__}, not a dict with the keys "
            f"{', '.join(PARTS.values())}; get MMSA's file anew."
        )
    raw = {split: _entry(f"{file}", content, split) for split in PARTS.values()}
    del content
    parts: dict[str, _Part] = {}
    for split in PARTS.values():
        part = raw.pop(split)
        if not isinstance(part, dict):
            raise UserError(
                f"{file}: {split!r} is of the type {type(part).__name__}, not a dict; get MMSA's file anew."
            )
        parts[split] = _read_part(f"{file}, {split!r}", part, aligned)
        del part  # only what is used stays in memory
    for name in NAMES:
        shapes = {split: part.values[name].shape[1:] for split, part in parts.items()}
        if len(set(shapes.values())) > 1:
            raise UserError(
                f"{file} holds {name!r} with other steps or values in one split than in another "
                f"({', '.join(f'{split} {shape}' for split, shape in shapes.items())}); get MMSA's file anew."
            )
    return parts


def _read_part(place: str, part: dict[str, Any], aligned: bool) -> _Part:
    ids = _entry(place, part, "id")
    ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if not isinstance(ids, list) or not all(isinstance(name, str) and _ID.fullmatch(name) for name in ids):
        raise UserError(
            f"{place}: 'id' is no list of strings, one name of a line for each sample; get MMSA's file anew."
        )
    if not ids:
        raise UserError(f"{place} holds no sample; get MMSA's file anew.")
    count = len(ids)
    bert = _numbers(place, part, "text_bert", (count, 3, None))
    values = {"text": _numbers(place, part, "text", (count, bert.shape[2], None))}
    values |= {name: _numbers(place, part, name, (count, None, None)) for name in ("audio", "vision")}
    words = (bert[:, 1] == 1).sum(axis=1)
    lengths = {"text": words}
    for name in ("audio", "vision"):
        steps = values[name].shape[1]
        if not aligned:
            key = f"{name}_lengths"
            lengths[name] = _whole(f"{place}: {key!r}", _numbers(place, part, key, (count,)))
        elif steps == bert.shape[2]:
            lengths[name] = words
        else:
            raise UserError(
                f"{place}: {name!r} has {steps} steps, but an aligned file has one for each of the {bert.shape[2]} of "
                f"'text'; put the unaligned file under the name of its own."
            )
    tokens = np.where(np.arange(bert.shape[2]) < words.clip(1)[:, None], bert[:, 0], 0)
    labels = _numbers(place, part, "regression_labels", (count,)).astype(np.float32)
    return _Part(ids, labels, _whole(f"{place}: 'text_bert'", tokens).astype(np.int32), values, lengths)


def _entry(place: str, content: dict[str, Any], key: str) -> Any:
    if key not in content:
        names = [name for name in content if len(name) <= 40][:20]
        raise UserError(
            f"{place} has no key {key!r}{did_you_mean(key, names)}, but {', '.join(map(repr, names)) or 'none'}; "
            f"get MMSA's file anew."
        )
    return content[key]


def _numbers(place: str, content: dict[str, Any], key: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """An entry as an array of numbers; None in the shape where any length but 0 will do."""
    entry = _entry(place, content, key)
    # Not lists of lists: a small file can hold one list in many places.
    if isinstance(entry, list) and all(type(number) in (int, float) for number in entry):
        with contextlib.suppress(OverflowError):
            entry = np.array(entry, dtype=np.float64)
    if isinstance(entry, np.ndarray):
        lengths = zip(entry.shape, shape, strict=False)
        fits = entry.ndim == len(shape) and all(has != 0 if want is None else has == want for has, want in lengths)
        if fits and entry.dtype.kind in "iuf":
            return entry
        found = f"of {entry.dtype} in the shape {entry.shape}"
    else:
        found = f"of the type {type(entry).__name__}"
    wanted = ", ".join("any" if length is None else str(length) for length in shape)
    raise UserError(
        f"{place}: {key!r} is {found}, where numbers in the shape ({wanted}) are expected; get MMSA's file anew."
    )


def _whole(place: str, numbers: np.ndarray) -> np.ndarray:
    """The numbers as int64."""
    if not ((numbers == np.floor(numbers)) & (numbers >= 0) & (numbers < 2**31)).all():  # false for nan, too
        raise UserError(f"{place} holds what is no whole number from 0 on; get MMSA's file anew.")
    return numbers.astype(np.int64)


def _ragged(values: np.ndarray, length: int) -> np.ndarray:
    """(L, D) to (L, D + 1) float32: finite, all 0 behind the length, and last whether a step belongs to the sample."""
    made = np.zeros((len(values), values.shape[1] + 1), dtype=np.float32)
    made[:length, :-1] = np.nan_to_num(_float32(values[:length]), nan=0.0, posinf=0.0, neginf=0.0)
    made[:length, -1] = 1
    return made


def _by_word(tokens: np.ndarray) -> np.ndarray:
    """(L,) to (2, L) int32: below each token the number of its word, 0 for [CLS], [SEP] and padding.

    Which tokens make a word together is not in the file, so that each is its own.
    """
    words = np.zeros_like(tokens)
    last = int(np.count_nonzero(tokens)) - 1
    words[1:last] = np.arange(1, max(last, 1))
    return np.stack([tokens, words])


def _float32(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is counted as such
        return values.astype(np.float32)


def _not_finite(parts: Mapping[str, _Part]) -> dict[str, int]:
    """By modality, how many values are not finite as float32; row by row, as a whole copy may not fit into memory."""
    return {
        name: sum(
            int(np.count_nonzero(~np.isfinite(_float32(row)))) for part in parts.values() for row in part.values[name]
        )
        for name in NAMES
    }


def _cut_lengths(parts: Mapping[str, _Part]) -> dict[str, int]:
    """Brings every length to between 1 and the number of steps; returns by modality how many weren't."""
    cut: Counter[str] = Counter(dict.fromkeys(NAMES, 0))
    for part in parts.values():
        for name, lengths in part.lengths.items():
            part.lengths[name] = lengths.clip(1, part.values[name].shape[1])
            cut[name] += int((part.lengths[name] != lengths).sum())
    return dict(cut)


def _name_repeated(file: Path, parts: Mapping[str, _Part]) -> int:
    """Gives ids that stand twice in a split a number; says so, and returns how many there were."""
    repeated = []
    for split, part in parts.items():
        seen: Counter[str] = Counter()
        for row, name in enumerate(part.ids):
            seen[name] += 1
            if seen[name] > 1:
                repeated.append(f"{name!r} in {split}")
                part.ids[row] = f"{name} #{seen[name]}"
    if repeated:
        print(f"{file} repeats {len(repeated)} ids (for example {repeated[0]}); the samples are kept, numbered.")
    return len(repeated)


def _report_shared(file: Path, parts: Mapping[str, _Part]) -> int:
    """Says which ids stand in two splits, and returns how many of them stand in more than one."""
    of_split = [(split, set(part.ids)) for split, part in parts.items()]
    everywhere: set[str] = set()
    for number, (later, names) in enumerate(of_split):
        for earlier, others in of_split[:number]:
            common = sorted(names & others)
            everywhere.update(common)
            if common:
                print(
                    f"{file} has {len(common)} ids in both {earlier} and {later} (for example {common[0]!r}): these "
                    f"utterances leak from one split into the other. They are kept, as the splits are the file's."
                )
    return len(everywhere)


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} of {name}" for name, count in counts.items() if count)
