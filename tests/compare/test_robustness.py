from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mmlab.compare.command import compare
from mmlab.compare.robustness import robustness, robustness_table
from mmlab.errors import UserError


def cell(severity: float, acc: float, noise_seed: int = 0) -> dict:
    test = {"acc": acc, "acc_audio": acc / 2, "loss": 2 - acc}
    return {"severity": severity, "noise_seed": noise_seed, "test": test}


def perturbed(method: str = "MNL", seed: int = 0, cells: Sequence[dict] = (), **changes: object) -> dict:
    size = {"samples": 40, "sha256": "0" * 64}
    content = {
        "method": method,
        "dataset": "AVDigits",
        "dataset_details": {"variant": "hard"},
        "protocol": "honest",
        "seed": seed,
        "modalities": ["audio", "image"],
        "monitor": "val/acc",
        "splits": {"train": size, "val": size, "test": size},
        "corruption": "gaussian",
        "corrupted": ["audio", "image"],
        "cells": list(cells) or [cell(0.0, 0.9), cell(5.0, 0.7, 0), cell(5.0, 0.5, 1)],
    }
    return content | changes


def write(folder: Path, *results: object) -> None:
    for number, content in enumerate(results):
        (folder / f"run{number}").mkdir(parents=True)
        (folder / f"run{number}" / "corruption_gaussian.json").write_text(json.dumps(content))


def text(*results: dict, metric: str | None = None) -> str:
    return "\n\n".join(map(robustness_table, robustness(list(results), metric)))


def rows(table: str) -> list[str]:
    return [line for line in table.splitlines() if line.startswith("|")][2:]


def test_each_seed_counts_by_the_mean_over_its_noise_seeds(mmlab, tmp_path: Path) -> None:
    other = [cell(0.0, 0.8), cell(5.0, 0.3, 0), cell(5.0, 0.5, 1)]
    write(
        tmp_path / "runs",
        perturbed(),
        perturbed(seed=1, cells=other),
        perturbed("LateFusion"),
        perturbed("LateFusion", 1),
    )
    assert mmlab("compare runs --corruption gaussian").splitlines() == [
        "**AVDigits (hard)**, gaussian on audio, image, test acc in %, 40 samples, "
        "mean ± standard deviation over seeds (each the mean of noise seeds 0, 1)",
        "",
        "| method | seeds | severity 0 | severity 5 |",
        "| --- | --- | --- | --- |",
        "| LateFusion | 2 | 90.0 ± 0.0 | 60.0 ± 0.0 |",
        # Over the four values the deviation would be 16.3.
        "| MNL | 2 | 85.0 ± 7.1 | 50.0 ± 14.1 |",
    ]


def test_the_metric_can_be_chosen() -> None:
    assert rows(text(perturbed(), metric="acc_audio")) == ["| MNL | 1 | 45.0 | 30.0 |"]
    assert "test acc_audio in %, 40 samples" in text(perturbed(), metric="acc_audio")
    assert rows(text(perturbed(), metric="loss")) == ["| MNL | 1 | 1.100 | 1.400 |"]
    with pytest.raises(UserError, match="no result has the metric 'auc' under gaussian; there are acc, acc_audio, los"):
        text(perturbed(), metric="auc")


def test_severities_are_united_and_sorted() -> None:
    table = text(
        perturbed(cells=[cell(10.0, 0.3), cell(0.0, 0.9)]), perturbed("QMF", cells=[cell(0.0, 0.8), cell(2.5, 0.7)])
    )
    assert "| method | seeds | severity 0 | severity 2.5 | severity 10 |" in table
    assert rows(table) == ["| MNL | 1 | 90.0 | – | 30.0 |", "| QMF | 1 | 80.0 | 70.0 | – |"]
    assert "over seeds (noise seed 0)" in table


def test_runs_of_one_method_with_other_options_are_rows_of_their_own() -> None:
    fusions = [perturbed(config={"model": {"init_args": {"fusion": fusion, "lam": 0.7}}}) for fusion in ("qmf", "pdf")]
    labels = [row.split(" | ")[0][2:] for row in rows(text(*fusions, perturbed("QMF")))]
    assert labels == ["MNL (fusion pdf)", "MNL (fusion qmf)", "QMF"]


def test_a_methods_own_options_are_shown_alike_in_every_table() -> None:
    def fused(dataset: str, fusion: str, lr: float = 0.1) -> dict:
        options = {"variant": "official", "fusion": fusion, "backbone": dataset, "optimizer": {"lr": lr}}
        data = {"dataset": {"init_args": {"variant": dataset}}}
        return perturbed(dataset=dataset, config={"model": {"init_args": options}, "data": data})

    runs = [fused("A", "qmf"), fused("B", "pdf"), fused("C", "static"), fused("C", "qmf")]
    both = [fused("D", "qmf", 0.1), fused("D", "qmf", 0.2)]
    labels = [list(found.values) for found in robustness([*runs, *both, perturbed("QMF", dataset="A")])]
    assert labels == [
        ["MNL (fusion qmf)", "QMF"],
        ["MNL (fusion pdf)"],
        ["MNL (fusion qmf)", "MNL (fusion static)"],
        # The backbone differs between data sets alone, the optimizer within this one.
        ["MNL (fusion qmf, lr 0.1)", "MNL (fusion qmf, lr 0.2)"],
    ]


