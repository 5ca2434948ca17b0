import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlab.cli.main import main
from mmlab.data.cityscapes import CLASSES, Cityscapes, depth_from_disparity, without_far
from mmlab.data.packing import open_packed
from mmlab.draws import Draws
from mmlab.errors import UserError

Command = Callable[..., str]
SMALL = {"size": (32, 64), "stored": (64, 128)}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a synthetic twin, prepared by the real command."""
    root = tmp_path_factory.mktemp("cityscapes") / "root"
    assert main(["prepare", "Cityscapes", "--root", str(root), "--synthetic", "--stored", "[64,128]"]) == 0
    return root


@pytest.fixture
def raw(twin: Path, tmp_path: Path) -> Path:
    """A copy of the twin's raw files, not prepared."""
    return Path(shutil.copytree(twin, tmp_path / "raw", ignore=shutil.ignore_patterns("packed*")))


def test_the_command_says_what_it_packed(mmlab: Command) -> None:
    said = mmlab("prepare Cityscapes --root r --synthetic --stored [32,64]")
    assert "Packed 24 samples into r/packed-32x64." in said
    assert [line.split(",")[0] for line in said.splitlines()[-3:]] == [
        "train: 12 samples",
        "val: 4 samples",
        "test: 8 samples",
    ]
    assert "r/packed-32x64 is prepared already." in mmlab("prepare Cityscapes --root r --stored [32,64]")


def test_cities_stay_together(twin: Path) -> None:
    splits = Cityscapes(root=str(twin), **SMALL).splits()
    cities = {part: {name.split("_")[0] for name in split.ids} for part, split in splits.items()}
    assert cities["test"] == {"frankfurt", "munster"}
    assert cities["train"] | cities["val"] == {"aachen", "bremen", "ulm", "zurich"}
    assert not cities["train"] & cities["val"]
    official = Cityscapes(root=str(twin), protocol="official", **SMALL).splits()
    assert len(official["train"]) == 16
    assert official["val"].digest() == official["test"].digest()


def test_what_is_packed(twin: Path) -> None:
    split = Cityscapes(root=str(twin), **SMALL).splits()["test"]
    name = split.ids[2]
    batch = split.__getitems__([2])
    found = {top: next((twin / top / "val").rglob(f"{name}_*")) for top in ("leftImg8bit", "gtFine", "disparity")}
    picture = np.asarray(Image.open(found["leftImg8bit"])).transpose(2, 0, 1)
    assert np.array_equal(batch.inputs["rgb"][0].numpy(), picture)
    numbers = np.asarray(Image.open(found["gtFine"]))
    labels = batch.target[0].numpy()
    assert batch.target.dtype == torch.uint8
    for label, number in enumerate(CLASSES.values()):
        assert ((labels == label) == (numbers == number)).all()
    assert (labels[-4:] == 255).all()
    depth = batch.inputs["depth"][0, 0].numpy()
    assert depth.dtype == np.float16
    disparity = np.asarray(Image.open(found["disparity"])).astype(np.float64)
    assert (depth[disparity == 0] == 0).all()
    expected = 0.209313 * 2262.52 / ((disparity[disparity > 0] - 1) / 256)
    assert depth[disparity > 0] == pytest.approx(expected, rel=1e-3)


def test_published_depths() -> None:
    disparity = np.array([0, 1, 2, 257, 2561, 5000, 30000], np.uint16)
    depth = depth_from_disparity(disparity, 0.209313, 2262.52)
    assert depth.tolist() == [0, 0, np.inf, 473.5, 47.34375, 24.25, 4.04296875]
    assert without_far(depth).tolist() == [0, 0, 0, 0, 47.34375, 24.25, 4.04296875]


def test_a_smaller_copy_keeps_what_belongs_together(raw: Path) -> None:
    data = Cityscapes(root=str(raw), size=(32, 64), stored=(32, 64))
    data.prepare()
    batch = data.splits()["test"].__getitems__([0])
    name = data.splits()["test"].ids[0]
    numbers = np.asarray(Image.open(next((raw / "gtFine" / "val").rglob(f"{name}_*"))))
    # Of each two pixels the second is the nearest to half-way between them.
    table = dict(enumerate(CLASSES.values())) | {255: 1}
    assert np.array_equal(np.vectorize(table.get)(batch.target[0].numpy()), numbers[1::2, 1::2])
    disparity = np.asarray(Image.open(next((raw / "disparity" / "val").rglob(f"{name}_*"))))
    assert np.array_equal(batch.inputs["depth"][0, 0].numpy() == 0, disparity[1::2, 1::2] == 0)


