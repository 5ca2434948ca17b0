"""Every published setting says what it is, and fits on its data set's synthetic twin."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "experiments").glob("*.yaml"))
BY_NAME = pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
# On what a family of methods was published, and on the small real sets.
BALANCED = ("Keypad", "AVDigits", "GRIDLetters", "GRIDWords", "LDrawParts", "KineticsSounds")
DYNAMIC = ("AVDigits", "GRIDLetters", "CREMAD", "MVSASingle", "Food101", "NYUScenes")
SMALL_SETS = ("AVDigits", "GRIDLetters", "GRIDWords", "LDrawParts")
FLOW_AND_VIEWS = ("UCF101", "ModelNet40")
SENSORS = ("USCHAD", "MHAD")
INCOMPLETE = ("AVDigits", "GRIDLetters", "Pothole", "CASIASURF", "CeFA", "NYUv2", "Cityscapes")
SENTIMENT = ("MOSI", "MOSEI", "SIMS", "SIMSv2", "MOSIUtterances", "Moods")
SMALL_SENTIMENT = ("MOSIUtterances", "Moods")
WANTED = {
    "Unimodal": (*BALANCED, *SMALL_SENTIMENT),
    "JointTraining": (*BALANCED, *FLOW_AND_VIEWS, *SENSORS, *SMALL_SENTIMENT, "AVE", "VGGSound"),
    "LateFusion": (
        *(*BALANCED, *DYNAMIC, *FLOW_AND_VIEWS, *SENSORS, *SMALL_SENTIMENT),
        *("AVE", "VGGSound", "MovingShapes", "Solids"),
    ),
    "MNL": (*BALANCED, *DYNAMIC, "MOSIUtterances"),
    **dict.fromkeys(("QMF", "PDF"), (*DYNAMIC, "GRIDWords", "LDrawParts")),
    "DIMML": (*SMALL_SETS, *FLOW_AND_VIEWS, "CREMAD", "AVE", "MovingShapes", "Solids"),
    "ERLMR": (*SMALL_SETS, *FLOW_AND_VIEWS, *SENSORS),
    "OGMGE": (*SMALL_SETS, *FLOW_AND_VIEWS, *SENSORS, "CREMAD", "KineticsSounds", "AVE", "VGGSound"),
    "UDML": (*SMALL_SETS, "CREMAD", "KineticsSounds"),
    "ModalityDropout": (*INCOMPLETE, "Rooms"),
    "MMANet": (*INCOMPLETE, "Rooms", "CREMAD", "KineticsSounds"),
    **dict.fromkeys(("DMRNet", "OMD"), (*INCOMPLETE, "CREMAD", "KineticsSounds")),
    **dict.fromkeys(("Distillation", "Dedicated"), ("AVDigits", "GRIDLetters", "Pothole")),
    **dict.fromkeys(("SelfMM", "SelfMI"), SENTIMENT),
    **dict.fromkeys(("LFDNN", "TFN", "LMF", "MulT"), ("MOSI", *SMALL_SENTIMENT)),
}
QUICK = (
    "--data.workers 0 --data.batch_size 16 --trainer.max_epochs 1 --trainer.limit_train_batches 2 "
    "--trainer.accelerator cpu --trainer.enable_progress_bar false --wandb.mode off --run_dir run "
)


def dataset_of(file: Path) -> str:
    return yaml.safe_load(file.read_text())["data"]["dataset"]["class_path"]


def test_there_is_a_setting_of_each_method_for_each_data_set() -> None:
    settings = {(yaml.safe_load(file.read_text())["model"]["class_path"], dataset_of(file)) for file in FILES}
    assert settings >= {(method, dataset) for method, datasets in WANTED.items() for dataset in datasets}


@BY_NAME
def test_the_header(file: Path) -> None:
    header = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        header.append(line)
    assert re.fullmatch(r"# [A-Z].{20,}\.", header[0])
    assert header[1] == "#"
    fields = {line[2:].split(":")[0] for line in header[2:] if re.match(r"# \w+: ", line)}
    assert {"needs", "command", "expected"} <= fields
    assert f"# command:   mmlab fit --config experiments/{file.name}" in header
    assert all(len(line) <= 150 for line in header[1:])


@BY_NAME
@pytest.mark.xdist_group("experiments")
def test_it_fits(mmlab, twin, file: Path) -> None:
    small = "--model.backbone small_conv --model.backbone.width 4"
    if dataset_of(file) in SENTIMENT:  # whose networks are small as they are; Self-MM makes a step of four batches
        small = "--data.batch_size 4 --trainer.limit_train_batches 4"
    mmlab(f"fit --config {file} {twin(dataset_of(file))} {QUICK} {small}")
    result = json.loads(Path("run/result.json").read_text())
    written, used = yaml.safe_load(file.read_text()), yaml.safe_load(Path("run/config.yaml").read_text())
    assert result["method"] == written["model"]["class_path"]
    assert result["dataset"] == dataset_of(file)
    assert result["protocol"] == "honest"
    assert 0 <= result["test"][result["monitor"].removeprefix("val/")] <= (6 if "MAE" in result["monitor"] else 1)
    # What the file sets and no flag overrides is what was run.
    for key, value in written["model"].get("init_args", {}).items():
        if key not in ("backbone", "backbones", "optimizer", "scheduler"):
            assert used["model"]["init_args"][key] == value
    for key, value in written["model"].get("init_args", {}).get("optimizer", {}).get("init_args", {}).items():
        assert used["model"]["init_args"]["optimizer"]["init_args"][key] == value
    assert used["patience"] == written.get("patience", 0)


@pytest.mark.xdist_group("experiments")
def test_mnl_kinetics_fits_with_its_own_backbone(mmlab, twin) -> None:
    file = ROOT / "experiments" / "mnl_kinetics.yaml"
    fewer = "--data.batch_size 2 --trainer.limit_train_batches 1 --trainer.limit_val_batches 1 --test false"
    mmlab(f"fit --config {file} {twin(dataset_of(file))} {QUICK} {fewer}")
    used = yaml.safe_load(Path("run/config.yaml").read_text())
    assert used["model"]["init_args"]["backbone"] == "resnet18"
    result = json.loads(Path("run/result.json").read_text())
    assert result["dataset_details"]["synthetic"] is True
    assert 22e6 < result["parameters"] < 23e6  # two ResNet-18 of 11.2 million each
