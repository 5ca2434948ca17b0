import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlab.cli.main import main
from mmlab.data.base import Split
from mmlab.data.meshes import read_off, render
from mmlab.data.modelnet40 import CLASSES, ModelNet40
from mmlab.draws import Draws
from mmlab.errors import UserError

Command = Callable[..., str]
SMALL = {"view_side": 32, "image_size": 24}
PICTURES, MESHES = "modelnet40_images_new_12x", "ModelNet40"


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a synthetic twin, its pictures prepared by the real command, and its meshes."""
    root = tmp_path_factory.mktemp("modelnet") / "root"
    assert main(["prepare", "ModelNet40", "--root", str(root), "--view_side", "32", "--synthetic"]) == 0
    assert main(["prepare", "ModelNet40", "--root", str(root), "--view_side", "32", "--source", "meshes"]) == 0
    return root


@pytest.fixture
def raw(twin: Path, tmp_path: Path) -> Path:
    """A copy of the twin's raw files, not prepared."""
    return Path(shutil.copytree(twin, tmp_path / "raw", ignore=shutil.ignore_patterns("packed*")))


def picture(folder: Path, name: str, view: int) -> Path:
    return folder / f"{name}.obj.shaded_v{view:03}.png"


def bad(root: Path, source: str = "images") -> dict[str, str]:
    meta = json.loads((root / f"packed-{source}-32px-v001-v007" / "pack.json").read_text())
    return {entry["id"]: entry["reason"] for entry in meta["bad"]}


def view(split: Split, name: str, modality: str) -> np.ndarray:
    """(side, side), the stored view of an object."""
    return split.arrays[modality][split.rows[split.ids.index(name)], 0]


def test_the_class_list() -> None:
    assert len(CLASSES) == 40
    assert list(CLASSES) == sorted(CLASSES)
    assert [CLASSES.index(name) for name in ("airplane", "dresser", "night_stand", "tv_stand", "xbox")] == [
        0,
        14,
        23,
        36,
        39,
    ]


def test_the_command_says_what_it_packed(mmlab: Command) -> None:
    said = mmlab("prepare ModelNet40 --root r --synthetic --view_side 16")
    assert "Packed 42 samples into r/packed-images-16px-v001-v007." in said
    assert "3 of the 40 classes are there: bottle, chair, lamp." in said
    assert [line.split(",")[0] for line in said.splitlines()[-3:]] == [
        "train: 27 samples",
        "val: 3 samples",
        "test: 12 samples",
    ]
    again = mmlab("prepare ModelNet40 --root r --source meshes --front 2 --rear 8 --view_side 16")
    assert "Packed 42 samples into r/packed-meshes-16px-v002-v008." in again
    assert again.splitlines()[-3:] == said.splitlines()[-3:]  # one split, whatever it is read from
    assert "is prepared already" in mmlab("prepare ModelNet40 --root r --view_side 16")


@pytest.mark.parametrize("source", ["images", "meshes"])
def test_honest_splits_of_the_twin(twin: Path, source: str) -> None:
    data = ModelNet40(root=str(twin), source=source, **SMALL)  # type: ignore[arg-type]
    splits = data.splits()
    assert data.task.classes == ("bottle", "chair", "lamp")
    assert splits["val"].targets.tolist() == [0, 1, 2]
    assert not set(splits["train"].ids) & set(splits["val"].ids)
    assert splits["test"].ids[4:6] == ["chair_0011", "chair_0012"]
    assert splits["test"].targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    batch = splits["train"].__getitems__([20, 0])
    assert batch.present.all()
    for name in ("front", "rear"):
        assert batch.inputs[name].shape == (2, 1, 32, 32)
        assert batch.inputs[name].dtype == torch.uint8
    other = ModelNet40(root=str(twin), split_seed=1, **SMALL).splits()
    assert other["val"].digest() != splits["val"].digest()
    assert other["test"].digest() == splits["test"].digest()


def test_the_official_protocol_selects_on_the_test_split(twin: Path) -> None:
    splits = ModelNet40(root=str(twin), protocol="official", **SMALL).splits()
    assert len(splits["train"]) == 30
    assert splits["val"].digest() == splits["test"].digest()


def test_the_views_are_those_of_the_files(twin: Path) -> None:
    train = ModelNet40(root=str(twin), protocol="official", **SMALL).splits()["train"]
    folder = twin / PICTURES / "chair" / "train"
    for name, number in (("front", 1), ("rear", 7)):
        with Image.open(picture(folder, "chair_0003", number)) as image:
            raw = np.asarray(image.convert("L"), dtype=float)
        stored = view(train, "chair_0003", name).astype(float)
        assert abs(raw.mean() - stored.mean()) < 1
        # Two thirds of the raw size: every third pixel of the raw is every second of the stored one.
        assert np.corrcoef(raw[1::3, 1::3].ravel(), stored[::2, ::2].ravel())[0, 1] > 0.7
    assert not np.array_equal(view(train, "chair_0003", "front"), view(train, "chair_0003", "rear"))


