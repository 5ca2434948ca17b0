from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mmlab.data.mosi_utterances import MOSIUtterances
from mmlab.data.npz import write_npz
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.types import Classification, Sentiment

DATA = Path(os.environ.get("MMLAB_DATA", "../shared/data")).resolve() / "mosi"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("data") / "mosi"
    MOSIUtterances(str(folder)).write_synthetic()
    return str(folder)


def stored(root: str) -> dict[str, np.ndarray]:
    with np.load(f"{root}/mosi.npz", allow_pickle=False) as file:
        return dict(file)


def of(split, file: dict[str, np.ndarray], column: str) -> list:
    """The column's values of the rows that a split's ids name."""
    rows = {
        f"{video}/{segment}": row
        for row, (video, segment) in enumerate(zip(file["video_id"], file["segment"], strict=True))
    }
    return file[column][[rows[name] for name in split.ids]].tolist()


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ("text", "audio", "vision")),
        ({"split": "official"}, ("text", "audio")),
        ({"split": "official", "features": []}, ("text",)),
        ({"features": ["vision", "audio"]}, ("text", "audio", "vision")),
        ({"features": ["text"], "task": "binary"}, ("text",)),
    ],
)
def test_splits_fit_the_spec(root, options, names) -> None:
    data = MOSIUtterances(root, **options)
    splits = data.splits()
    spec = data.spec(len(splits["train"]))
    assert spec.names == names
    batch = splits["train"].__getitems__([3, 1])
    assert batch.inputs.keys() == set(names)
    for modality in spec.modalities:
        for draws in (None, Draws(0, 0, batch.index)):
            out = data.transforms()[modality.name](batch.inputs[modality.name], draws)
            if modality.kind == "text":
                assert out.dtype == torch.int64
                assert out.shape[:2] == (2, 2)
                assert out[:, 0].max() <= modality.high
            else:
                assert out.shape == (2, *modality.shape)
                assert out.dtype == torch.float32
    every = [name for split in splits.values() for name in split.ids]
    assert len(set(every)) == len(every) == 96


@pytest.mark.parametrize(
    ("validated", "sizes"),
    [("held_out", {"train": 11, "val": 1, "test": 4}), ("train", {"train": 9, "val": 2, "test": 5})],
)
def test_poria_validates_on_whole_videos(root, validated, sizes) -> None:
    file = stored(root)
    splits = MOSIUtterances(root, validation_from=validated).splits()
    assert set(of(splits["test"], file, "split_poria")) == {"test"}
    assert set(of(splits["train"], file, "split_poria")) == {"train"}
    assert set(of(splits["val"], file, "split_poria")) == {"test" if validated == "held_out" else "train"}
    videos = {name: set(of(split, file, "video_id")) for name, split in splits.items()}
    assert {name: len(each) for name, each in videos.items()} == sizes
    assert len(set.union(*videos.values())) == 16
    again = MOSIUtterances(root, validation_from=validated).splits()
    assert splits["val"].digest() == again["val"].digest()
    others = {
        MOSIUtterances(root, validation_from=validated, split_seed=seed).splits()["val"].digest() for seed in range(4)
    }
    assert len(others) > 1
    half = MOSIUtterances(root, validation_from=validated, validation_share=0.5).splits()["val"]
    assert len(half) == {"held_out": 12, "train": 36}[validated]


def test_official_takes_its_own_three_parts(root) -> None:
    file = stored(root)
    splits = MOSIUtterances(root, split="official").splits()
    for name, part in {"train": "train", "val": "valid", "test": "test"}.items():
        assert splits[name].ids == [
            f"{video}/{segment}"
            for video, segment, own in zip(file["video_id"], file["segment"], file["split_official"], strict=True)
            if own == part
        ]


