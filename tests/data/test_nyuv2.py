import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlab.cli.main import main
from mmlab.data.nyuv2 import FACTS, NAMES, TO_13, TO_40, NYUv2, millimetres
from mmlab.data.packing import open_packed
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.types import DataSpec

Command = Callable[..., str]
SIZE = (64, 96)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a synthetic twin, prepared by the real command."""
    root = tmp_path_factory.mktemp("nyuv2") / "root"
    assert main(["prepare", "NYUv2", "--root", str(root), "--synthetic"]) == 0
    return root


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The root of a twin of unpacked images, not prepared."""
    with pytest.MonkeyPatch.context() as without:
        without.setitem(sys.modules, "h5py", None)
        NYUv2(root=str(tmp_path / "images")).write_synthetic()
    return tmp_path / "images"


def test_the_published_facts() -> None:
    assert len(FACTS["train"]) == len(set(FACTS["train"])) == 795
    assert min(FACTS["train"]) >= 1
    assert max(FACTS["train"]) <= 1449
    assert (len(TO_40), len(TO_13)) == (895, 41)
    assert set(TO_40) == set(range(41))
    assert set(TO_13) == set(range(14))
    assert {
        name: NAMES[13][TO_13[NAMES[40].index(name) + 1] - 1] for name in ("wall", "television", "sofa", "box")
    } == {
        "wall": "wall",
        "television": "tv",
        "sofa": "sofa",
        "box": "objects",
    }
    assert TO_13[0] == TO_40[0] == 0


def test_the_command_says_what_it_packed(mmlab: Command) -> None:
    said = mmlab("prepare NYUv2 --root r --synthetic")
    assert "Packed 28 samples into r/packed." in said
    assert said.splitlines()[-3].startswith("train: 16 samples, ")
    assert said.splitlines()[-2].startswith("val: 2 samples, ")
    assert said.splitlines()[-1].startswith("test: 10 samples, ")
    assert "r/packed is prepared already." in mmlab("prepare NYUv2 --root r")


def test_the_standard_split(twin: Path) -> None:
    splits = NYUv2(root=str(twin), size=SIZE).splits()
    trained = [f"{number:04}" for number in FACTS["train"] if number <= 28]
    assert sorted([*splits["train"].ids, *splits["val"].ids]) == trained
    assert splits["test"].ids == ["0001", "0002", "0009", *(f"00{number}" for number in range(14, 19)), "0021", "0028"]
    official = NYUv2(root=str(twin), size=SIZE, protocol="official").splits()
    assert official["train"].ids == trained
    assert official["val"].digest() == official["test"].digest() == splits["test"].digest()


