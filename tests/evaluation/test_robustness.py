"""``mmlab robustness`` by the real command: the grid, its summary, and what it leaves alone."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from pathlib import Path

import pytest

from mmlab.cli.main import main
from mmlab.data.corruption import Corruption
from mmlab.data.keypad import Keypad
from mmlab.evaluation.robustness import area_under, make_plan
from tests.conftest import KEYPAD

SUBSETS = {"audio": "_audio", "image": "_image", "audio+image": ""}


def read(file: str | Path) -> dict:
    return json.loads(Path(file).read_text())


def by_place(cells: list[dict]) -> dict[tuple[str, float, int], dict[str, float]]:
    return {(cell["corruption"], cell["severity"], cell["noise_seed"]): cell["test"] for cell in cells}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that the tests only read."""
    run = tmp_path_factory.mktemp("finished") / "run"
    line = f"fit --model LateFusion {KEYPAD} --wandb.mode off --trainer.max_epochs 1 --test false --run_dir {run}"
    assert main(line.split()) == 0
    return run


def fit(mmlab, tiny: str, method: str = "LateFusion", run: str = "run") -> None:
    mmlab(f"fit --model {method} {tiny} --wandb.mode off --trainer.max_epochs 2 --run_dir {run}")


@pytest.mark.parametrize("method", ["LateFusion", "ModalityDropout", "UDML"])
def test_the_grid_equals_separate_tests(mmlab, tiny: str, method: str) -> None:
    fit(mmlab, tiny, method)
    names = ("gaussian", "missing", "blur")
    flags = f"--corruptions {','.join(names)} --severities 0,5,10 --noise_seeds 2"
    mmlab(f"robustness --run run {flags}")
    grid = by_place(read("run/robustness.json")["cells"])
    assert len(grid) == 1 + len(names) * 2 * 2
    for name in names:
        mmlab(f"test --run run --corruption {name} --severity 0,5,10 --noise_seeds 2 --combinations true")
        for cell in read(f"run/corruption_{name}.json")["cells"]:
            where = (name if cell["severity"] else "none", cell["severity"], cell["noise_seed"])
            assert grid[where] == cell["test"], where
    mmlab(f"robustness --run run {flags} --again true --data.eval_batch_size 5")
    for where, values in by_place(read("run/robustness.json")["cells"]).items():
        assert values == pytest.approx(grid[where], abs=1e-5), where


