"""Results of runs that never were, for the tests of the comparison."""

from __future__ import annotations

import json
from pathlib import Path


def result(method: str = "MNL", seed: int = 0, acc: float = 0.5, **changes: object) -> dict:
    sha = {"samples": 40, "sha256": "0" * 64}
    content = {
        "method": method,
        "dataset": "AVDigits",
        "dataset_details": {"variant": "hard"},
        "protocol": "honest",
        "seed": seed,
        "modalities": ["audio", "image"],
        "splits": {"train": sha, "val": sha, "test": sha},
        "val": {"acc": acc + 0.1, "loss": 1.0},
        "test": {"acc": acc, "acc_audio": acc / 2, "acc_image": 0.25, "loss": 1.5},
    }
    return content | changes


def grid(method: str = "MNL", seed: int = 0, blur: float = 0.8, **changes: object) -> dict:
    size = {"samples": 40, "sha256": "0" * 64}
    content = {
        "method": method,
        "dataset": "AVDigits",
        "protocol": "honest",
        "seed": seed,
        "modalities": ["audio", "image"],
        "splits": {"train": size, "val": size, "test": size},
        "metric": "acc",
        "mode": "max",
        "corrupted": {"blur": ["image"], "missing": ["audio", "image"]},
        "cells": [
            {"corruption": name, "severity": severity, "noise_seed": 0, "test": {"acc": blur}}
            for name, severity in (("none", 0.0), ("blur", 10.0), ("missing", 10.0))
        ],
        "auc": {
            "blur": {"audio": 0.1, "image": 0.2, "audio+image": blur},
            "missing": {"audio": 0.3, "image": 0.4, "audio+image": 0.5},
        },
        "average": 0.4,
        "worst": {"value": 0.05, "subset": "audio"},
    }
    return content | changes


def diagnosis(method: str = "MNL", seed: int = 0, own: float = 0.5, **changes: object) -> dict:
    return (
        result(
            method,
            seed,
            split="test",
            metric="acc",
            value="acc",
            own_head={"audio": own, "image": 0.25},
            probe={"audio": own + 0.1},
            shapley={"audio": 0.3, "image": -0.05},
            ece={"fused": 0.125, "audio": 0.3},
        )
        | changes
    )


def write(folder: Path, *results: object, name: str = "result.json") -> None:
    for number, content in enumerate(results):
        (folder / f"run{number}").mkdir(parents=True, exist_ok=True)
        (folder / f"run{number}" / name).write_text(json.dumps(content))
