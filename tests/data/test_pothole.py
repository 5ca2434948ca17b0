from pathlib import Path

import numpy as np
import pytest
import torch

from mmlab.data.npz import write_npz
from mmlab.data.pothole import Pothole, RelativeDepth
from mmlab.draws import Draws
from mmlab.errors import UserError

TASKS = pytest.mark.parametrize("task", ["segmentation", "patches"])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "rgbd_pothole"
    Pothole(str(folder)).write_synthetic()
    return str(folder)


@TASKS
def test_splits_fit_the_spec(root, task):
    data = Pothole(root, task=task)
    splits = data.splits()
    sizes = (6, 3, 3) if task == "segmentation" else (36, 18, 18)
    assert tuple(len(split) for split in splits.values()) == sizes
    spec = data.spec(sizes[0])
    assert [(modality.name, modality.kind) for modality in spec.modalities] == [("rgb", "image"), ("depth", "depth")]
    batch = splits["train"].__getitems__([4, 2])
    transforms = data.transforms()
    for draws in (None, Draws(0, 0, batch.index)):
        for modality in spec.modalities:
            seen = transforms[modality.name](batch.inputs[modality.name], draws)
            assert seen.dtype == torch.float32
            assert seen.shape == (2, *modality.shape)
            assert seen.isfinite().all()
    if task == "patches":
        assert spec.task.classes == ("road", "edge", "inside")
        assert list(transforms) == ["rgb", "depth"]
        assert splits["train"].ids[7] == "1/1/0-7"
        return
    assert spec.task.classes == ("road", "pothole")
    assert splits["train"].ids[2] == "1/3"
    # Training sees labels as large as the inputs, evaluation is on those of the file.
    assert transforms["target"](batch.target, Draws(0, 0, batch.index)).shape == (2, 72, 120)
    assert torch.equal(transforms["target"](batch.target, None), batch.target.long())
    assert batch.target.shape == (2, 144, 240)


def test_the_files_are_read_as_they_are(root):
    frames, patches = Pothole(root).splits()["val"], Pothole(root, task="patches").splits()["val"]
    with np.load(f"{root}/seg_val.npz") as file:
        assert np.array_equal(frames.arrays["rgb"], file["rgb"].transpose(0, 3, 1, 2))
        assert np.array_equal(frames.arrays["depth"][:, 0], file["depth"])
        assert np.array_equal(frames.targets, file["mask"])
    with np.load(f"{root}/patch_val.npz") as file:
        assert np.array_equal(patches.arrays["depth"][:, 0], file["depth"])
        assert np.array_equal(patches.targets, file["label"])


def test_depth_is_relative_to_the_median_of_the_valid_pixels():
    raw = torch.tensor([[40_000, 0, 50_000, 60_000], [0, 10, 20, 60]], dtype=torch.uint16).view(2, 1, 2, 2)
    seen = RelativeDepth(lambda depth, draws: depth)(raw, None)
    assert seen.flatten(1).tolist() == [pytest.approx([0.8, 0.0, 1.0, 1.2]), pytest.approx([0.0, 0.5, 1.0, 3.0])]
    assert not RelativeDepth(lambda depth, draws: depth)(torch.zeros(1, 1, 2, 2), None).any()


@TASKS
def test_the_scale_of_the_depth_plays_no_part_and_invalid_pixels_are_0(root, task):
    data = Pothole(root, task=task)
    raw = torch.from_numpy(data.splits()["train"].arrays["depth"][:6])
    seen = data.transforms()["depth"](raw, None)
    halved = data.transforms()["depth"](raw.float() / 2, None)
    assert torch.allclose(seen, halved, atol=1e-4)
    invalid = raw.float() == 0 if task == "patches" else raw[:, :, 1::2, 1::2].float() == 0
    assert invalid.any()
    assert not seen[invalid].any()
    mean, std = data.modalities[1].mean[0], data.modalities[1].std[0]
    valid = raw.float()[0][raw.float()[0] > 0]
    assert seen[0].median() * std + mean == pytest.approx(1.0, abs=0.02)
    assert seen[0].max() * std + mean <= valid.max() / valid.median() + 1e-5


