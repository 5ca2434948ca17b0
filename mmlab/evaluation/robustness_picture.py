"""robustness.png: a metric over severity, a panel for each corruption, a line for each subset of modalities."""

from __future__ import annotations

from pathlib import Path

from mmlab.compare.drawing import COLOURS, MARKERS, save
from mmlab.compare.rows import heading, scale


def draw_grid(
    curves: dict[str, dict[str, dict[float, float]]],
    corrupted: dict[str, list[str]],
    metric: str,
    title: str,
    picture: Path,
) -> None:
    """Draws the grid of one run.

    Args:
        curves: the metric by corruption, subset and severity.
        corrupted: the modalities that each corruption changes.
        metric: its name.
        title: over the picture.
        picture: the PNG to write, whole or not at all.
    """
    from matplotlib.figure import Figure  # costs half a second; only a picture needs it

    columns = min(len(curves), 3)
    rows = -(-len(curves) // columns)
    subsets = list(dict.fromkeys(subset for lines in curves.values() for subset in lines))
    legend_columns = max(1, min(len(subsets), int(4 * columns / (0.7 + 0.08 * max(map(len, subsets))))))
    height = 3.2 * rows + 0.5 + 0.22 * -(-len(subsets) // legend_columns)
    figure = Figure(figsize=(4 * columns, height), dpi=120, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    handles = {}
    for axes, (name, lines) in zip(grid[: len(curves)], curves.items(), strict=True):
        for number, subset in enumerate(subsets):
            if subset not in lines:
                continue
            (handles[subset],) = axes.plot(
                list(lines[subset]),
                [scale(metric) * value for value in lines[subset].values()],
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=5,
                linewidth=1.6,
            )
        axes.set_title(f"{name}\non {', '.join(corrupted[name])}", fontsize=9)
        axes.set_xlabel("severity")
        axes.grid(alpha=0.3)
    for row in range(rows):
        grid[row * columns].set_ylabel(f"test {heading(metric)}")
    for axes in grid[len(curves) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize=10)
    figure.legend([handles[subset] for subset in subsets], subsets, loc="outside lower center", ncols=legend_columns)
    save(figure, picture)
