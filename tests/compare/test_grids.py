"""``mmlab compare --robustness``: tables of made-up grids."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compare.made import grid, write


def table(mmlab, *grids: object) -> list[str]:
    write(Path("runs"), *grids, name="robustness.json")
    return mmlab("compare runs --robustness").splitlines()


def test_a_row_is_a_method_over_its_seeds(mmlab) -> None:
    lines = table(mmlab, grid(), grid(seed=1, blur=0.6), grid("LateFusion"), grid("LateFusion", 1))
    assert lines[0].startswith("**AVDigits**, test acc in %, 40 samples, mean ± standard deviation over seeds")
    assert lines[2:] == [
        "| method | seeds | blur | missing | average | worst |",
        "| --- | --- | --- | --- | --- | --- |",
        "| LateFusion | 2 | 80.0 ± 0.0 | 50.0 ± 0.0 | 40.0 ± 0.0 | 5.0 ± 0.0 |",
        "| MNL | 2 | 70.0 ± 14.1 | 50.0 ± 0.0 | 40.0 ± 0.0 | 5.0 ± 0.0 |",
    ]


def test_a_number_is_no_per_cent_and_data_sets_have_tables_of_their_own(mmlab) -> None:
    lines = table(mmlab, grid(dataset="Moods", metric="MAE", mode="min"), grid())
    assert [line for line in lines if line.startswith("| MNL")] == [
        "| MNL | 1 | 80.0 | 50.0 | 40.0 | 5.0 |",
        "| MNL | 1 | 0.800 | 0.500 | 0.400 | 0.050 |",
    ]


def test_what_does_not_compare_is_said(mmlab) -> None:
    alone = {"blur": {"audio": 0.7}}
    lines = table(mmlab, grid(), grid("Dedicated", auc=alone, cells=grid()["cells"][:2]))
    assert "| Dedicated | 1 | 70.0 | – | 40.0 | 5.0 |" in lines
    assert "Not comparable: these runs were tested in different cells." in lines
    assert any("these methods decide with different subsets" in line for line in lines)


def test_subsets_are_those_of_all_corruptions(mmlab) -> None:
    whole = {"missing": {"audio+image": 0.5}}  # kept with all modalities alone, whatever the method decides with
    one, other = whole | {"blur": {"audio": 0.6, "audio+image": 0.8}}, whole | {"blur": {"audio+image": 0.8}}
    said = "Averages and worst cells are not comparable: these methods decide with different subsets."
    assert said in table(mmlab, grid(auc=one), grid("Dedicated", auc=other))


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        ([], "method"),
        ({"average": 0.4}, "auc"),
        (grid(auc={"blur": {"audio": "much"}}), "auc"),
        (grid(auc={"blur": {}}), "auc"),
        (grid(worst={}), "worst value"),
        (grid(splits={}), "test split"),
        (grid(splits={"test": 5}), "test split"),
        (grid(dataset_details=5), "dataset_details"),
        (grid(cells=[{"severity": 0}]), "cells"),
    ],
)
def test_what_is_no_grid_is_left_out_and_named(mmlab, capsys, broken: object, word: str) -> None:
    write(Path("runs"), broken, name="robustness.json")
    assert "there is no robustness.json" in mmlab("compare runs --robustness", code=2)
    write(Path("others"), grid(), broken, name="robustness.json")
    from mmlab.cli.main import main

    assert main(["compare", "others", "--robustness"]) == 0
    printed = capsys.readouterr()
    assert "| MNL | 1 |" in printed.out
    assert f"left out {Path('others/run1/robustness.json')}" in printed.err
    assert word in printed.err


@pytest.mark.parametrize("flag", ["--metric f1", "--baseline MNL", "--out page", "--split val"])
def test_what_the_table_has_not(mmlab, flag: str) -> None:
    write(Path("runs"), grid(), name="robustness.json")
    assert "leave out" in mmlab(f"compare runs --robustness {flag}", code=2)


def test_the_table_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/robustness.json").write_text(json.dumps(grid()))
    code = "import sys; from mmlab.compare.command import compare; compare(['run', '--robustness']); "
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
