import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mmlab.data.ave import AVE, CLASSES, RandomFrames
from mmlab.data.packing import open_packed
from mmlab.data.video import read_audio, read_frames, write_video
from mmlab.draws import Draws
from mmlab.errors import UserError

pytest.importorskip("av")
SMALL = {"frame_side": 32, "image_size": 16}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The root of a prepared synthetic twin."""
    root = tmp_path_factory.mktemp("ave") / "root"
    data = AVE(root=str(root), **SMALL)
    data.write_synthetic()
    data.prepare(workers=2)
    return str(root)


@pytest.fixture
def copy(twin: str, tmp_path: Path) -> Path:
    shutil.copytree(twin, tmp_path / "root")
    return tmp_path / "root"


def add(root: Path, line: str, file: str = "trainSet.txt") -> None:
    with (root / file).open("a") as lines:
        lines.write(line + "\n")


def test_the_command_says_what_is_odd_about_the_lists(mmlab) -> None:
    out = mmlab("prepare AVE --root here --synthetic --frame_side 32 --workers 2")
    assert "Packed 46 samples into here/packed-32px; 1 bad ones are left out" in out
    assert "first: train-_empty: its event lasts no time, from second 2 to 2" in out
    assert "Named twice in trainSet.txt, where the first line counts: 1 (train-_0000)." in out
    for part, video in (("validation", "val-_0000"), ("test", "test-_0000")):
        assert (
            f"Training videos that are {part} videos too, kept as published unless leaks is drop: 1 ({video})." in out
        )
    assert "Named twice in testSet.txt" not in out
    assert "no video of" not in out
    assert [line.split(",")[0] for line in out.splitlines()[-3:]] == [
        "train: 26 samples",
        "val: 8 samples",
        "test: 12 samples",
    ]
    again = mmlab("prepare AVE --root here --frame_side 32")
    assert "is prepared already" in again
    assert "Named twice in trainSet.txt" in again


def test_the_published_splits(twin: str) -> None:
    splits = AVE(root=twin, **SMALL).splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 26, "val": 8, "test": 12}
    assert np.bincount(splits["test"].targets).tolist() == [3, 3, 3, 3]
    train = dict(zip(splits["train"].ids, splits["train"].targets, strict=True))
    # The first of two lines counts; class 5 stands in the second.
    assert CLASSES[train["train-_0000"]] == "Church bell"
    assert {"val-_0000", "test-_0000"} <= set(train)
    assert "train-_empty" not in train
    batch = splits["train"].__getitems__([0, 7])
    assert batch.inputs["audio"].shape == (2, 160_000)
    assert batch.inputs["audio"].dtype == torch.int16
    assert batch.inputs["visual"].shape == (2, 10, 3, 32, 32)
    assert batch.present.all()


def test_the_classes_are_in_the_published_order() -> None:
    assert len(set(CLASSES)) == 28
    assert CLASSES.index("Fixed-wing aircraft, airplane") == 3
    assert CLASSES.index("Rodents, rats, mice") == 25
    assert AVE().task.classes == CLASSES


def test_leaks_can_be_dropped(twin: str) -> None:
    kept, dropped = (AVE(root=twin, leaks=leaks, **SMALL) for leaks in ("keep", "drop"))
    splits = dropped.splits()
    assert set(kept.splits()["train"].ids) - set(splits["train"].ids) == {"val-_0000", "test-_0000"}
    assert not set(splits["train"].ids) & {*splits["val"].ids, *splits["test"].ids}
    assert splits["test"].digest() == kept.splits()["test"].digest()
    assert (kept.details()["variant"], dropped.details()["variant"]) == (None, "without leaks")


def test_videos_in_validation_and_test_are_reported_and_can_be_dropped(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add(copy, (copy / "testSet.txt").read_text().splitlines()[1], "valSet.txt")
    kept, dropped = (AVE(root=str(copy), leaks=leaks, **SMALL) for leaks in ("keep", "drop"))
    kept.prepare()
    out = capsys.readouterr().out
    assert "Validation videos that are test videos too, kept as published unless leaks is drop: 1 (test-_0001)." in out
    assert set(kept.splits()["val"].ids) - set(dropped.splits()["val"].ids) == {"test-_0001"}
    assert len(dropped.splits()["val"]) == 8
    assert dropped.splits()["test"].digest() == kept.splits()["test"].digest()


def test_the_official_protocol_selects_on_the_test_list(twin: str) -> None:
    splits = AVE(root=twin, protocol="official", **SMALL).splits()
    assert len(splits["train"]) == 26
    assert splits["val"].digest() == splits["test"].digest()


def test_only_the_event_is_packed(copy: Path) -> None:
    """Sound and frames of another colour stand outside the event; both must be gone."""
    rng = np.random.default_rng(0)
    frames = np.zeros((30, 48, 64, 3), np.uint8)
    frames[:10] = frames[21:] = (200, 0, 0)
    frames[10:21] = (0, 200, 0)  # the seconds 2 and 3 and the first frame of second 4
    sound = rng.integers(-50, 50, 6 * 16_000).astype(np.int16)
    sound[2 * 16_000 : 4 * 16_000] += (9000 * np.sin(np.arange(2 * 16_000) / 9)).astype(np.int16)
    write_video(copy / "AVE" / "made.mp4", frames, 5, sound, 16_000)
    add(copy, "Bark&made&good&2&4")
    data = AVE(root=str(copy), **SMALL)
    data.prepare()
    train = data.splits()["train"]
    batch = train.__getitems__([train.ids.index("made")])
    assert batch.target.tolist() == [2]
    colours = batch.inputs["visual"][0].float().mean(dim=(2, 3))
    assert (colours[:, 1] > 140).all()
    assert (colours[:, 0] < 60).all()
    loud = batch.inputs["audio"][0].view(5, 2, 16_000).float().abs().mean(dim=2)
    assert (loud > 4000).all()
    event = read_audio(copy / "AVE" / "made.mp4", 16_000)[2 * 16_000 : 4 * 16_000]
    np.testing.assert_array_equal(batch.inputs["audio"][0], np.tile(event, 5))


def test_ten_frames_of_the_event_are_packed(twin: str) -> None:
    train = AVE(root=twin, **SMALL).splits()["train"]
    stored = train.__getitems__([1]).inputs["visual"][0].numpy()
    every = read_frames(Path(twin) / "AVE" / f"{train.ids[1]}.mp4", 32, fewest=20)
    numbers = [int(np.abs(every.astype(int) - frame).sum(axis=(1, 2, 3)).argmin()) for frame in stored]
    # Seconds 1 to 4 of 5 frames each: first the seconds' own frames, then the widest gaps.
    assert numbers == sorted(set(numbers))
    assert {5, 10, 15} <= set(numbers) <= set(range(5, 21))


def test_what_the_encoders_see(twin: str) -> None:
    data = AVE(root=twin, **SMALL)
    batch = data.splits()["train"].__getitems__([3, 1])
    audio, visual = data.modalities
    assert (audio.name, audio.kind, audio.shape) == ("audio", "audio", (1, 257, 1004))
    assert (visual.name, visual.kind, visual.shape) == ("visual", "frames", (3, 4, 16, 16))
    for modality in data.modalities:
        transform = data.transforms()[modality.name]
        for draws in (None, Draws(0, 0, batch.index)):
            seen = transform(batch.inputs[modality.name], draws)
            assert tuple(seen.shape[1:]) == modality.shape
            assert seen.dtype == torch.float32
            assert seen.isfinite().all()
    seen = data.transforms()["audio"](batch.inputs["audio"], None)
    torch.testing.assert_close(seen.mean(dim=(1, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std(dim=(1, 2, 3), correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_frames_are_drawn_without_replacement() -> None:
    def as_they_come(raw: torch.Tensor, draws: Draws | None) -> torch.Tensor:
        return raw

    transform = RandomFrames(4, as_they_come)
    raw = torch.arange(10).view(1, 10, 1, 1, 1).expand(500, 10, 3, 2, 2)
    first, second = (transform(raw, Draws(0, epoch, torch.arange(500)))[:, :, 0, 0, 0] for epoch in (0, 1))
    assert first.shape == (500, 4)
    assert (first.diff(dim=1) > 0).all()
    assert 0.5 < (first != second).any(dim=1).float().mean() <= 1
    # Of 2000 places every frame has a tenth; 30 is more than two standard deviations.
    counts = torch.bincount(first.flatten(), minlength=10)
    assert (counts - 200).abs().max() < 40
    assert transform(raw, None).shape == raw.shape


def test_evaluation_sees_the_same_frames_every_time(twin: str) -> None:
    data = AVE(root=twin, frame_side=32, image_size=32)
    batch = data.splits()["val"].__getitems__([0])
    visual = data.transforms()["visual"]
    seen = visual(batch.inputs["visual"], None)
    assert torch.equal(seen, visual(batch.inputs["visual"], None))
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (data.modalities[1].mean, data.modalities[1].std))
    frames = (seen[0] * std + mean).transpose(0, 1)
    torch.testing.assert_close(frames, batch.inputs["visual"][0, [1, 3, 6, 8]].float(), atol=1e-3, rtol=0)


def test_bad_videos_are_left_out_and_named(copy: Path) -> None:
    videos = copy / "AVE"
    (videos / "train-_0101.mp4").write_bytes((videos / "train-_0101.mp4").read_bytes()[:2000])
    add(copy, "Bark&train-_0202&good&3&9")  # its second line: doesn't count
    shutil.copy(videos / "train-_0100.mp4", videos / "over.mp4")
    add(copy, "Bark&over&good&8&10")
    write_video(videos / "few.mp4", np.zeros((8, 48, 64, 3), np.uint8), 2, np.ones(64_000, np.int16), 16_000)
    add(copy, "Bark&few&good&0&3")
    add(copy, "Bark&train-_empty&good&1&3")  # where the first line's event is empty, the next one counts
    data = AVE(root=str(copy), **SMALL)
    data.prepare(workers=2)
    bad = {
        entry["id"]: entry["reason"].split(":")[0] for entry in open_packed(copy / "packed-32px", "AVE", "").meta["bad"]
    }
    assert bad == {
        "train-_0101": "can't be decoded",
        "over": "no sound from second 8 to 10",
        "few": "7 of the 10 video frames that are needed in the seconds 0 to 3",
    }
    train = data.splits()["train"]
    assert len(train) == 26
    assert train.targets[train.ids.index("train-_empty")] == 2


def test_absent_videos_are_named(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train-_0300", "test-_0301"):
        (copy / "AVE" / f"{name}.mp4").unlink()
    data = AVE(root=str(copy), **SMALL)
    data.prepare()
    assert "no video of 2 of the 47 listed clips (first: train-_0300)" in capsys.readouterr().out
    assert (copy / "missing.txt").read_text() == "train-_0300\ntest-_0301\n"
    assert {name: len(split) for name, split in data.splits().items()} == {"train": 25, "val": 8, "test": 11}
    for file in (copy / "AVE").glob("val-*"):
        file.unlink()
    data.prepare()
    with pytest.raises(UserError, match=r"has no validation videos; put those of .*valSet.txt into .*AVE and run: "):
        data.splits()
    assert len(AVE(root=str(copy), protocol="official", **SMALL).splits()["val"]) == 11
    shutil.rmtree(copy / "AVE")
    with pytest.raises(UserError, match="holds none of the listed videos"):
        data.prepare()


def test_other_endings_and_links_to_nowhere(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = copy / "AVE"
    (videos / "train-_0101.mp4").rename(videos / "train-_0101.MP4")
    (videos / "train-_0102.mp4").unlink()
    (videos / "train-_0102.mp4").symlink_to("gone.mp4")
    AVE(root=str(copy), **SMALL).prepare()
    assert "no video of 1 of the 47 listed clips (first: train-_0102)" in capsys.readouterr().out


def test_spaces_in_lists_do_not_count(copy: Path) -> None:
    shutil.copy(copy / "AVE" / "train-_0100.mp4", copy / "AVE" / "spaced.mp4")
    add(copy, " Bark & spaced &good& 0 & 3 ")
    data = AVE(root=str(copy), **SMALL)
    data.prepare()
    train = data.splits()["train"]
    assert train.targets[train.ids.index("spaced")] == 2


def test_an_empty_list_is_refused(copy: Path) -> None:
    (copy / "valSet.txt").write_text("\n")
    with pytest.raises(UserError, match=r"valSet.txt is empty; copy it anew from its source"):
        AVE(root=str(copy), **SMALL).prepare()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Category&VideoID&Quality&StartTime&EndTime", "unknown class 'Category'.*the list has no header line"),
        ("Barks&x&good&0&3", "line 29: unknown class 'Barks' .did you mean 'Bark'"),
        ("Bark,x,good,0,3", "1 parts where five are expected; write class&id&quality&start&end"),
        ("Bark&x&good&0&3.5", "from '0' to '3.5'; write both seconds as whole numbers"),
    ],
)
def test_lists_are_checked(copy: Path, line: str, message: str) -> None:
    add(copy, line)
    with pytest.raises(UserError, match=message):
        AVE(root=str(copy), **SMALL).prepare()


def test_other_lists_are_another_pack(copy: Path) -> None:
    data = AVE(root=str(copy), **SMALL)
    before = data.details()
    add(copy, "Bark&val-_0100&good&0&2")
    data.prepare()
    after = data.details()
    assert len(data.splits()["train"]) == 27
    assert [name for name in before if before[name] != after[name]] == ["lists_sha256"]
    assert before["synthetic"] is True
    json.dumps(after)


def test_what_is_missing_is_said(tmp_path: Path, twin: str) -> None:
    data = AVE(root=str(tmp_path), **SMALL)
    with pytest.raises(UserError, match=r"not prepared; run: mmlab prepare AVE --root .* --frame_side 32"):
        data.splits()
    with pytest.raises(UserError, match=r"trainSet.txt can't be read .*; put the three lists of AVE there"):
        data.prepare()
    with pytest.raises(UserError, match="frames is 11, but 10 are stored"):
        AVE(frames=11)
    with pytest.raises(UserError, match="choose at least 1 pixel"):
        AVE(image_size=0)
    with pytest.raises(UserError, match="is not empty"):
        AVE(root=twin).write_synthetic()
