"""The tables of ``mmlab compare --diagnosis``: what each modality does in each method, for each data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from mmlab.compare.results import Result, dataset
from mmlab.compare.rows import by_label, cell, heading, scale, seeds, spread, warnings
from mmlab.compare.table import Sheet

OF_EACH = {"own_head": "own head", "probe": "probe", "shapley": "Shapley"}
ECE = "ece"


def diagnosis_sheets(results: list[Result], read: list[Result]) -> list[Sheet]:
    """A table for each data set: own head, probe and Shapley value of each modality, calibration error.

    Args:
        results: contents of diagnosis.json files, all of one split.
        read: all runs that are shown beside one another, by which a method's options are named.
    """
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[dataset(result), result["metric"]].append(result)
    return [_sheet(name, metric, group, read) for (name, metric), group in sorted(groups.items())]


def _sheet(name: str, metric: str, results: list[Result], read: list[Result]) -> Sheet:
    rows, modalities = by_label(results, read), results[0]["modalities"]
    keys = [
        (key, modality) for key in OF_EACH for modality in modalities if any(modality in run[key] for run in results)
    ]
    split = results[0]["split"]
    calibrated = any(run[ECE] for run in results)
    return Sheet(
        name,
        "What each modality does",
        f"{split} {heading(metric)}, {results[0]['splits'][split]['samples']} samples, mean ± standard "
        f"deviation over seeds: each modality's own head, a linear probe on its frozen features, and its Shapley value "
        f"by the {results[0]['value']} of all subsets of modalities"
        + ("; expected calibration error of the fused decision" if calibrated else ""),
        (
            "method",
            "seeds",
            *(f"{OF_EACH[key]} {modality}" for key, modality in keys),
            *(["ECE"] if calibrated else []),
        ),
        tuple(
            (
                label,
                str(len(seeds(runs))),
                *(_shown(((run["seed"], run[key].get(modality)) for run in runs), metric) for key, modality in keys),
                *([_shown(((run["seed"], run[ECE].get("fused")) for run in runs), ECE)] if calibrated else []),
            )
            for label, runs in rows.items()
        ),
        tuple(warnings(rows)),
    )


def _shown(values: Iterable[tuple[int, float | None]], metric: str) -> str:
    return cell(spread((seed, scale(metric) * value) for seed, value in values if value is not None), metric)
