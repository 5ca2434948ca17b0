"""What ``mmlab robustness`` measured, for tables and curves: what each method keeps under each corruption."""

from __future__ import annotations

from collections import defaultdict

from mmlab.compare.results import Result, dataset
from mmlab.compare.rows import by_label, cell, heading, scale, seeds, spread, warnings
from mmlab.compare.table import Sheet

CLEAN = "none"
"""The corruption of the cells in which nothing is corrupted, which all curves share."""
SUMMARY = ("average", "worst")


def grid_sheets(results: list[Result], read: list[Result]) -> list[Sheet]:
    """A table for each data set and metric: the area under each corruption's curve, average and worst cell.

    Args:
        results: contents of robustness.json files.
        read: all runs that are shown beside one another, by which a method's options are named.
    """
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[dataset(result), result["metric"]].append(result)
    return [_sheet(name, metric, group, read) for (name, metric), group in sorted(groups.items())]


def curves_of(results: list[Result], corruption: str) -> list[Result]:
    """Grids' cells under one corruption, in the form of corruption_<name>.json files.

    Args:
        results: contents of robustness.json files; those that lack the corruption are left out.
        corruption: its name.
    """
    return [
        result
        | {
            "corruption": corruption,
            "corrupted": result["corrupted"][corruption],
            "cells": [cell for cell in result["cells"] if cell["corruption"] in (CLEAN, corruption)],
        }
        for result in results
        if corruption in result["auc"]
    ]


def _sheet(name: str, metric: str, results: list[Result], read: list[Result]) -> Sheet:
    rows = by_label(results, read)
    corruptions = list(dict.fromkeys(corruption for result in results for corruption in result["auc"]))

    def shown(runs: list[Result], column: str) -> str:
        known = ((run["seed"], _values(run).get(column)) for run in runs)
        return cell(spread((seed, scale(metric) * value) for seed, value in known if value is not None), metric)

    return Sheet(
        name,
        "Robustness",
        f"test {heading(metric)}, {results[0]['splits']['test']['samples']} samples, mean ± standard "
        f"deviation over seeds: area under the curve over severity with all modalities, its average over all "
        f"corruptions and subsets of modalities, and the worst cell",
        ("method", "seeds", *corruptions, *SUMMARY),
        tuple(
            (label, str(len(seeds(runs))), *(shown(runs, column) for column in (*corruptions, *SUMMARY)))
            for label, runs in rows.items()
        ),
        (*warnings(rows), *_own_warnings(results)),
    )


def _values(run: Result) -> dict[str, float]:
    # The last is the largest combination: all modalities, or all that the method decides with.
    areas = {corruption: list(by_subset.values())[-1] for corruption, by_subset in run["auc"].items()}
    return areas | {"average": run["average"], "worst": run["worst"]["value"]}


def _own_warnings(results: list[Result]) -> list[str]:
    found = []
    cells = {
        frozenset((one.get("corruption"), one["severity"], one["noise_seed"]) for one in result["cells"])
        for result in results
    }
    if len(cells) > 1:
        found.append("Not comparable: these runs were tested in different cells.")
    # Some corruptions are kept with all modalities alone.
    if len({frozenset().union(*result["auc"].values()) for result in results}) > 1:
        found.append("Averages and worst cells are not comparable: these methods decide with different subsets.")
    return found
