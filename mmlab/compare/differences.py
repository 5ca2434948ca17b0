"""Differences of the methods of a table to one of them, paired by seed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

from mmlab.compare.gather import Column, Table
from mmlab.compare.results import Result
from mmlab.compare.rows import ABSENT, most_usual, own_label, scale
from mmlab.compare.significance import Paired, holm, paired
from mmlab.compare.table import markdown
from mmlab.errors import UserError, did_you_mean

DEFAULT_BASELINES = ("LateFusion", "ModalityDropout", "JointTraining")
CAUTION = (
    "Paired by seed: mean ± standard error, d = mean over standard deviation of the differences, p of a two-sided "
    "t-test, Holm's correction over the methods of the column. All seeds share one split and its test samples: p says "
    "whether another seed would repeat the difference, not whether other samples would."
)


@dataclass(frozen=True)
class Difference:
    """A row's difference to the baseline, in the column's unit.

    Attributes:
        label: of the row.
        paired: over the seeds that both have.
        corrected: p after Holm's correction over the column; None where there is no p.
    """

    label: str
    paired: Paired
    corrected: float | None = None


@dataclass(frozen=True)
class Differences:
    """A column's differences to the baseline.

    Attributes:
        column: of the table.
        rows: those with a seed in common with the baseline.
        left_out: sentences on other rows.
    """

    column: Column
    rows: tuple[Difference, ...]
    left_out: tuple[str, ...]


def find_baseline(table: Table, wanted: str | None) -> str | None:
    """The row that others are compared with.

    Args:
        table: whose rows are searched.
        wanted: its label, or that of its method (with its own options if they differ). Unless given, the first there
            is of late fusion, modality dropout and joint training. Of several rows of that method that were trained
            differently, it is the one that was trained as most runs of the table were.

    Returns:
        None where the table has no such row.

    Raises:
        UserError: if several rows differ in their method's own options.
    """
    if wanted in table.rows:
        return wanted
    for name in (wanted,) if wanted else DEFAULT_BASELINES:
        labels = [label for label in table.rows if name in _names(table, label)]
        if wanted and len({own_label(table.rows[label][0], table.read) for label in labels}) > 1:
            raise UserError(
                f"--baseline {wanted} could be several rows of {table.dataset}; say which: {'; '.join(labels)}."
            )
        if labels:
            return most_usual(labels, table.rows)
    return None


def check_baseline(tables: list[Table], wanted: str) -> None:
    """Refuses a baseline that no table has.

    Raises:
        UserError: in that case, or where it could be several rows.
    """
    rows = [find_baseline(table, wanted) for table in tables]
    if not any(rows):
        known = dict.fromkeys(name for table in tables for label in table.rows for name in _names(table, label))
        raise UserError(
            f"--baseline is {wanted!r}, but no table has that row{did_you_mean(wanted, known)}; there are "
            f"{', '.join(known)}."
        )


def differences(table: Table, baseline: str, column: Column) -> Differences:
    """All rows of a column against the baseline's.

    Args:
        table: holds the column.
        baseline: a row's label.
        column: to compare in.
    """
    rows, left_out = [], []
    base = _finite(table, baseline, column)
    for label in table.rows:
        own = _finite(table, label, column)
        common = sorted(own.keys() & base.keys())
        if label == baseline or not own or not base:
            continue
        if _samples(table, label) != _samples(table, baseline):
            left_out.append(f"{label} saw other {table.split} samples than {baseline}: not compared.")
        elif not common:
            left_out.append(f"{label} has no seed in common with {baseline}: not compared.")
        else:
            rows.append(Difference(label, paired([own[seed] - base[seed] for seed in common])))
    known = [row.paired.p for row in rows if row.paired.p is not None]
    corrected = iter(holm(known))
    whole = (row if row.paired.p is None else replace(row, corrected=next(corrected)) for row in rows)
    return Differences(column, tuple(whole), tuple(left_out))


def differences_table(table: Table, baseline: str, found: Differences) -> str:
    """A Markdown table of one column's differences."""
    return markdown(
        f"**{table.dataset}**, {table.subject}, {found.column.title}: difference to {baseline}",
        ["method", "seeds", "difference", "d", "p", "p corrected"],
        [[row.label, row.paired.seeds, *shown(row, found.column)] for row in found.rows],
        [*found.left_out, CAUTION],
    )


def shown(row: Difference, column: Column) -> tuple[str, str, str, str]:
    """The difference with its error, the effect, p and the corrected p, as texts."""
    digits = 1 if scale(column.metric) == 100 else 3
    mean = f"{row.paired.mean:+.{digits}f}".replace("-", "−")
    error = "" if row.paired.error is None else f" ± {row.paired.error:.{digits}f}"
    effect = ABSENT if row.paired.effect is None else f"{row.paired.effect:+.2f}".replace("-", "−")
    return mean + error, effect, _p(row.paired.p), _p(row.corrected)


def _p(value: float | None) -> str:
    if value is None:
        return ABSENT
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _names(table: Table, label: str) -> tuple[str, str, str]:
    """What a row answers to: its label, that without differing settings, its method."""
    run = table.rows[label][0]
    return label, own_label(run, table.read), str(run["method"])


def _finite(table: Table, label: str, column: Column) -> dict[int, float]:
    return {seed: value for seed, value in table.values(label, column).items() if math.isfinite(value)}


def _samples(table: Table, label: str) -> set[str]:
    runs: list[Result] = table.rows[label]
    return {json.dumps(run["splits"][table.split], sort_keys=True) for run in runs}
