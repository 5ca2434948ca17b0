"""Metrics under corruption: one pass over the test split, every severity and noise seed computed from each batch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer

from mmlab.data.corruption import Cell, Corruption, Name, check_severity
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.errors import UserError
from mmlab.methods.base import Method
from mmlab.runs.fit import partial
from mmlab.runs.folder import RunFolder, read_json, write_json
from mmlab.runs.result import describe


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
    trainer: Trainer, method: Method, data: MultimodalDataModule, corruption: Corruption, cells: list[Cell]
) -> list[dict[str, Any]]:
    """The test metrics of each cell, as plain data.

    Args:
        trainer: runs the test.
        method: with its weights loaded.
        data: whose test split is corrupted.
        corruption: of its encoder inputs.
        cells: which severities and noise seeds.
    """
    data.corruption, data.cells = corruption, cells
    (values,) = trainer.test(method, datamodule=data, verbose=False)
    rows = []
    for number, cell in enumerate(cells):
        prefix = f"test/{number}/" if len(cells) > 1 else "test/"
        own = {key.removeprefix(prefix): round(value, 6) for key, value in values.items() if key.startswith(prefix)}
        rows.append({"severity": cell.severity, "noise_seed": cell.noise_seed, "test": own})
    return rows


def write_corrupted(
    folder: RunFolder,
    checkpoint: Path,
    method: Method,
    data: MultimodalDataModule,
    config: dict[str, Any],
    rows: list[dict[str, Any]],
) -> str:
    """Writes the cells with everything that a table needs of the run.

    Cells that an earlier test of the same checkpoint on the same data wrote stay, unless they were computed anew. What
    was computed from a part of the test split never takes the place of what was computed from all of it.

    Args:
        folder: of the run.
        checkpoint: that was tested.
        method: with its weights.
        data: with its corruption.
        config: of the run.
        rows: from :func:`evaluate_corrupted`.

    Returns:
        A line that says where the results are.
    """
    assert data.corruption is not None
    file = folder.corrupted(data.corruption.name)
    identity = {
        **describe(method, data, config["seed"]),
        "config": config,
        "partial": partial(config),
        "checkpoint_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "corruption": data.corruption.name,
        "corrupted": list(data.corruption.touched),
    }
    before = read_json(file) if file.is_file() else {}
    if identity["partial"] and before.get("partial") == []:
        return f"{file} holds results of the whole test split, which stay: nothing is written."
    same = all(before.get(key) == identity[key] for key in ("checkpoint_sha256", "splits", "partial", "commit"))
    cells = {(row["severity"], row["noise_seed"]): row for row in [*(before["cells"] if same else []), *rows]}
    write_json(file, {**identity, "cells": [cells[key] for key in sorted(cells)]})
    return f"results: {file}"
