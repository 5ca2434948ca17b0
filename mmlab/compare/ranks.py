"""Ranks of methods over data sets."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from itertools import combinations_with_replacement

from mmlab.compare.gather import Table
from mmlab.compare.rows import is_error, most_usual, own_label, seeds
from mmlab.compare.significance import critical_difference, friedman, ranks

LEAST = 3
"""Fewer data sets or methods than that say nothing about ranks."""


@dataclass(frozen=True)
class Ranks:
    """The places of methods over the data sets that all of them have.

    Attributes:
        datasets: with the column that ranks on each: ``AVDigits (hard), fused``.
        places: by method, the best first: its place on each data set.
        p: of Friedman's test; None where all methods tie everywhere.
        critical: Nemenyi's critical difference of two mean ranks at 0.05.
        notes: sentences on data sets and methods that did not go in, and on which row stands for a method of several.
    """

    datasets: tuple[str, ...]
    places: dict[str, tuple[float, ...]]
    p: float | None
    critical: float
    notes: tuple[str, ...]

    def mean(self, method: str) -> float:
        """A method's mean rank."""
        return statistics.mean(self.places[method])


def rank(tables: list[Table]) -> Ranks | None:
    """Ranks methods by their mean over seeds in each table's deciding column.

    Of one method with equal options, the row counts that was trained as most runs of its table were. A method goes in
    with the data sets on which it has as many seeds as the one that has most; data sets whose runs saw different
    splits, and synthetic ones, don't. Where not every method has every data set, it is those methods and data sets
    that make the most cells without a gap.

    Args:
        tables: one for each data set.

    Returns:
        None for fewer than three data sets that have three methods in common.
    """
    notes = []
    means: dict[str, dict[str, float]] = {}
    errors: dict[str, bool] = {}
    stand_in: list[tuple[str, str, str]] = []
    for table in tables:
        run = next(iter(table.rows.values()))[0]
        if run.get("dataset_details", {}).get("synthetic"):
            notes.append(f"{table.dataset} is synthetic.")
        elif any(warning.startswith("Not comparable") for warning in table.warnings):
            notes.append(f"{table.dataset}: its runs saw different splits.")
        else:
            name = f"{table.dataset}, {table.decisive().title}"
            chosen = _chosen(table)
            errors[name] = is_error(table.decisive().metric)
            means[name] = _means(table, chosen)
            stand_in += [
                (name, method, f"On {table.dataset}, {method} is the row {label}.")
                for method, label in chosen.items()
                if label != method
            ]
    methods, datasets = _block(means)
    if len(methods) < LEAST or len(datasets) < LEAST:
        return None
    places = [ranks([means[name][method] for method in methods], errors[name]) for name in datasets]
    of_method = dict(zip(methods, zip(*places, strict=True), strict=True))
    notes += [f"{name}: too few of these methods." for name in means if name not in datasets]
    others = sorted({method for found in means.values() for method in found} - set(methods))
    notes += [sentence for name, method, sentence in stand_in if name in datasets and method in methods]
    if others:
        notes.append(f"Not on all of these data sets: {'; '.join(others)}.")
    return Ranks(
        datasets=tuple(datasets),
        places=dict(sorted(of_method.items(), key=lambda item: statistics.mean(item[1]))),
        p=friedman(places),
        critical=critical_difference(len(methods), len(datasets)),
        notes=tuple(notes),
    )


def _chosen(table: Table) -> dict[str, str]:
    """The row that stands for each method with a value in the deciding column."""
    rivals: dict[str, list[str]] = defaultdict(list)
    for label, runs in table.rows.items():
        if table.mean(label, table.decisive()) is not None:
            rivals[own_label(runs[0], table.read)].append(label)
    return {method: most_usual(labels, table.rows) for method, labels in rivals.items()}


def _means(table: Table, chosen: dict[str, str]) -> dict[str, float]:
    """The mean of each method that has all seeds."""
    most = max((len(seeds(table.rows[label])) for label in chosen.values()), default=0)
    whole = {method: label for method, label in chosen.items() if len(seeds(table.rows[label])) == most}
    found = {method: table.mean(label, table.decisive()) for method, label in whole.items()}
    return {method: mean for method, mean in found.items() if mean is not None and math.isfinite(mean)}


def _block(means: dict[str, dict[str, float]]) -> tuple[list[str], list[str]]:
    """The methods and data sets of the largest table without a gap, among those that two methods span."""
    having: dict[str, frozenset[str]] = {}
    for name, found in means.items():
        for method in found:
            having[method] = having.get(method, frozenset()) | {name}
    best: tuple[list[str], list[str]] = [], []
    for one, other in combinations_with_replacement(having, 2):
        shared = having[one] & having[other]
        methods = sorted(method for method in having if having[method] >= shared)
        enough = len(shared) >= LEAST and len(methods) >= LEAST
        if enough and len(methods) * len(shared) > len(best[0]) * len(best[1]):
            best = methods, sorted(shared)
    return best
