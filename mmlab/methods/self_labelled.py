"""What Self-MM and Self-MI share: the network, the generated labels, the multi-task loss, summed gradients."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from mmlab.backbones.config import Backbones, Choice, widths
from mmlab.errors import UserError
from mmlab.fusion.branches import BranchDropouts, BranchWidths, build_branches
from mmlab.fusion.several import require_several
from mmlab.losses.unimodal_labels import weighted_errors
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory
from mmlab.methods.generated_labels import GeneratedLabels
from mmlab.types import Batch, Classification, DataSpec, Prediction, Regression


@dataclass
class Decision:
    """What the network says of a batch.

    Attributes:
        features: F, (B, D) by modality, as the encoders put them out.
        representations: H, (B, D_k) of each branch, that of all modalities first.
        logits: (B, 1), of all modalities.
        unimodal: (B, 1) by modality.
    """

    features: dict[str, Tensor]
    representations: list[Tensor]
    logits: Tensor
    unimodal: dict[str, Tensor]


class SelfLabelled(Method, ABC):
    """A regression from all modalities together and one from each, whose labels are made in training.

    Where a sample lacks a modality, its encoder sees zeros; its own label and its terms in the losses are left out.

    Args:
        spec: the data set's description as plain data.
        branch_widths: of the branches' representations.
        branch_dropouts: of the branches' inputs.
        exclude_zero: whether a label of 0 belongs neither to the positive nor to the negative centre.
        label_bound: generated labels lie between its negative and it; None for the end of the data set's scale.
        backbone: what encodes each modality.
        backbones: overrides for single modalities, by name.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser.
    """

    tasks = (Regression,)
    generator: type[GeneratedLabels] = GeneratedLabels
    """What makes the labels; a subclass of a method may name another."""

    def __init__(
        self,
        spec: dict[str, Any],
        branch_widths: BranchWidths,
        branch_dropouts: BranchDropouts,
        exclude_zero: bool,
        label_bound: float | None,
        backbone: Choice,
        backbones: Backbones,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None,
    ) -> None:
        bound = _bound(type(self).__name__, DataSpec.from_dict(spec), label_bound)
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        encoded = widths(self.encoders)
        require_several(encoded)
        self.fused, own = build_branches(self.spec, encoded, branch_widths, branch_dropouts)
        self.branches = nn.ModuleDict(own)
        sizes = [branch.width for branch in (self.fused, *own.values())]
        self.labels = self.generator(self.spec.train_size, sizes, bound, exclude_zero)

    def decide(self, inputs: dict[str, Tensor], present: Tensor) -> Decision:
        """Encodes, and decides from all modalities together and from each."""
        known = {
            name: inputs[name].masked_fill(~has.view(-1, *[1] * (inputs[name].dim() - 1)), 0)
            for name, has in zip(self.spec.names, present.unbind(dim=1), strict=True)
        }
        encoded = self.encode(known)
        # Beside the encoders this is little work, and half precision would blur the distances that labels are made of.
        with torch.autocast(present.device.type, enabled=False):
            precision = self.fused.output.weight.dtype
            features = {name: feature.to(precision) for name, feature in encoded.items()}
            representation, logits = self.fused(torch.cat(list(features.values()), dim=1))
            own = {name: self.branches[name](feature) for name, feature in features.items()}
        return Decision(
            features,
            [representation, *(each for each, _ in own.values())],
            logits,
            {name: decided for name, (_, decided) in own.items()},
        )

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """Decides from all modalities together; what each branch says is only for looking at."""
        decision = self.decide(inputs, present)
        return Prediction(decision.logits, decision.unimodal, features=decision.features)

    def multitask(self, decision: Decision, batch: Batch) -> dict[str, Tensor]:
        """The absolute errors: ``l1`` of all modalities and ``l1_<m>`` of each, weighted; and their sum, ``loss``."""
        fused = self.spec.task.criterion(decision.logits, batch.target).mean()
        each = weighted_errors(
            torch.cat(list(decision.unimodal.values()), dim=1).T,
            self.labels.of(batch.index),
            batch.target,
            batch.present.T,
        )
        own = {f"l1_{name}": part for name, part in zip(self.spec.names, each, strict=True)}
        return {"loss": fused + each.sum(), "l1": fused, **own}

    def relabel(self, decision: Decision, batch: Batch) -> Tensor:
        """After the losses: moves the labels and remembers the batch of all processes; the share of clamped labels."""
        rows = torch.cat(decision.representations, dim=1)
        with torch.autocast(rows.device.type, enabled=False), torch.no_grad():
            return self.labels.learn(self.gathered(batch.index), self.gathered(rows), self.current_epoch + 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One batch. Gradients of several batches are summed, as published, where Lightning takes their mean."""
        return super().training_step(batch, batch_idx) * self.trainer.accumulate_grad_batches

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """One step; none at the end of an epoch after fewer batches than make a step, as published.

        The batches themselves count: labels and representations are those after them.
        """
        if (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        elif optimizer_closure is not None:
            optimizer_closure()  # its gradients go with the next epoch's first batch

    def on_train_start(self) -> None:
        """Reads the true labels of the training split; labels that a checkpoint brought stay.

        Raises:
            UserError: if an epoch has fewer batches than make a step.
        """
        super().on_train_start()
        together, batches = self.trainer.accumulate_grad_batches, self.trainer.num_training_batches
        if batches < together and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]  # set at run time
            raise UserError(
                f"{type(self).__name__} would never train: an epoch has {batches} batches, and a step is made of "
                f"{together}; lower --trainer.accumulate_grad_batches or --data.batch_size."
            )
        if self.current_epoch == 0:  # in the first epoch, labels don't move
            split = self._data.splits["train"]
            self.labels.begin(torch.from_numpy(split.targets), torch.from_numpy(split.present))


def _bound(method: str, spec: DataSpec, given: float | None) -> float:
    task = spec.task
    if isinstance(task, Classification):
        raise UserError(
            f"{method} makes the labels of single modalities from numbers with a sign, but {spec.dataset} asks for "
            f"classes: set --data.dataset.task regression where the data set has this option, or choose another one "
            f"(MOSI, MOSEI, SIMS)."
        )
    if isinstance(task, Regression) and not task.low < 0 < task.high:
        raise UserError(
            f"{method} needs labels on both sides of 0, but those of {spec.dataset} go from {task.low:g} to "
            f"{task.high:g}: choose another data set, or shift its labels."
        )
    if given is not None and not (math.isfinite(given) and given > 0):
        raise UserError(f"{method}'s label_bound is {given}: give a number above 0.")
    if given is not None or not isinstance(task, Regression):  # another task is refused with the other options
        return given or 1.0
    return max(-task.low, task.high)
