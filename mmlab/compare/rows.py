"""Rows of a table: runs by method and differing settings, mean and deviation over seeds, what to beware of."""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from mmlab.compare.results import Result

# What tells one way to train from another. Of the data it is everything but where they are and who copies them.
TRAINER = (
    "max_epochs",
    "max_steps",
    "limit_train_batches",
    "limit_val_batches",
    "limit_test_batches",
    "overfit_batches",
    "precision",
    "accumulate_grad_batches",
    "gradient_clip_val",
)
NO_SETTING = ("data.workers", "data.seed", "data.dataset.class_path")
PATHS = ("csv", "root", "out")
# A method's arguments that any method has: they depend on the data more than on the method.
OF_ANY_METHOD = ("backbone", "backbones", "optimizer", "scheduler")
ABSENT = "–"
PER_CENT = ("acc", "f1", "F1", "Has0", "Non0", "Mult_acc", "miou", "iou", "acer", "apcer", "bpcer")
ERRORS = ("loss", "mae", "MAE", "acer", "apcer", "bpcer")


class Spread(NamedTuple):
    """Mean and sample standard deviation over seeds; one seed alone has no deviation."""

    mean: float
    deviation: float | None


def spread(values: Iterable[tuple[int, float]]) -> Spread | None:
    """Mean and deviation over seeds; several values of one seed count once, by their mean.

    Args:
        values: pairs of a seed and a number.

    Returns:
        None where there is no value.
    """
    known = list(by_seed(values).values())
    if not known:
        return None
    if not all(map(math.isfinite, known)):  # a run that diverged
        return Spread(math.nan, math.nan if len(known) > 1 else None)
    return Spread(statistics.mean(known), statistics.stdev(known) if len(known) > 1 else None)


def by_seed(values: Iterable[tuple[int, float]]) -> dict[int, float]:
    """One value for each seed, in the seeds' order: the mean of its values."""
    groups: dict[int, list[float]] = defaultdict(list)
    for seed, value in values:
        groups[seed].append(value)
    return {seed: statistics.mean(groups[seed]) for seed in sorted(groups)}


def scale(metric: str) -> int:
    """100 for a metric that is shown in per cent (``acc``, ``Has0_F1_score``, ...), 1 for another."""
    return 100 if metric.startswith(PER_CENT) else 1


def is_error(metric: str) -> bool:
    """Whether less is better (``loss``, ``MAE``, ``acer`` ...)."""
    return metric.startswith(ERRORS)


def heading(metric: str) -> str:
    """The metric with its unit."""
    return f"{metric} in %" if scale(metric) == 100 else metric


def cell(value: Spread | None, metric: str) -> str:
    """A table's cell: ``61.3 ± 0.4``."""
    if value is None:
        return ABSENT
    digits = 1 if scale(metric) == 100 else 3
    mean = f"{value.mean:.{digits}f}"
    return mean if value.deviation is None else f"{mean} ± {value.deviation:.{digits}f}"


def by_label(results: list[Result], read: list[Result]) -> dict[str, list[Result]]:
    """The runs of each row of a table, in the rows' order.

    A row's label is the method, with those of its own options that differ among all its runs, so that a row has one
    name in every table, and those settings of data and training that differ among its runs in this table.

    Args:
        results: those of the table.
        read: those of all tables.
    """
    groups: dict[str, list[Result]] = defaultdict(list)
    for label, result in zip(_labels(results, read), results, strict=True):
        groups[label].append(result)
    return dict(sorted(groups.items()))


def own_label(run: Result, read: list[Result]) -> str:
    """The part of a row's label that says the same in every table: the method, with its own options."""
    return _label(run["method"], _own_words(run, _differing(read, _own_options)))


def most_usual(labels: list[str], groups: dict[str, list[Result]]) -> str:
    """Of rows that were trained differently, the one that was trained as most runs of the table were.

    Args:
        labels: of these rows.
        groups: all rows of the table.
    """
    settings = {label: _training(groups[label][0]) for label in labels}
    keys = {key for known in settings.values() for key in known}
    differing = [key for key in keys if len({known.get(key) for known in settings.values()}) > 1]
    table = [_training(run) for group in groups.values() for run in group]

    def alike(label: str) -> int:
        return sum(all(other.get(key) == settings[label].get(key) for key in differing) for other in table)

    return max(labels, key=alike)


def seeds(runs: list[Result]) -> frozenset[int]:
    """The seeds of some runs."""
    return frozenset(run["seed"] for run in runs)


def warnings(groups: dict[str, list[Result]]) -> list[str]:
    """Sentences on what makes the rows of one table hard to compare; none where nothing does."""
    results = [run for group in groups.values() for run in group]
    found = []
    if len({json.dumps(result["splits"], sort_keys=True) for result in results}) > 1:
        found.append("Not comparable: these runs saw different splits.")
    parts = [method for method, group in groups.items() if any(run.get("partial") for run in group)]
    if parts:
        found.append(f"Only a part of the data was used by: {'; '.join(parts)}.")
    if any(result["protocol"] != "honest" for result in results):
        found.append("Some of these runs selected their checkpoint on the test split (protocol official).")
    if len({seeds(group) for group in groups.values()}) > 1:
        found.append("Not every method has the same seeds.")
    for method, group in groups.items():
        count = len(seeds(group))
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
    return found


def _labels(results: list[Result], read: list[Result]) -> list[str]:
    own, training = _differing(read, _own_options), _differing(results, _training)
    labels = []
    for result in results:
        method = result["method"]
        settings = _training(result)
        names = [*own[method], *training[method]]
        words = [f"{_short(key, names)} {settings[key]}" for key in training[method] if key in settings]
        labels.append(_label(method, [*_own_words(result, own), *words]))
    return labels


def _own_words(result: Result, own: dict[str, list[str]]) -> list[str]:
    keys, options = own[result["method"]], _own_options(result)
    # An option is named beside its like alone: what else differs in one table must not rename it there.
    return [f"{_short(key, keys)} {options[key]}" for key in keys if key in options]


def _label(method: str, words: list[str]) -> str:
    return method + (f" ({', '.join(words)})" if words else "")


def _differing(results: list[Result], options: Callable[[Result], dict[str, str]]) -> dict[str, list[str]]:
    """The options that differ among the runs of each method, in their order."""
    values: dict[str, dict[str, set[str]]] = {result["method"]: defaultdict(set) for result in results}
    for result in results:
        for key, value in options(result).items():
            values[result["method"]][key].add(value)
    return {method: [key for key, known in its.items() if len(known) > 1] for method, its in values.items()}


def _arguments(result: Result) -> dict[str, str]:
    return _flat(_part(result, "model", "init_args"), "model")


def _own_options(result: Result) -> dict[str, str]:
    """The options that this method has and others have not."""
    return {key: value for key, value in _arguments(result).items() if key.split(".")[1] not in OF_ANY_METHOD}


def _training(result: Result) -> dict[str, str]:
    """All that a run was set to but for its method's own options."""
    shared = {key: value for key, value in _arguments(result).items() if key.split(".")[1] in OF_ANY_METHOD}
    return shared | _settings(result)


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
