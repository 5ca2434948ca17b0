"""``mmlab compare``: results of runs to Markdown tables, without importing torch."""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from mmlab.compare.curves import draw_robustness
from mmlab.compare.results import Result, dataset, monitor, read_results
from mmlab.compare.robustness import robustness, robustness_table
from mmlab.compare.rows import ABSENT, by_label, cell, heading, scale, seeds, spread, warnings
from mmlab.errors import UserError


def print_table(words: list[str]) -> None:
    """Prints the table of the runs below the folders named.

    Raises:
        UserError: for a wrong option, a folder that isn't there, or where there is no finished run.
    """
    parser = argparse.ArgumentParser(
        prog="mmlab compare", exit_on_error=False, description="Prints the table of the runs below some folders."
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="searched for the results of runs")
    parser.add_argument(
        "--metric",
        help="acc, f1, mae, acc_audio ...; the one that selected the checkpoints unless given; several (MAE,Corr) make "
        "a column each",
    )
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument(
        "--corruption",
        metavar="NAME",
        help="gaussian ...: a table over the severities that `mmlab test --corruption NAME` tested",
    )
    parser.add_argument("--curves", type=Path, metavar="FILE.png", help="draws that table; needs --corruption")
    try:
        options, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(f"mmlab compare: {error}; usage: mmlab compare DIR [DIR ...] [--metric acc].") from None
    if not options.folders:
        raise UserError("mmlab compare needs the folder of a run, or one that holds runs: mmlab compare runs/")
    if unknown:
        raise UserError(
            f"mmlab compare has no option {unknown[0]!r}; it has --metric, --split, --corruption and --curves."
        )
    if options.corruption is None:
        if options.curves:
            raise UserError("--curves draws a metric over severities: say of which corruption, --corruption gaussian.")
        print(table(read_results(options.folders), options.split, options.metric))
        return
    if options.metric and "," in options.metric:
        raise UserError(f"--metric is {options.metric}: under a corruption, give one metric.")
    if options.split != "test":
        raise UserError(f"only the test split is ever corrupted; leave out --split {options.split}.")
    if options.curves and options.curves.suffix.lower() != ".png":
        raise UserError(f"--curves is {options.curves}, but the picture is a PNG: name a file that ends in .png.")
    found = robustness(read_results(options.folders, options.corruption), options.metric)
    print("\n\n".join(map(robustness_table, found)))
    if options.curves:
        draw_robustness(found, options.curves)
        print(f"\ncurves: {options.curves}")


def table(results: list[Result], split: str, metric: str | None = None) -> str:
    """A Markdown table for each data set: mean and sample standard deviation over seeds, in per cent but for losses.

    Args:
        results: contents of result.json files.
        split: ``val`` or ``test``.
        metric: ``acc`` or another of the results' metrics; by default the one that selected the checkpoints. Several,
            separated by commas, make a table of the fused decision with a column for each.

    Raises:
        UserError: if no result has that metric on that split.
    """
    several = metric.split(",") if metric and "," in metric else []
    by_dataset: dict[str, list[Result]] = defaultdict(list)
    for wanted in several or [metric]:
        having = [result for result in results if _has(result, split, wanted or monitor(result))]
        if not having:
            known = sorted({key for result in results for key in result.get(split, {})})
            words = f"the metric {wanted!r}" if wanted else "the metric that selected it"
            raise UserError(f"no result has {words} on {split}; there are {', '.join(known) or 'none'}.")
        for result in having:
            if not any(result is other for other in by_dataset[dataset(result)]):
                by_dataset[dataset(result)].append(result)
    groups = sorted(by_dataset.items())
    if several:
        return "\n\n".join(_several(name, group, results, split, several) for name, group in groups)
    return "\n\n".join(_one_table(name, group, results, split, metric or monitor(group[0])) for name, group in groups)


def _has(result: Result, split: str, metric: str) -> bool:
    return any(key == metric or key.startswith(f"{metric}_") for key in result.get(split, {}))


def _one_table(name: str, results: list[Result], read: list[Result], split: str, metric: str) -> str:
    modalities = results[0]["modalities"]
    columns = [*modalities, *_combinations(results, split, metric)]
    sizes = results[0]["splits"][split]["samples"]
    lines = [
        f"**{name}**, {split} {heading(metric)}, {sizes} samples, mean ± standard deviation over seeds",
        "",
        "| method | seeds | fused | " + " | ".join(columns) + " |",
        "| --- | --- | --- | " + " | ".join("---" for _ in columns) + " |",
    ]
    groups = by_label(results, read)
    for method, group in groups.items():
        own = [_cell(group, split, f"{metric}_{column}") for column in columns]
        # One modality alone fuses nothing: its value stands in the modality's column.
        alone = group[0]["method"] == "Unimodal" and any(text != ABSENT for text in own)
        cells = [ABSENT if alone else _cell(group, split, metric), *own]
        lines.append(f"| {method} | {len(seeds(group))} | " + " | ".join(cells) + " |")
    found = warnings(groups)
    return "\n".join([*lines, "", *found] if found else lines)


def _several(name: str, results: list[Result], read: list[Result], split: str, metrics: list[str]) -> str:
    """One column for each metric, of the fused decision; of a method with one modality, of that one."""
    lines = [
        f"**{name}**, {split}, {results[0]['splits'][split]['samples']} samples, mean ± standard deviation over seeds",
        "",
        "| method | seeds | " + " | ".join(map(heading, metrics)) + " |",
        "| --- | --- | " + " | ".join("---" for _ in metrics) + " |",
    ]
    groups = by_label(results, read)
    for method, group in groups.items():
        cells = [_cell(group, split, metric) for metric in metrics]
        lines.append(f"| {method} | {len(seeds(group))} | " + " | ".join(cells) + " |")
    found = warnings(groups)
    return "\n".join([*lines, "", *found] if found else lines)


def _combinations(results: list[Result], split: str, metric: str) -> list[str]:
    """The columns of combinations of several modalities that are not all, and of the average, if there are any."""
    named = {name: None for result in results for name in result.get("combinations", [])}
    every = [*sorted((name for name in named if "+" in name), key=lambda name: name.count("+")), "average"]
    return [name for name in every if any(f"{metric}_{name}" in result[split] for result in results)]


def _cell(runs: list[Result], split: str, metric: str) -> str:
    known = [run for run in runs if run[split].get(metric) is not None]
    return cell(spread((run["seed"], scale(metric) * run[split][metric]) for run in known), metric)
