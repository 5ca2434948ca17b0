"""MVSA-Single: tweets with an image and a sentiment (Niu, Zhu, Pang and El Saddik, 2016)."""

from __future__ import annotations

from collections.abc import Set

from mmlab.data.image_text import ImageText
from mmlab.data.image_text_twin import write_twin

CLASSES = ("positive", "neutral", "negative")


class MVSASingle(ImageText):
    """MVSA-Single, tweets with an image, in the split of QMF, PDF and MNL.

    In ``root`` lie the images, and ``train.jsonl``, ``dev.jsonl`` (or, the same, ``val.jsonl``) and ``test.jsonl``,
    published with 1555, 518 and 519 lines. A line is a JSON object with ``id``, ``label`` (positive, neutral or
    negative), ``text`` and ``img``, a path below the root, relative to it. ``mmlab prepare`` packs the tokens ([CLS]
    and at most 511 lower-cased WordPieces, no [SEP]; half a surrogate pair is read as U+FFFD) and the images (shorter
    side 256, the middle 224 x 224) into ``<root>/packed``, 0.15 MB a line. A line without ``img`` has a grey image, as
    in the official code; one whose image is absent, broken or in grey levels of more than 8 bits is left out and
    named. Nothing is augmented. The validation split is the published one, so there is but one protocol.

    Args:
        root: folder of the jsonl files, of the images and of the pack.
        tokenizer: folder of a BERT's ``tokenizer.json`` or ``vocab.txt``, needed to prepare; by default
            ``models/bert-base-uncased``, or the synthetic twin's own. Once prepared, whatever was packed is used,
            and a folder that is named must hold the same tokeniser.
    """

    published = {"train": 1555, "val": 518, "test": 519}

    def __init__(self, root: str = "data/mvsa_single", tokenizer: str | None = None) -> None:
        super().__init__(root, tokenizer)

    def class_names(self, labels: Set[str]) -> tuple[str, ...]:
        """Positive, neutral, negative: the order of first appearance in the published training file."""
        return CLASSES

    def write_synthetic(self) -> None:
        """Writes 60 lines whose words and colours tell the class, and a tiny text model, in the raw layout.

        Raises:
            UserError: if the root holds anything, or transformers is not installed.
        """
        write_twin(self.root, CLASSES)
