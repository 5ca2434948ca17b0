"""``mmlab diagnose``: what each modality does in finished runs."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any, cast, get_args

from torch import Tensor

from mmlab.cli.build import FinishedRun
from mmlab.cli.finished import Request, read_request
from mmlab.cli.own_flags import switch
from mmlab.data.base import SplitName
from mmlab.errors import UserError
from mmlab.evaluation.diagnosis import FUSED, NONE, Diagnosis, check_task, diagnose_method
from mmlab.evaluation.diagnosis_pictures import (
    BARS,
    check_feature_map,
    draw_confusion,
    draw_features,
    draw_modalities,
    draw_reliability,
)
from mmlab.evaluation.logit_shares import REST
from mmlab.runs.corrupted import identify
from mmlab.runs.folder import RunFolder, read_earlier, write_json, write_text
from mmlab.runs.tracking import add_to_wandb
from mmlab.types import Classification

# What a diagnosis is of: where all of these are the same, it stands.
SAME = ("checkpoint_sha256", "split", "splits", "dataset_details")


def diagnose(words: list[str]) -> None:
    """Diagnoses each run, writes what it finds into the run's folder, and prints a table.

    Raises:
        UserError: for everything that a person can mend. Of several runs, those that can be diagnosed are.
    """
    request = read_request("diagnose", words)
    split = request.own.get("split", "test")
    if split not in get_args(SplitName):
        raise UserError(f"--split {split}: there is no such split; they are {', '.join(get_args(SplitName))}.")
    again, features = switch(request.own, "again"), switch(request.own, "features")
    if features:
        check_feature_map()
    failed = 0
    for number, folder in enumerate(request.folders, start=1):
        print(f"run {number} of {len(request.folders)}: {folder.path}", flush=True)
        try:
            _diagnose(request, folder, cast(SplitName, split), again, features)
        except UserError as error:
            if len(request.folders) == 1:
                raise
            print(f"mmlab: error: {error}", file=sys.stderr, flush=True)
            failed += 1
    if failed:
        raise UserError(f"{failed} of {len(request.folders)} runs could not be diagnosed, see above.")


def _diagnose(request: Request, folder: RunFolder, split: SplitName, again: bool, features: bool) -> None:
    opened = request.open(folder)
    if not opened.trainer.is_global_zero:
        return  # the first process does it all, on one device
    check_task(opened.method)
    file = folder.diagnosis
    identity = identify(opened.method, opened.data, opened.config, opened.checkpoint) | {"split": split}
    before = {} if again else read_earlier(file)
    drawn = not features or (folder.path / "features.png").is_file()
    if drawn and all(before.get(key) == identity[key] for key in SAME):
        print(f"diagnosed already; --again true does it anew: {file}", flush=True)
        return
    found = diagnose_method(opened.method, opened.data, opened.trainer, split)
    pictures, tables = _write(opened, found, split, features)
    write_json(file, {**identity, **found.values})
    _print(found.values, opened.method.spec.names, split)
    print(f"results: {file}", flush=True)
    names = (identity["method"], identity["dataset"])
    add_to_wandb(folder, *names, opened.config, _summary(found.values), pictures, tables)


def _write(
    opened: FinishedRun, found: Diagnosis, split: str, features: bool
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Writes pictures and confusions, and says where, by the names that W&B knows them under."""
    spec, folder = opened.method.spec, opened.folder.path
    title = f"{type(opened.method).__name__} on {spec.dataset}, seed {opened.config['seed']}, {split} split"
    pictures, tables = {"diagnosis/modalities": folder / "modalities.png"}, {}
    draw_modalities(found.values, spec.names, title, pictures["diagnosis/modalities"])
    if isinstance(spec.task, Classification) and found.confusion is not None:
        pictures["diagnosis/confusion_picture"] = folder / "confusion.png"
        pictures["diagnosis/reliability"] = folder / "reliability.png"
        tables["diagnosis/confusion"] = folder / "confusion.csv"
        write_text(tables["diagnosis/confusion"], _as_csv(found.confusion, spec.task.classes))
        draw_confusion(found.confusion, spec.task.classes, title, pictures["diagnosis/confusion_picture"])
        draw_reliability(found.reliability, found.values["ece"], title, pictures["diagnosis/reliability"])
    drawn = folder / "features.png"
    drawn.unlink(missing_ok=True)  # an older one may be of another checkpoint
    if features and draw_features(found.seen, spec, f"t-SNE, {title}", drawn):
        pictures["diagnosis/features"] = drawn
    return pictures, tables


def _as_csv(confusion: Tensor, classes: tuple[str, ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["true", *classes])
    writer.writerows([name, *counts] for name, counts in zip(classes, confusion.tolist(), strict=True))
    return text.getvalue()


def _print(values: dict[str, Any], names: tuple[str, ...], split: str) -> None:
    ece = values["ece"]
    calibrated = f"  ECE {ece[FUSED]:.4f}" if ece else ""
    without = f"{values['value']} without any modality {values['subsets'][NONE]:.4f}"
    print(f"{split}: {values['metric']} {values[FUSED]:.4f}{calibrated}  {without}")
    columns = {title: values[key] for key, title in BARS.items()} | {"ECE of its head": ece}
    shown = {title: cells for title, cells in columns.items() if cells}
    width = max(len(name) for name in ("modality", *names))
    print("  ".join([f"{'modality':{width}}", *shown]))
    rows = [*names, *([REST] if REST in values["logit_share"] else [])]
    for name in rows:
        cells = [f"{cells[name]:.4f}" if name in cells else "–" for cells in shown.values()]
        print(
            "  ".join([f"{name:{width}}", *(f"{cell:>{len(title)}}" for cell, title in zip(cells, shown, strict=True))])
        )
    for sentence in values["not_defined"]:
        print(f"not defined: {sentence}")


def _summary(values: dict[str, Any]) -> dict[str, float]:
    """The numbers of W&B's summary."""
    found = {f"diagnosis/{key}_{name}": value for key in (*BARS, "ece") for name, value in values[key].items()}
    if f"diagnosis/ece_{FUSED}" in found:
        found["diagnosis/ece"] = found.pop(f"diagnosis/ece_{FUSED}")
    return found | {f"diagnosis/{name}": value for name, value in values["margins"].items()}
