import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mmlab.data.kinetics_sounds import LISTS, KineticsSounds, read_class_list
from mmlab.draws import Draws
from mmlab.errors import UserError

pytest.importorskip("av")
SMALL = {"frame_side": 32, "image_size": 16}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The root of a prepared synthetic twin."""
    root = tmp_path_factory.mktemp("ks") / "root"
    data = KineticsSounds(root=str(root), **SMALL)
    data.write_synthetic()
    data.prepare(workers=2)
    return str(root)


@pytest.fixture
def copy(twin: str, tmp_path: Path) -> Path:
    shutil.copytree(twin, tmp_path / "root")
    return tmp_path / "root"


def test_the_shipped_lists_are_the_published_ones() -> None:
    thirty_one, thirty_four = (read_class_list(LISTS[name]) for name in ("31", "34"))
    assert (len(thirty_one), len(thirty_four)) == (31, 34)
    assert list(thirty_one) == sorted(thirty_one)
    assert list(thirty_four) == sorted(thirty_four)
    in_kinetics = {folder for folders in thirty_four.values() for folder in folders}
    assert set(thirty_one) <= in_kinetics
    gone = {name for name, folders in thirty_four.items() if not set(folders) & set(thirty_one)}
    assert gone == {"fingerpicking", "patting", "typing"}


def test_honest_splits_of_the_twin(twin: str) -> None:
    splits = KineticsSounds(root=twin, **SMALL).splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 20, "val": 4, "test": 12}
    assert sorted(splits["val"].targets.tolist()) == [0, 1, 2, 3]
    assert not set(splits["train"].ids) & set(splits["val"].ids)
    assert splits["test"].ids[0].startswith("vasynth")
    batch = splits["train"].__getitems__([0, 5])
    assert batch.inputs["audio"].shape == (2, 160_000)
    assert batch.inputs["audio"].dtype == torch.int16
    assert batch.inputs["visual"].shape == (2, 10, 3, 32, 32)
    assert batch.present.all()
    # Four seconds repeat until ten are full.
    assert batch.inputs["audio"][0, 130_000:].float().abs().mean() > 1000


def test_the_official_protocol_selects_on_the_test_split(twin: str) -> None:
    splits = KineticsSounds(root=twin, protocol="official", **SMALL).splits()
    assert len(splits["train"]) == 24
    assert splits["val"].digest() == splits["test"].digest()


def test_clips_of_one_video_stay_together(copy: Path) -> None:
    folder = copy / "videos" / "train" / "blowing nose"
    for number, file in enumerate(sorted(folder.iterdir())[1:]):
        file.rename(folder / f"a_b-synth{number // 3:02}_{number:06}_000009.mp4")
    data = KineticsSounds(root=str(copy), validation_share=0.4, **SMALL)
    data.prepare()
    splits = data.splits()
    videos = [{name[:11] for name in splits[part].ids} for part in ("train", "val")]
    assert len(splits["train"]) + len(splits["val"]) == 24
    assert not videos[0] & videos[1]


def test_a_public_validation_folder_is_used_where_there_is_a_test_folder(copy: Path) -> None:
    (copy / "videos" / "test").mkdir()
    (copy / "videos" / "val" / "bowling").rename(copy / "videos" / "test" / "bowling")
    data = KineticsSounds(root=str(copy), **SMALL)
    data.prepare()
    splits = data.splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 24, "val": 9, "test": 3}
    assert set(splits["test"].targets.tolist()) == {2}


def test_other_endings_and_links_to_nowhere(copy: Path) -> None:
    folder = copy / "videos" / "train" / "bowling"
    first, second, *_ = sorted(folder.iterdir())
    first.rename(first.with_suffix(".MP4"))
    second.unlink()
    second.symlink_to("gone.mp4")
    data = KineticsSounds(root=str(copy), protocol="official", **SMALL)
    data.prepare()
    ids = data.splits()["train"].ids
    assert first.stem in ids
    assert second.stem not in ids
    assert len(ids) == 23


def test_one_clip_in_two_files_is_refused(copy: Path) -> None:
    folder = copy / "videos" / "train"
    file = sorted((folder / "bowling").iterdir())[0]
    shutil.copy(file, folder / "blowing nose")
    with pytest.raises(UserError, match=r"have the name of one clip; remove one of them"):
        KineticsSounds(root=str(copy), **SMALL).prepare()


@pytest.mark.parametrize("audio", ["stft", "fbank"])
def test_the_least_that_the_encoders_hear(audio: str) -> None:
    data = KineticsSounds(audio=audio)  # type: ignore[arg-type]
    modality = data.modalities[0]
    (mean,), (std,) = modality.mean, modality.std
    silence = data.transforms()["audio"](torch.zeros(1, 160_000, dtype=torch.int16), None) * std + mean
    assert silence.min().item() == pytest.approx(modality.low, abs=1e-4)
    assert KineticsSounds(audio="density").modalities[0].low is None


@pytest.mark.parametrize(("audio", "shape"), [("stft", (129, 626)), ("fbank", (128, 1024)), ("density", (257, 1004))])
def test_what_the_encoders_see(twin: str, audio: str, shape: tuple[int, int]) -> None:
    data = KineticsSounds(root=twin, audio=audio, frames=2, **SMALL)  # type: ignore[arg-type]
    batch = data.splits()["train"].__getitems__([3, 1])
    draws = Draws(0, 0, batch.index)
    assert [modality.name for modality in data.modalities] == ["audio", "visual"]
    for modality in data.modalities:
        transform = data.transforms()[modality.name]
        for seen in (transform(batch.inputs[modality.name], None), transform(batch.inputs[modality.name], draws)):
            assert tuple(seen.shape[1:]) == modality.shape
            assert seen.dtype == torch.float32
            assert seen.isfinite().all()
    assert data.modalities[0].shape == (1, *shape)
    assert data.modalities[1].shape == (3, 2, 16, 16)


def test_the_lists_share_a_pack(twin: str) -> None:
    data = KineticsSounds(root=twin, class_list="34", **SMALL)
    splits = data.splits()
    assert len(data.task.classes) == 34
    assert len(splits["test"]) == 12
    assert {data.task.classes[label] for label in splits["test"].targets} == {
        "blowing nose",
        "blowing out",
        "bowling",
        "chopping wood",
    }


def test_a_list_of_ones_own(twin: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("# mine\nchopping_wood\nbowling\n")
    data = KineticsSounds(root=twin, class_list=str(tmp_path / "mine.txt"), **SMALL)
    splits = data.splits()
    assert data.task.classes == ("chopping wood", "bowling")
    assert np.bincount(splits["test"].targets).tolist() == [3, 3]
    (tmp_path / "mine.txt").write_text("bowling\nyodelling\n")
    data = KineticsSounds(root=twin, class_list=str(tmp_path / "mine.txt"), **SMALL)
    with pytest.raises(UserError, match=r"packed without yodelling; run: mmlab prepare KineticsSounds .*--class_list"):
        data.splits()


@pytest.mark.parametrize(
    ("text", "message"),
    [("bowling\nbowling\n", "line 2: 'bowling' is used twice"), ("bowling\n", "names 1 classes")],
)
def test_class_lists_are_checked(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        KineticsSounds(class_list=str(tmp_path / "mine.txt"))
    with pytest.raises(UserError, match="no class list 33"):
        KineticsSounds(class_list="33")


def test_a_split_file_replaces_the_folders(twin: str, tmp_path: Path) -> None:
    ids = KineticsSounds(root=twin, protocol="official", **SMALL).splits()["train"].ids
    parts = ["train"] * 10 + ["val"] * 5 + ["test"] * 5
    file = tmp_path / "split.csv"
    file.write_text("id,split\n" + "".join(f"{name},{part}\n" for name, part in zip(ids, parts, strict=False)))
    data = KineticsSounds(root=twin, split_file=str(file), **SMALL)
    splits = data.splits()
    assert splits["train"].ids == ids[:10]
    assert splits["val"].ids == ids[10:15]
    assert splits["test"].ids == ids[15:20]
    assert data.details()["split_file_sha256"] != KineticsSounds(root=twin, **SMALL).details()["split_file_sha256"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,split\na,trian\n", "line 2: unknown split 'trian' .did you mean 'train'"),
        ("id,split\na,train\na,test\n", "line 3: 'a' is listed twice"),
        ("name,split\na,train\n", "lacks the columns id and split"),
        ("id,split\na,train\n", "0 training and 0 test clips .* that .*split.csv names"),
    ],
)
def test_split_files_are_checked(twin: str, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        KineticsSounds(root=twin, split_file=str(tmp_path / "split.csv"), **SMALL).splits()


def test_bad_clips_are_left_out_and_named(copy: Path) -> None:
    folder = copy / "videos" / "train" / "bowling"
    files = sorted(folder.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:2000])
    data = KineticsSounds(root=str(copy), **SMALL)
    from mmlab.data.video import write_video

    write_video(files[1], np.zeros((10, 48, 64, 3), np.uint8), 5, np.zeros(32_000, np.int16), 16_000)
    data.prepare()
    from mmlab.data.packing import open_packed

    meta = open_packed(copy / "packed-32px", "KineticsSounds", "").meta
    assert {entry["id"]: entry["reason"].split(":")[0] for entry in meta["bad"]} == {
        files[0].stem: "can't be decoded",
        files[1].stem: "only 2 of the 3 seconds that are needed",
    }
    assert sum(len(split) for split in data.splits().values()) == 34


def test_the_twin_says_that_it_is_one(twin: str, tmp_path: Path) -> None:
    data = KineticsSounds(root=twin, **SMALL)
    details = data.details()
    assert details["synthetic"] is True
    assert len(str(details["class_list_sha256"])) == 64
    assert KineticsSounds(root=str(tmp_path)).details()["synthetic"] is False
    with pytest.raises(UserError, match="is not empty"):
        data.write_synthetic()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    data = KineticsSounds(root=str(tmp_path))
    with pytest.raises(UserError, match="not prepared; run: mmlab prepare KineticsSounds --root"):
        data.splits()
    with pytest.raises(UserError, match="holds no clips of Kinetics-Sounds"):
        data.prepare()
    with pytest.raises(UserError, match="frames is 11, but 10 are stored"):
        KineticsSounds(frames=11)
    with pytest.raises(UserError, match="frame_side is 0 and image_size 224; choose at least 1 pixel"):
        KineticsSounds(frame_side=0)