@TASKS
def test_training_cuts_everything_alike(root, task):
    data = Pothole(root, task=task)
    transforms, index = data.transforms(), torch.arange(40)
    # A ramp in both directions tells where a pixel came from; its depth has a median of its own, the same everywhere.
    height, width = (144, 240) if task == "segmentation" else (48, 48)
    ramp = (100 + torch.arange(width) / 4 + torch.arange(height)[:, None] / 8).expand(40, 1, -1, -1)
    draws = Draws(0, 0, index)
    rgb = transforms["rgb"](ramp.expand(-1, 3, -1, -1), draws)
    depth = transforms["depth"](ramp, draws)
    mean, std = (torch.tensor(part) for part in (data.modalities[0].mean, data.modalities[0].std))
    place = rgb[:, 0] * std[0] + mean[0]
    again = (depth[:, 0] * data.modalities[1].std[0] + data.modalities[1].mean[0]) * ramp[0].median()
    assert (place - again).abs().max() < 0.5
    if task == "segmentation":
        assert (transforms["target"](ramp[:, 0].to(torch.uint8), draws) - place).abs().max() < 1.5
    ways = {(round(float(one[0, 0]), 1), bool(one[0, 0] < one[0, -1])) for one in place}
    assert len(ways) > 10
    assert {mirrored for _, mirrored in ways} == {False, True}


def test_the_size_can_be_chosen(root):
    data = Pothole(root, size=(144, 240))
    assert data.details() == {"variant": "segmentation 144x240", "synthetic": True}
    split = data.splits()["test"]
    raw = torch.from_numpy(split.arrays["rgb"])
    whole = data.transforms()["rgb"](raw, None)
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (data.modalities[0].mean, data.modalities[0].std))
    assert torch.allclose(whole * std + mean, raw.float(), atol=1e-3)
    assert Pothole(root, task="patches").details() == {"variant": "patches", "synthetic": True}


def test_the_classes_can_be_weighed(root):
    data = Pothole(root, median_frequency=True)
    pothole = data.splits()["train"].targets.mean()
    frequencies = np.array([1 - pothole, pothole])  # of two classes that every frame shows, the median is a half
    assert data.task.weights == pytest.approx(tuple(0.5 / frequencies))
    assert data.details()["variant"] == "segmentation 72x120 median_frequency"
    assert Pothole(root).task.weights is None


@TASKS
def test_official_protocol_trains_on_both_and_selects_on_test(root, task):
    honest, official = Pothole(root, task=task).splits(), Pothole(root, task=task, protocol="official").splits()
    assert np.array_equal(official["train"].targets, np.concatenate((honest["train"].targets, honest["val"].targets)))
    assert len(official["train"]) == len(honest["train"]) + len(honest["val"])
    assert official["val"].digest() == official["test"].digest() == honest["test"].digest()


def test_the_twin_can_be_learnt(root):
    data = Pothole(root)
    test, transforms = data.splits()["test"], data.transforms()
    hole = torch.from_numpy(test.targets)[:, 1::2, 1::2] == 1
    for name, below in (("rgb", -1.0), ("depth", -1.5)):
        seen = transforms[name](torch.from_numpy(test.arrays[name]), None)[:, 0]
        assert ((seen < below) == hole).float().mean() > 0.95


def test_prepare_says_what_the_files_are(mmlab):
    out = mmlab("prepare Pothole --root r --synthetic")
    assert out.count("not the published file") == 3
    assert "test: 3 samples" in out
    out = mmlab("prepare Pothole --root r --task patches")
    assert out.count("patch_") == 3
    assert "test: 18 samples" in out


def test_wrong_inputs(mmlab, monkeypatch):
    monkeypatch.setenv("MMLAB_DATA", "nothing")
    assert "There is no nothing/rgbd_pothole/seg_train.npz" in mmlab("prepare Pothole", code=2)
    assert "segmentation" in mmlab("prepare Pothole --task patch", code=2)
    assert "Pothole's size is 16 x 120; choose" in mmlab("prepare Pothole --size [16,120]", code=2)
    mmlab("prepare Pothole --root r --synthetic")
    file = Path("r/seg_val.npz")
    file.write_bytes(file.read_bytes()[:2000])
    assert "r/seg_val.npz can't be read" in mmlab("prepare Pothole --root r", code=2)


def test_a_label_that_is_no_class(tmp_path):
    Pothole(str(tmp_path)).write_synthetic()
    with np.load(tmp_path / "seg_test.npz") as file:
        write_npz(tmp_path / "seg_test.npz", {**file, "mask": file["mask"] + 1})
    with pytest.raises(UserError, match=r"seg_test\.npz should hold labels from 0 to 1"):
        Pothole(str(tmp_path)).splits()
