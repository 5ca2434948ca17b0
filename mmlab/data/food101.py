"""UPMC-Food101: images of dishes with text of their web pages (Wang, Kumar, Thome, Cord and Precioso, 2015)."""

from __future__ import annotations

from collections.abc import Set

from mmlab.data.image_text import ImageText
from mmlab.data.image_text_twin import write_twin


class Food101(ImageText):
    """UPMC-Food101, images of dishes with a text, in the split of QMF and PDF.

    In ``root`` lie ``train.jsonl``, ``dev.jsonl`` (or ``val.jsonl``, 5000 lines) and ``test.jsonl`` (22715 lines), and
    the images. A line is a JSON object with ``id``, ``label`` (the dish), ``text`` and ``img``, a path below the root,
    relative to it; the classes are the labels of ``train.jsonl``, sorted (our order). Everything else is as in
    MVSASingle: ``mmlab prepare`` packs tokens and images into ``<root>/packed``, a line without ``img`` has a grey
    image, one whose image is absent, broken or in grey levels of more than 8 bits is left out and named, nothing is
    augmented, and the validation split is the published one. That images are normalised by MVSASingle's mean and
    deviation is our choice.

    Args:
        root: folder of the jsonl files, of the images and of the pack.
        tokenizer: folder of a BERT's ``tokenizer.json`` or ``vocab.txt``, needed to prepare; by default
            ``models/bert-base-uncased``, or the synthetic twin's own. Once prepared, whatever was packed is used,
            and a folder that is named must hold the same tokeniser.
    """

    published = {"classes": 101, "val": 5000, "test": 22715}

    def __init__(self, root: str = "data/food101", tokenizer: str | None = None) -> None:
        super().__init__(root, tokenizer)

    def class_names(self, labels: Set[str]) -> tuple[str, ...]:
        """The labels, sorted."""
        return tuple(sorted(labels))

    def write_synthetic(self) -> None:
        """Writes 80 lines of four dishes whose words and colours tell the class, and a tiny text model.

        Raises:
            UserError: if the root holds anything, or transformers is not installed.
        """
        write_twin(self.root, ("apple_pie", "caesar_salad", "sushi", "waffles"))
