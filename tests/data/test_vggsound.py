import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mmlab.data.packing import open_packed
from mmlab.data.vggsound import VGGSound
from mmlab.data.video import write_video
from mmlab.draws import Draws
from mmlab.errors import UserError

pytest.importorskip("av")
SMALL = {"frame_side": 32, "image_size": 16}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The root of a prepared synthetic twin."""
    root = tmp_path_factory.mktemp("vggsound") / "root"
    data = VGGSound(root=str(root), **SMALL)
    data.write_synthetic()
    data.prepare(workers=2)
    return str(root)


@pytest.fixture
def copy(twin: str, tmp_path: Path) -> Path:
    shutil.copytree(twin, tmp_path / "root")
    return tmp_path / "root"


def add(root: Path, line: str) -> None:
    with (root / "vggsound.csv").open("a") as lines:
        lines.write(line + "\n")


def test_the_command(mmlab) -> None:
    out = mmlab("prepare VGGSound --root here --synthetic --frame_side 32 --workers 2")
    assert "Packed 36 samples into here/packed-32px." in out
    assert "no video of 1 of the 37 listed clips (first: gone-_00000_000030)" in out
    assert Path("here/missing.txt").read_text() == "gone-_00000_000030\n"
    assert "train: 20 samples" in out
    assert "val: 4 samples" in out
    assert "test: 12 samples" in out
    assert "is prepared already" in mmlab("prepare VGGSound --root here --frame_side 32")


def test_honest_splits_of_the_twin(twin: str) -> None:
    data = VGGSound(root=twin, **SMALL)
    splits = data.splits()
    assert data.task.classes == ("airplane flyby", "dog barking", "playing violin, fiddle", "toilet flushing")
    assert sorted(splits["val"].targets.tolist()) == [0, 1, 2, 3]
    assert not set(splits["train"].ids) & set(splits["val"].ids)
    assert splits["test"].ids[:2] == ["test-_0000_000000", "test-_0001_000010"]
    assert VGGSound(root=twin, split_seed=1, **SMALL).splits()["val"].ids != splits["val"].ids
    batch = splits["train"].__getitems__([0, 5])
    assert batch.inputs["audio"].shape == (2, 160_000)
    assert batch.inputs["audio"].dtype == torch.int16
    assert batch.inputs["visual"].shape == (2, 10, 3, 32, 32)
    # Four seconds repeat until ten are full.
    assert batch.inputs["audio"][0, 130_000:].float().abs().mean() > 1000


def test_the_official_protocol_selects_on_the_test_split(twin: str) -> None:
    splits = VGGSound(root=twin, protocol="official", **SMALL).splits()
    assert len(splits["train"]) == 24
    assert splits["val"].digest() == splits["test"].digest()


def test_clips_of_one_video_stay_together(copy: Path) -> None:
    clip = copy / "videos" / "train-_0000_000000.mp4"
    for video in range(4):
        for start in (0, 10, 20):
            add(copy, f"a_{video},{start},dog barking,train")
            shutil.copy(clip, copy / "videos" / f"a_{video}_{start:06}.mp4")
    data = VGGSound(root=str(copy), validation_share=0.4, **SMALL)
    data.prepare(workers=2)
    splits = data.splits()
    videos = [{name.rsplit("_", 1)[0] for name in splits[part].ids} for part in ("train", "val")]
    assert len(splits["train"]) + len(splits["val"]) == 36
    assert not videos[0] & videos[1]


def test_files_that_are_named_by_their_video_alone(copy: Path) -> None:
    videos = copy / "videos"
    (videos / "train-_0001_000010.mp4").rename(videos / "train-_0001.mp4")
    (videos / "train-_0002_000020.mp4").rename(videos / "train-_0002.mp4")
    add(copy, "train-_0002,90,dog barking,train")  # which of the two clips the file is, nobody can tell
    data = VGGSound(root=str(copy), protocol="official", **SMALL)
    data.prepare()
    train = set(data.splits()["train"].ids)
    assert "train-_0001_000010" in train
    missing = {"gone-_00000_000030", "train-_0002_000020", "train-_0002_000090"}
    assert set((copy / "missing.txt").read_text().split()) == missing
    assert not train & missing


def test_other_endings_and_links_to_nowhere(copy: Path) -> None:
    videos = copy / "videos"
    (videos / "train-_0001_000010.mp4").rename(videos / "train-_0001_000010.MP4")
    (videos / "train-_0002_000020.mp4").unlink()
    (videos / "train-_0002_000020.mp4").symlink_to("gone.mp4")
    data = VGGSound(root=str(copy), protocol="official", **SMALL)
    data.prepare()
    assert "train-_0001_000010" in data.splits()["train"].ids
    assert (copy / "missing.txt").read_text().split() == ["train-_0002_000020", "gone-_00000_000030"]


def test_videos_in_train_and_test_are_said(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = VGGSound(root=str(copy), **SMALL)
    data.prepare()
    assert "both train and test" not in capsys.readouterr().out
    add(copy, "train-_0001,50,dog barking,test")
    data.prepare()
    assert (
        "Videos with clips in both train and test, kept as listed: 1 (first: train-_0001)." in capsys.readouterr().out
    )


def test_what_the_encoders_see(twin: str) -> None:
    data = VGGSound(root=twin, **SMALL)
    batch = data.splits()["train"].__getitems__([3, 1])
    audio, visual = data.modalities
    assert (audio.name, audio.kind, audio.shape) == ("audio", "audio", (1, 129, 626))
    assert (visual.name, visual.kind, visual.shape) == ("visual", "frames", (3, 3, 16, 16))
    silence = data.transforms()["audio"](torch.zeros(1, 160_000, dtype=torch.int16), None)
    assert silence.unique().item() == pytest.approx(audio.low, abs=1e-5)
    for modality in data.modalities:
        transform = data.transforms()[modality.name]
        for draws in (None, Draws(0, 0, batch.index)):
            seen = transform(batch.inputs[modality.name], draws)
            assert tuple(seen.shape[1:]) == modality.shape
            assert seen.dtype == torch.float32
            assert seen.isfinite().all()


def test_training_hears_a_random_window_and_evaluation_the_middle_one() -> None:
    transform = VGGSound().transforms()["audio"]
    clicks = torch.zeros(64, 160_000, dtype=torch.int16)
    clicks[:, 80_000] = 20_000
    at = transform(clicks, None).amax(dim=2)[:, 0].argmax(dim=1)
    assert at.unique().tolist() == [312]  # 2.5 s of 5 into the window, and a frame is 128 samples
    drawn = transform(clicks, Draws(0, 0, torch.arange(64))).amax(dim=2)[:, 0].argmax(dim=1)
    assert len(drawn.unique()) > 40


def test_bad_clips_are_left_out_and_named(copy: Path) -> None:
    videos = copy / "videos"
    (videos / "train-_0001_000010.mp4").write_bytes((videos / "train-_0001_000010.mp4").read_bytes()[:2000])
    write_video(
        videos / "train-_0002_000020.mp4", np.zeros((15, 48, 64, 3), np.uint8), 5, np.zeros(48_000, np.int16), 16_000
    )
    data = VGGSound(root=str(copy), **SMALL)
    data.prepare()
    bad = open_packed(copy / "packed-32px", "VGGSound", "").meta["bad"]
    assert {entry["id"]: entry["reason"].split(":")[0] for entry in bad} == {
        "train-_0001_000010": "can't be decoded",
        "train-_0002_000020": "only 3 of the 4 seconds that are needed",
    }
    assert sum(len(split) for split in data.splits().values()) == 34


def test_a_stopped_prepare_goes_on(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmlab.data import vggsound

    shutil.rmtree(copy / "packed-32px")
    decode, seen = vggsound.decode_clip, []

    def counted(sample, *options):
        seen.append(sample.id)
        if len(seen) == 34:  # in the second block of 32
            raise KeyboardInterrupt
        return decode(sample, *options)

    monkeypatch.setattr(vggsound, "decode_clip", counted)
    with pytest.raises(KeyboardInterrupt):
        VGGSound(root=str(copy), **SMALL).prepare()
    first = len(seen)
    data = VGGSound(root=str(copy), **SMALL)
    data.prepare()
    assert first >= 34
    assert len(seen) - first == 36 - 32
    assert sum(len(split) for split in data.splits().values()) == 36


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("YouTube ID,start seconds,label,split", "line 38: the start 'start seconds' is no whole number"),
        ("x,3,male speech, man speaking,train", "5 columns where four are expected; .* a label with commas in quotes"),
        ('x,3,"dog barking,train', "2|3 columns where four are expected"),
        ("x,3,dog barking,tset", "line 38: unknown split 'tset' .did you mean 'test'"),
        ("train-_0000,0,dog barking,test", "line 38: the clip train-_0000_000000 is listed already"),
        ("x,3, ,train", "line 38: the label is empty"),
        pytest.param(f"x,3,{'a' * 200_000},train", "line 38: this is no line of a CSV file .*; correct it", id="long"),
    ],
)
def test_the_list_is_checked(copy: Path, line: str, message: str) -> None:
    add(copy, line)
    with pytest.raises(UserError, match=message):
        VGGSound(root=str(copy), **SMALL).prepare()


@pytest.mark.parametrize(
    ("text", "message"),
    [("\n", "vggsound.csv is empty; copy it anew"), ("x,3,dog barking,train\n", "vggsound.csv has clips of one label")],
)
def test_a_list_without_classes_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "vggsound.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        VGGSound(root=str(tmp_path), **SMALL).prepare()


def test_an_empty_split_is_refused(copy: Path) -> None:
    for file in (copy / "videos").glob("test-*"):
        file.unlink()
    data = VGGSound(root=str(copy), **SMALL)
    data.prepare()
    with pytest.raises(UserError, match=r"has 24 training and 0 test clips; put clips into .*videos and run: "):
        data.splits()


def test_details(twin: str) -> None:
    details = VGGSound(root=twin, **SMALL).details()
    json.dumps(details)
    assert (details["synthetic"], details["classes"]) == (True, 4)
    assert len(str(details["list_sha256"])) == 64


def test_what_is_missing_is_said(tmp_path: Path, twin: str) -> None:
    data = VGGSound(root=str(tmp_path), **SMALL)
    with pytest.raises(UserError, match=r"not prepared; run: mmlab prepare VGGSound --root .* --frame_side 32"):
        _ = data.task
    with pytest.raises(UserError, match=r"vggsound.csv can't be read .*; put the published list there"):
        data.prepare()
    add(tmp_path, "x,3,dog barking,train\ny,3,rain,test")
    with pytest.raises(UserError, match=r"videos holds none of the clips of vggsound.csv"):
        data.prepare()
    with pytest.raises(UserError, match="frames is 0, but 10 are stored"):
        VGGSound(frames=0)
    with pytest.raises(UserError, match="choose a share between 0 and 1"):
        VGGSound(validation_share=1.0)
    with pytest.raises(UserError, match="is not empty"):
        VGGSound(root=twin).write_synthetic()
