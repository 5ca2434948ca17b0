"""Metrics under corruption: one pass over the test split, every severity and noise seed computed from each batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from mmlab.data.corruption import Cell, Corruption, Name, check_severity
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.errors import UserError
from mmlab.methods.base import Method
from mmlab.runs.fit import partial
from mmlab.runs.folder import RunFolder, read_earlier, write_json
from mmlab.runs.result import describe

SAME = ("checkpoint_sha256", "splits", "dataset_details", "partial")
"""What tells whether two files are of the same checkpoint on the same data."""


def make_cells(name: Name, severities: list[float], noise_seeds: int) -> list[Cell]:
    """Every severity with noise seeds from 0; severity 0, which changes nothing, once.

    Raises:
        UserError: for a severity that the corruption has no meaning for or that is given twice, or no noise seed.
    """
    if noise_seeds < 1:
        raise UserError(f"--noise_seeds is {noise_seeds}; it must be 1 or more.")
    for severity in severities:
        check_severity(name, severity)
        if severities.count(severity) > 1:
            raise UserError(f"--severity names {severity:g} twice; name every severity once.")
    return [Cell(severity, seed) for severity in severities for seed in range(noise_seeds if severity else 1)]


def evaluate_corrupted(
    trainer: Trainer, method: Method, data: MultimodalDataModule, plan: Sequence[tuple[Corruption, Sequence[Cell]]]
) -> list[dict[str, Any]]:
    """The test metrics of each cell, in order, as plain data.

    Args:
        trainer: runs the test.
        method: with its weights loaded.
        data: whose test split is corrupted.
        plan: corruptions of its encoder inputs, and the severities and noise seeds of each.
    """
    data.corruptions = plan
    (values,) = trainer.test(method, datamodule=data, verbose=False)
    own: dict[int, dict[str, float]] = {number: {} for number in range(data.variants)}
    for name, value in values.items():
        number, _, key = name.removeprefix("test/").rpartition("/")
        own[int(number or 0)][key] = round(value, 6)
    cells = [cell for _, cells in plan for cell in cells]
    return [
        {"severity": cell.severity, "noise_seed": cell.noise_seed, "test": test}
        for cell, test in zip(cells, own.values(), strict=True)
    ]


def identify(method: Method, data: MultimodalDataModule, config: dict[str, Any], checkpoint: Path) -> dict[str, Any]:
    """What was tested on what: the run as result.json describes it, its config, and the checkpoint's SHA-256."""
    return {
        **describe(method, data, config["seed"]),
        "config": config,
        "partial": partial(config),
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
    }


def write_corrupted(
    folder: RunFolder,
    checkpoint: Path,
    method: Method,
    data: MultimodalDataModule,
    config: dict[str, Any],
    corruption: Corruption,
    rows: list[dict[str, Any]],
) -> str:
    """Writes the cells with everything that a table needs of the run.

    Cells that an earlier test of the same checkpoint on the same data wrote stay, unless they were computed anew. What
    was computed from a part of the test split never takes the place of what was computed from all of it.

    Args:
        folder: of the run.
        checkpoint: that was tested.
        method: with its weights.
        data: that it was tested on.
        config: of the run.
        corruption: of the test split.
        rows: from :func:`evaluate_corrupted`.

    Returns:
        A line that says where the results are.
    """
    file = folder.corrupted(corruption.name)
    identity = identify(method, data, config, checkpoint)
    identity |= {"corruption": corruption.name, "corrupted": list(corruption.touched)}
    before = read_earlier(file)
    if identity["partial"] and before.get("partial") == []:
        return f"{file} holds results of the whole test split, which stay: nothing is written."
    same = all(before.get(key) == identity[key] for key in (*SAME, "commit"))
    cells = {(row["severity"], row["noise_seed"]): row for row in [*(before["cells"] if same else []), *rows]}
    write_json(file, {**identity, "cells": [cells[key] for key in sorted(cells)]})
    return f"results: {file}"
