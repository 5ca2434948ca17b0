"""Methods of a person's own, outside the package: what the README's "add a method" shows, and a few for the tests."""

from __future__ import annotations

import os
import signal
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from mmlab.backbones.config import NO_OVERRIDES, SMALL_CONV, Backbones, Choice
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory, Stage
from mmlab.types import Batch, Prediction


class WithDropout(Method):
    """Late fusion with dropout, which draws from the global generator at every step, and a memory by sample."""

    def __init__(
        self,
        spec: dict[str, Any],
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
        dropout: float = 0.3,
        nan_at: int = -1,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        self.dropout = nn.Dropout(dropout)
        self.nan_at = nan_at
        self.heads = nn.ModuleDict(
            {name: nn.Linear(encoder.width, self.spec.task.outputs) for name, encoder in self.encoders.items()}
        )
        self.register_buffer("history", torch.zeros(self.spec.train_size))

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        features = self.encode(inputs)
        logits = {name: self.heads[name](self.dropout(features[name])) for name in features}
        return Prediction(torch.stack(list(logits.values())).mean(dim=0), unimodal=logits)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        prediction = self(batch.inputs, batch.present)
        each = self.spec.task.criterion(prediction.logits, batch.target)
        self.history[self.gathered(batch.index)] += self.gathered(each)
        loss = each.mean() if self.global_step != self.nan_at else each.mean() * float("nan")
        return {"loss": loss}


class TwoStages(WithDropout):
    """Encoders and heads first, then the heads alone."""

    def stages(self) -> list[Stage]:
        return [Stage("whole", epochs=2), Stage("heads", epochs=1, trains=("heads",), keep="last")]


class KillAt(Callback):
    """Ends the process in the middle of a training step's batch, without a word."""

    def __init__(self, step: int, number: int = int(signal.SIGKILL)) -> None:
        self.step = step
        self.number = number

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


class Teacher(WithDropout):
    """A part with batch normalisation trains first and is looked at only in the second stage."""

    def __init__(
        self,
        spec: dict[str, Any],
        backbone: Choice = SMALL_CONV,
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        self.norm = nn.BatchNorm1d(self.spec.task.outputs)

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        logits = self.norm(super().forward(inputs, present).logits)
        return Prediction(logits if self.stage == "student" else -logits)

    def stages(self) -> list[Stage]:
        return [
            Stage("teacher", epochs=1, trains=("encoders", "heads", "norm"), keep="last"),
            Stage("student", epochs=1, trains=("heads",), keep="last"),
        ]


class NanGradient(Callback):
    """Spoils the weights in the very last step of an epoch, after its loss was still finite."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if trainer.global_step == 11:
            next(pl_module.parameters()).grad.fill_(float("nan"))


class KillAmong(Callback):
    """Ends the process after so many batches of this sitting, without a word."""

    def __init__(self, batches: int) -> None:
        self.left = batches

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
