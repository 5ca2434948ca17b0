from pathlib import Path

import numpy as np
import pytest
import torch

from mmlab.data.ldraw_parts import LDrawParts
from mmlab.data.npz import write_npz
from mmlab.draws import Draws
from mmlab.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "frontrear"
    LDrawParts(str(folder)).write_synthetic()
    return str(folder)


@pytest.mark.parametrize("rear", ["shaded", "depth"])
def test_splits_fit_the_spec(root, rear):
    data = LDrawParts(root, rear=rear)
    splits = data.splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 54, "val": 18, "test": 18}
    spec = data.spec(54)
    assert spec.task.outputs == 18
    assert [modality.kind for modality in spec.modalities] == ["image", "image" if rear == "shaded" else "depth"]
    batch = splits["train"].__getitems__([30, 2])
    for modality, transform in zip(spec.modalities, data.transforms().values(), strict=True):
        for draws in (None, Draws(0, 0, batch.index)):
            assert transform(batch.inputs[modality.name], draws).shape == (2, *modality.shape)
    every = [name for split in splits.values() for name in split.ids]
    assert len(set(every)) == 90


def test_the_rear_is_shaded_or_depth(root):
    shaded, depth = (LDrawParts(root, rear=rear).splits()["val"] for rear in ("shaded", "depth"))
    with np.load(f"{root}/val.npz") as file:
        assert np.array_equal(shaded.arrays["rear"][:, 0], file["rear"])
        assert np.array_equal(depth.arrays["rear"][:, 0], file["rear_depth"])
        assert np.array_equal(depth.arrays["front"][:, 0], file["front"])
    assert LDrawParts(root, rear="depth").details() == {"variant": "rear depth", "synthetic": True}
    assert LDrawParts(root).details() == {"variant": None, "synthetic": True}


def test_each_view_has_its_own_shift(root):
    raw = torch.randint(0, 256, (200, 1, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    moves = {}
    for name, transform in LDrawParts(root).transforms().items():
        still, moved = transform(raw, None), transform(raw, Draws(0, 0, torch.arange(200)))
        fits = [
            [
                (moved[:, 0, 8, 8:56] == still[:, 0, 8 + down, 8 + right : 56 + right]).all(dim=1)
                for right in range(-2, 3)
            ]
            for down in range(-2, 3)
        ]
        found = torch.stack([torch.stack(row) for row in fits]).flatten(0, 1)
        assert torch.equal(found.sum(dim=0), torch.ones(200, dtype=torch.long))
        moves[name] = found.int().argmax(dim=0)
        assert moves[name].unique().numel() == 25
    assert 0 < (moves["front"] == moves["rear"]).float().mean() < 0.2


def test_official_protocol_trains_on_both_and_selects_on_test(root):
    honest, official = LDrawParts(root).splits(), LDrawParts(root, protocol="official").splits()
    assert list(official["train"].ids) == [*honest["train"].ids, *honest["val"].ids]
    assert np.array_equal(official["train"].arrays["rear"][54:], honest["val"].arrays["rear"])
    assert official["val"].digest() == official["test"].digest() == honest["test"].digest()


def test_the_twin_can_be_learnt(root):
    splits = LDrawParts(root).splits()
    for name, axis in (("front", 2), ("rear", 3)):
        train, test = (torch.from_numpy(splits[part].arrays[name] > 0).float() for part in ("train", "test"))
        nearest = torch.cdist(test.amax(dim=axis).flatten(1), train.amax(dim=axis).flatten(1)).argmin(dim=1)
        assert (splits["train"].targets[nearest] == splits["test"].targets).mean() > 0.9


def test_prepare_says_what_the_files_are(mmlab):
    out = mmlab("prepare LDrawParts --root r --synthetic")
    assert out.count("not the published file") == 3
    assert "test: 18 samples" in out


def test_wrong_inputs(mmlab, monkeypatch):
    monkeypatch.setenv("MMLAB_DATA", "nothing")
    assert "There is no nothing/frontrear/train.npz" in mmlab("prepare LDrawParts", code=2)
    assert "shaded" in mmlab("prepare LDrawParts --rear dept", code=2)
    mmlab("prepare LDrawParts --root r --synthetic")
    file = Path("r/val.npz")
    file.write_bytes(file.read_bytes()[:2000])
    assert "r/val.npz can't be read" in mmlab("prepare LDrawParts --root r", code=2)


def test_a_label_that_is_no_class(tmp_path):
    LDrawParts(str(tmp_path)).write_synthetic()
    with np.load(tmp_path / "test.npz") as file:
        write_npz(tmp_path / "test.npz", {**file, "label": file["label"] + 1})
    with pytest.raises(UserError, match=r"test\.npz should hold labels from 0 to 17"):
        LDrawParts(str(tmp_path)).splits()
