"""What the methods for incomplete modalities share: one network that serves every combination of modalities."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from mmlab.availability import random_available
from mmlab.backbones.config import Backbones, Choice
from mmlab.losses.pixel_cross_entropy import summed_over_sizes
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory
from mmlab.networks.base import Decision, Features
from mmlab.networks.build import build_network
from mmlab.precision import precise
from mmlab.types import Batch, Classification, Prediction, Regression, Segmentation


class Incomplete(Method, ABC):
    """A network, random availability in training, and an evaluation with each combination of modalities.

    The checkpoint is selected on the average over the combinations, each of which sees the whole validation split.

    Args:
        spec: the data set's description as plain data.
        backbone: what encodes each modality.
        backbones: overrides for single modalities.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser.
    """

    tasks = (Classification, Segmentation, Regression)
    dense = True

    def __init__(
        self,
        spec: dict[str, Any],
        backbone: Choice,
        backbones: Backbones,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        self.network = build_network(self.spec, self.encoders)
        del self.encoders  # the network holds them
        self.by_combination = True

    @property
    def monitor(self) -> str:
        """The average over the combinations."""
        return f"{self.spec.task.monitor}_average" if len(self.tested) > 1 else self.spec.task.monitor

    def compilable(self) -> Iterable[nn.Module]:
        """The network's encoders, or their parts."""
        return self.network.compilable()

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """Decides with the modalities that are there."""
        return next(self.forward_each(inputs, [present]))

    def forward_each(self, inputs: dict[str, Tensor], presents: Sequence[Tensor]) -> Iterator[Prediction]:
        """Decides for each availability; the encoders run once."""
        encoded = self.network.encode(inputs)
        for present in presents:
            yield Prediction(self.decide(self.network.trunk(self.network.fuse(encoded, present))).logits)

    def decide(self, hidden: Features) -> Decision:
        """The decision from what leaves the trunk, in evaluation; the head's unless a method puts something between."""
        return self.network.head(hidden)

    def available(self, batch: Batch) -> Tensor:
        """A random non-empty subset of each sample's modalities, (B, M) bool: the same for the same seed and epoch."""
        return random_available(self.draws(batch), batch.present)

    def task_loss(self, decision: Decision, target: Tensor, kept: Tensor | None = None) -> Tensor:
        """The task's training loss of a batch, a scalar.

        Classes and numbers: the mean of the criterion over the batch. Pixels: the weighted cross-entropy at each size
        that the decision has, added up; see :func:`~mmlab.losses.pixel_cross_entropy.pixel_cross_entropy`.

        Args:
            decision: of the batch.
            target: of the batch.
            kept: (B,) bool, the samples that count; None for all. For classes and numbers the sum over them is still
                divided by the size of the whole batch; for pixels the weights are theirs alone.
        """
        task = self.spec.task
        if not isinstance(task, Segmentation):
            each = task.criterion(precise(decision.logits), target)
            return (each if kept is None else each * kept).mean()
        return summed_over_sizes((decision.logits, *decision.coarse), target, task, kept, self.gathered)
