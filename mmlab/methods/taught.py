"""What the methods share whose student learns from a teacher that sees every modality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmlab.availability import Combination
from mmlab.backbones.config import Backbones, Choice, build_encoders
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.methods.base import OptimizerFactory, SchedulerFactory, Stage
from mmlab.methods.incomplete import Incomplete
from mmlab.networks.base import Features
from mmlab.networks.build import build_network
from mmlab.types import Batch, Prediction

TEACHER, STUDENT = "teacher", "student"


class Taught(Incomplete, ABC):
    """A teacher is trained on complete samples; then frozen, it teaches a student to do with any of the modalities.

    Teacher and student are networks of one kind with weights of their own. In the stage ``teacher`` the metrics are the
    teacher's, with all modalities; in the stage ``student`` they are the student's, by combination.

    Args:
        spec: the data set's description as plain data.
        teacher_epochs: of the first stage; None for the Trainer's ``max_epochs``.
        teacher_dropout: whether the teacher is trained with one modality or all of them, at random.
        backbone: what encodes each modality.
        backbones: overrides for single modalities.
        optimizer: makes the optimiser from the parameters that train; a fresh one for each stage.
        scheduler: makes the schedule from the optimiser.

    Raises:
        UserError: if the data set has only one modality, or an option doesn't fit.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        teacher_epochs: int | None,
        teacher_dropout: bool,
        backbone: Choice,
        backbones: Backbones,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        name, names = type(self).__name__, self.spec.names
        if len(names) < 2:
            raise UserError(
                f"{name} teaches to do without a modality, but {self.spec.dataset} has only {names[0]}: choose a data "
                f"set with several."
            )
        if teacher_epochs is not None and teacher_epochs < 1:
            raise UserError(f"{name}'s teacher_epochs is {teacher_epochs}: give 1 or more.")
        self.teacher_epochs = teacher_epochs
        self.teacher_dropout = teacher_dropout
        self.teacher = build_network(self.spec, build_encoders(self.spec, backbone, backbones, dense=self.dense))

    @abstractmethod
    def student_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The named parts of the student's objective and, under ``loss``, their weighted sum."""

    def stages(self) -> list[Stage]:
        """The teacher, then all the rest."""
        student = tuple(name for name, _ in self.named_children() if name != TEACHER)
        return [Stage(TEACHER, self.teacher_epochs, trains=(TEACHER,)), Stage(STUDENT, trains=student)]

    @property
    def tested(self) -> list[Combination]:
        """All modalities for the teacher, every combination for the student."""
        return [(True,) * len(self.spec.names)] if self.stage == TEACHER else super().tested

    def compilable(self) -> Iterable[nn.Module]:
        """The encoders of both."""
        return [*self.network.compilable(), *self.teacher.compilable()]

    def forward_each(self, inputs: dict[str, Tensor], presents: Sequence[Tensor]) -> Iterator[Prediction]:
        """Decides for each availability: the teacher in its stage, else the student."""
        if self.stage != TEACHER:
            yield from super().forward_each(inputs, presents)
            return
        for present in presents:
            yield Prediction(self.teacher(inputs, present).logits)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The objective of the stage."""
        if self.stage != TEACHER:
            return self.student_losses(batch)
        available = one_or_all(self.draws(batch), batch.present) if self.teacher_dropout else batch.present
        return {"loss": self.task_loss(self.teacher(batch.inputs, available), batch.target)}

    @torch.no_grad()
    def taught(self, batch: Batch) -> tuple[Features, Tensor]:
        """What leaves the teacher's trunk, and its logits, with all that the samples have.

        In full precision, as in the released code of MMANet.
        """
        with torch.autocast(batch.present.device.type, enabled=False):
            hidden = self.teacher.trunk(self.teacher.fuse(self.teacher.encode(batch.inputs), batch.present))
            return hidden, self.teacher.head(hidden).logits


def one_or_all(draws: Draws, present: Tensor) -> Tensor:
    """For each sample one of its modalities alone or all of them, all equally likely.

    Args:
        draws: the batch's.
        present: (B, M) bool, at least one in each row.

    Returns:
        (B, M) bool.
    """
    count = present.sum(dim=1, keepdim=True)
    number = (draws.uniform("available") * (count + 1)).long().minimum(count)
    rank = present.cumsum(dim=1) - 1
    return present & ((number == count) | (rank == number))
