"""``mmlab diagnose`` and ``mmlab compare --diagnosis``."""

from __future__ import annotations

import builtins
import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from mmlab.cli.main import main
from tests.conftest import KEYPAD
from tests.runs.test_wandb import _read, _records_of

OFF = "--wandb.mode off --trainer.max_epochs 1 --test false"


def diagnosis(run: str) -> dict[str, Any]:
    return json.loads(Path(run, "diagnosis.json").read_text())


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("diagnose") / "late"
    assert main(f"fit --model LateFusion {KEYPAD} {OFF} --run_dir {folder}".split()) == 0
    return folder


@pytest.fixture
def run(mmlab, fitted) -> str:
    """The name of a run in the empty folder that each test begins in."""
    shutil.copytree(fitted, "late")
    return "late"


def test_what_it_writes_and_prints(mmlab, run) -> None:
    out = mmlab(f"diagnose --run {run} --features true")
    found = diagnosis(run)
    assert found["method"] == "LateFusion"
    assert found["split"] == "test"
    assert found["splits"]["test"]["samples"] == 37
    assert found["config"]["seed"] == 0
    assert found["not_defined"] == []
    pictures = {"confusion.png", "reliability.png", "modalities.png", "features.png"}
    assert pictures <= {path.name for path in Path(run).iterdir()}
    with Path(run, "confusion.csv").open() as file:
        titles, *rows = csv.reader(file)
    assert titles[0] == "true"
    assert [row[0] for row in rows] == titles[1:]
    assert sum(int(cell) for row in rows for cell in row[1:]) == 37
    right = sum(int(row[number]) for number, row in enumerate(rows, start=1))
    assert right / 37 == pytest.approx(found["fused"])
    lines = out.splitlines()
    assert lines[0] == "run 1 of 1: late"
    assert lines[1].startswith(f"test: acc {found['fused']:.4f}  ECE {found['ece']['fused']:.4f}  acc without any")
    assert lines[3].split() == [
        "audio",
        *(f"{found[key]['audio']:.4f}" for key in ("own_head", "probe", "shapley", "logit_share", "ece")),
    ]
    assert lines[-1] == "results: late/diagnosis.json"


def test_its_numbers_are_those_of_mmlab_test(mmlab, run) -> None:
    mmlab(f"diagnose --run {run}")
    mmlab(f"test --run {run}")
    found, tested = diagnosis(run), json.loads(Path(run, "test.json").read_text())
    assert found["fused"] == pytest.approx(tested["acc"], abs=1e-6)
    for name in ("audio", "image"):
        assert found["own_head"][name] == pytest.approx(tested[f"acc_{name}"], abs=1e-6)
    margins = {key: value for key, value in tested.items() if key.startswith(("margin", "radius", "ucom", "tau"))}
    assert margins
    assert found["margins"] == pytest.approx(margins, abs=1e-5)
    mmlab(f"test --run {run} --combinations true")
    tested = json.loads(Path(run, "test.json").read_text())
    for name in ("audio", "image"):
        assert found["subsets"][name] == pytest.approx(tested[f"acc_{name}"], abs=1e-6)


def test_a_finished_one_is_done_again_only_where_something_differs(mmlab, run) -> None:
    def skips(flags: str = "") -> bool:
        return "diagnosed already" in mmlab(f"diagnose --run {run} {flags}")

    assert not skips()
    assert skips()
    assert not skips("--again true --split=val")
    assert diagnosis(run)["split"] == "val"
    assert not skips("--data.dataset.image_snr 5")
    assert skips("--data.dataset.image_snr 5")
    assert not skips("--data.dataset.image_snr 5 --features true")
    assert skips("--data.dataset.image_snr 5 --features true")
    checkpoint = torch.load("late/checkpoints/best.ckpt", weights_only=True)
    checkpoint["state_dict"]["fusion.heads.0.bias"] += 1.0
    torch.save(checkpoint, "late/checkpoints/best.ckpt")
    assert Path("late/features.png").exists()
    assert not skips("--data.dataset.image_snr 5")
    assert not Path("late/features.png").exists()  # it was of the other checkpoint


