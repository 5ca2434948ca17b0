"""What runs left behind: result.json, corruption_<name>.json, robustness.json, diagnosis.json; without torch."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmlab.errors import UserError, did_you_mean

Result = dict[str, Any]
NEEDED = {"method": str, "dataset": str, "protocol": str, "seed": int, "modalities": list, "splits": dict}
OF_RUN = NEEDED | {"val": dict}
NUMBER = int | float
OF_CORRUPTION = NEEDED | {"corruption": str, "corrupted": list, "cells": list}
OF_DIAGNOSIS = NEEDED | {
    "split": str,
    "metric": str,
    "value": str,
    "own_head": dict,
    "probe": dict,
    "shapley": dict,
    "ece": dict,
}
OF_GRID: dict[str, Any] = NEEDED | {
    "metric": str,
    "corrupted": dict,
    "auc": dict,
    "average": NUMBER,
    "worst": dict,
    "cells": list,
}


def read_results(folders: list[Path], corruption: str | None = None) -> tuple[list[Result], list[str]]:
    """The results below some folders, and a sentence on each that is left out because it can't be read.

    Args:
        folders: each a run, or a folder that holds runs.
        corruption: reads the runs' tests under this corruption, corruption_<name>.json, in place of result.json.

    Returns:
        What the files hold, each with its run's ``folder`` (a Path) besides; and the sentences.

    Raises:
        UserError: if a folder isn't there or holds no such file, or the corruption's name can't be one.
    """
    if corruption is not None and not corruption.isidentifier():
        raise UserError(f"--corruption is {corruption!r}; give the name of one, such as gaussian.")
    name = "result.json" if corruption is None else f"corruption_{corruption}.json"
    why = "not finished" if corruption is None else f"not tested under {corruption}"
    needed = OF_RUN if corruption is None else OF_CORRUPTION
    results, left_out = _read(folders, name, needed, lambda result, wrong: _lacking(result, wrong, corruption), why)
    if not results:
        raise UserError(_nothing(folders, name, corruption, left_out))
    return results, left_out


def read_grids(folders: list[Path]) -> tuple[list[Result], list[str]]:
    """The robustness grids below some folders, as :func:`read_results` reads results.

    Raises:
        UserError: if a folder isn't there or holds no such file.
    """
    results, left_out = _read(folders, "robustness.json", OF_GRID, _lacking_in_grid, "its robustness was not tested")
    if not results:
        below = ", ".join(map(str, folders))
        raise UserError(f"there is no robustness.json below {below}; `mmlab robustness --run DIR` writes one.")
    return results, left_out


def read_diagnoses(folders: list[Path], split: str) -> tuple[list[Result], list[str]]:
    """The diagnoses of one split below some folders, as :func:`read_results` reads results.

    Raises:
        UserError: if a folder isn't there or holds no such file.
    """
    results, left_out = _read(folders, "diagnosis.json", OF_DIAGNOSIS, _lacking_in_diagnosis, "not diagnosed")
    others = [result for result in results if result["split"] != split]
    left_out += [f"left out {other['folder'] / 'diagnosis.json'}: of the {other['split']} split" for other in others]
    results = [result for result in results if result["split"] == split]
    if not results:
        below = ", ".join(map(str, folders))
        raise UserError(
            f"there is no diagnosis.json of the {split} split below {below}; "
            f"`mmlab diagnose --run DIR --split {split}` writes one."
        )
    return results, left_out


def _read(
    folders: list[Path],
    name: str,
    needed: dict[str, Any],
    lacking: Callable[[Result, list[str]], list[str]],
    absent: str,
) -> tuple[list[Result], list[str]]:
    """The files of a name below some folders, and a sentence on each that is left out.

    Args:
        folders: where to look.
        name: of the files.
        needed: the kind of what each must hold, by key.
        lacking: what else one must hold and doesn't, given what it holds and the keys that are wrong already.
        absent: why a run may have no such file.
    """
    results, left_out = [], []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; give the folder of a run, or one that holds runs.")
        for file in sorted(folder.rglob(glob.escape(name))):
            try:
                result = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                left_out.append(f"left out {file}: {error}")
                continue
            wrong = list(needed)
            if isinstance(result, dict):
                wrong = [key for key, kind in needed.items() if not isinstance(result.get(key), kind)]
                if not isinstance(result.get("dataset_details", {}), dict):
                    wrong.append("dataset_details")
                wrong += lacking(result, wrong)
            if wrong:
                left_out.append(f"left out {file}: no result of a run, it has no {', '.join(wrong)}")
            else:
                results.append(result | {"folder": file.parent})
        for file in sorted(folder.rglob("metrics.csv")):
            if not file.with_name(name).exists():
                left_out.append(f"left out {file.parent}: {absent}, it has no {name}")
    return results, left_out


def corruptions(folders: list[Path]) -> list[str]:
    """The corruptions that any run below some folders was tested under."""
    files = (file for folder in folders for file in folder.rglob("corruption_*.json"))
    return sorted({file.stem.removeprefix("corruption_") for file in files})


def _lacking(result: Result, wrong: list[str], corruption: str | None) -> list[str]:
    """What the result of a run, or of its test under a corruption, lacks besides wrong keys."""
    lacking = []
    sizes = result["splits"].values() if "splits" not in wrong else []
    if not all(isinstance(part, dict) and "samples" in part for part in sizes):
        lacking.append("splits")
    if corruption is None:
        return lacking + [f"numbers in {split}" for split in ("val", "test") if not _are_metrics(result, split)]
    if "splits" not in [*wrong, *lacking] and "test" not in result["splits"]:
        lacking.append("test split")
    if "corruption" not in wrong and result["corruption"] != corruption:
        lacking.append(f"corruption {corruption}")
    if "cells" not in wrong and not _are_cells(result["cells"]):
        lacking.append("cells")
    return lacking


def _lacking_in_grid(result: Result, wrong: list[str]) -> list[str]:
    """What a robustness grid lacks besides wrong keys."""
    lacking = []
    part = result["splits"].get("test") if "splits" not in wrong else {"samples": 0}
    if not isinstance(part, dict) or not isinstance(part.get("samples"), int):
        lacking.append("test split")
    if "worst" not in wrong and not isinstance(result["worst"].get("value"), NUMBER):
        lacking.append("worst value")
    areas = result["auc"].values() if "auc" not in wrong else []
    if not all(
        isinstance(row, dict) and row and all(isinstance(area, NUMBER) for area in row.values()) for row in areas
    ):
        lacking.append("auc")
    if "cells" not in wrong and not (
        _are_cells(result["cells"]) and all(isinstance(cell.get("corruption"), str) for cell in result["cells"])
    ):
        lacking.append("cells")
    if not {"auc", "corrupted"} & {*wrong, *lacking} and not result["auc"].keys() <= result["corrupted"].keys():
        lacking.append("corrupted modalities")
    return lacking


def _lacking_in_diagnosis(result: Result, wrong: list[str]) -> list[str]:
    """What a diagnosis lacks besides wrong keys."""
    lacking = []
    for key in ("own_head", "probe", "shapley", "ece"):
        if key not in wrong and not all(isinstance(value, NUMBER) for value in result[key].values()):
            lacking.append(key)
    part = result["splits"].get(result["split"]) if not {"splits", "split"} & {*wrong} else None
    if not (isinstance(part, dict) and isinstance(part.get("samples"), int)):
        lacking.append("samples")
    return lacking


def _are_metrics(result: Result, split: str) -> bool:
    """Whether a split's metrics, if there are any, are numbers (or null) of a split whose size is known."""
    values = result.get(split) or {}
    if not isinstance(values, dict) or not all(value is None or isinstance(value, NUMBER) for value in values.values()):
        return False
    return not values or split in (result["splits"] if isinstance(result.get("splits"), dict) else {})


