from pathlib import Path

import numpy as np
import pytest
import torch

from mmlab.data.grid_words import GRIDWords
from mmlab.data.npz import write_npz
from mmlab.draws import Draws
from mmlab.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "flow_grid"
    GRIDWords(str(folder)).write_synthetic()
    return str(folder)


def test_splits_fit_the_spec(root):
    data = GRIDWords(root)
    splits = data.splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 36, "val": 12, "test": 12}
    spec = data.spec(36)
    assert spec.task.outputs == 12
    assert [modality.kind for modality in spec.modalities] == ["image", "flow"]
    batch = splits["train"].__getitems__([30, 2])
    assert (batch.inputs["rgb"].dtype, batch.inputs["flow"].dtype) == (torch.uint8, torch.int8)
    for modality, transform in zip(spec.modalities, data.transforms().values(), strict=True):
        for draws in (None, Draws(0, 0, batch.index)):
            assert transform(batch.inputs[modality.name], draws).shape == (2, *modality.shape)
    every = [name for split in splits.values() for name in split.ids]
    assert len(set(every)) == 60


def test_channels_come_before_time_and_place(root):
    split = GRIDWords(root).splits()["test"]
    with np.load(f"{root}/test.npz") as file:
        assert split.arrays["rgb"][3, 2, 10, 50] == file["rgb"][3, 10, 50, 2]
        assert split.arrays["flow"][3, 1, 7, 10, 30] == file["flow"][3, 7, 1, 10, 30]


def test_evaluation_only_normalises(root):
    data = GRIDWords(root)
    batch = data.splits()["test"].__getitems__([4])
    for modality, transform in zip(data.modalities, data.transforms().values(), strict=True):
        raw = transform(batch.inputs[modality.name], None)
        axes = (-1, *(1,) * (raw.dim() - 2))
        back = raw * torch.tensor(modality.std).view(axes) + torch.tensor(modality.mean).view(axes)
        torch.testing.assert_close(back, batch.inputs[modality.name].float(), rtol=0, atol=1e-3)


def test_training_keeps_the_streams_aligned(root):
    # A scene at two resolutions, whose flow along x is 10 everywhere: where a picture is mirrored, so is its motion.
    coarse = torch.arange(24 * 36).view(24, 36) % 251
    fine = coarse.repeat_interleave(2, 0).repeat_interleave(2, 1).to(torch.uint8)
    flow = torch.stack((torch.full((24, 36), 10), coarse // 2)).to(torch.int8)
    draws = Draws(0, 0, torch.arange(64))
    data = GRIDWords(root)
    changed = {}
    raws = {"rgb": fine.expand(64, 3, 48, 72), "flow": flow[None, :, None].expand(64, 2, 10, 24, 36)}
    for modality, (name, transform) in zip(data.modalities, data.transforms().items(), strict=True):
        normal = transform(raws[name], draws)
        axes = (-1, *(1,) * (normal.dim() - 2))
        changed[name] = (
            normal * torch.tensor(modality.std).view(axes) + torch.tensor(modality.mean).view(axes)
        ).round()
    torch.testing.assert_close(changed["rgb"][:, 0, ::2, ::2] // 2, changed["flow"][:, 1, 4])
    inner = changed["rgb"][:, 0, 24, 30:40]
    mirrored = (inner[:, 2] - inner[:, 8]) > 0
    assert 10 < mirrored.sum() < 54
    along = torch.where(mirrored, -10.0, 10.0)
    torch.testing.assert_close(changed["flow"][:, 0], along[:, None, None, None].expand(64, 10, 24, 36))


def test_official_protocol_trains_on_both_and_selects_on_test(root):
    honest, official = GRIDWords(root).splits(), GRIDWords(root, protocol="official").splits()
    assert list(official["train"].ids) == [*honest["train"].ids, *honest["val"].ids]
    assert np.array_equal(official["train"].arrays["flow"][36:], honest["val"].arrays["flow"])
    assert official["val"].digest() == official["test"].digest() == honest["test"].digest()


def test_the_twin_can_be_learnt(root):
    data = GRIDWords(root)
    splits = data.splits()
    for name, transform in data.transforms().items():
        train, test = (transform(torch.from_numpy(splits[part].arrays[name]), None) for part in ("train", "test"))
        axes = (1, 3) if name == "rgb" else (2, 3, 4)
        nearest = torch.cdist(test.mean(dim=axes), train.mean(dim=axes)).argmin(dim=1)
        assert (splits["train"].targets[nearest] == splits["test"].targets).mean() > 0.9


def test_prepare_says_what_the_files_are(mmlab):
    out = mmlab("prepare GRIDWords --root r --synthetic")
    assert out.count("not the published file") == 3
    assert "train: 36 samples" in out
    assert GRIDWords("r").details() == {"synthetic": True}
    Path("r/SYNTHETIC").unlink()
    assert GRIDWords("r").details() == {"synthetic": False}


def test_absent_data(mmlab, monkeypatch):
    monkeypatch.setenv("MMLAB_DATA", "nothing")
    err = mmlab("prepare GRIDWords", code=2)
    assert "There is no nothing/flow_grid/train.npz" in err


def test_a_file_with_another_number_of_flow_fields(tmp_path):
    GRIDWords(str(tmp_path)).write_synthetic()
    with np.load(tmp_path / "valid.npz") as file:
        write_npz(tmp_path / "valid.npz", {**file, "flow": file["flow"][:, :9]})
    with pytest.raises(UserError, match=r"valid\.npz holds 'flow' as int8 \(12, 9, 2, 24, 36\)"):
        GRIDWords(str(tmp_path)).splits()
