import numpy as np
import pytest
import torch

from mmlab.data.grid_letters import GRIDLetters
from mmlab.data.npz import write_npz
from mmlab.draws import Draws
from mmlab.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "av_grid"
    GRIDLetters(str(folder)).write_synthetic()
    return str(folder)


def test_splits_fit_the_spec(root):
    data = GRIDLetters(root)
    splits = data.splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 75, "val": 25, "test": 25}
    spec = data.spec(75)
    assert spec.task.outputs == 25
    assert [modality.kind for modality in spec.modalities] == ["audio", "frames"]
    batch = splits["train"].__getitems__([70, 2])
    assert batch.inputs["video"].dtype == torch.uint8
    for modality, transform in zip(spec.modalities, data.transforms().values(), strict=True):
        for draws in (None, Draws(0, 0, batch.index)):
            assert transform(batch.inputs[modality.name], draws).shape == (2, *modality.shape)
    every = [name for split in splits.values() for name in split.ids]
    assert len(set(every)) == 125


def test_official_protocol_trains_on_both_and_selects_on_test(root):
    honest, official = GRIDLetters(root).splits(), GRIDLetters(root, protocol="official").splits()
    assert list(official["train"].ids) == [*honest["train"].ids, *honest["val"].ids]
    assert np.array_equal(official["train"].arrays["video"][75:], honest["val"].arrays["video"])
    assert official["val"].digest() == official["test"].digest() == honest["test"].digest()


def test_the_twin_can_be_learnt(root):
    data = GRIDLetters(root)
    splits = data.splits()
    for name, transform in data.transforms().items():
        train, test = (transform(torch.from_numpy(splits[part].arrays[name]), None) for part in ("train", "test"))
        if name == "video":
            train, test = train.mean(dim=(1, 2, 3)), test.mean(dim=(1, 2, 3))
        nearest = torch.cdist(test.flatten(1), train.flatten(1)).argmin(dim=1)
        assert (splits["train"].targets[nearest] == splits["test"].targets).mean() > 0.8


def test_prepare_says_that_a_twin_is_not_the_published_set(root, capsys):
    GRIDLetters(root).prepare()
    assert capsys.readouterr().out.count("not the published file") == 3


def test_absent_data(tmp_path, monkeypatch):
    monkeypatch.setenv("MMLAB_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"There is no .*av_grid/train\.npz.*MMLAB_DATA"):
        GRIDLetters().splits()


def test_a_twin_overwrites_nothing(root):
    with pytest.raises(UserError, match="not empty"):
        GRIDLetters(root).write_synthetic()


def test_a_file_with_another_frame_count(tmp_path):
    GRIDLetters(str(tmp_path)).write_synthetic()
    with np.load(tmp_path / "valid.npz") as file:
        write_npz(tmp_path / "valid.npz", {**file, "video": file["video"][:, :10]})
    with pytest.raises(UserError, match=r"valid\.npz holds 'video' as uint8 \(25, 10, 32, 48\)"):
        GRIDLetters(str(tmp_path)).splits()
