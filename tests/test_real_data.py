"""The small real sets: the published files, the published splits, and a fit that learns from them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from mmlab.data.avdigits import AVDigits
from mmlab.data.grid_letters import GRIDLetters
from mmlab.data.grid_words import GRIDWords
from mmlab.data.ldraw_parts import LDrawParts
from mmlab.data.npz import NpzDataset
from mmlab.data.pothole import Pothole

DATA = Path(os.environ.get("MMLAB_DATA", "../shared/data")).resolve()


@pytest.fixture(autouse=True)
def _data(monkeypatch: pytest.MonkeyPatch) -> None:
    if not DATA.is_dir():
        pytest.skip(f"the real data are absent: {DATA} is no folder; set MMLAB_DATA to the one that holds them")
    monkeypatch.setenv("MMLAB_DATA", str(DATA))


@pytest.mark.parametrize(
    ("dataset", "sizes"),
    [
        (AVDigits(variant="hard"), {"train": 2400, "val": 300, "test": 300}),
        (AVDigits(protocol="official"), {"train": 2700, "val": 300, "test": 300}),
        (AVDigits(extended_test=True), {"train": 2400, "val": 300, "test": 3000}),
        (AVDigits(unseen_speaker="theo"), {"train": 2000, "val": 250, "test": 50}),
        (GRIDLetters(), {"train": 695, "val": 99, "test": 200}),
        (GRIDWords(), {"train": 695, "val": 99, "test": 200}),
        (LDrawParts(), {"train": 956, "val": 148, "test": 369}),
        (LDrawParts(rear="depth", protocol="official"), {"train": 1104, "val": 369, "test": 369}),
        (Pothole(), {"train": 35, "val": 9, "test": 23}),
        (Pothole(task="patches"), {"train": 520, "val": 131, "test": 398}),
    ],
    ids=[
        *("hard", "official", "extended", "unseen speaker", "letters", "words", "parts", "parts by depth, official"),
        *("potholes", "patches"),
    ],
)
def test_the_splits_have_their_published_sizes(dataset: NpzDataset, sizes: dict[str, int]) -> None:
    assert {name: len(split) for name, split in dataset.splits().items()} == sizes


@pytest.mark.parametrize("name", ["AVDigits", "GRIDLetters", "GRIDWords", "LDrawParts", "Pothole"])
def test_the_files_are_the_published_ones(mmlab, name: str) -> None:
    out = mmlab(f"prepare {name}")
    assert out.count("the published file") == out.count(".npz")
    assert "differs" not in out


@pytest.mark.parametrize(
    "dataset",
    [GRIDWords(), LDrawParts(), LDrawParts(rear="depth"), Pothole(size=(144, 240)), Pothole(task="patches")],
    ids=["words", "parts", "parts by depth", "potholes", "patches"],
)
def test_normalised_training_data_have_mean_0_and_std_1(dataset: NpzDataset) -> None:
    split = dataset.splits()["train"]
    transforms = dataset.transforms()
    for name, array in split.arrays.items():
        normal = transforms[name](torch.from_numpy(array), None).transpose(0, 1).flatten(1)
        # Without the mirror images the mean of the flow's x is not quite 0.
        assert normal.mean(dim=1).abs().max() < 0.06
        torch.testing.assert_close(normal.std(dim=1), torch.ones(len(normal)), rtol=0, atol=0.01)


def test_no_two_parts_show_a_frame_of_the_same_road() -> None:
    for task in ("segmentation", "patches"):
        splits = Pothole(task=task).splits()  # type: ignore[arg-type]
        frames = [{tuple(name.split("/")[:2]) for name in split.ids} for split in splits.values()]
        assert sum(map(len, frames)) == len(set().union(*frames)) == 67


def test_a_fit_of_two_epochs_learns(mmlab) -> None:
    mmlab(
        "fit --model MNL --data.dataset AVDigits --data.dataset.variant hard --model.backbone.width 8 --wandb.mode off "
        "--trainer.accelerator cpu --trainer.max_epochs 2 --trainer.enable_progress_bar false --run_dir run"
    )
    result = json.loads(Path("run/result.json").read_text())
    assert result["dataset_details"]["variant"] == "hard"
    assert result["test"]["acc"] > 0.5  # chance is 0.1
    assert result["test"]["acc_image"] > 0.3