def test_each_data_set_has_a_table_and_a_metric_of_its_own() -> None:
    ages = [{"severity": 0, "noise_seed": 0, "test": {"mae": 0.5}}]
    table = text(perturbed(), perturbed(dataset="Ages", dataset_details={}, monitor="val/mae", cells=ages))
    captions = [line for line in table.splitlines() if line.startswith("**")]
    assert captions[1].startswith("**Ages**, gaussian on audio, image, test mae, 40 samples, mean")
    assert captions[0].startswith("**AVDigits (hard)**, gaussian on audio, image, test acc in %, 40 samples, mean")
    assert "noise seed" not in captions[1], "severity 0 draws no noise"


def test_a_clean_table_warns_of_nothing() -> None:
    assert text(perturbed(), perturbed("LateFusion")).splitlines()[-1].startswith("| MNL")


def test_what_makes_runs_hard_to_compare_is_said() -> None:
    size = {"samples": 40, "sha256": "1" * 64}
    others = {
        "Not comparable: these runs saw different splits.": perturbed("QMF", splits={"test": size}),
        "protocol official": perturbed("QMF", protocol="official"),
        "Only a part of the data was used by: QMF.": perturbed("QMF", partial=["limit_test_batches 2"]),
        "Not every method has the same seeds.": perturbed("QMF", seed=1),
        "different modalities corrupted (audio, image / image)": perturbed("QMF", corrupted=["image"]),
        "Not every cell has the same noise seeds.": perturbed("QMF", cells=[cell(0.0, 0.9), cell(5.0, 0.7)]),
        "The runs of MNL were tested at different severities": perturbed(seed=1, cells=[cell(0.0, 0.9)]),
        "MNL has several runs of one seed (2 runs, 1 seed)": perturbed(),
    }
    for sentence, other in others.items():
        last = text(perturbed(), other).splitlines()[-1]
        assert sentence in last


def test_noise_seeds_that_differ_within_a_run_are_said() -> None:
    uneven = perturbed(cells=[cell(5.0, 0.7, 0), cell(5.0, 0.5, 1), cell(10.0, 0.4, 0)])
    assert "Not every cell has the same noise seeds." in text(uneven)


def test_what_is_no_test_under_the_corruption_is_named_and_left_out(tmp_path: Path, capsys) -> None:
    without = perturbed()
    del without["splits"]
    nameless = perturbed(cells=[{"severity": 5.0, "noise_seed": 0, "test": {"acc": "high"}}])
    foreign = [[1], without, nameless, perturbed(corruption="missing"), perturbed(splits={"val": {"samples": 1}})]
    write(tmp_path / "runs", perturbed(), *foreign, perturbed() | {"cells": []})
    (tmp_path / "runs" / "cut").mkdir()
    (tmp_path / "runs" / "cut" / "corruption_gaussian.json").write_text(json.dumps(perturbed())[:200])
    (tmp_path / "runs" / "clean").mkdir()
    (tmp_path / "runs" / "clean" / "metrics.csv").write_text("stage,epoch,step\n")
    compare([str(tmp_path / "runs"), "--corruption", "gaussian"])
    captured = capsys.readouterr()
    assert rows(captured.out) == ["| MNL | 1 | 90.0 | 60.0 |"]
    lines = sorted(captured.err.splitlines())
    ends = [
        "clean: not tested under gaussian, it has no corruption_gaussian.json",
        "cut/corruption_gaussian.json",
        "run1/corruption_gaussian.json",
        "it has no splits",
        "it has no cells",
        "it has no corruption gaussian",
        "it has no test split",
        "it has no cells",
    ]
    assert len(lines) == len(ends)
    for line, end in zip(lines, ends, strict=True):
        assert line.startswith(f"left out {tmp_path / 'runs'}")
        assert end in line


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "--corruption gausian",
            ["no corruption_gausian.json below runs (did you mean 'gaussian'?); there are tests under gaussian.\n"],
        ),
        (
            "--corruption fog",
            ["fog.json below runs; there are tests under gaussian; `mmlab test --run DIR --corruption NAME` writ"],
        ),
        ("--corruption *", ["--corruption is '*'; give the name of one"]),
        (
            "--corruption ../gaussian",
            ["--corruption is '../gaussian'; give the name of one"],
        ),
        ("--corruption gaussian --split val", ["only the test split", "--split val"]),
        ("--corruption gaussian --curves a.pdf", ["a.pdf", "ends in .png"]),
        ("--curves a.png", ["--curves", "--corruption gaussian"]),
        ("--corruption", ["--corruption", "expected one argument"]),
        ("--base MNL --seeds 3", ["no option '--seeds'", "--robustness, --diagnosis and --curves"]),
        ("--corruption gaussian --baseline MNL", ["--baseline compares tests without corruption"]),
        ("--corruption gaussian --out report", ["--out writes a report with every corruption"]),
    ],
)
def test_mistakes_end_in_a_sentence(mmlab, tmp_path: Path, line: str, words: list[str]) -> None:
    write(tmp_path / "runs", perturbed())
    err = mmlab(f"compare runs {line}", code=2)
    assert len(err.splitlines()) == 1
    for word in words:
        assert word in err
    assert not list(tmp_path.glob("a.*"))


def test_a_table_without_a_picture_imports_nothing_heavy(tmp_path: Path) -> None:
    write(tmp_path, perturbed())
    script = (
        "import sys; from mmlab.cli.main import main; code = main(['compare', '.', '--corruption', 'gaussian']); "
        "print(code, sorted({'torch', 'lightning', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
