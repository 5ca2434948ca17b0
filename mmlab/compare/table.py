"""``mmlab compare``: result.json files to a Markdown table, without importing torch."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmlab.errors import UserError

Result = dict[str, Any]
NEEDED = {"method": str, "dataset": str, "protocol": str, "seed": int, "modalities": list, "splits": dict}
# What tells one way to train from another. Of the data it is everything but where they are and who copies them.
TRAINER = (
    "max_epochs",
    "max_steps",
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
    "precision",
    "accumulate_grad_batches",
    "gradient_clip_val",
)
NO_SETTING = ("data.workers", "data.seed", "data.dataset.class_path")
PATHS = ("csv", "root", "out")


def print_table(words: list[str]) -> None:
    """Prints the table of the runs below the folders named.

    Raises:
        UserError: for a wrong option, a folder that isn't there, or where there is no finished run.
    """
    parser = argparse.ArgumentParser(
        prog="mmlab compare", exit_on_error=False, description="Prints the table of the runs below some folders."
    )
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
        own = [_spread(group, split, f"{metric}_{modality}", scale) for modality in modalities]
        # One modality alone fuses nothing: its value stands in the modality's column.
        alone = group[0]["method"] == "Unimodal" and any(cell != "–" for cell in own)
        cells = ["–" if alone else _spread(group, split, metric, scale), *own]
        lines.append(f"| {method} | {len({run['seed'] for run in group})} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, *_warnings(results, by_method)])


def _labels(results: list[Result]) -> list[str]:
    """Each run's method, with those of its options and settings that differ among the runs of that method."""
    options = [_flat(_part(result, "model", "init_args"), "model") | _settings(result) for result in results]
    values: dict[tuple[str, str], set[str]] = defaultdict(set)
    for result, own in zip(results, options, strict=True):
        for key, value in own.items():
            values[result["method"], key].add(value)
    labels = []
    for result, own in zip(results, options, strict=True):
        differing = [key for key in own if len(values[result["method"], key]) > 1]
        words = [f"{_short(key, differing)} {own[key]}" for key in differing]
        labels.append(result["method"] + (f" ({', '.join(words)})" if words else ""))
    return labels


def _settings(result: Result) -> dict[str, str]:
    """How a run was trained, but for its method; nothing for a result without its config."""
    data = _flat(_part(result, "data"), "data")
    data = {key: value for key, value in data.items() if key not in NO_SETTING and key.split(".")[-1] not in PATHS}
    trainer = _part(result, "trainer")
    known = {f"trainer.{key}": str(trainer[key]) for key in TRAINER if key in trainer}
    patience = _part(result).get("patience")
    return data | known | ({} if patience is None else {"patience": str(patience)})


def _part(result: Result, *path: str) -> dict[str, Any]:
    """A part of a run's config; empty where there is none."""
    part: Any = result.get("config")
    for key in path:
        part = part.get(key) if isinstance(part, dict) else None
    return part if isinstance(part, dict) else {}


def _short(key: str, others: Sequence[str]) -> str:
    """The last part of an option's name, or all of it where another option ends likewise."""
    last = key.split(".")[-1]
    return last if sum(other.split(".")[-1] == last for other in others) == 1 else key


def _flat(options: Any, prefix: str) -> dict[str, str]:
    if not isinstance(options, dict):
        return {prefix: str(options)}
    inner = [_flat(value, f"{prefix}.{key}") for key, value in options.items()]
    return {key: value for part in inner for key, value in part.items()}


def _spread(runs: list[Result], split: str, key: str, scale: int) -> str:
    """Mean and deviation over seeds; several runs of one seed count once, by their mean."""
    by_seed: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        if run[split].get(key) is not None:
            by_seed[run["seed"]].append(scale * run[split][key])
    if not by_seed:
        return "–"
    known = [statistics.mean(values) for values in by_seed.values()]
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
    for method, group in sorted(by_method.items()):
        count = len(seeds[method])
        if count < len(group):
            found.append(
                f"{method} has several runs of one seed ({len(group)} runs, {count} seed{'s' if count > 1 else ''}): "
                "each seed counts once, by the mean of its runs."
            )
    values: dict[str, set[str]] = defaultdict(set)
    for result in results:
        for key, value in _settings(result).items():
            values[key].add(value)
    differing = [key for key in values if len(values[key]) > 1]
    if differing:
        # By length first, so that 2 comes before 20 and 10.
        words = [
            f"{_short(key, differing)} {' / '.join(sorted(values[key], key=lambda value: (len(value), value)))}"
            for key in differing
        ]
        found.append(f"Trained differently: {'; '.join(words)}.")
    return ["", *found] if found else []
