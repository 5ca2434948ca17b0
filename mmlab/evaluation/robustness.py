"""robustness.json, .csv and .png: every subset of modalities under every corruption and severity, from one pass."""

from __future__ import annotations

import csv
import io
import statistics
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from lightning.pytorch import Trainer

from mmlab.availability import combination_name
from mmlab.compare.grids import CLEAN
from mmlab.data.corruption import MISSING, Cell, Corruption
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.evaluation.robustness_picture import draw_grid
from mmlab.methods.base import Method
from mmlab.runs.corrupted import SAME, evaluate_corrupted, make_cells
from mmlab.runs.folder import RunFolder, read_earlier, write_json, write_text

Plan = list[tuple[Corruption, list[Cell]]]
Curves = dict[str, dict[str, dict[float, float]]]


def make_plan(corruptions: Sequence[Corruption], severities: list[float], noise_seeds: int) -> Plan:
    """The cells of each corruption; severity 0, at which nothing is corrupted, stands with the first alone.

    Raises:
        UserError: as :func:`~mmlab.runs.corrupted.make_cells` says.
    """
    plan = [(corruption, make_cells(corruption.name, severities, noise_seeds)) for corruption in corruptions]
    first, *others = plan
    return [first, *((corruption, [cell for cell in cells if cell.severity]) for corruption, cells in others)]


def area_under(curve: dict[float, float]) -> float:
    """The area under a metric over severity, by trapezoids, divided by the range of severities.

    So it has the metric's unit: what keeps its clean value at every severity has that value. A curve of one severity
    has the value there.

    Args:
        curve: the metric by severity, ascending.
    """
    points = list(curve.items())
    width = points[-1][0] - points[0][0]
    if not width:
        return points[0][1]
    return sum((after - before) * (low + high) / 2 for (before, low), (after, high) in pairwise(points)) / width


def evaluate_grid(trainer: Trainer, method: Method, data: MultimodalDataModule, plan: Plan) -> dict[str, Any]:
    """The metrics of every cell, with every combination of modalities that the method is tested with, and a summary.

    A sample counts for a combination only if it has one of its modalities. Missing modalities are themselves a draw of
    a combination for each sample, so that they are kept with all modalities alone: with fewer, a severity would only
    say which samples count.

    Args:
        trainer: runs the test.
        method: with its weights loaded.
        data: whose test split is corrupted.
        plan: from :func:`make_plan`.

    Returns:
        Plain data: ``metric`` and ``mode`` (max or min is better); ``corrupted``, the modalities that each corruption
        changes; ``cells``; ``auc`` by corruption and subset, each the :func:`area_under` the means over noise seeds;
        ``average_over_subsets`` of these by corruption; ``average`` over these; and ``worst``, the worst of all
        subsets in all cells.
    """
    method.by_combination = True
    rows = evaluate_corrupted(trainer, method, data, plan)
    task = method.spec.task
    cells = [{"corruption": name, **row} for name, row in zip(_names(plan), rows, strict=True)]
    curves = _curves(cells, [corruption.name for corruption, _ in plan], _suffixes(method), task.monitor)
    auc = {
        name: {subset: round(area_under(curve), 6) for subset, curve in of_subsets.items()}
        for name, of_subsets in curves.items()
    }
    averages = {name: round(statistics.fmean(of_subsets.values()), 6) for name, of_subsets in auc.items()}
    return {
        "metric": task.monitor,
        "mode": task.mode,
        "corrupted": {corruption.name: list(corruption.touched) for corruption, _ in plan},
        "cells": cells,
        "auc": auc,
        "average_over_subsets": averages,
        "average": round(statistics.fmean(averages.values()), 6),
        "worst": _worst(cells, _suffixes(method), task.monitor, task.mode),
    }