def test_the_views_of_a_mesh_are_rendered_from_opposite_sides(twin: Path) -> None:
    train = ModelNet40(root=str(twin), source="meshes", protocol="official", **SMALL).splits()["train"]
    mesh = read_off(twin / MESHES / "chair" / "train" / "chair_0003.off")
    assert np.array_equal(view(train, "chair_0003", "front"), render(mesh, 0, 32))
    assert np.array_equal(view(train, "chair_0003", "rear"), render(mesh, 180, 32))


def test_other_views(raw: Path) -> None:
    data = ModelNet40(root=str(raw), front=4, rear=10, protocol="official", **SMALL)
    data.prepare(workers=2)
    assert data.details()["variant"] == "views 4 and 10"
    folder = raw / PICTURES / "lamp" / "test"
    for number in (1, 4, 7, 10):
        Image.new("L", (32, 32), number).save(picture(folder, "lamp_0014", number))
    data.prepare()
    test = data.splits()["test"]
    assert view(test, "lamp_0014", "front").tolist() == [[4] * 32] * 32
    assert view(test, "lamp_0014", "rear").tolist() == [[10] * 32] * 32


def test_what_the_encoders_see(twin: Path) -> None:
    data = ModelNet40(root=str(twin), **SMALL)
    batch = data.splits()["train"].__getitems__([5, 17, 26])
    assert [(modality.name, modality.kind) for modality in data.modalities] == [("front", "image"), ("rear", "image")]
    for modality in data.modalities:
        transform, values = data.transforms()[modality.name], batch.inputs[modality.name]
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (modality.mean, modality.std))
        for seen in (transform(values, None), transform(values, Draws(0, 0, batch.index))):
            assert tuple(seen.shape) == (3, *modality.shape) == (3, 3, 24, 24)
            assert seen.dtype == torch.float32
            grey = seen * std + mean
            torch.testing.assert_close(grey[:, 0], grey[:, 2], rtol=0, atol=1e-3)  # red is blue
            assert grey.min() > -0.01
            assert grey.max() < 255.01
    assert ModelNet40().modalities[0].shape == (3, 224, 224)
    whole = ModelNet40(view_side=32, image_size=32).transforms()["front"](batch.inputs["front"], None)
    raw_values = batch.inputs["front"].float()
    torch.testing.assert_close(whole * std + mean, raw_values.expand(-1, 3, -1, -1), rtol=0, atol=1e-3)


