import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmlab.data.tokens import LENGTH, TokensAsLong, WordPieces, file_sha256
from mmlab.errors import UserError

pytest.importorskip("tokenizers")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "_", "#", "!", "/", ":", "the", "day", "play", "##ing"]
VOCABULARY += [*LETTERS, *(f"##{letter}" for letter in LETTERS)]
TEXTS = [
    "The day",
    "  Playing\tTHE\n\nplay ",
    "",
    "#Day!! re:the day/play http://t.co/abc",
    "café naïve Ünder [SEP] zero\u200bwidth",
    "中文day 日本 😀 the😀",
    "a" * 101 + " _ the_day",
    "no-break\u00a0space\u2028line",
]


def write_vocabulary(folder: Path, tokens: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_vocabulary(tmp_path / "bert", VOCABULARY)


def names(row: np.ndarray) -> list[str]:
    return [VOCABULARY[token] for token in row[0][row[0] != 0]]


def test_tokens_and_their_words(bert: Path) -> None:
    row = WordPieces(bert)("Playing  THE_day \u200b zoë!")
    assert row.dtype == np.int32
    assert row.shape == (2, LENGTH)
    assert names(row) == ["[CLS]", "play", "##ing", "the", "_", "day", "z", "##o", "##e", "!"]
    assert row[1, :11].tolist() == [0, 1, 1, 2, 2, 2, 4, 4, 4, 4, 0]
    assert not row[:, 10:].any()


@pytest.mark.parametrize("text", TEXTS)
def test_word_by_word_is_as_the_whole_text(bert: Path, text: str) -> None:
    from tokenizers import BertWordPieceTokenizer

    whole = BertWordPieceTokenizer(str(bert / "vocab.txt"), lowercase=True).encode(text, add_special_tokens=False).ids
    row = WordPieces(bert)(text)
    assert row[0, : 1 + len(whole)].tolist() == [VOCABULARY.index("[CLS]"), *whole]
    assert not row[0, 1 + len(whole) :].any()


def test_long_texts_are_cut_without_a_separator(bert: Path) -> None:
    row = WordPieces(bert)("playing " * 300)
    assert names(row)[:3] == ["[CLS]", "play", "##ing"]
    assert np.count_nonzero(row[0]) == LENGTH
    assert "[SEP]" not in names(row)
    assert row[1, -1] == 256


def test_padding_is_not_written_by_a_text(bert: Path) -> None:
    row = WordPieces(bert)("the [PAD] day[PAD] [SEP] [PAD]")
    assert names(row) == ["[CLS]", "the", "[UNK]", "day", "[UNK]", "[SEP]", "[UNK]"]
    assert row[1, :7].tolist() == [0, 1, 2, 3, 3, 4, 5]


def test_half_a_surrogate_pair_is_an_unknown_character(bert: Path) -> None:
    pieces = WordPieces(bert)
    np.testing.assert_array_equal(pieces("the \ud83dday\ude00"), pieces("the \ufffdday\ufffd"))
    assert names(pieces("\ud83d play")) == ["[CLS]", "play"]
    assert names(pieces("\U0001f600 play")) == ["[CLS]", "[UNK]", "play"]  # a whole pair stays a character


def test_the_blank_word(bert: Path, tmp_path: Path) -> None:
    assert WordPieces(bert).blank == VOCABULARY.index("_")
    assert WordPieces(bert).last == len(VOCABULARY) - 1
    without = write_vocabulary(tmp_path / "without", [token for token in VOCABULARY if token != "_"])
    assert WordPieces(without).blank == 1  # [UNK]


def test_a_saved_tokeniser_cuts_pads_and_ends_as_mmlab_has_it(bert: Path, tmp_path: Path) -> None:
    from tokenizers import BertWordPieceTokenizer

    saved = BertWordPieceTokenizer(str(bert / "vocab.txt"), lowercase=True)  # its template adds [CLS] and [SEP]
    saved.enable_truncation(4)
    saved.enable_padding(length=7)
    (tmp_path / "saved").mkdir()
    saved.save(str(tmp_path / "saved" / "tokenizer.json"))
    text = "Playing the day re:play [SEP]"
    np.testing.assert_array_equal(WordPieces(tmp_path / "saved")(text), WordPieces(bert)(text))
    assert WordPieces(tmp_path / "saved").sha256 == file_sha256(tmp_path / "saved" / "tokenizer.json")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "bert holds neither tokenizer.json nor vocab.txt: download a BERT there once .* by the option tokenizer"),
        ({"vocab.txt": b"\xff\xfe"}, "vocab.txt holds no tokeniser"),
        ({"tokenizer.json": b"{}"}, "tokenizer.json holds no tokeniser"),
        ({"vocab.txt": b"[PAD]\n[UNK]\na"}, r"has no token \[CLS\]"),
        ({"vocab.txt": b"[UNK]\n[CLS]\n[PAD]"}, r"has \[PAD\] as token 2, but mmlab pads with 0"),
    ],
)
def test_what_is_no_tokeniser_is_told(tmp_path: Path, content: dict[str, bytes], sentence: str) -> None:
    (tmp_path / "bert").mkdir()
    for name, data in content.items():
        (tmp_path / "bert" / name).write_bytes(data)
    with pytest.raises(UserError, match=sentence):
        WordPieces(tmp_path / "bert")


def test_other_kinds_of_tokenisers_are_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    Tokenizer(BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="of the kind BPE, not WordPiece"):
        WordPieces(tmp_path)


def test_what_is_missing_is_told(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="nowhere doesn't exist: download a BERT"):
        WordPieces(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"vocab.txt is no folder: download a BERT"):
        WordPieces(bert / "vocab.txt")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r'not installed: run pip install "mmlab\[text\]"'):
        WordPieces(bert)


def test_tokens_become_indices() -> None:
    raw = torch.tensor([[[2, 7, 0], [0, 1, 0]]], dtype=torch.int32)
    seen = TokensAsLong()(raw, None)
    assert seen.dtype == torch.int64
    assert seen.tolist() == raw.tolist()
