"""The ranking looks at validation, at complete settings first, and at nothing that selected on the test split."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from mmlab.sweep.plan import Plan, begin, make_plan, run_folder
from mmlab.sweep.ranking import best_of_each, rank, ranking_table, write_table
from tests.compare.made import result


def finish(folder: Path, plan: Plan, name: str, val: float, metric: str = "acc", **changes: object) -> None:
    (run,) = (run for run in plan.runs if run.name == name)
    # The better on validation, the worse on the test: a ranking by the wrong one shows.
    content = result(seed=run.seed, monitor=f"val/{metric}", selected_on="validation")
    content |= {"val": {metric: val}, "test": {metric: 1 - val}} | changes
    path = run_folder(folder, run).result
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    plan = make_plan(["mnl"], [0, 1], {"model.lam": ("0.1", "1", "10")}, None, ["--wandb.mode", "off"], None)
    begin(tmp_path, plan, {})
    return plan


def test_the_best_mean_on_validation_comes_first(tmp_path: Path, plan: Plan, mmlab) -> None:
    for lam, values in (("0.1", (0.5, 0.6)), ("1", (0.75, 0.7)), ("10", (0.9, 0.4))):
        for seed, value in enumerate(values):
            finish(tmp_path, plan, f"mnl/lam={lam}/seed{seed}", value)
    out = mmlab(f"sweep --show {tmp_path}")
    assert "| 1 | 1 | 72.5 ± 3.5 | 2 |\n| 2 | 10 | 65.0 ± 35.4 | 2 |\n| 3 | 0.1 | 55.0 ± 7.1 | 2 |" in out
    assert "best on validation: mnl with model.lam 1 (val acc 72.5 ± 3.5 %)\n" in out
    config = tmp_path / "configs" / "mnl.yaml"
    assert f"mmlab fit --config {config} --wandb.mode off --model.lam 1 --seed 0\n" in out
    with open(tmp_path / "sweep.csv", newline="") as text:
        rows = list(csv.DictReader(text))
    assert [(row["rank"], row["model.lam"]) for row in rows] == [("1", "1"), ("2", "10"), ("3", "0.1")]
    assert float(rows[0]["mean"]) == pytest.approx(0.725)
    assert float(rows[0]["std"]) == pytest.approx(0.025 * math.sqrt(2))
    assert {row["metric"] for row in rows} == {"val/acc"}


def test_of_an_error_less_is_better_and_nan_is_worst(tmp_path: Path, plan: Plan) -> None:
    for lam, value in (("0.1", math.nan), ("1", 2.0), ("10", 1.0)):
        for seed in (0, 1):
            finish(tmp_path, plan, f"mnl/lam={lam}/seed{seed}", value, metric="MAE")
    ((ranking,), left_out) = rank(tmp_path, plan)
    assert [row.setting["model.lam"] for row in ranking.rows] == ["10", "1", "0.1"]
    assert left_out == []
    assert "model.lam 10 (val MAE 1.000" in best_of_each(tmp_path, ranking)


def test_a_setting_that_lacks_seeds_stands_last(tmp_path: Path, plan: Plan) -> None:
    finish(tmp_path, plan, "mnl/lam=0.1/seed0", 0.99)
    for seed in (0, 1):
        finish(tmp_path, plan, f"mnl/lam=1/seed{seed}", 0.3)
    ((ranking,), _) = rank(tmp_path, plan)
    table = ranking_table(ranking)
    assert "| 1 | 1 | 30.0 ± 0.0 | 2 |\n| 2 | 0.1 | 99.0 | 1 of 2 |" in table
    assert "Settings that lack seeds stand last." in table


def test_equal_settings_share_their_rank(tmp_path: Path, plan: Plan) -> None:
    for lam, value in (("0.1", 0.5), ("1", 0.5), ("10", 0.4)):
        for seed in (0, 1):
            finish(tmp_path, plan, f"mnl/lam={lam}/seed{seed}", value)
    ((ranking,), _) = rank(tmp_path, plan)
    assert [ranking.place(row) for row in ranking.rows] == [1, 1, 3]
    assert "and 1 more with the same" in best_of_each(tmp_path, ranking)


def test_data_sets_and_metrics_are_ranked_apart(tmp_path: Path, plan: Plan) -> None:
    finish(tmp_path, plan, "mnl/lam=0.1/seed0", 0.5)
    finish(tmp_path, plan, "mnl/lam=1/seed0", 0.6, metric="acc_average")
    finish(tmp_path, plan, "mnl/lam=10/seed0", 0.7, dataset="Keypad", dataset_details={})
    rankings, _ = rank(tmp_path, plan)
    assert {(ranking.dataset, ranking.metric) for ranking in rankings} == {
        ("AVDigits (hard)", "acc"),
        ("AVDigits (hard)", "acc_average"),
        ("Keypad", "acc"),
    }
    with open(write_table(tmp_path, rankings), newline="") as text:
        assert [row["rank"] for row in csv.DictReader(text)] == ["1", "1", "1"]


def test_what_selected_on_the_test_split_or_cannot_be_read_is_named(tmp_path: Path, plan: Plan, mmlab) -> None:
    finish(tmp_path, plan, "mnl/lam=0.1/seed0", 0.9, selected_on="test", protocol="official")
    finish(tmp_path, plan, "mnl/lam=1/seed0", 0.9, splits={})
    finish(tmp_path, plan, "mnl/lam=10/seed0", 0.9, monitor="val/f1")
    finish(tmp_path, plan, "mnl/lam=10/seed1", 0.9)
    run_folder(tmp_path, plan.runs[-1]).result.write_text("{")
    rankings, left_out = rank(tmp_path, plan)
    assert rankings == []
    said = ["selected its checkpoint on the test split", "is no result of a run", "no validation metric", "is damaged"]
    for words, sentence in zip(said, left_out, strict=True):
        assert words in sentence
    assert "no run is finished that could be ranked" in mmlab(f"sweep --show {tmp_path}")


def test_different_validation_splits_are_not_comparable(tmp_path: Path, plan: Plan) -> None:
    other = {"samples": 40, "sha256": "1" * 64}
    finish(tmp_path, plan, "mnl/lam=0.1/seed0", 0.9)
    finish(tmp_path, plan, "mnl/lam=1/seed0", 0.9, splits={"train": other, "val": other, "test": other})
    ((ranking,), _) = rank(tmp_path, plan)
    assert "Not comparable" in ranking_table(ranking)
