import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlab.data.food101 import Food101
from mmlab.data.image_text import MEAN, STD, ImageText, read_image, read_lines
from mmlab.data.mvsa_single import MVSASingle
from mmlab.data.packing import BadSample, open_packed
from mmlab.data.tokens import LENGTH, WordPieces, file_sha256
from mmlab.errors import UserError

pytest.importorskip("transformers")
Command = Callable[..., str]
KINDS = {"MVSASingle": MVSASingle, "Food101": Food101}
COUNTS = {"MVSASingle": (36, 12, 12), "Food101": (48, 16, 16)}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Roots of prepared synthetic twins, by the name of the data set."""
    root = tmp_path_factory.mktemp("twins")
    for name, kind in KINDS.items():
        data = kind(root=str(root / name))
        data.write_synthetic()
        data.prepare(workers=2)
    return root


@pytest.fixture
def copy(twins: Path, tmp_path: Path) -> Path:
    """A copy of MVSASingle's twin, to change."""
    return Path(shutil.copytree(twins / "MVSASingle", tmp_path / "copy"))


def change_line(file: Path, number: int, change: Callable[[dict], object]) -> None:
    lines = file.read_text().split("\n")
    content = json.loads(lines[number - 1])
    change(content)
    lines[number - 1] = json.dumps(content)
    file.write_text("\n".join(lines))


@pytest.mark.parametrize("name", KINDS)
def test_the_command_prepares_a_twin_with_its_own_tokeniser(mmlab: Command, twins: Path, name: str) -> None:
    out = mmlab(f"prepare {name} --root r --synthetic --workers 2")
    train, val, test = COUNTS[name]
    assert f"train: {train} samples" in out
    assert f"val: {val} samples" in out
    assert f"test: {test} samples" in out
    assert "published" not in out
    same = [KINDS[name](root=str(root)).splits()["train"].digest() for root in ("r", twins / name)]
    assert same[0] == same[1]
    assert "is prepared already" in mmlab(f"prepare {name} --root r")
    assert "is not empty" in mmlab(f"prepare {name} --root r --synthetic", code=2)


@pytest.mark.parametrize("name", KINDS)
def test_what_an_encoder_sees(twins: Path, name: str) -> None:
    data: ImageText = KINDS[name](root=str(twins / name))
    splits = data.splits()
    assert tuple(len(split) for split in splits.values()) == COUNTS[name]
    text, image = data.modalities
    assert (text.name, text.kind, text.shape, text.low) == ("text", "text", (2, LENGTH), 0.0)
    assert (image.name, image.kind, image.shape) == ("image", "image", (3, 224, 224))
    vocabulary = (twins / name / "tiny_bert" / "vocab.txt").read_text().split()
    assert text.high == len(vocabulary) - 1
    assert text.blank == vocabulary.index("_")
    batch = splits["train"].__getitems__([3, 0, 1])
    assert list(batch.inputs) == ["text", "image"]
    assert batch.present.all()
    tokens = data.transforms()["text"](batch.inputs["text"], None)
    assert tokens.dtype == torch.int64
    assert tokens.shape == (3, 2, tokens[:, 0].count_nonzero(dim=1).max())
    line = read_lines(twins / name / "train.jsonl")[3]
    expected = WordPieces(twins / name / "tiny_bert")(line.text)[:, : tokens.shape[2]]
    assert tokens[0].tolist() == expected.tolist()
    assert data.task.classes[splits["train"].targets[3]] == line.label
    raw = read_image(twins / name, line.image)
    seen = data.transforms()["image"](batch.inputs["image"], None)
    torch.testing.assert_close(seen[0, 1], (torch.tensor(raw[1].astype(np.float32)) - MEAN[1]) / STD[1])