def test_scenes_stay_together(twin: Path) -> None:
    pytest.importorskip("h5py")
    data = NYUv2(root=str(twin), size=SIZE, validation_share=0.4)
    assert data.details()["carved_by"] == "scene"
    splits = data.splits()
    parts = [{(int(name) - 1) // 2 for name in splits[part].ids} for part in ("train", "val")]
    assert len(parts[1]) > 1
    assert not parts[0] & parts[1]
    other = NYUv2(root=str(twin), size=SIZE, validation_share=0.4, split_seed=1).splits()
    assert other["val"].ids != splits["val"].ids


def test_neighbours_stay_together_where_the_scenes_are_not_known(images: Path) -> None:
    data = NYUv2(root=str(images), size=SIZE, validation_share=0.4)
    data.prepare()
    runs = ({3, 4, 5, 6, 7, 8}, {10, 11, 12, 13}, {19, 20}, {22, 23, 24, 25, 26, 27})
    splits = data.splits()
    train, validation = ({int(name) for name in splits[part].ids} for part in ("train", "val"))
    assert sum(run <= validation for run in runs) == 2
    assert all(run <= validation or run <= train for run in runs)


def test_both_layouts_hold_the_same(twin: Path, images: Path) -> None:
    pytest.importorskip("h5py")
    if not (twin / "nyu_depth_v2_labeled.mat").exists():
        pytest.skip("the twin was written without h5py")
    ours = NYUv2(root=str(images), size=SIZE, protocol="official")
    ours.prepare()
    assert ours.details()["carved_by"] == "neighbours"
    theirs = NYUv2(root=str(twin), size=SIZE, protocol="official").splits()
    for name, split in ours.splits().items():
        assert split.digest() == theirs[name].digest()
        for modality, array in split.arrays.items():
            assert np.array_equal(array[split.rows], theirs[name].arrays[modality][theirs[name].rows])


def test_what_is_packed(images: Path) -> None:
    data = NYUv2(root=str(images), size=SIZE, protocol="official")
    data.prepare()
    split = data.splits()["train"]
    batch = split.__getitems__([1, 0])
    folder = images / "train"
    labels = np.asarray(Image.open(folder / "labels_40" / "0004.png")).astype(int)
    assert batch.target.dtype == torch.uint8
    assert np.array_equal(batch.target[0].numpy(), np.where(labels == 0, 255, labels - 1))
    assert (labels == 0).any()
    assert np.array_equal(batch.inputs["depth"][0, 0].numpy(), np.asarray(Image.open(folder / "depth" / "0004.png")))
    picture = np.asarray(Image.open(folder / "rgb" / "0004.png")).transpose(2, 0, 1)
    assert np.array_equal(batch.inputs["rgb"][0].numpy(), picture)
    assert batch.present.all()
    coarse = NYUv2(root=str(images), classes=13, depth="raw", size=SIZE, protocol="official")
    batch = coarse.splits()["train"].__getitems__([1])
    assert np.array_equal(batch.target[0].numpy(), np.where(labels == 0, 255, TO_13[labels] - 1))
    assert (batch.inputs["depth"] == 0).any()


def test_depth_is_cut_to_millimetres() -> None:
    assert millimetres(np.array([0, 0.9999, 2.8419, 9.9999], np.float32)).tolist() == [0, 999, 2841, 9999]


@pytest.mark.parametrize("depth", ["refined", "raw"])
def test_what_the_network_sees(twin: Path, depth: str) -> None:
    data = NYUv2(root=str(twin), depth=depth, size=(32, 48))  # type: ignore[arg-type]
    batch = data.splits()["train"].__getitems__([3, 1])
    transforms = data.transforms()
    for draws in (None, Draws(0, 0, batch.index)):
        for modality in data.modalities:
            seen = transforms[modality.name](batch.inputs[modality.name], draws)
            assert tuple(seen.shape[1:]) == modality.shape
            assert seen.isfinite().all()
    assert transforms["target"](batch.target, None).shape == (2, 64, 96)
    assert transforms["target"](batch.target, Draws(0, 0, batch.index)).shape == (2, 32, 48)
    assert (transforms["depth"](batch.inputs["depth"], None) == 0).any() == (depth == "raw")


def test_training_zooms_in_and_jitters_colours(twin: Path) -> None:
    data = NYUv2(root=str(twin), size=SIZE)
    transforms, draws = data.transforms(), Draws(0, 0, torch.arange(200))
    columns = torch.arange(96.0).expand(200, 1, *SIZE)
    steps = (transforms["depth"](columns, draws) * 1417.2594281672277 + 2841.94941272766).diff(dim=3).abs()
    pixels = steps.mean(dim=(1, 2, 3))
    assert 1 / 1.4 - 0.02 < pixels.min() < 0.75
    assert 0.95 < pixels.max() < 1.02
    red = torch.tensor([200, 20, 20], dtype=torch.uint8).view(1, 3, 1, 1).expand(200, 3, *SIZE)
    seen = transforms["rgb"](red, draws)[:, :, 0, 0]
    assert (seen.std(dim=0) > 0.05).all()
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(transforms["rgb"](red, None), (red / 255 - mean) / std)


def test_picture_depth_and_labels_stay_aligned(twin: Path) -> None:
    """The twin's depth tells the class: 1 m and 0.2 m for each."""
    data = NYUv2(root=str(twin), size=(48, 80))
    batch = data.splits()["train"].__getitems__(list(range(8)))
    draws = Draws(0, 0, batch.index)
    transforms = data.transforms()
    (mean,), (std,) = data.modalities[1].mean, data.modalities[1].std
    metres = (transforms["depth"](batch.inputs["depth"], draws)[:, 0] * std + mean) / 1000
    labels = transforms["target"](batch.target, draws)
    told = ((metres - 1) / 0.2).round().long() - 1
    labelled = labels != 255
    assert (told == labels)[labelled].float().mean() > 0.9


def test_weights_are_those_of_the_labels_trained_on(twin: Path) -> None:
    data = NYUv2(root=str(twin), classes=13, size=SIZE)
    split = data.splits()["train"]
    maps = np.stack(list(split.targets))
    frequency = np.array([(maps == label).sum() / maps.size for label in range(13)])
    # Every one of the twin's images shows every class.
    assert data.task.weights == pytest.approx(tuple(np.median(frequency) / frequency))
    spec = data.spec(len(split))
    assert DataSpec.from_dict(spec.to_dict()) == spec
    assert spec.task.outputs == 13


def test_details(twin: Path) -> None:
    details = NYUv2(root=str(twin), classes=13, depth="raw", size=SIZE).details()
    assert details["variant"] == "13 classes, raw depth"
    assert details["synthetic"] is True


def test_bad_images_are_left_out_and_named(images: Path) -> None:
    folder = images / "train"
    (folder / "depth" / "0003.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    Image.fromarray(np.full(SIZE, 41, np.uint8)).save(folder / "labels_40" / "0004.png")
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(folder / "labels_40" / "0005.png")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folder / "labels_40" / "0006.png")
    data = NYUv2(root=str(images), size=SIZE, protocol="official")
    data.prepare()
    bad = {entry["id"]: entry["reason"] for entry in open_packed(images / "packed", "NYUv2", "").meta["bad"]}
    assert list(bad) == ["0003", "0004", "0005", "0006"]
    assert "0003.png" in bad["0003"]
    assert bad["0004"] == "image 0004 holds the label 41, but the last is 40"
    assert bad["0005"] == "0005.png is a picture of mode RGB, not one channel of whole numbers"
    assert bad["0006"] == "image 0006 is not 96 x 64 in picture, depths and labels"
    assert data.splits()["train"].ids[0] == "0007"


def test_a_damaged_file(twin: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"no such thing")
    data = NYUv2(root=str(tmp_path))
    with pytest.raises(UserError, match=r"nyu_depth_v2_labeled.mat is no HDF5 file or is damaged .*; download it anew"):
        data.prepare()
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = np.zeros((2, 3, 6, 4), np.uint8)
    with pytest.raises(UserError, match="lacks depths, rawDepths, labels, scenes; download it anew"):
        data.prepare()
    shutil.copy(twin / "nyu_depth_v2_labeled.mat", tmp_path)
    with pytest.raises(UserError, match="holds 28 images instead of 1449; download it anew"):
        data.prepare()
    shutil.copy(twin / "SYNTHETIC", tmp_path)
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "r+") as file:
        del file["rawDepths"]
        file["rawDepths"] = np.zeros((28, 64, 96), np.float32)
    with pytest.raises(UserError, match="doesn't hold 28 rawDepths of 96 x 64 pixels; download it anew"):
        data.prepare()
    with h5py.File(tmp_path / "nyu_depth_v2_labeled.mat", "r+") as file:
        del file["scenes"]
        file["scenes"] = np.zeros(28)
    with pytest.raises(UserError, match=r"doesn't name the images' scenes \(.*\); download it anew"):
        data.prepare()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0001", r"train.txt, line 2: 0001 is a test image of the standard split; move it there"),
        ("3", r"train.txt, line 2: 3 stands at .*train.txt, line 1 already; remove one of the lines"),
        ("rgb/0004", r"train.txt, line 2: 'rgb/0004' is no image number; correct the line"),
    ],
)
def test_the_lists_are_checked(images: Path, line: str, message: str) -> None:
    (images / "train.txt").write_text(f"0003\n{line}\n")
    with pytest.raises(UserError, match=message):
        NYUv2(root=str(images)).prepare()


def test_what_is_missing_is_said(tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = NYUv2(root=str(tmp_path / "empty"))
    with pytest.raises(UserError, match="not prepared; run: mmlab prepare NYUv2 --root"):
        data.splits()
    with pytest.raises(UserError, match=r"holds neither nyu_depth_v2_labeled.mat nor unpacked images with train.txt"):
        data.prepare()
    (images / "test" / "depth_raw" / "0002.png").unlink()
    with pytest.raises(UserError, match=r"test.txt, line 2: there is no .*test/depth_raw/0002.png; unpack it anew"):
        NYUv2(root=str(images)).prepare()
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"")
    with pytest.raises(UserError, match=r'needs h5py, which is not installed: run pip install "mmlab\[hdf5\]"'):
        NYUv2(root=str(tmp_path)).prepare()
    with pytest.raises(UserError, match=r"size is \[0, 4\]; give \[height, width\]"):
        NYUv2(size=(0, 4))
    with pytest.raises(UserError, match=r"validation_share is 1; choose a share"):
        NYUv2(validation_share=1)
    with pytest.raises(UserError, match="is not empty"):
        NYUv2(root=str(images)).write_synthetic()
