"""The metrics of one pass over a split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from mmlab.errors import UserError
from mmlab.metrics.margins import LocalMargins, Margins
from mmlab.types import Batch, Classification, DataSpec, Prediction

Predict = Callable[[dict[str, Tensor], Tensor], Prediction]
"""A method's decision from its inputs and from which of them are present."""


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

    def update(self, predict: Predict, batch: Batch) -> None:
        """Lets the method decide on a batch, and counts what it says."""
        prediction = predict(batch.inputs, batch.present)
        task, target = self._spec.task, batch.target
        self._check(prediction, len(batch))
        self._loss.update(task.criterion(prediction.logits.float(), target))
        self._fused.update(task.decision(prediction.logits.float()), target)
        for name, logits in prediction.unimodal.items():
            has = batch.present[:, self._spec.position(name)]
            rows = target[has]
            self._seen[name] = self._seen.get(name, 0) + len(rows)
            if len(rows):
                self._own[name].update(task.decision(logits[has].float()), rows)
        fuses = prediction.weights is not None and prediction.unimodal.keys() == set(self._spec.names)
        self._late = fuses and isinstance(task, Classification)
        if self._late:
            assert prediction.weights is not None
            unimodal = torch.stack([prediction.unimodal[name] for name in self._spec.names])
            self._margins.update(
                prediction.logits, unimodal, prediction.weights, batch.present, target, self._head_weights
            )
            if self._local is not None:
                self._local.update(predict, batch)

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

    def _check(self, prediction: Prediction, samples: int) -> None:
        """Says what is wrong with what a method of one's own predicts."""
        outputs = self._spec.task.outputs
        if not isinstance(prediction, Prediction):
            given = type(prediction).__name__
            raise UserError(f"{self._method}.forward must return a Prediction, but it returned a {given}.")
        for what, logits in {"logits": prediction.logits, **prediction.unimodal}.items():
            if logits.shape[:2] != (samples, outputs):
                raise UserError(
                    f"{self._method}.forward must return logits of the shape ({samples}, {outputs}, ...), one row a "
                    f"sample, but {what!r} has {tuple(logits.shape)}."
                )
