"""Results of runs gathered to tables: data sets, rows (methods and their differing settings) and columns (metrics)."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

from mmlab.compare.results import Result, dataset, monitor
from mmlab.compare.rows import by_label, by_seed, cell, heading, is_error, scale, spread, warnings
from mmlab.errors import UserError


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        title: over it: ``fused``, a modality, a combination, or a metric with its unit.
        key: of the number in the results: ``acc_audio``.
        metric: without a modality: ``acc``; it says the unit.
        fused: whether it is for decisions of all modalities, which one modality alone doesn't make.
    """

    title: str
    key: str
    metric: str
    fused: bool = False


@dataclass(frozen=True)
class Table:
    """The runs on one data set.

    Attributes:
        dataset: with its variant.
        split: ``val`` or ``test``.
        samples: in that split.
        subject: what the numbers are: ``test acc in %``.
        columns: from left to right.
        rows: runs by label, from top to bottom.
        read: the runs of all tables, by which a method's options are named.
        warnings: what to beware of in comparing the rows.
    """

    dataset: str
    split: str
    samples: int
    subject: str
    columns: tuple[Column, ...]
    rows: dict[str, list[Result]]
    read: list[Result]
    warnings: tuple[str, ...]

    def values(self, label: str, column: Column) -> dict[int, float]:
        """A row's numbers by seed, in per cent where they are shown so; empty for an absent cell."""
        runs = self.rows[label]
        if column.fused and runs[0]["method"] == "Unimodal" and self._of_a_modality(label):
            return {}  # one modality alone fuses nothing: its value stands in the modality's column
        known = [run for run in runs if run[self.split].get(column.key) is not None]
        return by_seed((run["seed"], scale(column.metric) * run[self.split][column.key]) for run in known)

    def cell(self, label: str, column: Column) -> str:
        """A row's mean and deviation over seeds, ``61.3 ± 0.4``."""
        return cell(spread(self.values(label, column).items()), column.metric)

    def mean(self, label: str, column: Column) -> float | None:
        """A row's mean over seeds; None for an absent cell."""
        found = spread(self.values(label, column).items())
        return found.mean if found else None

    def decisive(self) -> Column:
        """The column of the metric that selected most runs' checkpoints, else the first."""
        runs = [run for group in self.rows.values() for run in group]
        selecting = Counter(str(run.get("monitor", "")).removeprefix("val/") for run in runs)
        for key, _ in selecting.most_common():
            for column in self.columns:
                if column.key == key:
                    return column
        return self.columns[0]

    def best(self, column: Column) -> tuple[frozenset[str], frozenset[str]]:
        """The rows with the best and with the second best mean, as far as the shown digits tell."""
        shown = {label: self.cell(label, column).split(" ")[0] for label in self.rows if self.values(label, column)}
        means = sorted({float(text) for text in shown.values() if text != "nan"}, reverse=not is_error(column.metric))
        places = [frozenset(label for label, text in shown.items() if float(text) == mean) for mean in means[:2]]
        return (*places, *(frozenset(),) * (2 - len(places)))  # type: ignore[return-value]

    def _of_a_modality(self, label: str) -> bool:
        keys = {column.key for column in self.columns if not column.fused}
        return any(run[self.split].get(key) is not None for run in self.rows[label] for key in keys)


def gather(results: list[Result], split: str, metric: str | None = None) -> list[Table]:
    """One table for each data set.

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
    wishes: list[str | None] = [*several] or [metric]
    for wanted in wishes:
        having = [result for result in results if _has(result, split, wanted or monitor(result))]
        if not having:
            known = sorted({key for result in results for key in result.get(split) or {}})
            words = f"the metric {wanted!r}" if wanted else "the metric that selected it"
            raise UserError(f"no result has {words} on {split}; there are {', '.join(known) or 'none'}.")
        for result in having:
            if not any(result is other for other in by_dataset[dataset(result)]):
                by_dataset[dataset(result)].append(result)
    tables = []
    for name, group in sorted(by_dataset.items()):
        rows = by_label(group, results)
        shown = metric or monitor(group[0])
        tables.append(
            Table(
                dataset=name,
                split=split,
                samples=group[0]["splits"][split]["samples"],
                subject=split if several else f"{split} {heading(shown)}",
                # Of a method with one modality, one of several metrics is that modality's.
                columns=tuple(Column(heading(each), each, each) for each in several) or _columns(group, split, shown),
                rows=rows,
                read=results,
                warnings=tuple(warnings(rows)),
            )
        )
    return tables


def _has(result: Result, split: str, metric: str) -> bool:
    return any(key == metric or key.startswith(f"{metric}_") for key in result.get(split) or {})


def _columns(results: list[Result], split: str, metric: str) -> tuple[Column, ...]:
    names = [*results[0]["modalities"], *_combinations(results, split, metric)]
    return Column("fused", metric, metric, fused=True), *(Column(name, f"{metric}_{name}", metric) for name in names)


def _combinations(results: list[Result], split: str, metric: str) -> list[str]:
    """The combinations of several modalities that are not all, and the average, if there are any."""
    named = {name: None for result in results for name in result.get("combinations", [])}
    every = [*sorted((name for name in named if "+" in name), key=lambda name: name.count("+")), "average"]
    return [name for name in every if any(f"{metric}_{name}" in result[split] for result in results)]
