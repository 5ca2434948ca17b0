"""Pictures of a report: balance of the modalities, learning curves, critical differences of mean ranks."""

from __future__ import annotations

import csv
import math
import textwrap
from pathlib import Path

from mmlab.compare.drawing import COLOURS, MARKERS, save
from mmlab.compare.gather import Table
from mmlab.compare.ranks import Ranks
from mmlab.compare.results import Result
from mmlab.compare.rows import heading, scale, spread

FUSED = "#000000"
# How far apart the points of one method stand, as a part of a line's height, so that none hides another.
BESIDE = 0.2
# Of a method's name beside the ranks; a longer one is broken.
CHARACTERS = 28


def draw_balance(table: Table, picture: Path) -> bool:
    """Draws each method's modalities beside its fused decision: one line of points for each method, the best on top.

    Args:
        table: of one metric.
        picture: the file to write.

    Returns:
        Whether there was a modality to draw.
    """
    from matplotlib.figure import Figure

    shown = [column for column in table.columns if column.fused or column.title in _modalities(table)]
    spreads = {
        column.title: {label: spread(table.values(label, column).items()) for label in table.rows} for column in shown
    }
    labels = [label for label in table.rows if any(values[label] for values in spreads.values())]
    if len(shown) < 2 or not any(spreads[column.title][label] for column in shown[1:] for label in labels):
        return False
    highest = {label: [value.mean for values in spreads.values() if (value := values[label])] for label in labels}
    fused = spreads[shown[0].title]
    labels.sort(key=lambda label: found.mean if (found := fused[label]) else min(highest[label]) - 1e9)
    figure = Figure(figsize=(7, 1.4 + 0.3 * len(labels)), layout="constrained")
    axes = figure.subplots()
    for place, label in enumerate(labels):
        axes.plot([min(highest[label]), max(highest[label])], [place, place], color="#bbbbbb", linewidth=1, zorder=1)
    for number, column in enumerate(shown):
        points = [(place, spreads[column.title][label]) for place, label in enumerate(labels)]
        known = [(place, value) for place, value in points if value is not None]
        axes.errorbar(
            [value.mean for _, value in known],
            [place - BESIDE * (number - (len(shown) - 1) / 2) for place, _ in known],
            xerr=[value.deviation or 0.0 for _, value in known],
            color=FUSED if column.fused else _colours()[number - 1],
            marker="D" if column.fused else MARKERS[(number - 1) % len(MARKERS)],
            linestyle="none",
            elinewidth=1.2,
            label=column.title,
        )
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel(table.subject)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper right", ncols=min(len(shown), 4), fontsize=9)
    save(figure, picture)
    return True


def draw_learning(table: Table, picture: Path) -> bool:
    """Draws the validation metric that selects over the epochs: a panel for each row, a thin line for each seed.

    Seeds that stop early end early; a mean over those that are left would jump, so that none is drawn. The stages of a
    run follow one another.

    Args:
        table: whose runs may have their metrics.csv beside result.json.
        picture: the file to write.

    Returns:
        Whether any run has one.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    column = table.decisive()
    lines = {label: [_epochs(run, f"val/{column.key}") for run in runs] for label, runs in table.rows.items()}
    drawn = {label: [line for line in found if line] for label, found in lines.items()}
    drawn = {label: found for label, found in drawn.items() if found}
    if not drawn:
        return False
    columns = min(3, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    figure = Figure(figsize=(max(4.0, 2.6 * columns), 0.5 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, (label, found) in zip(grid, drawn.items(), strict=False):
        for line in found:
            epochs, values = zip(*line, strict=True)
            axes.plot(
                epochs,
                [scale(column.metric) * value for value in values],
                color=COLOURS[0],
                alpha=0.7,
                linewidth=1,
                marker="o" if len(epochs) == 1 else None,
            )
        axes.set_title(label, fontsize=8, wrap=True)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel(f"val {heading(column.metric)}, {column.title}", fontsize=9)
    save(figure, picture)
    return True


def draw_ranks(found: Ranks, picture: Path) -> None:
    """Draws mean ranks on a line; a bar joins methods less than the critical difference apart (Demšar, JMLR 2006).

    Args:
        found: what to draw.
        picture: the file to write.
    """
    from matplotlib.figure import Figure

    methods = list(found.places)
    means = [found.mean(method) for method in methods]
    groups = _groups(means, found.critical)
    half = math.ceil(len(methods) / 2)
    lowest = 0.5 + 0.28 * len(groups)
    bottom = lowest + half + 0.3
    figure = Figure(figsize=(8, 0.36 * (bottom + 2.2)))
    axes = figure.add_axes((0.29, 0, 0.42, 1))
    last = len(methods)
    axes.hlines(0, 1, last, color="black", linewidth=1.2)
    for place in range(1, last + 1):
        axes.vlines(place, 0, -0.18, color="black", linewidth=1)
        axes.text(place, -0.28, str(place), ha="center", va="bottom", fontsize=9)
    for number, (method, mean) in enumerate(zip(methods, means, strict=True)):
        left = number < half
        depth = lowest + (number if left else last - 1 - number) + 0.5
        end = 0.8 if left else last + 0.2
        axes.plot([mean, mean, end], [0, depth, depth], color="#555555", linewidth=0.9)
        text = textwrap.fill(f"{method}  {mean:.2f}" if left else f"{mean:.2f}  {method}", CHARACTERS)
        axes.text(end + (-0.1 if left else 0.1), depth, text, ha="right" if left else "left", va="center", fontsize=9)
    for number, (first, end) in enumerate(groups):
        height = 0.4 + 0.28 * number
        axes.plot([first - 0.04, end + 0.04], [height, height], color=COLOURS[0], linewidth=3.5, solid_capstyle="butt")
    length = min(found.critical, last - 1)
    axes.plot([1, 1 + length], [-1.35, -1.35], color=COLOURS[1], linewidth=2, marker="|")
    axes.text(1 + length / 2, -1.5, f"critical difference {found.critical:.2f}", ha="center", va="bottom", fontsize=9)
    axes.set_ylim(bottom, -2.2)
    axes.set_xlim(0.7, last + 0.3)
    axes.set_axis_off()
    save(figure, picture)


def _groups(means: list[float], critical: float) -> list[tuple[float, float]]:
    """The longest stretches of ascending means no longer than the critical difference, of two methods or more."""
    found: list[tuple[float, float]] = []
    for first in means:
        last = max(mean for mean in means if mean - first <= critical)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def _modalities(table: Table) -> list[str]:
    return [str(name) for name in next(iter(table.rows.values()))[0]["modalities"]]


def _colours() -> tuple[str, ...]:
    return tuple(colour for colour in COLOURS if colour != FUSED) * 3


def _epochs(run: Result, key: str) -> list[tuple[int, float]]:
    """A run's values of one metric over its epochs, counted on through its stages; none without a metrics.csv."""
    file = run["folder"] / "metrics.csv"
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", errors="replace", newline="") as text:
        cells = [(epoch, row.get(key)) for epoch, row in enumerate(csv.DictReader(text), start=1)]
    return [(epoch, value) for epoch, cell in cells if (value := _number(cell)) is not None]


def _number(cell: str | None) -> float | None:
    try:
        return float(cell or "")
    except ValueError:
        return None
