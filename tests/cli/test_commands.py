"""From fit to the table of predictions, by the real command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from mmlab.backbones.config import BackboneConfig

SCORES = {f"{metric}{which}" for metric in ("acc", "f1") for which in ("", "_audio", "_image")}
MARGINS = {
    *("margin", "radius", "radius_clipped", "radius_min"),
    *(f"{key}_{name}" for key in ("ucom", "ucom_positive", "tau", "radius") for name in ("audio", "image")),
}


def result(run: str | Path) -> dict:
    return json.loads((Path(run) / "result.json").read_text())


def config(run: str | Path) -> dict:
    return yaml.safe_load((Path(run) / "config.yaml").read_text())


def rows(file: str | Path) -> list[dict[str, str]]:
    with open(file, newline="") as text:
        return list(csv.DictReader(text))


def test_the_files_of_a_run(finished: Path) -> None:
    files = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    checkpoints = {f"checkpoints/{name}" for name in ("best.ckpt", "last.ckpt", "finished.json")}
    assert files == {"config.yaml", "metrics.csv", "result.json", "curves.png", *checkpoints}
    with Image.open(finished / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.width >= 800
        assert picture.height >= 300
        assert len(picture.convert("RGB").getcolors(2**24)) > 10
    assert not {"config", "run_dir"} & config(finished).keys()
    assert config(finished)["model"]["class_path"] == "mmlab.methods.mnl.MNL"


def test_the_columns_of_metrics_csv(finished: Path) -> None:
    first, second = rows(finished / "metrics.csv")
    losses = {"loss", "ce_fused", "ce_audio", "ce_image", "guidance", "extra_target_ce"}
    assert first.keys() == {
        *("stage", "epoch", "step", "lr", "val/loss"),
        *(f"train/{name}" for name in losses),
        *(f"val/{name}" for name in SCORES | MARGINS),
    }
    assert [(row["stage"], row["epoch"], row["step"]) for row in (first, second)] == [
        ("fit", "1", "5"),
        ("fit", "2", "11"),
    ]
    assert all(cell != "" for row in (first, second) for cell in row.values())
    assert float(second["train/loss"]) < float(first["train/loss"])


def test_the_content_of_result_json(finished: Path) -> None:
    content = result(finished)
    assert content["method"] == "MNL"
    assert content["dataset"] == "Keypad"
    assert (content["protocol"], content["selected_on"], content["monitor"]) == ("honest", "validation", "val/acc")
    assert content["seed"] == 0
    assert content["modalities"] == ["audio", "image"]
    assert {name: part["samples"] for name, part in content["splits"].items()} == {"train": 96, "val": 36, "test": 37}
    assert len({part["sha256"] for part in content["splits"].values()}) == 3
    assert all(len(part["sha256"]) == 64 for part in content["splits"].values())
    assert content["val"].keys() == content["test"].keys() == SCORES | MARGINS | {"loss"}
    curve = [float(row["val/acc"]) for row in rows(finished / "metrics.csv")]
    assert content["val"]["acc"] == pytest.approx(max(curve), abs=1e-5)
    assert content["best_epoch"] == 1 + curve.index(max(curve))
    assert content["epochs"] == 2
    assert content["wall_s"] > 0
    assert content["samples_per_s"] > 0
    assert content["peak_memory_mib"] > 50
    assert content["parameters"] == 29648
    assert content["devices"] == 1
    assert {"mmlab", "python", "torch", "lightning", "torchmetrics"} <= content["versions"].keys()
    assert {"commit", "hardware", "precision", "dataset_details", "stages", "finished"} <= content.keys()
    assert content["commit"] is None or len(content["commit"].removesuffix("+changes")) == 40


def test_the_config_of_a_run_gives_the_same_run(mmlab, finished: Path) -> None:
    mmlab(f"fit --config {finished}/config.yaml --run_dir again")
    assert Path("again/metrics.csv").read_text() == (finished / "metrics.csv").read_text()
    assert Path("again/config.yaml").read_text() == (finished / "config.yaml").read_text()
    first, again = result(finished), result("again")
    assert (again["val"], again["test"], again["splits"]) == (first["val"], first["test"], first["splits"])


def test_another_seed_is_another_run(mmlab, finished: Path) -> None:
    mmlab(f"fit --config {finished}/config.yaml --seed 1 --run_dir other --trainer.max_epochs 1")
    assert result("other")["seed"] == 1
    assert rows("other/metrics.csv")[0]["train/loss"] != rows(finished / "metrics.csv")[0]["train/loss"]


def test_validate_and_test_repeat_the_numbers_of_the_run(mmlab, finished: Path) -> None:
    for command, split in (("validate", "val"), ("test", "test")):
        out = mmlab(f"{command} --run {finished}")
        expected = result(finished)[split]
        assert f"acc {expected['acc']:.4f}" in out
        assert json.loads((finished / f"{command}.json").read_text()) == expected
        (finished / f"{command}.json").unlink()


@pytest.mark.parametrize("split", ["test", "val"])
def test_the_table_of_predictions(mmlab, finished: Path, split: str) -> None:
    mmlab(f"predict --run {finished} --out table.csv" + (f" --split {split}" if split != "test" else ""))
    table = rows("table.csv")
    keys = list("123456789*0#")
    weights = ["weight_audio", "weight_image"]
    own = ["prediction_audio", "prediction_image"]
    assert list(table[0]) == ["id", "target", "prediction", *(f"p_{key}" for key in keys), *own, *weights]
    samples = {"test": 37, "val": 36}[split]
    assert [row["id"] for row in table] == [f"{split}-{number:05d}" for number in range(samples)]
    assert [row["target"] for row in table] == [keys[number % 12] for number in range(samples)]
    for row in table:
        shares = {key: float(row[f"p_{key}"]) for key in keys}
        assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
        assert row["prediction"] == max(shares, key=shares.__getitem__)
        assert [row[name] for name in weights] == ["0.5", "0.5"]
    for column, metric in (("prediction", "acc"), ("prediction_audio", "acc_audio"), ("prediction_image", "acc_image")):
        accuracy = sum(row["target"] == row[column] for row in table) / samples
        assert accuracy == pytest.approx(result(finished)[split][metric], abs=1e-6)


def test_the_test_can_be_left_for_later(mmlab, finished: Path) -> None:
    mmlab(f"fit --config {finished}/config.yaml --run_dir untested --test false")
    assert "test" not in result("untested")
    assert result("untested")["val"] == result(finished)["val"]
    mmlab("test --run untested")
    assert json.loads(Path("untested/test.json").read_text()) == result(finished)["test"]


def test_fast_dev_run_keeps_nothing(mmlab, tiny: str) -> None:
    out = mmlab(f"fit --model MNL {tiny} --run_dir tried --trainer.fast_dev_run true")
    assert "nothing was kept" in out
    assert not list(Path().iterdir())


def test_without_a_name_a_run_gets_a_folder_of_its_own(mmlab, tiny: str) -> None:
    line = f"fit --model MNL {tiny} --wandb.mode off --trainer.max_epochs 1 --seed 3"
    out = mmlab(line)
    (folder,) = Path("runs/mnl_keypad").iterdir()
    assert folder.name.startswith("seed3-")
    assert f"run: {folder}" in out.splitlines()


def test_overriding_one_backbone_leaves_the_others(mmlab, tiny: str) -> None:
    Path("one.yaml").write_text(
        "model:\n  class_path: MNL\n  init_args:\n    backbones:\n      audio:\n        width: 8\n      image:\n"
        "        width: 16\n"
    )
    line = f"fit --config one.yaml {tiny} --wandb.mode off --trainer.max_epochs 1 --test false"
    mmlab(f"{line} --run_dir both")
    mmlab(f"{line} --run_dir changed --model.backbones.image.width 12")
    assert config("both")["model"]["init_args"]["backbones"]["image"]["width"] == 16
    backbones = config("changed")["model"]["init_args"]["backbones"]
    assert (backbones["audio"]["width"], backbones["image"]["width"]) == (8, 12)
    assert config("changed")["model"]["init_args"]["backbone"]["width"] == 4
    assert result("changed")["parameters"] < result("both")["parameters"]


def test_fields_refine_backbones_that_are_named_after_others(mmlab, capsys: pytest.CaptureFixture[str]) -> None:
    line = (
        "fit --model MNL --data.dataset Keypad --model.backbone.width 4 "
        "--model.backbones.image resnet10t --model.backbones.image.pretrained false --print_config"
    )
    with pytest.raises(SystemExit) as end:
        mmlab(line)
    assert end.value.code == 0
    options = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert BackboneConfig(**options["backbone"]) == BackboneConfig("small_conv", width=4)
    assert options["backbones"]["image"]["name"] == "resnet10t"
    assert options["backbones"]["audio"] is None


def test_several_config_files_are_merged_and_flags_win(mmlab, tiny: str) -> None:
    Path("method.yaml").write_text("model:\n  class_path: MNL\n  init_args:\n    lam: 0.3\n    variant: paper\n")
    Path("more.yaml").write_text("model:\n  class_path: MNL\n  init_args:\n    lam: 0.4\nseed: 7\npatience: 3\n")
    mmlab(
        f"fit --config method.yaml --config more.yaml {tiny} --patience 2 --wandb.mode off --run_dir run "
        "--trainer.max_epochs 1"
    )
    options = config("run")["model"]["init_args"]
    assert (options["lam"], options["variant"]) == (0.4, "paper")
    assert (config("run")["seed"], config("run")["patience"]) == (7, 2)
    assert result("run")["seed"] == 7


def test_patience_ends_a_fit(mmlab, tiny: str) -> None:
    mmlab(
        f"fit --model MNL {tiny} --wandb.mode off --run_dir run --patience 1 --trainer.max_epochs 8 "
        "--model.optimizer SGD --model.optimizer.lr 0"
    )
    assert result("run")["epochs"] == 2
    assert result("run")["best_epoch"] == 1


@pytest.mark.parametrize("modality", ["audio", "image"])
def test_unimodal(mmlab, tiny: str, modality: str) -> None:
    mmlab(
        f"fit --model Unimodal --model.modality {modality} {tiny} --wandb.mode off --run_dir run --trainer.max_epochs 1"
    )
    test = result("run")["test"]
    assert test.keys() == {"loss", "acc", "f1", f"acc_{modality}", f"f1_{modality}"}
    assert test["acc"] == test[f"acc_{modality}"]
    mmlab("predict --run run")
    assert "weight_audio" not in rows("run/predictions.csv")[0]


@pytest.mark.parametrize("fusion", ["concat", "sum", "film", "gated"])
def test_joint_training(mmlab, tiny: str, fusion: str) -> None:
    mmlab(
        f"fit --model JointTraining --model.fusion {fusion} {tiny} --wandb.mode off --run_dir run "
        "--trainer.max_epochs 2"
    )
    own = {f"{metric}_{name}" for metric in ("acc", "f1") for name in ("audio", "image")}
    # The logits of concat and sum are a sum of the modalities' parts.
    assert result("run")["test"].keys() == {"loss", "acc", "f1"} | (own if fusion in ("concat", "sum") else set())
    first, second = rows("run/metrics.csv")
    assert float(second["train/loss"]) < float(first["train/loss"])


def test_the_official_protocol_is_in_the_result(mmlab) -> None:
    mmlab("prepare AVDigits --root twin --synthetic")
    line = (
        "fit --model MNL --data.dataset AVDigits --data.dataset.root twin --model.backbone.width 4 --wandb.mode off "
        "--trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.max_epochs 1 "
    )
    out = mmlab(f"{line} --data.dataset.protocol official --run_dir official")
    assert "selected on the test split" in out
    official = result("official")
    assert (official["protocol"], official["selected_on"]) == ("official", "test")
    assert official["splits"]["val"] == official["splits"]["test"]
    assert official["splits"]["train"]["samples"] == 120
    assert official["val"] == official["test"]
    assert "selected on the test split" not in mmlab(f"{line} --run_dir honest")
    assert result("honest")["splits"]["train"]["samples"] == 60
    assert "protocol official" in mmlab("compare official")
