"""The same search as a file for ``wandb sweep``, for those who have an account."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mmlab.compare.rows import is_error
from mmlab.runs.folder import write_text
from mmlab.sweep.settings import Range, Values


def write_wandb_sweep(
    file: Path,
    config: Path | None,
    seeds: Sequence[int],
    space: dict[str, Values],
    random_settings: int | None,
    flags: Sequence[str],
    test: bool,
    metric: str,
) -> None:
    """Writes a W&B sweep: a grid, or as many random settings (W&B then draws each run's seed too).

    Args:
        file: to write.
        config: the config file; None where flags say all.
        seeds: of each setting.
        space: what to search, by config key.
        random_settings: how many settings to draw; None for every combination.
        flags: for every run.
        test: whether each run is tested at its end.
        metric: the selecting one, without ``val/``; the sweep goes by its value of each run's selected checkpoint.
    """
    given = ["--config", str(config)] if config else []
    content: dict[str, Any] = {
        "method": "grid" if random_settings is None else "random",
        "metric": {"name": f"best/{metric}", "goal": "minimize" if is_error(metric) else "maximize"},
        "parameters": {
            **{key: _parameter(values) for key, values in space.items()},
            "seed": {"values": list(seeds)},
        },
        "command": ["mmlab", "fit", *given, *flags, "--test", str(test).lower(), "${args}"],
    }
    if random_settings is not None:
        content["run_cap"] = random_settings * len(seeds)
    head = f"# wandb sweep --project mmlab {file}    then, on each machine: wandb agent ID\n"
    write_text(file, head + yaml.safe_dump(content, sort_keys=False, width=120))


def _parameter(values: Values) -> dict[str, Any]:
    if not isinstance(values, Range):
        return {"values": [_number(value) for value in values]}
    ends = int(values.low) if values.whole else values.low, int(values.high) if values.whole else values.high
    bounds: dict[str, Any] = {"min": ends[0], "max": ends[1]}
    if values.log:
        rounded = {"distribution": "q_log_uniform_values", "q": 1}
        return (rounded if values.whole else {"distribution": "log_uniform_values"}) | bounds
    return {"distribution": "int_uniform" if values.whole else "uniform"} | bounds


def _number(value: str) -> int | float | str:
    """Numbers as such, so that W&B can draw them on an axis; anything else as it is written."""
    if re.fullmatch(r"[+-]?\d+", value):
        return int(value)
    try:
        return float(value)
    except ValueError:
        return value