@pytest.mark.parametrize(
    ("features", "says"),
    [(["text", "audio"], "text features"), (["vision"], "vision features"), (["vision", "text"], "text and vision")],
)
def test_the_official_split_refuses_features_that_leak(mmlab, features, says) -> None:
    with pytest.raises(UserError, match=rf"{says}.*learnt from the labels.*features to \[audio\], or split to poria"):
        MOSIUtterances(split="official", features=features)
    words = f"--split official --features [{','.join(features)}]"
    assert "would be worthless" in mmlab(f"prepare MOSIUtterances --root nowhere {words}", code=2)


def test_an_encoder_sees_values_that_are_standardised_by_the_training_part(root) -> None:
    data = MOSIUtterances(root)
    splits = data.splits()
    file = stored(root)
    for modality in data.modalities:
        raw = file[modality.name][splits["train"].rows].astype(np.float64)
        mean, std = np.array(modality.mean), np.array(modality.std)
        np.testing.assert_allclose(mean, raw.mean(axis=0), rtol=1e-6, atol=1e-9)
        seen = data.transforms()[modality.name](torch.from_numpy(splits["train"].arrays[modality.name]), None)
        seen = seen[splits["train"].rows].double()
        changing = raw.std(axis=0) > 0
        assert seen[:, changing].mean(dim=0).abs().max() < 1e-5
        torch.testing.assert_close(seen[:, changing].std(dim=0, correction=0), torch.ones(changing.sum()).double())
        assert (std[~changing] == 1).all()
        assert not seen[:, ~changing].any()
    assert changing.sum() == 50  # half of the twin's vision is constant


def test_words_are_numbered_and_a_batch_is_as_long_as_its_longest_text(root) -> None:
    split = MOSIUtterances(root, split="official").splits()["train"]
    file = stored(root)
    lengths = np.array(of(split, file, "token_len"))
    shortest = int(lengths.argmin())
    (text,) = split.__getitems__([shortest]).inputs["text"]
    length = int(lengths[shortest])
    assert text.shape == (2, length)
    assert text[1].tolist() == list(range(1, length + 1))
    assert text[0].tolist() == of(split, file, "token_ids")[shortest][:length]
    longer = split.__getitems__([shortest, int(lengths.argmax())]).inputs["text"]
    assert longer.shape == (2, 2, lengths.max())
    assert not longer[0, :, length:].any()


def test_the_tasks(root) -> None:
    file = stored(root)
    for task, expected in (
        ("regression", file["label"]),
        ("binary", file["label2"]),
        ("seven", file["label7"].astype(int) + 3),
    ):
        data = MOSIUtterances(root, task=task)
        targets = data.splits()["test"].targets
        assert targets.tolist() == expected[data.splits()["test"].rows].tolist()
        assert targets.dtype == (np.float32 if task == "regression" else np.int64)
    assert MOSIUtterances(root).task == Sentiment(-3.0, 3.0, "mosi")
    assert MOSIUtterances(root, task="seven").task == Classification(("-3", "-2", "-1", "0", "1", "2", "3"))


def test_details(root) -> None:
    assert MOSIUtterances(root).details() == {
        "variant": "poria",
        "features": ["text", "audio", "vision"],
        "validation_from": "held_out",
        "validation_share": 0.2,
        "split_seed": 0,
        "synthetic": True,
    }
    assert MOSIUtterances(root, split="official", task="seven").details()["variant"] == "official, words, seven"
    flattered = MOSIUtterances(root, validation_from="train").details()["variant"]
    assert flattered == "poria, validated on training videos"


def test_the_twin_can_be_learnt(root) -> None:
    data = MOSIUtterances(root)
    splits = data.splits()
    for modality in data.modalities:
        seen = data.transforms()[modality.name](torch.from_numpy(splits["train"].arrays[modality.name]), None)
        scores = seen.mean(dim=1)[splits["test"].rows]
        assert np.corrcoef(scores.numpy(), splits["test"].targets)[0, 1] > 0.9


def test_prepare_says_that_a_twin_is_not_the_published_set(mmlab) -> None:
    out = mmlab("prepare MOSIUtterances --root twin --synthetic")
    assert out.count("not the published file") == 1
    assert "not empty" in mmlab("prepare MOSIUtterances --root twin --synthetic", code=2)