@pytest.mark.parametrize("content", ["", "[]", '{"split": "test"'])
def test_a_damaged_file_is_written_anew(mmlab, run, content) -> None:
    Path(run, "diagnosis.json").write_text(content)
    assert "results: late/diagnosis.json" in mmlab(f"diagnose --run {run}")
    assert diagnosis(run)["fused"] >= 0


def test_several_runs_of_which_some_can_t_be(mmlab, run) -> None:
    pixels = "--data.dataset own_datasets.Halves --data.batch_size 16 --trainer.accelerator cpu"
    mmlab(f"fit --model own_datasets.EachPixel {pixels} {OFF} --trainer.enable_progress_bar false --run_dir pixels")
    told = mmlab(f"diagnose --run pixels {run}", code=2)
    first, last = told.splitlines()
    assert "`mmlab diagnose` is for one decision a sample, but Halves asks for a class of each pixel" in first
    assert last == "mmlab: error: 1 of 2 runs could not be diagnosed, see above."
    assert diagnosis(run)["fused"] >= 0
    assert "class of each pixel" in mmlab("diagnose --run pixels", code=2)


def test_a_number(mmlab) -> None:
    dark = "--data.dataset own_datasets.PartlyDark --data.batch_size 16 --trainer.accelerator cpu"
    mmlab(f"fit --model LateFusion {dark} {OFF} --trainer.enable_progress_bar false --run_dir run")
    out = mmlab("diagnose --run run --features true")
    assert "not defined: share of logits, calibration, confusions: the task asks for a number" in out
    assert not Path("run/confusion.csv").exists()
    assert not Path("run/reliability.png").exists()
    assert Path("run/features.png").exists()
    assert "| LateFusion | 1 |" in mmlab("compare . --diagnosis")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("", "`mmlab diagnose` needs the run to work on"),
        ("--run {run} --split tets", "--split tets: there is no such split; they are train, val, test."),
        ("--run {run} --again maybe", "--again is 'maybe'; write true or false."),
        ("--run {run} --featrues true", "there is no option --featrues (did you mean 'features'?)"),
        ("--run nowhere", "nowhere is not a run"),
    ],
)
def test_mistakes(mmlab, run, flags, sentence) -> None:
    assert sentence in mmlab(f"diagnose {flags.format(run=run)}", code=2)


def test_without_scikit_learn(mmlab, run, monkeypatch) -> None:
    real = builtins.__import__

    def absent(name, *rest, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    told = mmlab(f"diagnose --run {run} --features true", code=2)
    assert "needs scikit-learn, which is not installed: pip install 'mmlab[features]'" in told
    assert not Path(run, "diagnosis.json").exists()


@pytest.mark.slow
def test_its_numbers_and_pictures_join_the_run_s_record(mmlab, tiny) -> None:
    mmlab(f"fit --model MNL {tiny} --trainer.max_epochs 1 --test false --run_dir run")
    mmlab("diagnose --run run")
    content = _read(_records_of("run")[-1])
    found = diagnosis("run")
    for name, value in {
        "diagnosis/shapley_audio": found["shapley"]["audio"],
        "diagnosis/probe_image": found["probe"]["image"],
        "diagnosis/own_head_audio": found["own_head"]["audio"],
        "diagnosis/logit_share_image": found["logit_share"]["image"],
        "diagnosis/ece": found["ece"]["fused"],
        "diagnosis/ece_audio": found["ece"]["audio"],
        "diagnosis/radius": found["margins"]["radius"],
    }.items():
        assert content["summary"][name] == pytest.approx(value)
    media = ("modalities", "confusion_picture", "reliability", "confusion")
    assert {f"diagnosis/{name}/path" for name in media} <= content["keys"]
