"""The metrics of one pass over a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric

from mmlab.availability import Combination, combination_name
from mmlab.errors import UserError
from mmlab.metrics.margins import LocalMargins, Margins
from mmlab.types import Batch, Classification, DataSpec, Prediction, Segmentation


class Decides(Protocol):
    """What evaluation needs of a method."""

    def __call__(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """The decision from the inputs and from which of them are present."""
        ...

    def forward_each(self, inputs: dict[str, Tensor], presents: Sequence[Tensor]) -> Iterator[Prediction]:
        """The decision for each of several availabilities of the same samples."""
        ...


class Evaluation:
    """The task's metrics, fused and of each modality, the loss, and the margins of late fusion.

    Margins are taken of every method that classifies with logits of each modality and their fusion weights.

    Args:
        method: its name, for messages.
        spec: of the data.
        head_weights: (C, D_m) by modality where the logits are a linear function of the features; else empty.
        local: whether to estimate the radius in the space of the inputs too, which costs backward passes.
        device: to count on.
    """

    def __init__(
        self, method: str, spec: DataSpec, head_weights: Sequence[Tensor], local: bool, device: torch.device
    ) -> None:
        self._method = method
        self._spec = spec
        self._head_weights = head_weights
        metrics = spec.task.metrics()
        self._fused = metrics.to(device)
        self._own = {name: metrics.clone().to(device) for name in spec.names}
        self._loss = MeanMetric(nan_strategy="disable").to(device)
        self._margins = Margins(spec.names, bool(head_weights)).to(device)
        self._local = LocalMargins(spec.modalities).to(device) if local else None
        self._seen: dict[str, int] = {}
        self._late = False

    def update(self, method: Decides, batch: Batch) -> None:
        """Lets the method decide on a batch, and counts what it says."""
        prediction = method(batch.inputs, batch.present)
        task, target = self._spec.task, batch.target
        _check(self._method, self._spec, prediction, len(batch))
        logits = full_size(prediction.logits.float(), target)
        self._loss.update(task.criterion(logits, target))
        self._fused.update(task.decision(logits), target)
        for name, logits in prediction.unimodal.items():
            rows = target
            if not batch.complete:  # to pick rows is to wait for the device
                has = batch.present[:, self._spec.position(name)]
                logits, rows = logits[has], target[has]
            self._seen[name] = self._seen.get(name, 0) + len(rows)
            if len(rows):
                self._own[name].update(task.decision(logits.float()), rows)
        fuses = prediction.weights is not None and prediction.unimodal.keys() == set(self._spec.names)
        self._late = fuses and isinstance(task, Classification)
        if self._late:
            assert prediction.weights is not None
            unimodal = torch.stack([prediction.unimodal[name] for name in self._spec.names])
            self._margins.update(
                prediction.logits, unimodal, prediction.weights, batch.present, target, self._head_weights
            )
            if self._local is not None:
                self._local.update(method, batch)

    def compute(self, gathered: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The metrics over all processes, by name.

        Args:
            gathered: joins the rows of all processes.
        """
        values = {"loss": self._loss.compute(), **self._fused.compute()}
        # A modality that no sample of the whole split has gets no number.
        rows = {name: gathered(torch.tensor([seen], device=self._loss.device)) for name, seen in self._seen.items()}
        for name in [name for name, seen in rows.items() if seen.any()]:
            values |= {f"{key}_{name}": value for key, value in self._own[name].compute().items()}
        for margins in (self._margins, self._local):
            if self._late and margins is not None:
                values |= margins.compute()
        return values


class CombinationEvaluation:
    """The task's metrics with each of some combinations of modalities, and where there are several their average.

    A sample counts in a combination only if it has one of its modalities. The average is over the combinations that
    some sample of the split allows.

    Args:
        method: its name, for messages.
        spec: of the data.
        tested: the combinations.
        device: to count on.
    """

    def __init__(self, method: str, spec: DataSpec, tested: Sequence[Combination], device: torch.device) -> None:
        self._method = method
        self._spec = spec
        self._tested = list(tested)
        self._available = torch.tensor(self._tested, device=device)
        metrics = spec.task.metrics()
        self._metrics = [metrics.clone().to(device) for _ in tested]
        self._losses = [MeanMetric(nan_strategy="disable").to(device) for _ in tested]
        self._seen = torch.zeros(len(tested), dtype=torch.long)
        self._device = device

    def update(self, method: Decides, batch: Batch) -> None:
        """Lets the method decide on a batch with each combination, and counts what it says."""
        task = self._spec.task
        presents = [batch.present & combination for combination in self._available]
        for number, prediction in enumerate(method.forward_each(batch.inputs, presents)):
            _check(self._method, self._spec, prediction, len(batch))
            logits, target = prediction.logits, batch.target
            if not batch.complete:  # to pick rows is to wait for the device
                can = presents[number].any(dim=1)
                logits, target = logits[can], target[can]
            self._seen[number] += len(target)
            if len(target):
                logits = full_size(logits.float(), target)
                self._losses[number].update(task.criterion(logits, target))
                self._metrics[number].update(task.decision(logits), target)

    def compute(self, gathered: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The metrics over all processes, by name; the loss is the mean over the combinations.

        Args:
            gathered: joins the rows of all processes.

        Raises:
            UserError: if no sample has any of the modalities.
        """
        seen = gathered(self._seen[None].to(self._device)).sum(dim=0)
        known = [number for number in range(len(self._tested)) if seen[number]]
        if not known:
            names = ", ".join(combination_name(self._spec.names, combination) for combination in self._tested)
            raise UserError(
                f"{self._method} can't be evaluated: no sample of the split has any modality of {names}; choose "
                f"modalities that {self._spec.dataset} has."
            )
        each = [dict(self._metrics[number].compute()) for number in known]
        values = {"loss": torch.stack([self._losses[number].compute() for number in known]).mean()}
        for number, metrics in zip(known, each, strict=True):
            name = combination_name(self._spec.names, self._tested[number])
            suffix = "" if all(self._tested[number]) else f"_{name}"
            values |= {f"{key}{suffix}": value for key, value in metrics.items()}
        if len(self._tested) == 1:
            return values
        averages = {key: torch.stack([metrics[key] for metrics in each]).mean() for key in each[0]}
        return values | {f"{key}_average": value for key, value in averages.items()}


def full_size(logits: Tensor, target: Tensor) -> Tensor:
    """Logits of pixels, bilinearly resized to the size of the label map; all others as they are."""
    if logits.dim() < 4 or logits.shape[2:] == target.shape[1:]:
        return logits
    return F.interpolate(logits, size=target.shape[1:], mode="bilinear", align_corners=False)


def _check(method: str, spec: DataSpec, prediction: Prediction, samples: int) -> None:
    """Says what is wrong with what a method of one's own predicts."""
    outputs = spec.task.outputs
    if not isinstance(prediction, Prediction):
        given = type(prediction).__name__
        raise UserError(f"{method}.forward must return a Prediction, but it returned a {given}.")
    dims = 4 if isinstance(spec.task, Segmentation) else 2
    for what, logits in {"logits": prediction.logits, **prediction.unimodal}.items():
        if logits.shape[:2] != (samples, outputs) or logits.dim() != dims:
            shape = f"({samples}, {outputs}{', H, W' if dims == 4 else ''})"
            raise UserError(
                f"{method}.forward must return logits of the shape {shape}, one row a "
                f"sample, but {what!r} has {tuple(logits.shape)}."
            )
