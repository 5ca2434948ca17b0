import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from PIL import Image

from mmlab.cli.main import main
from mmlab.data.cefa import CeFA
from mmlab.errors import UserError

Command = Callable[..., str]
# One living face and one attack for each split of 4@5.
LEAST = ("3_000_1_1_1", "3_000_1_1_4", "3_200_1_1_1", "3_200_1_1_4", "1_300_1_1_1", "1_300_1_1_2")
RACES = {"1": "AF", "2": "CA", "3": "EA"}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a synthetic twin, prepared by the real command."""
    root = tmp_path_factory.mktemp("cefa") / "root"
    assert main(["prepare", "CeFA", "--root", str(root), "--synthetic"]) == 0
    return root


def frame(folder: Path, name: str, grey: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (grey,) * 3).save(folder / f"{name}.jpg")


def raw(root: Path, videos: Iterable[str], colour: str = "profile", frames: int = 1) -> Path:
    """Writes videos of one or more frames; returns the root."""
    for video in videos:
        race = RACES[video[0]]
        for kind in (colour, "depth", "ir"):
            for number in range(frames):
                frame(root / race / f"{race}-{video[2:5]}" / video / kind, f"{number:04}", 10 * number)
    return root


def videos_of(data: CeFA) -> dict[str, list[str]]:
    data.prepare()
    return {name: sorted({sample.split("/")[0] for sample in split.ids}) for name, split in data.splits().items()}


def test_the_command_says_what_it_packed(mmlab: Command) -> None:
    said = mmlab("prepare CeFA --root r --synthetic --subprotocol 4@2")
    assert "Packed 48 samples into r/packed-4@2-144px." in said
    assert [line.split(",")[0] for line in said.splitlines()[-3:]] == [
        "train: 24 samples",
        "val: 12 samples",
        "test: 12 samples",
    ]
    assert "4@7" in mmlab("prepare CeFA --root r --subprotocol 4@7", code=2)


def test_the_twin_by_the_default_protocol(twin: Path) -> None:
    data = CeFA(root=str(twin))
    splits = data.splits()
    assert splits["train"].ids[:4] == ["3_000_1_1_1/0001", "3_000_1_1_1/0002", "3_000_1_1_1/0003", "3_000_1_1_4/0001"]
    for split in splits.values():
        # 1 is a living face, whatever the coding of the data set's own lists.
        assert list(split.targets) == [int("_1/" in name) for name in split.ids]
        assert split.present.all()
    assert {name[0] for name in splits["test"].ids} == {"1"}
    details = data.details()
    assert details["variant"] == "4@5"
    assert details["trained_race"] == "EA"
    assert details["test"] == "AF only, living faces and cloth prints"
    assert details["synthetic"] is True


@pytest.mark.parametrize(
    ("subprotocol", "trained", "tested"),
    [("4@1", "1", "2"), ("4@2", "1", "3"), ("4@3", "2", "1"), ("4@4", "2", "3"), ("4@5", "3", "1"), ("4@6", "3", "2")],
)
def test_races(tmp_path: Path, subprotocol: str, trained: str, tested: str) -> None:
    every = [f"{race}_{video[2:]}" for race in "123" for video in (*LEAST, "1_300_1_1_1", "1_300_1_1_2")]
    data = CeFA(root=str(raw(tmp_path, dict.fromkeys(every))), subprotocol=subprotocol)  # type: ignore[arg-type]
    assert videos_of(data) == {
        "train": [f"{trained}_000_1_1_1", f"{trained}_000_1_1_4"],
        "val": [f"{trained}_200_1_1_1", f"{trained}_200_1_1_4"],
        "test": [f"{tested}_300_1_1_1", f"{tested}_300_1_1_2"],
    }


def test_every_field_of_a_name_decides(tmp_path: Path) -> None:
    edges = ("3_199_3_2_4", "3_299_3_2_4", "1_499_3_2_2")
    not_taken = (
        *("3_000_2_1_1", "3_000_4_1_1", "3_000_1_3_1", "3_000_1_1_2", "3_000_1_1_3", "3_300_1_1_1"),
        *("3_200_2_1_1", "3_200_1_3_1", "3_200_1_1_2", "1_299_1_1_1", "1_000_1_1_1", "1_300_1_1_3", "1_300_1_1_4"),
        *("1_300_2_1_1", "1_300_1_3_2", "2_000_1_1_1", "2_300_1_1_2"),
    )
    assert videos_of(CeFA(root=str(raw(tmp_path, (*LEAST, *edges, *not_taken))))) == {
        "train": ["3_000_1_1_1", "3_000_1_1_4", "3_199_3_2_4"],
        "val": ["3_200_1_1_1", "3_200_1_1_4", "3_299_3_2_4"],
        "test": ["1_300_1_1_1", "1_300_1_1_2", "1_499_3_2_2"],
    }


def test_both_releases_are_read_alike(tmp_path: Path) -> None:
    digests = []
    for colour in ("profile", "color"):
        data = CeFA(root=str(raw(tmp_path / colour, LEAST, colour)))
        data.prepare()
        digests.append([split.digest() for split in data.splits().values()])
    assert digests[0] == digests[1]


def test_pictures_are_paired_by_name_and_the_rest_is_named(tmp_path: Path) -> None:
    raw(tmp_path, LEAST, frames=3)
    video = tmp_path / "EA" / "EA-000" / "3_000_1_1_1"
    (video / "depth" / "0001.jpg").unlink()  # what follows it must not move up
    frame(video / "ir", "0007", 70)
    (tmp_path / "EA" / "EA-001" / "3_001_1_1_1" / "depth").mkdir(parents=True)
    data = CeFA(root=str(tmp_path))
    data.prepare()
    meta = json.loads((tmp_path / "packed-4@5-144px" / "pack.json").read_text())
    assert {entry["id"]: entry["reason"] for entry in meta["bad"]} == {
        "3_000_1_1_1/0001": "its depth image is absent",
        "3_000_1_1_1/0007": "its rgb and depth image is absent",
        "3_001_1_1_1": "its rgb and depth and ir image is absent",
    }
    train = data.splits()["train"]
    assert train.ids[:2] == ["3_000_1_1_1/0000", "3_000_1_1_1/0002"]
    batch = train.__getitems__(list(range(len(train))))
    for name, pictures in batch.inputs.items():
        greys = pictures[:, 0, 72, 72].tolist()
        assert greys == [10 * int(sample[-4:]) for sample in train.ids], name


def test_each_subprotocol_has_a_pack_of_its_own(twin: Path) -> None:
    data = CeFA(root=str(twin), subprotocol="4@1")
    with pytest.raises(UserError, match=r"packed-4@1-144px is not prepared; run: .* --subprotocol 4@1"):
        data.splits()
    with pytest.raises(UserError, match="is not empty; a synthetic twin"):
        data.write_synthetic()


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    data = CeFA(root=str(tmp_path))
    with pytest.raises(UserError, match=r"EA holds no videos of the train split \(subjects 000 to 199\); put them"):
        data.prepare()
    raw(tmp_path, LEAST[:4])
    with pytest.raises(UserError, match=r"AF holds no videos of the test split \(subjects 300 to 499\)"):
        data.prepare()
    raw(tmp_path, LEAST)
    frame(tmp_path / "EA" / "EA-000" / "3_000_1_1_1" / "color", "0000", 0)
    with pytest.raises(UserError, match=r"profile and .*color are both colour pictures of one video"):
        data.prepare()
    (tmp_path / "EA" / "EA-001" / "3_000_1_1_1").mkdir(parents=True)
    with pytest.raises(UserError, match="have the name of one video; remove one of them"):
        data.prepare()
    (tmp_path / "EA" / "EA-001" / "3_000_1_1_1").rename(tmp_path / "EA" / "EA-001" / "1_000_1_1_1")
    with pytest.raises(UserError, match="1_000_1_1_1 lies under EA, but its name begins with 1, which is AF"):
        data.prepare()