def test_the_classes_and_their_order(twins: Path) -> None:
    assert MVSASingle(root=str(twins / "MVSASingle")).task.classes == ("positive", "neutral", "negative")
    dishes = Food101(root=str(twins / "Food101")).task.classes
    assert dishes == ("apple_pie", "caesar_salad", "sushi", "waffles")


def test_images_are_resized_and_cut_in_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((256, 512, 3), np.uint8)
    wide[..., 0] = np.arange(512) // 2
    wide[..., 1] = np.arange(256)[:, None]
    Image.fromarray(wide).save(tmp_path / "wide.png")
    pixels = read_image(tmp_path, "wide.png")
    np.testing.assert_array_equal(pixels, wide[16:240, 144:368].transpose(2, 0, 1))
    Image.fromarray(wide).resize((1024, 512), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    assert np.abs(read_image(tmp_path, "large.png").astype(int) - pixels).max() <= 1
    Image.new("L", (30, 90), 77).save(tmp_path / "grey.jpg")
    assert (read_image(tmp_path, "grey.jpg") == 77).all()


def test_a_line_without_an_image_has_a_grey_one(twins: Path) -> None:
    split = MVSASingle(root=str(twins / "MVSASingle")).splits()["train"]
    assert read_lines(twins / "MVSASingle" / "train.jsonl")[0].image is None
    assert (split.__getitems__([0]).inputs["image"] == 128).all()
    assert split.present[0].tolist() == [True, True]


def test_absent_and_broken_images_are_left_out_and_named(copy: Path) -> None:
    (copy / "data" / "3.jpg").unlink()
    kept = (copy / "data" / "4.jpg").read_bytes()
    (copy / "data" / "4.jpg").write_bytes(kept[: len(kept) // 2])
    (copy / "data" / "5.jpg").write_text("no image")
    (copy / "data" / "7.jpg").unlink()
    (copy / "data" / "7.jpg").mkdir()
    change_line(copy / "train.jsonl", 7, lambda line: line.update(img="x" * 5000))
    data = MVSASingle(root=str(copy))
    data.prepare()
    meta = open_packed(copy / "packed", "MVSASingle", "").meta
    assert {entry["id"]: entry["reason"].split(":")[0] for entry in meta["bad"]} == {
        "3": "there is no image data/3.jpg",
        "4": "data/4.jpg can't be decoded",
        "5": "data/5.jpg is no JPEG or PNG or GIF or BMP or WEBP image",
        "6": f"there is no image {'x' * 80}...",
        "7": "there is no image data/7.jpg",
    }
    assert len(data.splits()["train"]) == 31
    (copy / "data" / "3.jpg").write_bytes(kept)  # an image that arrives later is packed then
    data.prepare()
    assert len(data.splits()["train"]) == 32


def test_grey_levels_of_16_bits_are_refused_and_of_8_taken(tmp_path: Path) -> None:
    Image.fromarray(np.full((60, 40), 40_000, np.uint16)).save(tmp_path / "fine.png")
    with pytest.raises(BadSample, match=r"fine.png has more than 8 bits for each channel"):
        read_image(tmp_path, "fine.png")
    Image.fromarray(np.full((60, 40), 156, np.uint8)).save(tmp_path / "usual.png")
    assert (read_image(tmp_path, "usual.png") == 156).all()


def test_the_content_tells_the_format_not_the_name(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 60), (255, 0, 0))
    for kind in ("PNG", "GIF", "BMP", "WEBP"):
        picture.save(tmp_path / f"{kind}.jpg", format=kind)
        assert np.abs(read_image(tmp_path, f"{kind}.jpg")[:, 9, 9] - np.array([255, 0, 0])).max() < 5
    picture.save(tmp_path / "eps.jpg", format="EPS")  # whose decoding would start another program
    with pytest.raises(BadSample, match=r"eps.jpg is no JPEG or PNG or GIF or BMP or WEBP image"):
        read_image(tmp_path, "eps.jpg")


def test_an_unknown_image_format_is_a_bad_sample(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    with pytest.raises(BadSample, match=r"a.png is no JPEG or PNG or"):
        read_image(tmp_path, "a.png")


def test_the_validation_file_may_have_either_name(copy: Path) -> None:
    before = MVSASingle(root=str(copy)).splits()["val"].digest()
    (copy / "dev.jsonl").rename(copy / "val.jsonl")
    data = MVSASingle(root=str(copy))
    data.prepare()
    assert data.splits()["val"].digest() == before


def _first_again(line: dict) -> None:
    line["id"] = "0"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda line: line.update(label="postive"), r"line 3: unknown label 'postive' .did you mean 'positive'"),
        (lambda line: line.pop("text"), "line 3: text is None; every line needs text"),
        (lambda line: line.update(text=3), "line 3: text is 3"),
        (lambda line: line.update(img=[1]), r"line 3: img is \[1\]"),
        (_first_again, "line 3: the id '0' stands in an earlier line"),
        (lambda line: line.update(id="a\ud83d"), r"line 3: id is 'a\\ud83d', in which half of a surrogate pair"),
        (lambda line: line.update(label="\ude00"), r"line 3: label is '\\ude00', in which half of a surrogate pair"),
        (
            lambda line: line.update(img="\ud83d.jpg"),
            r"line 3: img is '\\ud83d.jpg', in which half of a surrogate pair",
        ),
        (lambda line: line.update(img="/etc/hostname"), "line 3: img is '/etc/hostname'; give a path below the folder"),
        (lambda line: line.update(img="data/../../a.jpg"), "line 3: img is 'data/../../a.jpg'; give a path below"),
    ],
)
def test_lines_are_checked(copy: Path, change: Callable[[dict], object], sentence: str) -> None:
    change_line(copy / "train.jsonl", 3, change)
    with pytest.raises(UserError, match=f"train.jsonl, {sentence}"):
        MVSASingle(root=str(copy)).prepare()


