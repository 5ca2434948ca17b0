from __future__ import annotations

import csv
import io

from mmlab.compare.gather import gather
from mmlab.compare.spreadsheets import means_csv, runs_csv
from tests.compare.made import result


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_means_and_runs_hold_every_metric_as_it_was_stored() -> None:
    runs = [result(seed=seed, acc=acc, folder=f"runs/{seed}") for seed, acc in enumerate((0.25, 0.75))]
    alone = result("QMF", 3, test={"acc": 0.5, "f1": None}, folder="runs/q", commit="abc", finished="2026-01-01")
    tables = gather([*runs, alone], "test")
    means = rows(means_csv(tables))
    assert [(row["method"], row["metric"]) for row in means] == [
        *(("MNL", metric) for metric in ("acc", "acc_audio", "acc_image", "loss")),
        ("QMF", "acc"),
    ]
    assert means[0] == {
        "dataset": "AVDigits (hard)",
        "method": "MNL",
        "split": "test",
        "metric": "acc",
        "seeds": "2",
        "mean": "0.5",
        "std": str(0.125**0.5),
    }
    assert (means[-1]["seeds"], means[-1]["std"]) == ("1", "")
    single = rows(runs_csv(tables))
    assert len(single) == 4 + 4 + 2
    assert single[4] == {
        "dataset": "AVDigits (hard)",
        "method": "MNL",
        "seed": "1",
        "split": "test",
        "metric": "acc",
        "value": "0.75",
        "protocol": "honest",
        "commit": "",
        "finished": "",
        "folder": "runs/1",
    }
    assert (single[-2]["commit"], single[-2]["finished"]) == ("abc", "2026-01-01")
