"""metrics.csv: one row an epoch, every metric a column."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from mmlab.runs.folder import write_text

PREFIXES = ("train/", "val/", "gradient/")
Rows = dict[tuple[str, int], dict[str, float]]


class MetricsFile(Logger):
    """Collects what is logged at the ends of epochs, which are counted from 1.

    A resumed run goes on in the rows that are there. Lightning's own CSV logger deletes the file of the run that it
    resumes, which is why this one exists.

    Args:
        path: of the file.
        stage: names the rows of this fit.
    """

    def __init__(self, path: Path, stage: str) -> None:
        super().__init__()
        self._path = path
        self._stage = stage
        self._rows: Rows | None = None

    @property
    def name(self) -> str:
        """Required by Lightning."""
        return ""

    @property
    def version(self) -> str:
        """Required by Lightning."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Takes up what belongs to an epoch; values of single steps (``step/...``) go to W&B only."""
        values = {key: value for key, value in metrics.items() if key == "lr" or key.startswith(PREFIXES)}
        if not values or "epoch" not in metrics:
            return
        if self._rows is None:
            self._rows = read_rows(self._path)
        row = self._rows.setdefault((self._stage, int(metrics["epoch"]) + 1), {})
        row.update(values, step=float(step or 0))
        write_text(self._path, _as_csv(self._rows))


def _as_csv(rows: Rows) -> str:
    columns = sorted({key for row in rows.values() for key in row} - {"step"})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["stage", "epoch", "step", *columns])
    for (stage, epoch), row in rows.items():
        cells = [f"{row[key]:.6g}" if key in row else "" for key in columns]
        writer.writerow([stage, epoch, int(row["step"]), *cells])
    return text.getvalue()


def read_rows(path: Path) -> Rows:
    """The file's rows by (stage, epoch); none where there is no file yet."""
    if not path.is_file():
        return {}
    rows: Rows = {}
    with path.open(encoding="utf-8", newline="") as file:
        for cells in csv.DictReader(file):
            key = cells.pop("stage"), int(cells.pop("epoch"))
            rows[key] = {name: float(cell) for name, cell in cells.items() if cell != ""}
    return rows