def test_the_files_agree(mmlab, tiny: str) -> None:
    fit(mmlab, tiny)
    out = mmlab(
        "robustness --run run --severities 0,4,10 --corruptions gaussian,occlusion,missing_unequal --noise_seeds 2"
    )
    grid = read("run/robustness.json")
    assert (grid["metric"], grid["mode"], grid["combinations"]) == ("acc", "max", list(SUBSETS))
    assert grid["corrupted"] == {name: ["audio", "image"] for name in ("gaussian", "occlusion", "missing_unequal")}
    with open("run/robustness.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    cells = by_place(grid["cells"])
    alone = sum(name == "missing_unequal" for name, _, _ in cells)  # kept with all modalities only
    assert len(rows) == (len(cells) - alone) * len(SUBSETS) + alone == 9 * 3 + 4
    for row in rows:
        test = cells[row["corruption"], float(row["severity"]), int(row["noise_seed"])]
        for metric in ("acc", "f1"):
            assert float(row[metric]) == test[metric + SUBSETS[row["subset"]]]
    for name, by_subset in grid["auc"].items():
        assert list(by_subset) == (["audio+image"] if name == "missing_unequal" else list(SUBSETS))
        for subset, area in by_subset.items():
            clean, middle, end = (
                statistics.fmean(
                    float(row["acc"])
                    for row in rows
                    if row["corruption"] in (name, "none")
                    and (row["subset"], float(row["severity"])) == (subset, severity)
                )
                for severity in (0, 4, 10)
            )
            assert area == pytest.approx((4 * (clean + middle) / 2 + 6 * (middle + end) / 2) / 10, abs=2e-6)
        assert grid["average_over_subsets"][name] == pytest.approx(statistics.fmean(by_subset.values()), abs=2e-6)
    assert grid["average"] == pytest.approx(statistics.fmean(grid["average_over_subsets"].values()), abs=2e-6)
    worst = grid["worst"]
    assert worst["value"] == min(float(row["acc"]) for row in rows)
    place = (worst["corruption"], worst["severity"], worst["noise_seed"])
    assert cells[place]["acc" + SUBSETS[worst["subset"]]] == worst["value"]
    assert Path("run/robustness.png").read_bytes().startswith(b"\x89PNG")
    assert "results: run/robustness.json, robustness.csv, robustness.png" in out


def test_the_worst_error_is_the_largest(mmlab) -> None:
    dark = "--data.dataset own_datasets.PartlyDark --data.batch_size 16 --trainer.accelerator cpu"
    mmlab(f"fit --model LateFusion {dark} --wandb.mode off --trainer.max_epochs 1 --test false --run_dir run")
    mmlab("robustness --run run --corruptions gaussian --severities 0,10")
    grid = read("run/robustness.json")
    assert (grid["metric"], grid["mode"]) == ("mae", "min")
    with open("run/robustness.csv", newline="") as file:
        errors = [float(row["mae"]) for row in csv.DictReader(file)]
    assert len(errors) == 2 * 3
    assert grid["worst"]["value"] == max(errors)


def test_what_is_finished_is_skipped(mmlab, tiny: str) -> None:
    fit(mmlab, tiny)
    line = "robustness --run run --corruptions blur --severities 0,10"
    mmlab(line)
    file = Path("run/robustness.json")
    marked = read(file) | {"marked": True}
    file.write_text(json.dumps(marked))
    assert "holds these cells already" in mmlab(line)
    assert read(file) == marked
    whole = "holds results of the whole test split, which stay"
    assert whole in mmlab(f"{line} --again true --trainer.limit_test_batches 1")
    assert read(file) == marked
    mmlab(f"{line} --again true")
    assert "marked" not in read(file)
    file.write_text(json.dumps(marked))
    mmlab(line.replace("10", "5"))  # other cells
    assert [cell["severity"] for cell in read(file)["cells"]] == [0, 5]
    file.write_text(json.dumps(read(file) | {"marked": True}))
    Path("run/checkpoints/best.ckpt").write_bytes(Path("run/checkpoints/last.ckpt").read_bytes() + b" ")
    mmlab(line.replace("10", "5"))  # another checkpoint
    assert "marked" not in read(file)
    Path("run/robustness.csv").unlink()
    mmlab(line.replace("10", "5"))  # not all there
    assert Path("run/robustness.csv").is_file()


def test_other_data_are_not_finished(mmlab, tiny: str) -> None:
    fit(mmlab, tiny)
    line = "robustness --run run --corruptions blur --severities 0"
    mmlab(line)
    louder = f"{line} --data.dataset.image_snr 9"
    assert "holds these cells already" not in mmlab(louder)
    assert read("run/robustness.json")["dataset_details"]["image_snr"] == 9
    assert "holds these cells already" in mmlab(louder)


@pytest.mark.parametrize("content", ["", "[]", '{"partial": []', '{"cells": []}', None])
def test_a_damaged_file_is_written_anew(mmlab, finished: Path, tmp_path: Path, content: str | None) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    file = run / "robustness.json"
    line = f"robustness --run {run} --corruptions blur --severities 0"
    if content is None:
        mmlab(line)
        content = json.dumps(read(file) | {"cells": [{}]})
    for name in ("robustness.json", "robustness.csv", "robustness.png"):
        (run / name).write_text(content)
    assert "results: " in mmlab(f"{line} --trainer.limit_test_batches 1" if "partial" not in content else line)
    assert len(read(file)["cells"]) == 1


def test_several_runs_and_their_table(mmlab, tiny: str) -> None:
    fit(mmlab, tiny, run="runs/a")
    fit(mmlab, f"{tiny} --seed 1", run="runs/b")
    fit(mmlab, tiny, "JointTraining", run="runs/c")
    out = mmlab("robustness --run runs/a runs/b runs/c --severities 0,10 --corruptions blur,frame_drop,missing")
    assert out.count("left out, as Keypad has no modality for it: frame_drop") == 3
    places = [list(by_place(read(f"runs/{run}/robustness.json")["cells"])) for run in "abc"]
    assert places[0] == places[1] == places[2] == [("none", 0, 0), ("blur", 10, 0), ("missing", 10, 0)]
    table = mmlab("compare runs --robustness").splitlines()
    assert table[2] == "| method | seeds | blur | missing | average | worst |"
    a, b, c = (read(f"runs/{run}/robustness.json") for run in "abc")
    areas = [100 * run["auc"]["blur"]["audio+image"] for run in (a, b)]
    begin = f"| LateFusion | 2 | {statistics.mean(areas):.1f} ± {statistics.stdev(areas):.1f} | "
    assert sum(line.startswith(begin) for line in table) == 1
    values = (c["auc"]["blur"]["audio+image"], c["auc"]["missing"]["audio+image"], c["average"], c["worst"]["value"])
    cells = " | ".join(f"{100 * value:.1f}" for value in values)
    assert f"| JointTraining | 1 | {cells} |" in table
    mmlab("robustness --run runs/c --severities 0,5 --corruptions blur")
    assert "these runs were tested in different cells" in mmlab("compare runs --robustness")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--corruptions blurr", ["--corruptions blurr (did you mean 'blur'?)"]),
        ("--corruptions blur,blur", ["names blur twice"]),
        ("--corruptions frame_drop", ["needs frames, flow or a sequence", "audio (audio), image (image)"]),
        ("--severities 0,x", ["--severities is '0,x'", "write numbers"]),
        ("--severities 5,5", ["--severities names 5 twice"]),
        ("--severities 0,11 --corruptions blur", ["the severity of blur is 11", "0 to 10"]),
        ("--noise_seeds 0", ["--noise_seeds is 0"]),
        ("--noise_seeds x", ["--noise_seeds is 'x'"]),
        ("--again maybe", ["--again is 'maybe'"]),
    ],
)
def test_what_is_refused(mmlab, finished: Path, flags: str, words: list[str]) -> None:
    err = mmlab(f"robustness --run {finished} {flags}", code=2)
    assert err.count("\n") == 1
    assert all(word in err for word in words), err
    assert not list(finished.glob("robustness*"))


