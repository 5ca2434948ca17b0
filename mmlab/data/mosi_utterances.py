"""MOSIUtterances: CMU-MOSI with one vector of each modality for an utterance."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import numpy as np

from mmlab.data.base import Split, SplitName, Transform, carve_validation
from mmlab.data.image import Normalise
from mmlab.data.npz import Layout, NpzDataset, check_rows, read_npz
from mmlab.data.sentiment import SentimentTask, sentiment_targets, sentiment_task
from mmlab.data.tokens import TokensAsLong
from mmlab.errors import UserError
from mmlab.types import Classification, Modality, Sentiment

FILE = "mosi.npz"
WIDTHS = {"text": 100, "audio": 73, "vision": 100}
LEARNT = ("text", "vision")
"""The features that were learnt from labels."""
LENGTH = 50
UNKNOWN = 1  # the token of words that are in no vocabulary

LAYOUT: Layout = {
    **{name: ("float32", (None, width)) for name, width in WIDTHS.items()},
    "label": ("float32", (None,)),
    "label2": ("uint8", (None,)),
    "video_id": ("str", (None,)),
    "segment": ("int16", (None,)),
    "token_ids": ("int16", (None, LENGTH)),
    "split_official": ("str", (None,)),
    "split_poria": ("str", (None,)),
}


class MOSIUtterances(NpzDataset):
    """CMU-MOSI (Zadeh et al., 2016): 2199 spoken opinions from 93 videos, one vector of each modality for each.

    The features are those of the bc-LSTM line of work (Poria et al., "Context-Dependent Sentiment Analysis in
    User-Generated Videos", ACL 2017): text 100 (a CNN over word2vec), audio 73 (openSMILE), vision 100 (a 3-D CNN).
    Each column is standardised by its mean and standard deviation over the training part. Scores run from -3 to 3.

    - ``poria``: the split that comes with the features. Text and vision features were learnt from the labels of
      the 1447 training utterances (62 videos); 752 utterances of 31 other videos were held out. The release has no
      validation part; ours is carved from the held-out videos, by whole videos, and the others are the test part.
      With ``validation_from train`` it is carved from the training videos and all 752 are tested, as the field does:
      such a validation part can't select, since its features were learnt from its labels (a linear fit to the
      training part tells the sign of 99.5 % of it by text and of 93 % by vision, but of 75 % and 51 % of the 752).
    - ``official``: CMU-MOSI's own, 1284 / 229 / 686 utterances of 52 / 10 / 31 videos. **Text and vision features are
      refused here**: the networks that made them were trained on the labels of the poria training videos, which hold
      558 of the 686 official test utterances. What is left are the words and the audio features, which were not learnt.

    Words are upper-cased tokens, cut at 50; their vocabulary of 3107, of the whole set, is the set's own and no text
    model's: encode them with ``word_embeddings``.

    Args:
        root: folder of ``mosi.npz``; by default ``mosi`` in what the environment variable MMLAB_DATA names, or else in
            ``../shared/data``.
        split: which one.
        features: the modalities that come as features; by default all three with ``poria``, audio with ``official``.
            Text that isn't among them comes as words; the others are left out.
        task: ``regression`` of the score, or its class: ``binary`` (negative, non-negative) or ``seven`` (rounded).
        validation_from: which videos the validation part of ``poria`` is carved from.
        validation_share: of these videos.
        split_seed: of that draw.

    Raises:
        UserError: if features are asked for that leak the test labels of the split.
    """

    checksums = {FILE: "f485bb6ed6ab5da966e73d8a1b032239379fab618e91883d7cdeb2ee712056c0"}

    def __init__(
        self,
        root: str | None = None,
        split: Literal["poria", "official"] = "poria",
        features: list[Literal["text", "audio", "vision"]] | None = None,
        task: SentimentTask = "regression",
        validation_from: Literal["held_out", "train"] = "held_out",
        validation_share: float = 0.2,
        split_seed: int = 0,
    ) -> None:
        super().__init__(root, "mosi", "honest")
        if features is None:
            features = ["text", "audio", "vision"] if split == "poria" else ["audio"]
        leaking = [name for name in LEARNT if name in features]
        if split == "official" and leaking:
            raise UserError(
                f"MOSIUtterances' {' and '.join(leaking)} features were learnt from the labels of 558 of the 686 test "
                f"utterances of the official split, so results on them would be worthless: set features to [audio], "
                f"or split to poria."
            )
        self._split_name = split
        self._features = tuple(name for name in WIDTHS if name in features)
        self._task: SentimentTask = task
        self._validation_from = validation_from
        self._validation_share = validation_share
        self._split_seed = split_seed

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``text`` (100,) or as words (2, 50), ``audio`` (73,) and ``vision`` (100,), in this order."""
        words = Modality("text", "text", (2, LENGTH), low=0.0, high=float(self._file["token_ids"].max()), blank=UNKNOWN)
        vectors = [Modality(name, "vector", (WIDTHS[name],), *self._scales[name]) for name in self._features]
        return (*(() if "text" in self._features else (words,)), *vectors)

    @property
    def task(self) -> Sentiment | Classification:
        """The score from -3 to 3, or its class."""
        return sentiment_task(self._task, "mosi")

    def details(self) -> dict[str, object]:
        """The variant in use, as plain data for result.json."""
        words = [] if "text" in self._features else ["words"]
        task = [] if self._task == "regression" else [self._task]
        carved = ["validated on training videos"] if self._validation_from == "train" else []
        if self._split_name == "official":
            carved = []
        return {
            "variant": ", ".join([self._split_name, *words, *task, *carved]),
            "features": list(self._features),
            "validation_from": self._validation_from if self._split_name == "poria" else None,
            "validation_share": self._validation_share if self._split_name == "poria" else None,
            "split_seed": self._split_seed if self._split_name == "poria" else None,
            "synthetic": self.synthetic,
        }

    def splits(self) -> dict[SplitName, Split]:
        """Reads the file into memory (2.5 MB).

        Raises:
            UserError: if it is absent, can't be read or contradicts itself.
        """
        return {name: self._taken(rows) for name, rows in self._parts.items()}

    def transforms(self) -> dict[str, Transform]:
        """Standardised features; tokens as indices."""
        transforms: dict[str, Transform] = {"text": TokensAsLong()}
        return transforms | {name: Normalise(*self._scales[name]) for name in self._features}

    def synthetic_files(self) -> dict[str, dict[str, np.ndarray]]:
        """A twin of 96 utterances from 16 videos: each modality shows the score in some of its columns or words."""
        rng = np.random.default_rng(0)
        rows = 96
        label = (np.round(5 * rng.uniform(-3, 3, rows)) / 5).astype(np.float32)
        seen = {name: label[:, None] + rng.normal(0, 1, (rows, width)) for name, width in WIDTHS.items()}
        seen["audio"][:, :9] *= 100.0
        seen["vision"][:, 50:] = 0.0
        length = rng.integers(3, LENGTH + 1, rows)
        words = rng.integers(20, 60, (rows, LENGTH))
        words[:, 0] = np.round(label) + 5
        video = np.arange(rows) // 6
        return {
            FILE: {
                **{name: values.astype(np.float32) for name, values in seen.items()},
                "label": label,
                "label2": (label >= 0).astype(np.uint8),
                "label7": np.round(label).astype(np.int8),
                "label_ambiguous": np.zeros(rows, dtype=bool),
                "video_id": np.array([f"video{number:02d}" for number in video]),
                "segment": (np.arange(rows) % 6 + 1).astype(np.int16),
                "token_ids": np.where(np.arange(LENGTH) < length[:, None], words, 0).astype(np.int16),
                "token_len": length.astype(np.int16),
                "split_official": np.array(["train", "valid", "test"])[np.digitize(video, [9, 11])],
                "split_poria": np.array(["test", "train"])[(video >= 5).astype(int)],
            }
        }

    @cached_property
    def _file(self) -> dict[str, np.ndarray]:
        path = self._root / FILE
        file = read_npz(path, LAYOUT)
        check_rows(path, file, tuple(LAYOUT), classes=2, label="label2")
        wrong = [name for name in (*WIDTHS, "label") if not np.isfinite(file[name]).all()]
        wrong += ["label"] if (np.abs(file["label"]) > 3).any() else []
        wrong += ["token_ids"] if file["token_ids"].min() < 0 else []
        if wrong:
            raise UserError(f"{path} holds values that can't be in {wrong[0]!r}: copy the file anew from its source.")
        return file

    @cached_property
    def _parts(self) -> dict[SplitName, np.ndarray]:
        """The rows of each part."""
        name = f"split_{self._split_name}"
        train, valid, test = (np.flatnonzero(self._file[name] == part) for part in ("train", "valid", "test"))
        if self._split_name == "poria":
            whole = test if self._validation_from == "held_out" else train
            videos = self._file["video_id"][whole]
            kept, carved = carve_validation(np.zeros(len(whole)), self._validation_share, self._split_seed, videos)
            valid, rest = whole[carved], whole[kept]
            train, test = (train, rest) if self._validation_from == "held_out" else (rest, test)
        for part, rows in (("training", train), ("test", test), ("validation", valid)):
            if len(rows) == 0:
                raise UserError(
                    f"{self._root / FILE} leaves the {part} part of {name!r} empty: copy the file anew from its source."
                )
        return {"train": train, "val": valid, "test": test}

    @cached_property
    def _scales(self) -> dict[str, tuple[tuple[float, ...], tuple[float, ...]]]:
        """Mean and standard deviation of each column over the training part; 1 for one that doesn't change there."""
        scales = {}
        for name in WIDTHS:
            values = self._file[name][self._parts["train"]].astype(np.float64)
            std = np.where(np.ptp(values, axis=0) == 0, 1.0, values.std(axis=0))
            scales[name] = (tuple(values.mean(axis=0).tolist()), tuple(std.tolist()))
        return scales

    def _taken(self, rows: np.ndarray) -> Split:
        file = self._file
        arrays: dict[str, np.ndarray] = {name: file[name] for name in self._features}
        if "text" not in self._features:
            tokens = file["token_ids"]
            numbers = np.arange(1, LENGTH + 1, dtype=np.int16)
            arrays = {"text": np.stack((tokens, np.where(tokens > 0, numbers, 0)), axis=1), **arrays}
        spoken = zip(file["video_id"][rows].tolist(), file["segment"][rows].tolist(), strict=True)
        return Split(
            ids=[f"{video}/{segment}" for video, segment in spoken],
            targets=sentiment_targets(file["label"][rows], self._task, "mosi"),
            rows=rows,
            arrays=arrays,
            present=np.ones((len(rows), len(arrays)), dtype=bool),
            padded={} if "text" in self._features else {"text": 2},
        )
