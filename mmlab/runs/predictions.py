"""predictions.csv: one row a sample."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import Trainer

from mmlab.data.datamodule import MultimodalDataModule
from mmlab.errors import UserError
from mmlab.methods.base import Method
from mmlab.runs.folder import write_text
from mmlab.types import Classification, Segmentation


def write_predictions(trainer: Trainer, method: Method, data: MultimodalDataModule, out: Path) -> None:
    """Writes id, target, prediction and for classes a probability of each.

    Where there are any, each modality's own prediction (empty where a sample lacks it) and the fusion weights follow.

    Args:
        trainer: runs the prediction; with several processes each does its share.
        method: with its weights loaded.
        data: ``predict_split`` says which split.
        out: the CSV file.

    Raises:
        UserError: if a sample's prediction is more than a row of a table.
    """
    if isinstance(method.spec.task, Segmentation):
        raise UserError("predictions of every pixel make no table: `mmlab predict --pictures 8` draws some of them.")
    task, names = method.spec.task, method.spec.names
    classes = task.classes if isinstance(task, Classification) else ()
    ids = data.splits[data.predict_split].ids

    def said(decision: float) -> str:
        return classes[int(decision)] if classes else f"{decision:.6g}"

    own: list[str] = []
    weighted = False
    rows: list[tuple[int, list[Any]]] = []
    for batch, prediction in trainer.predict(method, datamodule=data) or []:
        logits = prediction.logits.float()
        probabilities = task.probabilities(logits).tolist() if isinstance(task, Classification) else [[]] * len(batch)
        decisions = task.decision(logits).tolist()
        weighted = prediction.weights is not None
        weights = prediction.weights.tolist() if prediction.weights is not None else [[]] * len(batch)
        own = [name for name in names if name in prediction.unimodal]
        alone = [task.decision(prediction.unimodal[name].float()).tolist() for name in own]
        present = [batch.present[:, method.spec.position(name)].tolist() for name in own]
        for row, (position, target, decision, shares, weight) in enumerate(
            zip(batch.index.tolist(), batch.target.tolist(), decisions, probabilities, weights, strict=True)
        ):
            each = [said(one[row]) if has[row] else "" for one, has in zip(alone, present, strict=True)]
            probability, fusion = ([f"{value:.6g}" for value in values] for values in (shares, weight))
            rows.append((position, [ids[position], said(target), said(decision), *probability, *each, *fusion]))
    if trainer.world_size > 1:
        shares_of_all: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(shares_of_all, rows)
        rows = [row for share in shares_of_all for row in share]
    if not trainer.is_global_zero:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ["id", "target", "prediction", *(f"p_{label}" for label in classes)]
    header += [f"prediction_{name}" for name in own]
    writer.writerow(header + ([f"weight_{name}" for name in names] if weighted else []))
    writer.writerows(cells for _, cells in sorted(rows))
    write_text(out, text.getvalue())
