"""Regression and segmentation go through the same base, data module and command as classification."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

from mmlab.types import Classification, DataSpec, Modality, Regression, Segmentation

FLAGS = "--data.batch_size 16 --model.backbone.width 4 --wandb.mode off --trainer.accelerator cpu "
FLAGS += "--trainer.enable_progress_bar false --run_dir run"


@pytest.mark.parametrize("task", [Classification(("a", "b")), Segmentation(("a", "b"), 7), Regression(-1.0, 1.0)])
def test_every_task_survives_plain_data(task) -> None:
    spec = DataSpec("Toy", (Modality("image", "image", (1, 8, 8)),), task, 3)
    plain = json.loads(json.dumps(spec.to_dict()))
    assert DataSpec.from_dict(plain) == spec


def test_segmentation_counts_labelled_pixels_only() -> None:
    task = Segmentation(("a", "b"))
    logits, target = torch.randn(2, 2, 2, 2), torch.tensor([[[0, 255], [1, 255]], [[255, 255], [255, 255]]])
    one = torch.nn.functional.cross_entropy(logits[0, :, :, 0].T, target[0, :, 0])
    torch.testing.assert_close(task.criterion(logits, target), torch.stack([one, torch.tensor(0.0)]))


def test_regression_by_late_fusion(mmlab) -> None:
    mmlab(f"fit --model LateFusion --data.dataset own_datasets.Brightness --trainer.max_epochs 20 {FLAGS}")
    result = json.loads(Path("run/result.json").read_text())
    assert result["monitor"] == "val/mae"
    assert result["test"]["mae"] < 0.6  # a constant is off by about 1
    assert result["test"]["corr"] > 0.8
    assert {"train/l1_fused", "val/mae_front"} <= set(Path("run/metrics.csv").read_text().splitlines()[0].split(","))
    mmlab("predict --run run")
    rows = list(csv.DictReader(Path("run/predictions.csv").read_text().splitlines()))
    error = sum(abs(float(row["target"]) - float(row["prediction"])) for row in rows) / len(rows)
    assert error == pytest.approx(result["test"]["mae"], abs=1e-4)
    assert "mae, 17 samples" in mmlab("compare run")


def test_segmentation_by_a_method_of_ones_own(mmlab) -> None:
    mmlab(f"fit --model own_datasets.EachPixel --data.dataset own_datasets.Halves --trainer.max_epochs 12 {FLAGS}")
    result = json.loads(Path("run/result.json").read_text())
    assert result["monitor"] == "val/miou"
    assert result["test"]["miou"] > 0.85
    assert "--pictures 8" in mmlab("predict --run run", code=2)


def test_pictures_of_a_segmentation(mmlab) -> None:
    mmlab(f"fit --model own_datasets.EachPixel --data.dataset own_datasets.Halves --trainer.max_epochs 1 {FLAGS}")
    mmlab("predict --run run --pictures 3")
    pictures = sorted(Path("run/pictures").iterdir())
    assert [picture.name for picture in pictures] == ["00000-test0.png", "00008-test8.png", "00016-test16.png"]
    # Two inputs, the truth, and a decision for front, rear and both.
    pixels = plt.imread(pictures[0])
    assert pixels.shape[1] > 5.5 * pixels.shape[0] / 3 * 2.6
    mmlab("predict --run run --pictures 99 --split val --out elsewhere")
    assert len(list(Path("elsewhere").iterdir())) == 16
    assert "1 or more" in mmlab("predict --run run --pictures 0", code=2)
    assert "no whole number" in mmlab("predict --run run --pictures some", code=2)


def test_pictures_are_of_pixels(mmlab) -> None:
    mmlab(f"fit --model LateFusion --data.dataset own_datasets.Brightness --trainer.max_epochs 1 {FLAGS}")
    assert "one decision a sample" in mmlab("predict --run run --pictures 2", code=2)


@pytest.mark.parametrize(("method", "dataset"), [("MNL", "Brightness"), ("LateFusion", "Halves")])
def test_a_method_refuses_a_task_that_it_is_not_defined_for(mmlab, method: str, dataset: str) -> None:
    err = mmlab(f"fit --model {method} --data.dataset own_datasets.{dataset} {FLAGS}", code=2)
    assert err.startswith(f"mmlab: error: {method} is defined for classification")
