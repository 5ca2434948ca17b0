"""curves.png: losses and validation metrics over the epochs."""

from __future__ import annotations

from pathlib import Path

from mmlab.runs.metrics_file import read_rows


def draw_curves(metrics: Path, picture: Path, monitor: str, title: str) -> None:
    """Draws the learning curves of one run.

    Args:
        metrics: the run's metrics.csv.
        picture: the PNG to write.
        monitor: the metric that selects the checkpoint, without its split (``acc``).
        title: over the picture.
    """
    from matplotlib.figure import Figure  # costs half a second; only a finished fit draws
    from matplotlib.ticker import MaxNLocator

    shown = monitor.split("_")[0]  # with several combinations of modalities, their average selects
    rows = list(read_rows(metrics).values())
    if not rows:
        return
    columns = sorted({key for row in rows for key in row})
    epochs = range(1, len(rows) + 1)
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for column in columns:
        values = [row.get(column, float("nan")) for row in rows]
        width = 2.2 if column in ("train/loss", "val/loss", f"val/{monitor}") else 1.1
        marker = "o" if len(rows) == 1 else None
        if column.startswith("train/") or column == "val/loss":
            losses.plot(epochs, values, label=column, linewidth=width, marker=marker)
        elif column.startswith(f"val/{shown}"):
            scores.plot(epochs, values, label=column, linewidth=width, marker=marker)
    losses.set_title("losses")
    scores.set_title(f"validation {shown}")
    for axes in (losses, scores):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(title)
    partial = picture.with_name(f".{picture.name}.partial.png")
    figure.savefig(partial, dpi=120)
    partial.replace(picture)