def test_one_modality_sees_nothing_where_it_is_missing(mmlab, tiny: str) -> None:
    fit(mmlab, tiny, "Unimodal --model.modality audio")
    mmlab("robustness --run run --severities 0 --corruptions blur")
    (cell,) = read("run/robustness.json")["cells"]
    assert cell["test"]["acc"] == cell["test"]["acc_audio"]
    # Zeros in place of the sound give every sample the same class: of 37 samples of 12 classes, 3 or 4.
    assert cell["test"]["acc_image"] * 37 == pytest.approx(round(cell["test"]["acc_image"] * 37), abs=1e-3)
    assert round(cell["test"]["acc_image"] * 37) in (3, 4)


def test_the_area_keeps_the_clean_value() -> None:
    assert area_under({0.0: 0.8, 2.5: 0.8, 10.0: 0.8}) == pytest.approx(0.8)
    assert area_under({0.0: 1.0, 10.0: 0.0}) == 0.5
    assert area_under({0.0: 1.0, 5.0: 0.5, 10.0: 0.5}) == pytest.approx(0.625)
    assert area_under({5.0: 0.3}) == 0.3


def test_nothing_is_corrupted_once() -> None:
    corruptions = [Corruption(name, Keypad().modalities) for name in ("gaussian", "blur")]
    (_, first), (_, second) = make_plan(corruptions, [0.0, 5.0], 2)
    assert [(cell.severity, cell.noise_seed) for cell in first] == [(0, 0), (5, 0), (5, 1)]
    assert [(cell.severity, cell.noise_seed) for cell in second] == [(5, 0), (5, 1)]
