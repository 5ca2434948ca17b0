import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlab.cli.main import main
from mmlab.data.casia_surf import CASIASURF
from mmlab.data.packing import open_packed
from mmlab.errors import UserError
from mmlab.types import AntiSpoofing, DataSpec

Command = Callable[..., str]
LISTS = ("train_list.txt", "val_private_list.txt", "test_private_list.txt")


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a synthetic twin, prepared by the real command."""
    root = tmp_path_factory.mktemp("surf") / "root"
    assert main(["prepare", "CASIASURF", "--root", str(root), "--synthetic"]) == 0
    return root


@pytest.fixture
def raw(twin: Path, tmp_path: Path) -> Path:
    """A copy of the twin's raw pictures, not prepared."""
    return Path(shutil.copytree(twin, tmp_path / "raw", ignore=shutil.ignore_patterns("packed*")))


def change(root: Path, line: int, text: str, name: str = "train_list.txt") -> None:
    """Puts a text in place of one line of a list, from 1."""
    lines = (root / name).read_text().splitlines()
    lines[line - 1] = text
    (root / name).write_text("\n".join(lines))


def triplet(root: Path, number: int) -> str:
    """Writes three pictures of one colour each; returns their paths as a list has them."""
    paths = []
    for name, colour in (("color", (200, 100, 30)), ("depth", (60, 60, 60)), ("ir", (9, 9, 9))):
        paths.append(f"Training/real_part/X/{name}/{number:02}.png")
        (root / paths[-1]).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 30), colour).save(root / paths[-1])
    return " ".join(paths)


def test_the_command_says_what_it_packed(mmlab: Command) -> None:
    said = mmlab("prepare CASIASURF --root r --synthetic")
    assert "Packed 68 samples into r/packed-144px." in said
    assert [line.split(",")[0] for line in said.splitlines()[-3:]] == [
        "train: 40 samples",
        "val: 12 samples",
        "test: 16 samples",
    ]
    assert "r/packed-144px is prepared already." in mmlab("prepare CASIASURF --root r")


def test_the_lists_are_the_splits(twin: Path) -> None:
    splits = CASIASURF(root=str(twin)).splits()
    for (name, split), file in zip(splits.items(), LISTS, strict=True):
        text = (twin / file).read_text()
        assert not text.endswith("\n")  # like the owners' lists: the last line's label must survive
        fields = [line.split() for line in text.splitlines()]
        assert split.ids == [colour for colour, *_ in fields], name
        assert list(split.targets) == [int(label) for *_, label in fields]
        assert set(split.targets) == {0, 1}
        assert split.present.all()
    batch = splits["train"].__getitems__([3, 20])
    assert batch.inputs["ir"].shape == (2, 3, 144, 144)
    assert batch.inputs["ir"].dtype == torch.uint8
    assert batch.target.tolist() == [1, 0]


def test_what_a_method_is_told(twin: Path) -> None:
    data = CASIASURF(root=str(twin))
    spec = DataSpec.from_dict(data.spec(40).to_dict())
    assert spec.names == ("rgb", "depth", "ir")
    assert spec.task == AntiSpoofing(("spoof", "live"))
    assert {modality.shape for modality in spec.modalities} == {(3, 112, 112)}
    assert data.details() == {"protocol": "honest", "synthetic": True}
    assert CASIASURF(root="elsewhere").details()["synthetic"] is False


def test_each_column_is_its_modality(raw: Path) -> None:
    change(raw, 1, triplet(raw, 0) + " 1")
    data = CASIASURF(root=str(raw))
    data.prepare()
    first = data.splits()["train"].__getitems__([0]).inputs
    assert [first[name][0, :, 70, 70].tolist() for name in ("rgb", "depth", "ir")] == [
        [200, 100, 30],
        [60] * 3,
        [9] * 3,
    ]


def test_spaces_and_empty_lines_do_not_matter(raw: Path, twin: Path) -> None:
    file = raw / "val_private_list.txt"
    file.write_text("\n" + file.read_text().replace(" ", "  \t") + " \r\n\n")
    data = CASIASURF(root=str(raw))
    data.prepare()
    assert data.splits()["val"].digest() == CASIASURF(root=str(twin)).splits()["val"].digest()


