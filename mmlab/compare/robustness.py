"""A metric over the severities of a corruption, for each method on each data set."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass

from mmlab.compare.results import Result, dataset, monitor
from mmlab.compare.rows import Spread, by_label, cell, heading, scale, seeds, spread, warnings
from mmlab.compare.table import markdown
from mmlab.errors import UserError


@dataclass(frozen=True)
class Robustness:
    """How methods bear one corruption on one data set.

    Attributes:
        dataset: with its variant.
        corruption: its name.
        corrupted: the modalities that it changed.
        metric: of the test split.
        samples: in the test split.
        noise_seeds: of the corruption's draws.
        severities: of all runs, ascending.
        seeds: how many seeds each method has.
        values: by method and severity: over seeds, each of which counts by the mean over its noise seeds; in per
            cent where the metric is shown so. A severity that a method was not tested at is absent.
        warnings: what to beware of in comparing the methods.
    """

    dataset: str
    corruption: str
    corrupted: tuple[str, ...]
    metric: str
    samples: int
    noise_seeds: tuple[int, ...]
    severities: tuple[float, ...]
    seeds: dict[str, int]
    values: dict[str, dict[float, Spread]]
    warnings: tuple[str, ...]

    def severity_titles(self) -> list[str]:
        """What stands over the columns of a table."""
        return [f"severity {severity:g}" for severity in self.severities]


def robustness(results: list[Result], metric: str | None = None) -> list[Robustness]:
    """The runs' tests under one corruption, gathered for each data set.

    Args:
        results: contents of corruption_<name>.json files of one corruption.
        metric: ``acc`` or another of the results' metrics; by default the one that selected the checkpoints.

    Raises:
        UserError: if no result has that metric.
    """
    by_dataset: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if _by_severity(result, metric or monitor(result)):
            by_dataset[dataset(result)].append(result)
    if not by_dataset:
        known = sorted({key for result in results for one in result["cells"] for key in one["test"]})
        wanted = f"the metric {metric!r}" if metric else "the metric that selected it"
        raise UserError(f"no result has {wanted} under {results[0]['corruption']}; there are {', '.join(known)}.")
    return [_gather(name, group, results, metric or monitor(group[0])) for name, group in sorted(by_dataset.items())]


def robustness_table(found: Robustness) -> str:
    """A Markdown table: methods down, severities across."""
    drawn = ", ".join(map(str, found.noise_seeds))
    noise = {0: "", 1: f" (noise seed {drawn})"}.get(len(found.noise_seeds), f" (each the mean of noise seeds {drawn})")
    return markdown(
        f"**{found.dataset}**, {found.corruption} on {', '.join(found.corrupted)}, test {heading(found.metric)}, "
        f"{found.samples} samples, mean ± standard deviation over seeds{noise}",
        ["method", "seeds", *found.severity_titles()],
        [
            [method, found.seeds[method], *(cell(values.get(severity), found.metric) for severity in found.severities)]
            for method, values in found.values.items()
        ],
        found.warnings,
    )


def _gather(name: str, results: list[Result], read: list[Result], metric: str) -> Robustness:
    groups = by_label(results, read)
    noise_seeds = [seeds_there for result in results for seeds_there in _noise_seeds(result).values()]
    return Robustness(
        dataset=name,
        corruption=results[0]["corruption"],
        corrupted=tuple(results[0]["corrupted"]),
        metric=metric,
        samples=results[0]["splits"]["test"]["samples"],
        noise_seeds=tuple(sorted(frozenset().union(*noise_seeds))),
        severities=tuple(sorted({severity for result in results for severity in _by_severity(result, metric)})),
        seeds={method: len(seeds(group)) for method, group in groups.items()},
        values={method: _values(group, metric) for method, group in groups.items()},
        warnings=(*warnings(groups), *_own_warnings(groups, metric)),
    )


def _values(runs: list[Result], metric: str) -> dict[float, Spread]:
    by_severity: dict[float, list[tuple[int, float]]] = defaultdict(list)
    for run in runs:
        for severity, values in _by_severity(run, metric).items():
            by_severity[severity].append((run["seed"], scale(metric) * statistics.mean(values)))
    spreads = {severity: spread(values) for severity, values in sorted(by_severity.items())}
    return {severity: found for severity, found in spreads.items() if found is not None}


def _by_severity(result: Result, metric: str) -> dict[float, list[float]]:
    """A run's values of a metric at each severity, one for each noise seed."""
    values: dict[float, list[float]] = defaultdict(list)
    for one in result["cells"]:
        if metric in one["test"]:
            values[one["severity"]].append(one["test"][metric])
    return values


def _noise_seeds(result: Result) -> dict[float, frozenset[int]]:
    """The noise seeds at each severity; severity 0 draws no noise."""
    found: dict[float, set[int]] = defaultdict(set)
    for one in result["cells"]:
        if one["severity"]:
            found[one["severity"]].add(one["noise_seed"])
    return {severity: frozenset(drawn) for severity, drawn in found.items()}


def _own_warnings(groups: dict[str, list[Result]], metric: str) -> list[str]:
    results = [run for group in groups.values() for run in group]
    found = []
    corrupted = {", ".join(result["corrupted"]) for result in results}
    if len(corrupted) > 1:
        found.append(
            f"Not comparable: these runs had different modalities corrupted ({' / '.join(sorted(corrupted))})."
        )
    if len({drawn for result in results for drawn in _noise_seeds(result).values()}) > 1:
        found.append("Not every cell has the same noise seeds.")
    for method, group in groups.items():
        if len({frozenset(_by_severity(run, metric)) for run in group}) > 1:
            found.append(f"The runs of {method} were tested at different severities: some cells have fewer seeds.")
    return found
