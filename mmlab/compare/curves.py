"""The picture of ``mmlab compare --corruption``: a metric over severity, one panel for each data set."""

from __future__ import annotations

import textwrap
from itertools import pairwise
from pathlib import Path

from mmlab.compare.drawing import COLOURS, MARKERS, save
from mmlab.compare.robustness import Robustness
from mmlab.compare.rows import heading

# How far apart the first and the last method's error bars stand, as a part of the mean distance of two severities.
BESIDE = 0.16
# Equal curves lie on one another: markers are hollow and get smaller (in points), and of each period of the line
# (in its widths) less is drawn, so that something of every curve shows.
SMALLEST, SMALLER_BY, LARGEST = 5.0, 2.0, 14.0
PERIOD, LEAST_DRAWN = 16.0, 0.4
# Of a warning's small print, so that a line is as wide as a panel.
CHARACTERS = 84


def draw_robustness(found: list[Robustness], picture: Path) -> None:
    """Draws the means over the severities, with error bars of a standard deviation over seeds.

    Points and lines stand at their severity; only the error bars are shifted sideways, so that they can be told apart.
    Below a panel stands what its table warns of.

    Args:
        found: one for each panel.
        picture: the PNG or SVG to write, whole or not at all.
    """
    from matplotlib.figure import Figure  # costs half a second; only a picture needs it

    methods = sorted({method for panel in found for method in panel.values})
    columns = min(len(found), 3)
    rows = -(-len(found) // columns)
    width = max(6.0, 4.8 * columns)
    legend_columns = max(1, min(len(methods), int(width / (0.7 + 0.08 * max(map(len, methods))))))
    legend_rows = -(-len(methods) // legend_columns)
    notes = ["\n".join(textwrap.fill(warning, CHARACTERS) for warning in panel.warnings) for panel in found]
    note_lines = sum(
        max(len(note.splitlines()) for note in notes[row * columns : (row + 1) * columns]) for row in range(rows)
    )
    height = 3.8 * rows + 0.6 + 0.22 * legend_rows + 0.13 * note_lines
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    handles = {}
    smaller_by = min(SMALLER_BY, (LARGEST - SMALLEST) / max(len(methods) - 1, 1))
    for panel, note, axes in zip(found, notes, grid[: len(found)], strict=True):
        first, last = panel.severities[0], panel.severities[-1]
        distance = (last - first) / (len(panel.severities) - 1) if last > first else 1.0
        nearest = min((after - before for before, after in pairwise(panel.severities)), default=distance)
        for number, method in enumerate(methods):
            values = panel.values.get(method, {})
            if not values:
                continue
            colour = COLOURS[number % len(COLOURS)]
            means = [value.mean for value in values.values()]
            deviations = [value.deviation or 0.0 for value in values.values()]
            part = number / max(len(methods) - 1, 1)
            beside = (part - 0.5) * min(BESIDE * distance, 0.8 * nearest)
            drawn = PERIOD * (1 - (1 - LEAST_DRAWN) * part)
            axes.errorbar(
                [severity + beside for severity in values],
                means,
                yerr=deviations,
                color=colour,
                alpha=0.6,
                linestyle="none",
                elinewidth=2,
            )
            (handles[method],) = axes.plot(
                list(values),
                means,
                color=colour,
                marker=MARKERS[number % len(MARKERS)],
                markersize=SMALLEST + smaller_by * (len(methods) - 1 - number),
                markerfacecolor="none",
                markeredgewidth=1.4,
                linewidth=1.6,
                linestyle=(0, (drawn, PERIOD - drawn)) if number else "-",
            )
        axes.set_title(f"{panel.dataset}\n{panel.corruption} on {', '.join(panel.corrupted)}", fontsize=10)
        axes.set_xlim(first - 0.2 * distance, last + 0.2 * distance)
        labels = [f"{severity:g}" for severity in panel.severities]
        # Where a label is wider than its place, matplotlib's own ticks stay.
        if nearest > 0.025 * (max(map(len, labels)) + 1) * (last - first):
            axes.set_xticks(panel.severities, labels)
        axes.set_xlabel("severity")
        axes.annotate(
            note,
            (0.5, 0),
            (0, -34),
            xycoords="axes fraction",
            textcoords="offset points",
            va="top",
            ha="center",
            size=7,
        )
        axes.set_ylabel(f"test {heading(panel.metric)}")
        axes.grid(alpha=0.3)
    for axes in grid[len(found) :]:
        axes.set_visible(False)
    figure.suptitle("mean ± standard deviation over seeds (bars, shifted sideways to be told apart)", fontsize=9)
    figure.legend(
        [handles[method] for method in methods], methods, loc="outside lower center", ncols=legend_columns, fontsize=9
    )
    save(figure, picture)
