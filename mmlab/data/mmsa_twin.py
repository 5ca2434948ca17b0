"""Synthetic twins of the sentiment sets in MMSA's layout, with a text model of their own."""

from __future__ import annotations

import importlib.util
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmlab.data.base import begin_twin
from mmlab.data.image_text_twin import write_tiny_bert
from mmlab.data.sentiment import HIGHEST, Convention

SAMPLES = {"train": 24, "valid": 8, "test": 8}
MODEL = "tiny_bert"
START, END = 101, 102  # [CLS] and [SEP] in BERT's vocabularies
COMMON = ("the", "movie", "was", "and", "it", "of", "there", "story")
GOOD = ("great", "lovely", "funny", "moving")
BAD = ("awful", "boring", "weak", "messy")
VOCABULARY = (
    "[PAD]",
    *(f"[unused{number}]" for number in range(99)),
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    *COMMON,
    *GOOD,
    *BAD,
)


@dataclass(frozen=True)
class TwinSizes:
    """How large a twin's arrays are.

    Attributes:
        steps: of text, audio and vision, where they aren't aligned; where they are, all have those of the text.
        widths: of text, audio and vision.
        infinite: whether the audio holds values of -inf, as MOSEI's does.
        too_long: whether the first audio has a greater length than there are steps.
        by_modality: whether there are labels of each modality, as CH-SIMS has them.
    """

    steps: tuple[int, int, int]
    widths: tuple[int, int, int]
    infinite: bool = False
    too_long: bool = False
    by_modality: bool = False


def write_twin(folder: Path, files: Sequence[str], sizes: TwinSizes, convention: Convention) -> None:
    """Writes pickles in MMSA's layout; the score is the sum of what text, audio and vision carry of it, and no noise.

    Args:
        folder: a new folder.
        files: names of the pickles; one that begins with ``aligned`` is of aligned sequences of the same samples.
        sizes: of the arrays.
        convention: the range of the scores.

    Raises:
        UserError: if the folder holds anything.
    """
    begin_twin(folder, "utterances")
    (folder / "Processed").mkdir()
    for name in files:
        content = _content(name.startswith("aligned"), sizes, HIGHEST[convention])
        file = folder / "Processed" / name
        unfinished = file.with_name(file.name + ".tmp")
        unfinished.write_bytes(pickle.dumps(content, protocol=4))
        os.replace(unfinished, file)
    if importlib.util.find_spec("transformers") is not None:
        write_tiny_bert(folder / MODEL, VOCABULARY)


def _content(aligned: bool, sizes: TwinSizes, highest: float) -> dict[str, dict[str, Any]]:
    shared = np.random.default_rng(0)  # what the aligned and the unaligned file have in common
    steps = (sizes.steps[0],) * 3 if aligned else sizes.steps
    directions = [shared.normal(size=width) for width in sizes.widths]
    content = {}
    for number, (split, count) in enumerate(SAMPLES.items()):
        told = shared.uniform(-1, 1, (count, 3))
        # In tenths of the range: a few scores are 0.
        scores = np.round((1.2 * told.mean(axis=1)).clip(-1, 1) * 5 * highest) / 5
        sentences = [_sentence(float(value), sizes.steps[0] - 2, shared) for value in told[:, 0]]
        spoken = shared.integers(sizes.steps[1] // 2, sizes.steps[1] + 1, count)
        shown = shared.integers(sizes.steps[2] // 2, sizes.steps[2] + 1, count)
        bert = _bert(sentences, sizes.steps[0])
        words = bert[:, 1].sum(axis=1)
        lengths = [words, words, words] if aligned else [words, spoken, shown]
        rng = np.random.default_rng((number, aligned))
        text, audio, vision = (
            _sequences(told[:, place], lengths[place], steps[place], directions[place], rng) for place in range(3)
        )
        if sizes.infinite:
            audio[::5, 0, 0] = -np.inf
        part = {
            "raw_text": sentences,
            "text": text,
            "text_bert": bert,
            "audio": audio,
            "vision": vision,
            "id": [f"{split}{clip // 4}$_${clip % 4}" for clip in range(count)],
            "regression_labels": scores.astype(np.float32),
            "classification_labels": (np.sign(scores) + 1).astype(np.float32),
            "annotations": [("Negative", "Neutral", "Positive")[int(sign) + 1] for sign in np.sign(scores)],
        }
        if sizes.by_modality:
            of_modality = np.round(told * 5 * highest).astype(np.float32) / 5
            part |= {f"regression_labels_{name}": of_modality[:, place] for place, name in enumerate("TAV")}
        if not aligned:
            if sizes.too_long and split == "train":
                spoken[0] = sizes.steps[1] + 7
            # Both a list and an array occur in the public files.
            part |= {"audio_lengths": spoken.tolist(), "vision_lengths": shown}
        content[split] = part
    return content


def _sentence(value: float, most: int, rng: np.random.Generator) -> str:
    """Words, as many as fit at the most; the more of them are good, the greater the value, from -1 to 1."""
    words = rng.choice(COMMON, rng.integers(most // 2, most + 1))
    telling = rng.random(len(words)) < abs(value)
    return " ".join(np.where(telling, rng.choice(GOOD if value > 0 else BAD, len(words)), words))


def _bert(sentences: list[str], steps: int) -> np.ndarray:
    """(N, 3, steps): tokens, the mask and zeros."""
    place = {word: token for token, word in enumerate(VOCABULARY)}
    bert = np.zeros((len(sentences), 3, steps), dtype=np.float32)
    for row, sentence in enumerate(sentences):
        tokens = [START, *(place[word] for word in sentence.split()), END]
        bert[row, 0, : len(tokens)] = tokens
        bert[row, 1, : len(tokens)] = 1
    return bert


def _sequences(
    told: np.ndarray, lengths: np.ndarray, steps: int, direction: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(N, steps, D) float32: at each step what is told, along a direction, and noise; zeros behind the length."""
    values = told[:, None, None] * direction + rng.normal(0, 0.3, (len(told), steps, len(direction)))
    return (values * (np.arange(steps) < lengths[:, None])[..., None]).astype(np.float32)