def test_a_label_that_no_training_line_has(twins: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(twins / "Food101", tmp_path / "copy"))
    change_line(root / "dev.jsonl", 2, lambda line: line.update(label="sushy"))
    with pytest.raises(UserError, match=r"dev.jsonl, line 2: unknown label 'sushy' .did you mean 'sushi'"):
        Food101(root=str(root)).prepare()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"id": 1, ', "line 1: no JSON"),
        (b"[1, 2]\n", "line 1: .* is no JSON object"),
        (b'\n{"id": ' + b"[" * 100_000, "line 2: its JSON is nested too deeply"),
        (b"\n\n", "holds no lines"),
        (b"\xff\xfe", "is no UTF-8 text"),
    ],
)
def test_files_are_checked(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=f"train.jsonl,? {sentence}"):
        read_lines(tmp_path / "train.jsonl")


def test_what_stands_in_a_line_is_kept(tmp_path: Path) -> None:
    rows = [
        '{"id": 7, "label": "x", "text": "one\u2028two \\n three", "img": "data/7.jpg"}',
        "",
        '{"id": "8", "label": "x", "text": "", "img": null}\r',
    ]
    (tmp_path / "a.jsonl").write_bytes("\n".join(rows).encode("utf-8-sig"))
    first, second = read_lines(tmp_path / "a.jsonl")
    assert (first.id, first.text, first.image) == ("7", "one\u2028two \n three", "data/7.jpg")
    assert (second.id, second.text, second.image) == ("8", "", None)
    assert second.place.endswith("a.jsonl, line 3")