def _are_cells(cells: list[Any]) -> bool:
    """Whether each of these is one severity under one noise seed, with its metrics."""
    return bool(cells) and all(
        isinstance(cell, dict)
        and isinstance(cell.get("severity"), NUMBER)
        and isinstance(cell.get("noise_seed"), int)
        and isinstance(cell.get("test"), dict)
        and all(isinstance(value, NUMBER) for value in cell["test"].values())
        for cell in cells
    )


def _nothing(folders: list[Path], name: str, corruption: str | None, left_out: list[str]) -> str:
    below = f"there is no {name} below {', '.join(map(str, folders))}"
    if left_out:
        more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
        below = below.replace(name, f"{name} that can be read", 1) + f", {left_out[0]}{more}"
    if corruption is None:
        return f"{below}; `mmlab fit` writes one at its end."
    known = [name for name in corruptions(folders) if name != corruption]
    meant = did_you_mean(corruption, known)
    parts = [below + meant]
    if known:
        parts.append(f"there are tests under {', '.join(known)}")
    if not meant:
        parts.append("`mmlab test --run DIR --corruption NAME` writes corruption_NAME.json")
    return "; ".join(parts) + "."


def monitor(result: Result) -> str:
    """The metric that selected a run's checkpoint, without its split."""
    return str(result.get("monitor", "val/acc")).removeprefix("val/").split("_")[0]


def dataset(result: Result) -> str:
    """The data set with what sets apart one way to use it from another, ``AVDigits (hard)``."""
    details = result.get("dataset_details", {})
    words = [str(details["variant"])] if details.get("variant") else []
    words += [f"{details['unseen_speaker']} unseen"] if details.get("unseen_speaker") else []
    words += ["synthetic"] if details.get("synthetic") else []
    return result["dataset"] + (f" ({', '.join(words)})" if words else "")
