"""Synthetic twins of sets of captioned images, with a text model and a tokeniser of their own."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mmlab.data.base import refuse_existing
from mmlab.data.image_text import TWIN_MODEL
from mmlab.data.tokens import LENGTH, SPECIAL
from mmlab.errors import UserError

LINES = {"train": 12, "dev": 4, "test": 4}
"""Of each class."""
COMMON = ("a", "the", "with", "today", "and", "my", "very", "one")
TELLING = (
    ("sunny", "happy", "party"),
    ("table", "street", "monday"),
    ("rain", "angry", "broken"),
    ("river", "forest", "quiet"),
)
COLOURS = np.array([(200, 60, 60), (60, 200, 60), (60, 60, 200), (190, 190, 50)])


def write_twin(root: Path, labels: tuple[str, ...]) -> None:
    """Writes jsonl files, jpg images and ``tiny_bert``: words and colours that tell the class, with some noise.

    The first training line names no image, as happens in the published files.

    Args:
        root: a new folder.
        labels: at most four.

    Raises:
        UserError: if the root holds anything, or transformers is not installed.
    """
    refuse_existing(root)
    letters = list(string.ascii_lowercase)
    words = [*COMMON, *(word for words in TELLING for word in words)]
    vocabulary = dict.fromkeys([*SPECIAL, "_", "!", *letters, *(f"##{letter}" for letter in letters), *words])
    write_tiny_bert(root / TWIN_MODEL, list(vocabulary))
    (root / "data").mkdir()
    (root / "SYNTHETIC").write_text("These texts and images are generated; results on them mean nothing.\n")
    rng = np.random.default_rng(0)
    number = 0
    for split, count in LINES.items():
        lines = []
        for label in rng.permutation(np.arange(len(labels)).repeat(count)):
            name = f"data/{number}.jpg"
            _image(int(label), rng).save(root / name)
            line = {"id": str(number), "label": labels[label], "text": _text(int(label), len(labels), rng)}
            lines.append(json.dumps(line | {"img": name if number else ""}))
            number += 1
        (root / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _text(label: int, labels: int, rng: np.random.Generator) -> str:
    """Four to eight words: half of them tell the class, one in ten another class, the others nothing."""
    words = []
    for kind in rng.random(rng.integers(4, 9)):
        told = label if kind < 0.5 else int(rng.integers(labels))
        words.append(str(rng.choice(TELLING[told] if kind < 0.6 else COMMON)))
    return " ".join(words).capitalize() + "!"


def _image(label: int, rng: np.random.Generator) -> Image.Image:
    size = (int(rng.integers(48, 80)), int(rng.integers(48, 80)), 3)
    pixels = COLOURS[label] + rng.normal(0, 30, 3) + rng.normal(0, 20, size)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_tiny_bert(folder: Path, vocabulary: Sequence[str]) -> None:
    """Writes a BERT of two layers, 32 wide, with weights drawn from a fixed seed.

    Args:
        folder: a new folder.
        vocabulary: its tokens in order, each once.

    Raises:
        UserError: if transformers is not installed.
    """
    try:
        from transformers import BertConfig, BertModel, logging
    except ImportError as error:
        raise UserError(
            'A synthetic twin with texts needs transformers, which is not installed: run pip install "mmlab[text]".'
        ) from error
    import torch

    logging.disable_progress_bar()  # it would report the one tiny file of weights
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=LENGTH,
        )
        BertModel(config).save_pretrained(folder)