def test_absent_data(monkeypatch) -> None:
    monkeypatch.setenv("MMLAB_DATA", "nothing")
    with pytest.raises(UserError, match=r"There is no nothing/mosi/mosi\.npz.*MMLAB_DATA"):
        MOSIUtterances().splits()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"audio": np.zeros((95, 73), np.float32)}, "96 labels but 95 rows of 'audio'"),
        ({"vision": np.full((96, 100), np.nan, np.float32)}, "values that can't be in 'vision'"),
        ({"label": np.full(96, 3.5, np.float32)}, "values that can't be in 'label'"),
        ({"token_ids": np.full((96, 50), -1, np.int16)}, "values that can't be in 'token_ids'"),
        ({"text": np.zeros((96, 99), np.float32)}, r"float32 \(any, 100\) is expected"),
        ({"split_poria": np.full(96, "train")}, "leaves the test part of 'split_poria' empty"),
        ({"video_id": np.full(96, "one")}, "leaves the validation part of 'split_poria' empty"),
    ],
)
def test_a_file_that_contradicts_itself(tmp_path, change, says) -> None:
    data = MOSIUtterances(str(tmp_path))
    data.write_synthetic()
    write_npz(tmp_path / "mosi.npz", stored(str(tmp_path)) | change)
    with pytest.raises(UserError, match=says):
        data.splits()


@pytest.fixture
def real() -> str:
    if not DATA.is_dir():
        pytest.skip(f"the real data are absent: there is no {DATA}; set MMLAB_DATA to the folder that holds mosi/")
    return str(DATA)


def test_the_published_splits_and_their_leak(real) -> None:
    poria, official = (
        MOSIUtterances(real, validation_from="train").splits(),
        MOSIUtterances(real, split="official").splits(),
    )
    honest = MOSIUtterances(real).splits()
    assert len(honest["train"]) == 1447
    assert len(honest["val"]) + len(honest["test"]) == 752
    assert 100 < len(honest["val"]) < 200
    assert set(honest["val"].ids) < set(poria["test"].ids)
    assert {name: len(split) for name, split in official.items()} == {"train": 1284, "val": 229, "test": 686}
    assert len(poria["train"]) + len(poria["val"]) == 1447
    assert len(poria["test"]) == 752
    assert 200 < len(poria["val"]) < 400
    file = stored(real)
    videos = [set(of(split, file, "video_id")) for split in poria.values()]
    assert [len(each) for each in videos] == [50, 12, 31]
    assert len(set.union(*videos)) == 93
    assert len(set(official["test"].ids) & {*poria["train"].ids, *poria["val"].ids}) == 558


def test_the_published_file_and_its_classes(real, mmlab) -> None:
    assert "the published file" in mmlab(f"prepare MOSIUtterances --root {real}")
    file = stored(real)
    for task, column, offset in (("binary", "label2", 0), ("seven", "label7", 3)):
        for split in MOSIUtterances(real, task=task).splits().values():
            assert (split.targets - offset).tolist() == of(split, file, column)


@pytest.mark.parametrize(("name", "flattered", "honest"), [("text", 0.995, 0.75), ("vision", 0.93, 0.51)])
def test_the_published_validation_part_flatters_as_documented(real, name, flattered, honest) -> None:
    data = MOSIUtterances(real, validation_from="train")
    splits = data.splits()
    columns = data.transforms()[name](torch.from_numpy(splits["train"].arrays[name]), None).double()
    columns = torch.cat([columns, torch.ones(len(columns), 1)], dim=1)
    seen = columns[splits["train"].rows]
    # Ridge regression: some columns hardly change.
    fitted = torch.linalg.solve(
        seen.T @ seen + 10 * torch.eye(columns.shape[1]).double(),
        seen.T @ torch.from_numpy(splits["train"].targets).double(),
    )
    for part, share in (("val", flattered), ("test", honest)):
        right = ((columns[splits[part].rows] @ fitted >= 0).numpy() == (splits[part].targets >= 0)).mean()
        assert right == pytest.approx(share, abs=0.005)
