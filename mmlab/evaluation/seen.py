"""A pass over a whole split: what a method says of each sample with each subset of its modalities, and its features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from lightning.pytorch import Trainer
from torch import Tensor
from tqdm import tqdm

from mmlab.availability import every_combination, limited
from mmlab.backbones.shared import once, shared_features
from mmlab.data.base import SplitName
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.evaluation.encoders import encoders_of, looked_at
from mmlab.methods.base import Method
from mmlab.precision import precise
from mmlab.types import Batch, Classification, Prediction, Task


@dataclass
class Encoded:
    """The features of a whole split, of frozen encoders on inputs that are not augmented.

    Attributes:
        features: (N, D) of each encoder, by modality.
        target: (N,).
        present: (N, M) bool.
    """

    features: dict[str, Tensor]
    target: Tensor
    present: Tensor


@dataclass
class Seen:
    """What a method says of a whole split.

    Attributes:
        prediction: of all that each sample has, without features.
        scores: (N, 2^M), of the decision without any modality and then with each of
            :func:`~mmlab.availability.every_combination`, see :func:`score`.
        encoded: the features.
    """

    prediction: Prediction
    scores: Tensor
    encoded: Encoded


def score(task: Task, logits: Tensor, target: Tensor) -> Tensor:
    """How good each decision is, (B,): 1 or 0 for a right or wrong class, minus the absolute error of a number."""
    logits = precise(logits)
    if isinstance(task, Classification):
        return (task.decision(logits) == target).float()
    return -task.criterion(logits, target)


def constant(task: Task, targets: np.ndarray) -> float:
    """What is decided without any modality: the most frequent class of the training split, or its median number."""
    if isinstance(task, Classification):
        return float(np.bincount(targets, minlength=task.outputs).argmax())
    return float(np.median(targets))


def constant_score(task: Task, decision: float, target: Tensor) -> Tensor:
    """The score of one decision for all samples, (B,)."""
    return (target == decision).float() if isinstance(task, Classification) else -(target - decision).abs()


@torch.no_grad()
def encode(method: Method, data: MultimodalDataModule, trainer: Trainer, split: SplitName) -> Encoded:
    """The features of a whole split.

    Args:
        method: with its weights loaded.
        data: of the run.
        trainer: says the device and the precision.
        split: ``train``, ``val`` or ``test``.
    """
    rows = []
    with trainer.precision_plugin.forward_context():
        for batch in _batches(method, data, trainer, split):
            rows.append(Encoded(_features(method, batch), batch.target, batch.present))
    return _joined(rows)


@torch.no_grad()
def see(method: Method, data: MultimodalDataModule, trainer: Trainer, split: SplitName) -> Seen:
    """One pass: the features, and the decision with each subset of the modalities.

    A subset's absent modalities are zero, as those that a sample lacks are. A sample that has none of a subset's
    modalities, or none that the method looks at, gets the decision of :func:`constant`.

    Args:
        method: with its weights loaded.
        data: of the run.
        trainer: says the device and the precision.
        split: ``train``, ``val`` or ``test``.
    """
    task, names = method.spec.task, method.spec.names
    fallback = constant(task, np.asarray(data.splits["train"].targets))
    combinations, used = every_combination(len(names)), looked_at(method)
    rows, predictions, scores = [], [], []
    with trainer.precision_plugin.forward_context():
        for batch in _batches(method, data, trainer, split):
            absent = {name: torch.zeros_like(values) for name, values in batch.inputs.items()}
            columns = [constant_score(task, fallback, batch.target)]
            with shared_features():
                rows.append(Encoded(_features(method, batch), batch.target, batch.present))
                for combination in combinations:
                    inputs = {
                        name: batch.inputs[name] if has else absent[name]
                        for name, has in zip(names, combination, strict=True)
                    }
                    present = limited(batch.present, combination)
                    prediction = method(inputs, present)
                    can = limited(present, used).any(dim=1)
                    columns.append(torch.where(can, score(task, prediction.logits, batch.target), columns[0]))
            predictions.append(prediction)  # the last one is of all modalities
            scores.append(torch.stack(columns, dim=1))
    return Seen(_joined_predictions(predictions), torch.cat(scores), _joined(rows))


def _batches(method: Method, data: MultimodalDataModule, trainer: Trainer, split: SplitName) -> Iterator[Batch]:
    """Encoder inputs of a whole split in order, on one device."""
    device = trainer.strategy.root_device
    method.to(device).eval()
    for raw in tqdm(data.whole(split), desc=f"{split} split", unit="batch", leave=False, disable=None):
        yield data.transform(raw.to(device, non_blocking=True), None)


def _features(method: Method, batch: Batch) -> dict[str, Tensor]:
    return {name: precise(once(encoder, batch.inputs[name])) for name, encoder in encoders_of(method).items()}


def _joined(rows: list[Encoded]) -> Encoded:
    return Encoded(
        {name: torch.cat([row.features[name] for row in rows]) for name in rows[0].features},
        torch.cat([row.target for row in rows]),
        torch.cat([row.present for row in rows]),
    )


def _joined_predictions(predictions: list[Prediction]) -> Prediction:
    weights = [prediction.weights for prediction in predictions if prediction.weights is not None]
    return Prediction(
        precise(torch.cat([prediction.logits for prediction in predictions])),
        {
            name: precise(torch.cat([prediction.unimodal[name] for prediction in predictions]))
            for name in predictions[0].unimodal
        },
        precise(torch.cat(weights)) if weights else None,
    )
