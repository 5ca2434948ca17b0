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


def write(folder: Path, *results: object, name: str = "result.json") -> None:
    for number, content in enumerate(results):
        (folder / f"run{number}").mkdir(parents=True, exist_ok=True)
        (folder / f"run{number}" / name).write_text(json.dumps(content))
