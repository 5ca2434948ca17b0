"""Text as whole numbers: WordPiece tokens from a local folder (the extra ``text``), and their way to an encoder."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmlab.draws import Draws
from mmlab.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LENGTH = 512
"""The most tokens a text is cut to, [CLS] included: what BERT reads."""
HALVES = re.compile(r"[\ud800-\udfff]")
"""Halves of surrogate pairs, which JSON can name alone but which are no characters."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class WordPieces:
    """The WordPiece tokeniser of a BERT (Devlin et al., 2019), read from ``tokenizer.json`` or else ``vocab.txt``.

    A vocabulary alone is read as that of an uncased model: text is lower-cased and loses its accents. Nothing is
    downloaded.

    Args:
        folder: that holds one of the files.

    Attributes:
        sha256: of the file.
        last: the largest token.
        blank: the token of the word ``_``; that of unknown words where the vocabulary lacks it.

    Raises:
        UserError: if the folder holds no usable tokeniser, or tokenizers is not installed.
    """

    def __init__(self, folder: Path) -> None:
        file = tokenizer_file(folder)
        self.sha256 = file_sha256(file)
        self._tokenizer = _read(file)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # None is ruled out below.
        self._start: Any = self._tokenizer.token_to_id("[CLS]")
        self._unknown: Any = self._tokenizer.token_to_id("[UNK]")
        self.last = max(self._tokenizer.get_vocab().values())
        self.blank = int(self._pieces(["_"])[0, 0])

    def __call__(self, text: str) -> np.ndarray:
        """[CLS] and at most 511 pieces, without [SEP], as int32 (2, 512).

        Row 0 holds the tokens, 0 for padding; row 1 the number, from 1, of the word (whitespace stands between words)
        that each comes from, 0 for [CLS] and padding. A text that itself says [CLS], [SEP], [MASK] or [UNK] gets that
        token; one that says [PAD] gets [UNK], as padding is not looked at. Half a surrogate pair is read as U+FFFD,
        which BERT's normaliser drops.
        """
        pieces = self._pieces(HALVES.sub("\ufffd", text).split())[:, : LENGTH - 1]
        padded = np.zeros((2, LENGTH), dtype=np.int32)
        padded[0, 0] = self._start
        padded[:, 1 : 1 + pieces.shape[1]] = pieces
        return padded

    def _pieces(self, words: list[str]) -> np.ndarray:
        """(2, pieces): their tokens, and the number of each one's word."""
        encoding = self._tokenizer.encode(words, is_pretokenized=True, add_special_tokens=False)
        pieces = np.array([encoding.ids, encoding.word_ids], dtype=np.int32) + np.array([[0], [1]], dtype=np.int32)
        pieces[0, pieces[0] == 0] = self._unknown
        return pieces


class TokensAsLong:
    """The transform of a text: tokens are stored in 32 bits and looked up by 64-bit indices."""

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, 2, L) to int64 of the same shape."""
        return raw.to(torch.int64)


def tokenizer_file(folder: Path) -> Path:
    """The file that a folder's tokeniser is read from.

    Raises:
        UserError: if the folder has none.
    """
    for name in ("tokenizer.json", "vocab.txt"):
        if (folder / name).is_file():
            return folder / name
    if folder.is_dir():
        state = "holds neither tokenizer.json nor vocab.txt"
    else:
        state = "is no folder" if folder.exists() else "doesn't exist"
    raise UserError(
        f"the tokeniser's folder {folder} {state}: download a BERT there once (for example `hf download "
        f"bert-base-uncased --local-dir models/bert-base-uncased`) or name the folder of one by the option tokenizer."
    )


def file_sha256(file: Path) -> str:
    """SHA-256 of a file.

    Raises:
        UserError: if it can't be read.
    """
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"{file} can't be read ({error.strerror}); check its permissions.") from error


def _read(file: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer
        from tokenizers.models import WordPiece
        from tokenizers.normalizers import BertNormalizer
        from tokenizers.pre_tokenizers import BertPreTokenizer
    except ImportError as error:
        raise UserError(
            'Preparing texts needs tokenizers, which is not installed: run pip install "mmlab[text]".'
        ) from error
    # The library raises nothing more special than Exception.
    try:
        if file.name == "tokenizer.json":
            tokenizer = Tokenizer.from_file(str(file))
        else:
            tokenizer = Tokenizer(WordPiece.from_file(str(file), unk_token="[UNK]"))
            tokenizer.normalizer = BertNormalizer(lowercase=True)
            tokenizer.pre_tokenizer = BertPreTokenizer()
            # Within a text too these are themselves, as tokenizer.json has it.
            tokenizer.add_special_tokens([token for token in SPECIAL if tokenizer.token_to_id(token) is not None])
    except Exception as error:
        raise UserError(f"{file} holds no tokeniser ({error}); download it again or choose another folder.") from error
    if not isinstance(tokenizer.model, WordPiece):
        raise UserError(
            f"{file} holds a tokeniser of the kind {type(tokenizer.model).__name__}, not WordPiece: choose the folder "
            f"of a BERT."
        )
    for token in ("[PAD]", "[UNK]", "[CLS]"):
        if tokenizer.token_to_id(token) is None:
            raise UserError(f"{file} has no token {token}; choose the folder of a BERT.")
    if tokenizer.token_to_id("[PAD]") != 0:
        raise UserError(
            f"{file} has [PAD] as token {tokenizer.token_to_id('[PAD]')}, but mmlab pads with 0: choose the folder of "
            f"a BERT, whose [PAD] is 0."
        )
    return tokenizer
