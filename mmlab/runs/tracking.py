"""Weights & Biases: online where the person is logged in, else into the run's folder."""

from __future__ import annotations

import csv
import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import Logger, WandbLogger

from mmlab.runs.folder import RunFolder, write_text


@dataclass
class WandbOptions:
    """Weights & Biases.

    Attributes:
        mode: ``auto`` is online where you are logged in and offline into the run's folder elsewhere.
        project: in which runs are gathered.
    """

    mode: Literal["auto", "online", "offline", "off"] = "auto"
    project: str = "mmlab"


class StageLogger(WandbLogger):
    """Lightning's logger, with ``teacher/val/acc`` rather than ``teacher-val/acc`` for a name with a prefix."""

    LOGGER_JOIN_CHAR = "/"


class Record:
    """A run's record in W&B, open until :meth:`finish`.

    The names are the same for every method: ``train/<loss>``, ``step/<loss>``, ``val/<metric>``,
    ``val/<metric>_<modality>`` and ``lr`` of the last stage (an earlier one's stand behind its name,
    ``teacher/val/acc``), and in the summary ``best/<metric>`` of the selected checkpoint on validation and
    ``test/<metric>``.

    Args:
        options: mode and project.
        folder: the run's; keeps the record's id, and the record itself where it is offline.
        method: becomes the job type.
        dataset: becomes the group.
        config: the whole config.
    """

    def __init__(
        self, options: WandbOptions, folder: RunFolder, method: str, dataset: str, config: dict[str, Any]
    ) -> None:
        offline = options.mode == "offline" or (options.mode == "auto" and not _logged_in())
        if offline:
            print(f"W&B: offline, into {folder.path / 'wandb'}; send it later with `wandb sync`.", flush=True)
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb  # costs a second

        if not folder.wandb_id.is_file():
            write_text(folder.wandb_id, secrets.token_hex(4) + "\n")
        # Begun here rather than by Lightning's logger, which hands over a setting that W&B warns of at every start.
        self._run = wandb.init(
            name=f"{method}-s{config['seed']}",
            dir=folder.path,
            id=folder.wandb_id.read_text().strip(),
            resume=None if offline else "allow",
            project=options.project,
            mode="offline" if offline else "online",
            group=dataset,
            job_type=method,
            config=config,
            settings=wandb.Settings(silent=True),
        )
        self._run.define_metric("trainer/global_step")
        self._run.define_metric("*", step_metric="trainer/global_step", step_sync=True)

    def logger(self, prefix: str) -> Logger:
        """A stage's logger.

        Args:
            prefix: of the names; empty for the last stage.
        """
        return StageLogger(experiment=self._run, prefix=prefix)

    def add(self, values: Mapping[str, Any], pictures: Mapping[str, Path], tables: Mapping[str, Path]) -> None:
        """Adds what is found at the end of a run, or of a finished one later.

        Args:
            values: of the run's summary, by name (``robustness/auc_gaussian``).
            pictures: PNG files, by name.
            tables: CSV files with a line of titles, by name.
        """
        import wandb

        media: dict[str, Any] = {name: wandb.Image(str(path)) for name, path in pictures.items()}
        for name, path in tables.items():
            with path.open(encoding="utf-8", newline="") as file:
                titles, *rows = csv.reader(file)
            data = zip(*map(_numbers, zip(*rows, strict=True)), strict=True)
            media[name] = wandb.Table(columns=[*titles], data=[*map(list, data)])
        if media:
            self._run.log(media)
        self._run.summary.update(dict(values))

    def finish(self) -> None:
        """Ends the record; without this, a second run in the same process would go on in the first one's."""
        import wandb

        wandb.finish()
        wandb.teardown()  # waits until the files are on the disk


def add_result(record: Record, result: Mapping[str, Any], curves: Path) -> None:
    """Adds a run's result to its record: ``best/<metric>`` on validation, ``test/<metric>``, cost, curves.

    Args:
        record: of the run.
        result: the content of result.json.
        curves: the picture of the learning curves.
    """
    values = {key: result[key] for key in ("best_epoch", "parameters", "wall_s", "samples_per_s", "peak_memory_mib")}
    values |= {f"best/{key}": value for key, value in result["val"].items()}
    values |= {f"test/{key}": value for key, value in result.get("test", {}).items()}
    values |= {f"sha256/{split}": known["sha256"] for split, known in result["splits"].items()}
    values |= {"protocol": result["protocol"], "commit": result["commit"]}
    record.add(values, {"curves": curves}, {})


def add_to_wandb(
    folder: RunFolder,
    method: str,
    dataset: str,
    config: dict[str, Any],
    values: Mapping[str, float],
    pictures: Mapping[str, Path],
    tables: Mapping[str, Path],
) -> None:
    """Adds what a command found of a finished run to the run's record; does nothing where it has none.

    Args:
        folder: of the run.
        method: as :class:`Record` has it.
        dataset: as well.
        config: of the run.
        values: as in :meth:`Record.add`.
        pictures: as well.
        tables: as well.
    """
    options = WandbOptions(**config["wandb"])
    if options.mode == "off" or not folder.wandb_id.is_file():
        return
    record = Record(options, folder, method, dataset, config)
    record.add(values, pictures, tables)
    record.finish()


def _numbers(column: tuple[str, ...]) -> Sequence[float | str | None]:
    """A table's column, as numbers where every cell is one or empty: W&B takes no column of both."""
    try:
        return [float(cell) if cell else None for cell in column]
    except ValueError:
        return column


def _logged_in() -> bool:
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"] == "online"
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].rstrip("/")
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