def test_the_two_views_have_draws_of_their_own(twin: Path) -> None:
    data = ModelNet40(root=str(twin), **SMALL)
    same = torch.randint(0, 256, (16, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    front, rear = (transform(same, Draws(3, 1, torch.arange(16))) for transform in data.transforms().values())
    assert ((front - rear).abs().amax((1, 2, 3)) > 0.1).all()


def test_each_view_of_the_twin_tells_the_class(twin: Path) -> None:
    splits = ModelNet40(root=str(twin), **SMALL).splits()
    for name in ("front", "rear"):
        train, test = (
            splits[part].arrays[name][splits[part].rows].reshape(len(splits[part]), -1).astype(float)
            for part in ("train", "test")
        )
        centres = np.stack([train[splits["train"].targets == label].mean(axis=0) for label in range(3)])
        nearest = ((test[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        assert (nearest == splits["test"].targets).mean() > 0.8


def test_bad_pictures_are_left_out_and_named(raw: Path) -> None:
    folder = raw / PICTURES / "chair" / "train"
    picture(folder, "chair_0001", 7).unlink()
    picture(folder, "chair_0002", 1).unlink()
    for number in (1, 7):
        picture(folder, "chair_0003", number).unlink()
    file = picture(folder, "chair_0004", 1)
    file.write_bytes(file.read_bytes()[:200])
    picture(folder, "chair_0005", 7).write_bytes(b"JFIF and so on")
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(picture(folder, "chair_0006", 1))
    picture(folder, "chair_0007", 12).unlink()  # not one of the two
    for number in range(1, 13):
        picture(folder, "chair_0008", number).unlink()
        picture(folder, "chair_0008", number).symlink_to("gone.png")
    (folder / "._chair_0008.obj.shaded_v001.png").write_bytes(b"left by a file manager")
    data = ModelNet40(root=str(raw), **SMALL)
    data.prepare(workers=2)
    assert {name: reason.split(":")[0] for name, reason in bad(raw).items()} == {
        "chair_0001": "there is no chair_0001.obj.shaded_v007.png, its rear",
        "chair_0002": "there is no chair_0002.obj.shaded_v001.png, its front",
        "chair_0003": "there is no chair_0003.obj.shaded_v001.png, its front",
        "chair_0004": "chair_0004.obj.shaded_v001.png can't be decoded",
        "chair_0005": "chair_0005.obj.shaded_v007.png is no PNG image",
        "chair_0006": "chair_0006.obj.shaded_v001.png has more than 8 bits for each channel",
        "chair_0008": "there is no chair_0008.obj.shaded_v001.png, its front",
    }
    splits = data.splits()
    assert len(splits["train"]) + len(splits["val"]) == 23


def test_bad_meshes_are_left_out_and_named(raw: Path) -> None:
    folder = raw / MESHES / "lamp" / "test"
    file = folder / "lamp_0011.off"
    file.write_text(file.read_text()[:100])
    (folder / "lamp_0012.off").write_text("solid lamp\n")
    data = ModelNet40(root=str(raw), source="meshes", **SMALL)
    data.prepare()
    assert bad(raw, "meshes") == {
        "lamp_0011": "it ends after 4 of 24 vertices",
        "lamp_0012": "it doesn't begin with OFF and the numbers of vertices and faces",
    }
    assert len(data.splits()["test"]) == 10


def test_other_endings_and_links_to_nowhere(raw: Path) -> None:
    file = picture(raw / PICTURES / "chair" / "train", "chair_0001", 1)
    file.rename(file.with_suffix(".PNG"))
    folder = raw / MESHES / "chair" / "train"
    (folder / "chair_0001.off").rename(folder / "chair_0001.OFF")
    (folder / "chair_0002.off").unlink()
    (folder / "chair_0002.off").symlink_to("gone.off")
    for source, objects in (("images", 30), ("meshes", 29)):
        data = ModelNet40(root=str(raw), source=source, protocol="official", **SMALL)  # type: ignore[arg-type]
        data.prepare()
        assert not bad(raw, source)
        assert "chair_0001" in data.splits()["train"].ids
        assert len(data.splits()["train"]) == objects


def test_classes_without_test_objects_are_said(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(raw / PICTURES / "chair" / "test")
    for file in (raw / PICTURES / "lamp" / "test").glob("*v007.png"):
        file.unlink()
    ModelNet40(root=str(raw), **SMALL).prepare()
    out = capsys.readouterr().out
    assert "No usable test object of chair, lamp." in out
    assert "training object" not in out


@pytest.mark.parametrize(("source", "other"), [("images", "meshes"), ("meshes", "images")])
def test_the_other_source_is_named(raw: Path, mmlab: Command, source: str, other: str) -> None:
    folders = {"images": raw / PICTURES, "meshes": raw / MESHES}
    shutil.rmtree(folders[source])
    said = mmlab(f"prepare ModelNet40 --root {raw} --source {source}", code=2)
    assert f"holds no objects (for those in {folders[other]}, add --source {other}); put them there as" in said


def test_wrong_raw_folders_are_said(raw: Path) -> None:
    data = ModelNet40(root=str(raw), **SMALL)
    folder = raw / PICTURES
    (folder / "bottle").rename(folder / "botle")
    with pytest.raises(UserError, match=r"botle is no class of ModelNet40 \(did you mean 'bottle'\?\)"):
        data.prepare()
    (folder / "botle").rename(folder / "bottle")
    shutil.rmtree(folder / "bottle" / "train")
    with pytest.raises(UserError, match=r"bottle has test objects but none for training"):
        data.prepare()
    shutil.rmtree(folder / "bottle")
    shutil.rmtree(folder / "lamp")
    with pytest.raises(
        UserError, match=r"training objects of 1 class, but two or more are needed; .*shaded_v<view>.png"
    ):
        data.prepare()


def test_without_test_objects_there_is_no_split(raw: Path) -> None:
    for folder in (raw / PICTURES).glob("*/test"):
        shutil.rmtree(folder)
    data = ModelNet40(root=str(raw), **SMALL)
    data.prepare()
    with pytest.raises(
        UserError, match=r"has 30 training and 0 test objects .* prepare ModelNet40 --root .* --view_side 32"
    ):
        data.splits()


def test_what_is_missing_or_wrong_is_said(mmlab: Command, tmp_path: Path) -> None:
    assert f"here/{PICTURES} holds no objects; put them there as <class>/" in mmlab(
        "prepare ModelNet40 --root here", code=2
    )
    data = ModelNet40(root=str(tmp_path), source="meshes", rear=8, view_side=64)
    missing = r"not prepared; run: mmlab prepare ModelNet40 --root \S+ --source meshes --rear 8 --view_side 64$"
    with pytest.raises(UserError, match=missing):
        data.splits()
    with pytest.raises(UserError, match=missing):
        _ = data.task
    with pytest.raises(UserError, match="rear is view 13, but there are 12"):
        ModelNet40(rear=13)
    with pytest.raises(UserError, match="front and rear are both view 7"):
        ModelNet40(front=7)
    with pytest.raises(UserError, match="choose at least 1 pixel"):
        ModelNet40(view_side=0)
    with pytest.raises(UserError, match=r"validation_share is 1\.0"):
        ModelNet40(validation_share=1.0)


def test_the_twin_says_that_it_is_one(twin: Path, tmp_path: Path) -> None:
    data = ModelNet40(root=str(twin), source="meshes", **SMALL)
    assert data.details() == {
        "variant": "meshes",
        "source": "meshes",
        "front": 1,
        "rear": 7,
        "view_side": 32,
        "image_size": 24,
        "validation_share": 0.1,
        "split_seed": 0,
        "protocol": "honest",
        "synthetic": True,
    }
    plain = ModelNet40(root=str(tmp_path)).details()
    assert plain["synthetic"] is False
    assert plain["variant"] is None
    with pytest.raises(UserError, match="is not empty"):
        data.write_synthetic()
