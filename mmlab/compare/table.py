"""``mmlab compare``: result.json files to a Markdown table, without importing torch."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from mmlab.errors import UserError

Result = dict[str, Any]
NEEDED = {"method": str, "dataset": str, "protocol": str, "seed": int, "modalities": list, "splits": dict}


def print_table(words: list[str]) -> None:
    """Prints the table of the runs below the folders named.

    Raises:
        UserError: for a wrong option, a folder that isn't there, or where there is no finished run.
    """
    parser = argparse.ArgumentParser(prog="mmlab compare", exit_on_error=False, description=print_table.__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="DIR", help="searched for result.json files")
    parser.add_argument("--metric", help="acc, f1, mae ...; the one that selected the checkpoints unless given")
    parser.add_argument("--split", default="test", choices=["val", "test"])
    try:
        options, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(f"mmlab compare: {error}; usage: mmlab compare DIR [DIR ...] [--metric acc].") from None
    if not options.folders:
        raise UserError("mmlab compare needs the folder of a run, or one that holds runs: mmlab compare runs/")
    if unknown:
        raise UserError(f"mmlab compare has no option {unknown[0]!r}; it has --metric and --split.")
    print(table(read_results(options.folders), options.split, options.metric))


def read_results(folders: list[Path]) -> list[Result]:
    """The results below some folders; what can't be read is named on standard error.

    Raises:
        UserError: if a folder isn't there, or holds no finished run.
    """
    results = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; give the folder of a run, or one that holds runs.")
        for file in sorted(folder.rglob("result.json")):
            try:
                result = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                print(f"left out {file}: {error}", file=sys.stderr)
                continue
            wrong = _lacking(result)
            if wrong:
                print(f"left out {file}: no result of a run, it has no {', '.join(wrong)}", file=sys.stderr)
            else:
                results.append(result)
        for file in sorted(folder.rglob("metrics.csv")):
            if not file.with_name("result.json").exists():
                print(f"left out {file.parent}: not finished, it has no result.json", file=sys.stderr)
    if not results:
        raise UserError(
            f"there is no result.json below {', '.join(map(str, folders))}; `mmlab fit` writes one at its end."
        )
    return results


def _lacking(result: Any) -> list[str]:
    """What a file must hold to be the result of a run, and doesn't."""
    if not isinstance(result, dict):
        return list(NEEDED)
    wrong = [key for key, kind in NEEDED.items() if not isinstance(result.get(key), kind)]
    wrong += [] if isinstance(result.get("val"), dict) else ["val"]
    sizes = result["splits"].values() if "splits" not in wrong else []
    return wrong + (["splits"] if not all(isinstance(part, dict) and "samples" in part for part in sizes) else [])


def table(results: list[Result], split: str, metric: str | None = None) -> str:
    """A Markdown table for each data set: mean and sample standard deviation over seeds, in per cent but for losses.

    Args:
        results: contents of result.json files.
        split: ``val`` or ``test``.
        metric: ``acc`` or another of the results' metrics; by default the one that selected the checkpoints.

    Raises:
        UserError: if no result has that metric on that split.
    """
    by_dataset: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        if (metric or _monitor(result)) in result.get(split, {}):
            by_dataset[_dataset(result)].append(result)
    if not by_dataset:
        known = sorted({key for result in results for key in result.get(split, {})})
        wanted = f"the metric {metric!r}" if metric else "the metric that selected it"
        raise UserError(f"no result has {wanted} on {split}; there are {', '.join(known) or 'none'}.")
    groups = sorted(by_dataset.items())
    return "\n\n".join(_one_table(name, group, split, metric or _monitor(group[0])) for name, group in groups)


def _monitor(result: Result) -> str:
    return str(result.get("monitor", "val/acc")).removeprefix("val/")


def _dataset(result: Result) -> str:
    details = result.get("dataset_details", {})
    words = [str(details["variant"])] if details.get("variant") else []
    words += [f"{details['unseen_speaker']} unseen"] if details.get("unseen_speaker") else []
    words += ["synthetic"] if details.get("synthetic") else []
    return result["dataset"] + (f" ({', '.join(words)})" if words else "")


def _one_table(name: str, results: list[Result], split: str, metric: str) -> str:
    modalities = results[0]["modalities"]
    sizes = results[0]["splits"][split]["samples"]
    unit, scale = (" in %", 100) if metric in ("acc", "f1", "miou") else ("", 1)
    lines = [
        f"**{name}**, {split} {metric}{unit}, {sizes} samples, mean ± standard deviation over seeds",
        "",
        "| method | seeds | fused | " + " | ".join(modalities) + " |",
        "| --- | --- | --- | " + " | ".join("---" for _ in modalities) + " |",
    ]
    by_method: dict[str, list[Result]] = defaultdict(list)
    for label, result in zip(_labels(results), results, strict=True):
        by_method[label].append(result)
    for method, group in sorted(by_method.items()):
        cells = [
            _spread([run[split].get(key) for run in group], scale)
            for key in (metric, *(f"{metric}_{modality}" for modality in modalities))
        ]
        lines.append(f"| {method} | {len({run['seed'] for run in group})} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, *_warnings(results, by_method)])


def _labels(results: list[Result]) -> list[str]:
    """Each run's method, with those of its options that differ among the runs of that method."""
    options = [_flat(result.get("config", {}).get("model", {}).get("init_args", {})) for result in results]
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for result, own in zip(results, options, strict=True):
        for key, value in own.items():
            values[result["method"], key].add(value)
    labels = []
    for result, own in zip(results, options, strict=True):
        differing = [f"{key} {value}" for key, value in own.items() if len(values[result["method"], key]) > 1]
        labels.append(result["method"] + (f" ({', '.join(differing)})" if differing else ""))
    return labels


def _flat(options: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(options, dict):
        return {prefix: str(options)}
    inner = [_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in options.items()]
    return {key: value for part in inner for key, value in part.items()}


def _spread(values: list[float | None], scale: int) -> str:
    known = [scale * value for value in values if value is not None]
    if not known:
        return "–"
    digits = 1 if scale == 100 else 3
    mean = f"{statistics.mean(known):.{digits}f}"
    return f"{mean} ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else mean


def _warnings(results: list[Result], by_method: dict[str, list[Result]]) -> list[str]:
    found = []
    if len({json.dumps(result["splits"], sort_keys=True) for result in results}) > 1:
        found.append("Not comparable: these runs saw different splits.")
    if any(result["protocol"] != "honest" for result in results):
        found.append("Some of these runs selected their checkpoint on the test split (protocol official).")
    seeds = {method: frozenset(run["seed"] for run in group) for method, group in by_method.items()}
    if len(set(seeds.values())) > 1:
        found.append("Not every method has the same seeds.")
    if sum(map(len, seeds.values())) < len(results):
        found.append("Some method has several runs of one seed: the mean is over all of them, whatever their settings.")
    return ["", *found] if found else []
