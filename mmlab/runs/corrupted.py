"""Metrics under corruption: one pass over the test split, every severity and noise seed computed from each batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only

from mmlab.data.corruption import Cell, Corruption, Name, check_severity
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.errors import UserError
from mmlab.methods.base import Method
from mmlab.runs.folder import write_json
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


@rank_zero_only
def write_corrupted(
    path: Path,
    method: Method,
    data: MultimodalDataModule,
    config: dict[str, Any],
    partial: list[str],
    rows: list[dict[str, Any]],
) -> None:
    """Writes the cells with everything that a table needs of the run.

    Args:
        path: of the file.
        method: that was tested.
        data: with its corruption.
        config: of the run.
        partial: the limits that let it see a part of the data only.
        rows: from :func:`evaluate_corrupted`.
    """
    assert data.corruption is not None
    write_json(
        path,
        {
            **describe(method, data, config["seed"]),
            "config": config,
            "partial": partial,
            "corruption": data.corruption.name,
            "corrupted": list(data.corruption.touched),
            "cells": rows,
        },
    )