def test_crops_for_training_and_whole_images_for_evaluation(twin: Path) -> None:
    data = Cityscapes(root=str(twin), **SMALL)
    batch = data.splits()["train"].__getitems__([3, 1])
    transforms = data.transforms()
    for draws, size in ((None, (64, 128)), (Draws(0, 0, batch.index), (32, 64))):
        for modality in data.modalities:
            seen = transforms[modality.name](batch.inputs[modality.name], draws)
            assert tuple(seen.shape[2:]) == size
            assert seen.isfinite().all()
        assert tuple(transforms["target"](batch.target, draws).shape[1:]) == size
    holes = batch.inputs["depth"] == 0
    assert holes.any()
    assert ((transforms["depth"](batch.inputs["depth"], None) == 0) == holes).all()
    assert [modality.shape for modality in data.modalities] == [(3, 32, 64), (1, 32, 64)]
    assert data.task.weights is None
    assert len(data.task.classes) == 19


def test_training_zooms_in_and_out(twin: Path) -> None:
    data = Cityscapes(root=str(twin), size=(32, 64), stored=(64, 128))
    columns = (1 + torch.arange(128.0)).expand(200, 1, 64, 128)
    seen = data.transforms()["depth"](columns, Draws(0, 0, torch.arange(200)))
    pixels = (seen * 38.70280704877372 + 31.715617493177906).diff(dim=3).abs().mean(dim=(1, 2, 3))
    assert 0.48 < pixels.min() < 0.55
    assert 1.8 < pixels.max() < 2.02


def test_bad_images_are_left_out_and_named(raw: Path) -> None:
    name = "aachen_000000_000019"
    (raw / "camera" / "train" / "aachen" / f"{name}_camera.json").write_text(json.dumps({"extrinsic": {}}))
    file = raw / "gtFine" / "train" / "aachen" / "aachen_000001_000019_gtFine_labelIds.png"
    file.write_bytes(file.read_bytes()[:60])
    file = raw / "disparity" / "train" / "aachen" / "aachen_000002_000019_disparity.png"
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(file)
    (raw / "leftImg8bit" / "train" / "aachen" / "._aachen_000002_000019_leftImg8bit.png").write_bytes(b"")
    data = Cityscapes(root=str(raw), **SMALL)
    data.prepare()
    bad = {entry["id"]: entry["reason"] for entry in open_packed(raw / "packed-64x128", "Cityscapes", "").meta["bad"]}
    assert bad.pop(name).startswith(f"{name}_camera.json doesn't say baseline and focal length")
    assert bad.pop("aachen_000001_000019").startswith("aachen_000001_000019_gtFine_labelIds.png")
    assert bad == {"aachen_000002_000019": "picture, disparity and labels have different sizes"}
    assert sum(len(split) for split in data.splits().values()) == 21


def test_what_is_missing_is_said(raw: Path, tmp_path: Path) -> None:
    data = Cityscapes(root=str(tmp_path / "empty"), stored=(64, 128))
    with pytest.raises(UserError, match=r"not prepared; run: mmlab prepare Cityscapes --root .* --stored \[64,128\]"):
        data.splits()
    with pytest.raises(UserError, match=r"leftImg8bit/train holds no <city>/<name>_leftImg8bit.png; unpack the four"):
        data.prepare()
    next((raw / "disparity" / "val").rglob("*.png")).unlink()
    with pytest.raises(UserError, match=r"there is no .*_disparity.png, which belongs to .*_leftImg8bit.png"):
        Cityscapes(root=str(raw)).prepare()
    with pytest.raises(UserError, match="is not empty"):
        Cityscapes(root=str(raw)).write_synthetic()
    with pytest.raises(UserError, match=r"stored is \[0, 8\]; give \[height, width\]"):
        Cityscapes(stored=(0, 8))


def test_details(twin: Path) -> None:
    details = Cityscapes(root=str(twin), **SMALL).details()
    assert details["variant"] == "64 x 128"
    assert details["synthetic"] is True