def is_finished(folder: RunFolder, identity: dict[str, Any], plan: Plan) -> bool:
    """Whether a run's folder holds these cells already, of the same checkpoint on the same data.

    Args:
        folder: of the run.
        identity: what would be tested on what.
        plan: the cells.
    """
    if not all(file.is_file() for file in (folder.robustness, folder.robustness_table, folder.robustness_curves)):
        return False
    before = read_earlier(folder.robustness)
    same = all(before.get(key) == identity[key] for key in SAME)
    cells = [cell for _, cells in plan for cell in cells]
    wanted = [(name, cell.severity, cell.noise_seed) for name, cell in zip(_names(plan), cells, strict=True)]
    places = ("corruption", "severity", "noise_seed")
    return same and wanted == [tuple(map(each.get, places)) for each in before.get("cells", [])]


def write_grid(folder: RunFolder, method: Method, identity: dict[str, Any], grid: dict[str, Any]) -> None:
    """Writes the table and the picture, and last the JSON file by which they count as finished.

    Args:
        folder: of the run.
        method: that was tested.
        identity: what was tested on what.
        grid: from :func:`evaluate_grid`.
    """
    suffixes = _suffixes(method)
    write_text(folder.robustness_table, _table(grid["cells"], suffixes))
    curves = _curves(grid["cells"], list(grid["auc"]), suffixes, grid["metric"])
    title = f"{identity['method']} on {identity['dataset']}, seed {identity['seed']}"
    draw_grid(curves, grid["corrupted"], grid["metric"], title, folder.robustness_curves)
    write_json(folder.robustness, {**identity, **grid})


def _names(plan: Plan) -> list[str]:
    """The corruption of each cell."""
    return [corruption.name if cell.severity else CLEAN for corruption, cells in plan for cell in cells]


def _suffixes(method: Method) -> dict[str, str]:
    """What stands behind the name of a metric, by the combination of modalities."""
    names = {combination_name(method.spec.names, each): all(each) for each in method.tested}
    return {name: "" if whole else f"_{name}" for name, whole in names.items()}


def _counted(corruption: str, suffixes: dict[str, str]) -> dict[str, str]:
    """The combinations that count under a corruption; the largest is the last."""
    return dict(list(suffixes.items())[-1:]) if corruption in MISSING else suffixes


def _curves(cells: list[dict[str, Any]], corruptions: list[str], suffixes: dict[str, str], metric: str) -> Curves:
    """By corruption, subset and severity, the mean over noise seeds."""
    curves: Curves = {}
    for name in corruptions:
        own = [cell for cell in cells if cell["corruption"] in (name, CLEAN)]
        curves[name] = {}
        for subset, suffix in _counted(name, suffixes).items():
            by_severity: dict[float, list[float]] = defaultdict(list)
            for cell in own:
                if metric + suffix in cell["test"]:  # a combination that no sample has any part of has no number
                    by_severity[cell["severity"]].append(cell["test"][metric + suffix])
            if by_severity:
                curves[name][subset] = {each: statistics.fmean(by_severity[each]) for each in sorted(by_severity)}
    return curves


def _worst(cells: list[dict[str, Any]], suffixes: dict[str, str], metric: str, mode: str) -> dict[str, Any]:
    every = [
        {
            "value": cell["test"][metric + suffix],
            "subset": subset,
            **{key: cell[key] for key in ("corruption", "severity", "noise_seed")},
        }
        for cell in cells
        for subset, suffix in _counted(cell["corruption"], suffixes).items()
        if metric + suffix in cell["test"]
    ]
    return (min if mode == "max" else max)(every, key=lambda each: each["value"])


def _table(cells: list[dict[str, Any]], suffixes: dict[str, str]) -> str:
    """A line for each subset in each cell; the loss is left out, which is not known of each subset."""
    known = cells[0]["test"]
    (some, *others) = suffixes.values()
    end = "_average" if others else some
    metrics = [key.removesuffix(end) for key in known if key.endswith(end) and key != "loss"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["subset", "corruption", "severity", "noise_seed", *metrics])
    for cell in cells:
        for subset, suffix in _counted(cell["corruption"], suffixes).items():
            values = [cell["test"].get(metric + suffix, "") for metric in metrics]
            writer.writerow([subset, cell["corruption"], cell["severity"], cell["noise_seed"], *values])
    return out.getvalue()