def test_the_tokeniser_belongs_to_the_pack(copy: Path, tmp_path: Path) -> None:
    data = MVSASingle(root=str(copy))
    details = data.details()
    assert details["tokenizer_sha256"] == file_sha256(copy / "tiny_bert" / "vocab.txt")
    assert details["synthetic"] is True
    other = Path(shutil.copytree(copy / "tiny_bert", tmp_path / "other"))
    assert len(MVSASingle(root=str(copy), tokenizer=str(other)).splits()["test"]) == 12
    with (other / "vocab.txt").open("a") as file:
        file.write("unheard\n")
    data = MVSASingle(root=str(copy), tokenizer=str(other))
    with pytest.raises(UserError, match=r"packed with another tokeniser than .*; run: mmlab prepare .* --tokenizer"):
        data.splits()
    before = data.modalities[0].high
    data.prepare()
    assert data.modalities[0].high == before + 1
    assert data.details() != details
    shutil.rmtree(other)
    assert len(MVSASingle(root=str(copy)).splits()["test"]) == 12  # a pack needs no tokeniser any more


def test_partial_data_are_said(copy: Path, mmlab: Command) -> None:
    (copy / "SYNTHETIC").unlink()
    out = mmlab(f"prepare MVSASingle --root {copy} --tokenizer {copy}/tiny_bert")
    assert "not the published files of MVSASingle: train 36, not 1555; val 12, not 518; test 12, not 519" in out
    error = mmlab(f"prepare MVSASingle --root {copy}", code=2)
    assert "the tokeniser's folder models/bert-base-uncased doesn't exist: download a BERT" in error


def test_ids_that_training_shares_are_said(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MVSASingle(root=str(copy)).prepare()
    assert "Ids that" not in capsys.readouterr().out
    for number, name in ((2, "4"), (3, "5")):
        change_line(copy / "test.jsonl", number, lambda line, name=name: line.update(id=name))
    MVSASingle(root=str(copy)).prepare()
    said = capsys.readouterr().out
    assert "train.jsonl and test.jsonl share: 2 (for example '4'). Where they name the same sample, it leaks" in said
    assert "dev.jsonl" not in said


def test_half_a_character_in_a_text_is_packed(copy: Path) -> None:
    before = MVSASingle(root=str(copy)).splits()["train"].__getitems__([2]).inputs["text"]
    change_line(copy / "train.jsonl", 3, lambda line: line.update(text=line["text"] + "\ud83d"))
    data = MVSASingle(root=str(copy))
    data.prepare()
    assert data.splits()["train"].__getitems__([2]).inputs["text"].tolist() == before.tolist()


def test_a_twin_is_written_without_a_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import transformers

    transformers.logging.enable_progress_bar()
    MVSASingle(root=str(tmp_path / "twin")).write_synthetic()
    assert capsys.readouterr().err == ""


def test_the_base_is_no_data_set(mmlab: Command) -> None:
    assert "there is no data set 'ImageText'" in mmlab("prepare ImageText", code=2)


def test_what_is_missing_is_said(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not prepared; run: mmlab prepare Food101 --root"):
        Food101(root=str(tmp_path)).splits()
    (copy / "dev.jsonl").unlink()
    with pytest.raises(UserError, match=r"holds no dev.jsonl or val.jsonl; put the jsonl files"):
        MVSASingle(root=str(copy)).prepare()
    with pytest.raises(UserError, match=r"none holds no train.jsonl; .* point the option root"):  # no tokeniser either
        MVSASingle(root=str(tmp_path / "none")).prepare()


def test_a_method_fits_on_a_twin(twins: Path, mmlab: Command) -> None:
    root = twins / "MVSASingle"
    mmlab(
        f"fit --model LateFusion --data.dataset MVSASingle --data.dataset.root {root} --data.batch_size 12 "
        f"--model.backbones.text {root}/tiny_bert --model.backbones.text.pretrained true --model.backbone.width 4 "
        "--trainer.max_epochs 1 --trainer.accelerator cpu --trainer.enable_progress_bar false --run_dir run"
    )
    result = json.loads(Path("run/result.json").read_text())
    assert result["modalities"] == ["text", "image"]
    assert result["splits"]["test"]["samples"] == 12
    assert set(result["test"]) >= {"acc", "acc_text", "acc_image"}