def test_bad_triplets_are_left_out_and_named(raw: Path) -> None:
    lines = [line.split() for line in (raw / "train_list.txt").read_text().splitlines()]
    (raw / lines[0][2]).unlink()
    for path in lines[1][:3]:
        (raw / path).unlink()
    (raw / lines[2][1]).write_bytes((raw / lines[2][1]).read_bytes()[:300])
    (raw / lines[3][0]).write_text("no picture")
    data = CASIASURF(root=str(raw))
    data.prepare()
    bad = {entry["id"]: entry["reason"] for entry in json.loads((raw / "packed-144px/pack.json").read_text())["bad"]}
    assert list(bad) == [lines[number][0] for number in range(4)]
    assert bad[lines[0][0]] == "its ir image is absent"
    assert bad[lines[1][0]] == "its rgb and depth and ir image is absent"
    assert "depth image 02.jpg can't be decoded" in bad[lines[2][0]]
    assert "rgb image 03.jpg is no JPEG or PNG or BMP image" in bad[lines[3][0]]
    assert data.splits()["train"].ids == [line[0] for line in lines[4:]]


def test_an_absent_picture_is_packed_once_it_is_there(raw: Path) -> None:
    path = raw / (raw / "train_list.txt").read_text().split()[0]
    kept = path.read_bytes()
    path.unlink()
    data = CASIASURF(root=str(raw))
    data.prepare()
    assert len(data.splits()["train"]) == 39
    path.write_bytes(kept)
    data.prepare()
    assert len(data.splits()["train"]) == 40


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Training/a.jpg 0", r"train_list.txt, line 7: 2 fields in place of .* \(their CASIA_SURF@p1 lists name one"),
        ("a.jpg b.jpg c.jpg", "line 7: 3 fields"),
        ("a.jpg b.jpg c.jpg 2", "line 7: the label is '2'; it must be 1 for a living face or 0"),
        ("Training/real_part/a b c 0", "line 7: the label is 0 for a picture under real_part, but 1 is a living"),
        ("Training/fake_part/a b c 1", "line 7: the label is 1 for a picture under fake_part"),
        (
            "Training/real_part/SYNTH0000/01_en_b.rssdk/color/00.jpg b c 1",
            "line 7: .* stands at .*line 1 already; remove one of the two lines",
        ),
    ],
)
def test_lines_are_checked(raw: Path, line: str, message: str) -> None:
    change(raw, 7, line)
    with pytest.raises(UserError, match=message):
        CASIASURF(root=str(raw)).prepare()


def test_what_is_missing_is_said(raw: Path, tmp_path: Path) -> None:
    data = CASIASURF(root=str(raw))
    with pytest.raises(UserError, match="not prepared; run: mmlab prepare CASIASURF --root"):
        data.splits()
    with pytest.raises(UserError, match="is not empty; a synthetic twin"):
        data.write_synthetic()
    (raw / "val_private_list.txt").rename(raw / "CASIA_SURF@p1_image_dev.txt")
    with pytest.raises(
        UserError, match=r"no list .*val_private_list.txt \(CASIA_SURF@p1_image_dev.txt has another layout"
    ):
        data.prepare()
    for name in LISTS:
        (raw / name).write_text("\n")
    with pytest.raises(UserError, match=r"the lists in .* are empty"):
        data.prepare()
    with pytest.raises(UserError, match=r"no list .*train_list.txt; put CASIA-SURF's"):
        CASIASURF(root=str(tmp_path / "nothing")).prepare()


def test_a_split_needs_both_classes(raw: Path) -> None:
    file = raw / "test_private_list.txt"
    file.write_text("\n".join(line for line in file.read_text().splitlines() if line.endswith("0")))
    data = CASIASURF(root=str(raw))
    data.prepare()
    with pytest.raises(UserError, match=r"the test split in .* has 0 living faces and 10 attacks, but needs both"):
        data.splits()


def test_depth_tells_the_class_of_the_twin_and_colour_tells_less(twin: Path) -> None:
    packed = open_packed(twin / "packed-144px", "CASIASURF", "")
    live = packed.targets == "live"
    right = {}
    for name in ("rgb", "depth"):
        grey = packed.arrays[name][packed.rows].astype(np.float64).mean(axis=1)
        # Relief: the middle of the face against its rim.
        relief = grey[:, 60:84, 60:84].mean((1, 2)) - grey[:, 30:40, 60:84].mean((1, 2))
        right[name] = ((relief > 10) == live).mean()
    assert right["depth"] == 1
    assert right["rgb"] < 0.9
