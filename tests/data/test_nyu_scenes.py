import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlab.cli.main import main
from mmlab.data.nyu_scenes import NYUScenes
from mmlab.draws import Draws
from mmlab.errors import UserError

Command = Callable[..., str]


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a synthetic twin, prepared by the real command."""
    root = tmp_path_factory.mktemp("nyu") / "root"
    assert main(["prepare", "NYUScenes", "--root", str(root), "--synthetic"]) == 0
    return root


@pytest.fixture
def raw(twin: Path, tmp_path: Path) -> Path:
    """A copy of the twin's raw images, not prepared."""
    return Path(shutil.copytree(twin, tmp_path / "raw", ignore=shutil.ignore_patterns("packed*")))


def put(file: Path, rgb: np.ndarray, depth: np.ndarray) -> None:
    """Writes two (H, W, 3) halves as one raw image."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate((rgb, depth), axis=1).astype(np.uint8)).save(file)


def flat(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((height, width, 3), colour)


def test_the_command_says_what_it_packed(mmlab: Command) -> None:
    said = mmlab("prepare NYUScenes --root r --synthetic")
    assert "Packed 51 samples into r/packed-256px." in said
    assert said.splitlines()[-3].startswith("train: 33 samples, ")
    assert said.splitlines()[-2].startswith("val: 3 samples, ")
    assert said.splitlines()[-1].startswith("test: 15 samples, ")
    assert "r/packed-256px is prepared already." in mmlab("prepare NYUScenes --root r")


def test_honest_splits_of_the_twin(twin: Path) -> None:
    data = NYUScenes(root=str(twin))
    splits = data.splits()
    assert data.task.classes == ("bedroom", "kitchen", "office")
    assert splits["val"].targets.tolist() == [0, 1, 2]
    assert not set(splits["train"].ids) & set(splits["val"].ids)
    assert splits["test"].ids[5] == "kitchen/0000.png"
    assert splits["test"].targets.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    batch = splits["train"].__getitems__([20, 0])
    assert batch.present.all()
    for name in ("rgb", "depth"):
        assert batch.inputs[name].shape == (2, 3, 256, 256)
        assert batch.inputs[name].dtype == torch.uint8
    other = NYUScenes(root=str(twin), split_seed=1).splits()
    assert other["val"].digest() != splits["val"].digest()
    assert other["test"].digest() == splits["test"].digest()


def test_the_official_protocol_selects_on_the_test_split(twin: Path) -> None:
    splits = NYUScenes(root=str(twin), protocol="official").splits()
    assert len(splits["train"]) == 36
    assert splits["val"].digest() == splits["test"].digest()


def test_a_validation_folder_is_used(raw: Path) -> None:
    (raw / "val").mkdir()
    (raw / "test" / "office").rename(raw / "val" / "office")
    data = NYUScenes(root=str(raw))
    data.prepare()
    splits = data.splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 36, "val": 5, "test": 10}
    assert set(splits["val"].targets.tolist()) == {2}
    official = NYUScenes(root=str(raw), protocol="official").splits()
    assert {name: len(split) for name, split in official.items()} == {"train": 36, "val": 10, "test": 10}


def test_both_halves_are_cut_before_they_are_resized(tmp_path: Path) -> None:
    step = np.repeat(np.where(np.arange(40) < 20, 100, 150), 30).reshape(40, 30, 1) * np.ones(3)
    put(tmp_path / "train" / "den" / "even.png", flat(40, 30, (250, 10, 60)), step)
    put(tmp_path / "train" / "den" / "more.PNG", flat(40, 30, (0, 0, 0)), flat(40, 31, (255, 255, 255)))
    put(tmp_path / "train" / "hall" / "large.jpg", flat(300, 400, (20, 20, 20)), flat(300, 400, (200, 200, 200)))
    put(tmp_path / "test" / "hall" / "grey.jpeg", flat(64, 64, (20, 20, 20)), flat(64, 64, (200, 200, 200)))
    data = NYUScenes(root=str(tmp_path), protocol="official")
    data.prepare(workers=2)
    train = data.splits()["train"]
    assert train.ids == ["den/even.png", "den/more.PNG", "hall/large.jpg"]
    rgb, depth = (train.__getitems__([0, 1, 2]).inputs[name] for name in ("rgb", "depth"))
    # No pixel of one half in the other, down to the columns beside the cut.
    assert rgb[0].flatten(1).unique(dim=1).squeeze(1).tolist() == [250, 10, 60]
    assert rgb[1].max() == 0
    assert depth[1].min() == 255
    assert (rgb[2].int() - 20).abs().max() <= 3
    assert (depth[2].int() - 200).abs().max() <= 3
    # Bicubic: flat away from the step, and beyond both levels beside it.
    assert depth[0, :, 0, 0].tolist() == [100] * 3
    assert depth[0, :, 255, 255].tolist() == [150] * 3
    assert depth[0].min() < 98
    assert depth[0].max() > 152


def test_modalities_and_their_scale() -> None:
    rgb, depth = NYUScenes().modalities
    assert (rgb.name, rgb.kind, depth.name, depth.kind) == ("rgb", "image", "depth", "depth")
    for modality in (rgb, depth):
        assert modality.shape == (3, 224, 224)
        assert modality.mean == pytest.approx((126.2505, 91.8255, 116.9685))
        assert modality.std == pytest.approx((37.587, 49.725, 41.973))
        assert (modality.low, modality.high, modality.noise) == (0.0, 255.0, 1.0)


def test_what_the_encoders_see(twin: Path) -> None:
    data = NYUScenes(root=str(twin))
    batch = data.splits()["train"].__getitems__([5, 17, 30])
    for modality in data.modalities:
        raw_values, transform = batch.inputs[modality.name], data.transforms()[modality.name]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (modality.mean, modality.std))
        training = transform(raw_values, Draws(0, 0, batch.index)) * std + mean
        evaluation = transform(raw_values, None) * std + mean
        for seen in (training, evaluation):
            assert seen.shape == (3, 3, 224, 224)
            assert seen.dtype == torch.float32
            assert seen.min() > -0.01
            assert seen.max() < 255.01
        torch.testing.assert_close(evaluation.mean((2, 3)), raw_values.float().mean((2, 3)), rtol=0, atol=0.5)


def test_picture_and_depth_map_stay_aligned(twin: Path) -> None:
    data = NYUScenes(root=str(twin))
    same = torch.randint(0, 256, (16, 3, 256, 256), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    draws = Draws(3, 1, torch.arange(16))
    rgb, depth = (data.transforms()[name](same, draws) for name in ("rgb", "depth"))
    assert torch.equal(rgb, depth)


def test_each_modality_of_the_twin_tells_the_class(twin: Path) -> None:
    splits = NYUScenes(root=str(twin)).splits()
    for name in ("rgb", "depth"):
        train, test = (
            splits[part].arrays[name][splits[part].rows][:, :, ::32, ::32].reshape(len(splits[part]), -1).astype(float)
            for part in ("train", "test")
        )
        centres = np.stack([train[splits["train"].targets == label].mean(axis=0) for label in range(3)])
        nearest = ((test[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        assert (nearest == splits["test"].targets).mean() > 0.9


def test_bad_images_are_left_out_and_named(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = raw / "train" / "kitchen"
    whole = (folder / "0000.png").read_bytes()
    (folder / "0000.png").write_bytes(whole[: len(whole) // 2])
    (folder / "0001.png").write_bytes(b"GIF89a and so on")
    Image.fromarray(np.zeros((8, 16), np.uint16)).save(folder / "0002.png")
    Image.fromarray(np.zeros((8, 1, 3), np.uint8)).save(folder / "0003.png")
    (folder / "._0004.png").write_bytes(b"left by a file manager")
    data = NYUScenes(root=str(raw))
    data.prepare()
    assert "4 bad ones are left out and named in pack.json (first: kitchen/0000.png: " in capsys.readouterr().out
    bad = json.loads((raw / "packed-256px" / "pack.json").read_text())["bad"]
    assert {entry["id"]: entry["reason"].split(":")[0] for entry in bad} == {
        "kitchen/0000.png": "0000.png can't be decoded",
        "kitchen/0001.png": "0001.png is no PNG or JPEG image",
        "kitchen/0002.png": "0002.png has more than 8 bits for each channel",
        "kitchen/0003.png": "1 x 8 pixels can't be cut into two halves",
    }
    splits = data.splits()
    assert len(splits["train"]) + len(splits["val"]) == 32
    shutil.copy(raw / "train" / "office" / "0000.png", folder / "0000.png")
    data.prepare()
    assert len(data.splits()["train"]) + len(data.splits()["val"]) == 33


def test_a_split_whose_images_are_all_bad_is_said(raw: Path) -> None:
    (raw / "val" / "office").mkdir(parents=True)
    (raw / "val" / "office" / "a.png").write_bytes(b"nothing")
    data = NYUScenes(root=str(raw))
    data.prepare()
    with pytest.raises(UserError, match=r"has no usable image of .*raw/val; .* run: mmlab prepare NYUScenes --root"):
        data.splits()


def test_wrong_raw_folders_are_said(raw: Path) -> None:
    data = NYUScenes(root=str(raw))
    (raw / "test" / "office").rename(raw / "test" / "offfice")
    with pytest.raises(UserError, match=r"test/offfice is a class that .*/train lacks \(did you mean 'office'\?\)"):
        data.prepare()
    (raw / "test" / "offfice").rename(raw / "test" / "office")
    (raw / "val").mkdir()
    with pytest.raises(UserError, match=r"val holds 0 class folders, but needs 1 or more"):
        data.prepare()
    (raw / "val").rmdir()
    (raw / "train" / "attic").mkdir()
    with pytest.raises(UserError, match=r"train/attic holds no \.png, \.jpg, \.jpeg image"):
        data.prepare()
    (raw / "train" / "attic" / "gone.png").symlink_to(raw / "nowhere.png")
    with pytest.raises(UserError, match=r"gone\.png is no file, or a link to one that is gone"):
        data.prepare()
    for name in ("attic", "kitchen", "office"):
        shutil.rmtree(raw / "train" / name)
    with pytest.raises(UserError, match=r"train holds 1 class folders, but needs 2 or more"):
        data.prepare()


def test_too_few_images_to_carve_a_validation_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("den", "hall"):
            put(tmp_path / split / name / "only.png", flat(8, 8, (1, 2, 3)), flat(8, 8, (4, 5, 6)))
    data = NYUScenes(root=str(tmp_path))
    data.prepare()
    with pytest.raises(UserError, match="one training sample in each class, too few to carve a validation split"):
        data.splits()
    assert len(NYUScenes(root=str(tmp_path), protocol="official").splits()["train"]) == 2


def test_what_is_missing_or_foreign_is_said(mmlab: Command, twin: Path, raw: Path) -> None:
    assert "here/train holds 0 class folders" in mmlab("prepare NYUScenes --root here", code=2)
    with pytest.raises(UserError, match="not prepared; run: mmlab prepare NYUScenes --root"):
        NYUScenes(root=str(raw)).splits()
    with pytest.raises(UserError, match="not prepared; run: mmlab prepare NYUScenes --root"):
        _ = NYUScenes(root=str(raw)).task
    shutil.copytree(twin / "packed-256px", raw / "packed-256px")
    meta = json.loads((raw / "packed-256px" / "pack.json").read_text())
    (raw / "packed-256px" / "pack.json").write_text(json.dumps(meta | {"dataset": "KineticsSounds"}))
    with pytest.raises(UserError, match="holds KineticsSounds, not NYUScenes"):
        NYUScenes(root=str(raw)).splits()
    with pytest.raises(UserError, match=r"validation_share is 1\.0; choose a share between 0 and 1"):
        NYUScenes(validation_share=1.0)


def test_the_twin_says_that_it_is_one(twin: Path, tmp_path: Path) -> None:
    data = NYUScenes(root=str(twin), validation_share=0.2, split_seed=3, protocol="official")
    assert data.details() == {
        "validation_share": 0.2,
        "split_seed": 3,
        "protocol": "official",
        "synthetic": True,
    }
    assert NYUScenes(root=str(tmp_path)).details()["synthetic"] is False
    with pytest.raises(UserError, match="is not empty"):
        data.write_synthetic()
