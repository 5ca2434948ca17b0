"""Tables for other programs: CSV with one number a row, as result.json holds it (shares of 1, not per cent)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from mmlab.compare.gather import Table
from mmlab.compare.rows import by_seed, spread


def means_csv(tables: list[Table]) -> str:
    """One row for each data set, method and metric of the tables' split; one seed alone has no deviation."""
    rows = []
    for table in tables:
        for label, runs in table.rows.items():
            for metric in dict.fromkeys(metric for run in runs for metric in run[table.split]):
                values = by_seed(
                    (run["seed"], run[table.split][metric]) for run in runs if run[table.split].get(metric) is not None
                )
                found = spread(values.items())
                if found is not None:
                    deviation = "" if found.deviation is None else found.deviation
                    rows.append([table.dataset, label, table.split, metric, len(values), found.mean, deviation])
    return _csv(["dataset", "method", "split", "metric", "seeds", "mean", "std"], rows)


def runs_csv(tables: list[Table]) -> str:
    """One row for each run and metric of the tables' split."""
    head = ["dataset", "method", "seed", "split", "metric", "value", "protocol", "commit", "finished", "folder"]
    rows = [
        [table.dataset, label, run["seed"], table.split, metric, value, run["protocol"], run.get("commit"),
         run.get("finished"), run["folder"]]
        for table in tables
        for label, runs in table.rows.items()
        for run in runs
        for metric, value in run[table.split].items()
    ]  # fmt: skip
    return _csv(head, rows)


def _csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
