"""Where a run keeps what: the names of its files, and writing them whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mmlab.errors import UserError


class RunFolder:
    """The folder of one run.

    ``config.yaml`` complete and re-runnable; ``metrics.csv`` one row an epoch; ``curves.png``; ``checkpoints/`` best
    and last of each stage; ``result.json``; ``wandb/`` where W&B runs offline.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.csv"
        self.curves = self.path / "curves.png"
        self.result = self.path / "result.json"
        self.predictions = self.path / "predictions.csv"
        self.pictures = self.path / "pictures"
        self.robustness = self.path / "robustness.json"
        self.robustness_table = self.path / "robustness.csv"
        self.robustness_curves = self.path / "robustness.png"
        self.diagnosis = self.path / "diagnosis.json"
        self.wandb_id = self.path / "wandb_id.txt"

    def corrupted(self, corruption: str) -> Path:
        """The metrics under one kind of corruption."""
        return self.path / f"corruption_{corruption}.json"

    def checkpoints(self, stage: str, stages: int) -> Path:
        """The folder of a stage's checkpoints; a run of one stage needs no folder for each."""
        return self.path / "checkpoints" / stage if stages > 1 else self.path / "checkpoints"

    @staticmethod
    def existing(path: str | Path) -> RunFolder:
        """A folder that holds a run.

        Raises:
            UserError: if it doesn't.
        """
        folder = RunFolder(path)
        if not folder.config.is_file():
            raise UserError(f"{path} is not a run: it holds no config.yaml; give the folder that `mmlab fit` printed.")
        return folder


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file that a run wrote.

    Raises:
        UserError: if it is damaged.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and resume the run, which writes it again.") from None


def read_earlier(path: Path) -> dict[str, Any]:
    """What an earlier command wrote that writes it anew if need be; empty where there is none, or it is damaged."""
    try:
        return read_json(path) if path.is_file() else {}
    except UserError:
        return {}


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")
