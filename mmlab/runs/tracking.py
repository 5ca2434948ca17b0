"""Weights & Biases: online where the person is logged in, else into the run's folder."""

from __future__ import annotations

import netrc
import os
import secrets
from dataclasses import dataclass
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


def begin_wandb(
    options: WandbOptions, folder: RunFolder, method: str, dataset: str, config: dict[str, Any]
) -> list[Logger]:
    """Begins the run's record, or goes on with it.

    Args:
        options: mode and project.
        folder: the run's; keeps the record's id, and the record itself where it is offline.
        method: becomes the job type.
        dataset: becomes the group.
        config: the whole config.

    Returns:
        Lightning's logger, or nothing where W&B is off.
    """
    if options.mode == "off":
        return []
    offline = options.mode == "offline" or (options.mode == "auto" and not _logged_in())
    if offline:
        print(f"W&B: offline, into {folder.path / 'wandb'}; send it later with `wandb sync`.", flush=True)
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb  # costs a second

    if not folder.wandb_id.is_file():
        write_text(folder.wandb_id, secrets.token_hex(4) + "\n")
    # Begun here rather than by Lightning's logger, which hands over a setting that W&B warns of at every start.
    run = wandb.init(
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
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return [WandbLogger(experiment=run)]


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


def finish_wandb(loggers: list[Logger]) -> None:
    """Ends the record; without this, a second run in the same process would go on in the first one's."""
    if loggers:
        import wandb

        wandb.finish()
        wandb.teardown()  # waits until the files are on the disk
