"""MMANet, margin-aware distillation and modality-aware regularisation for incomplete modalities.

Paper: Wei, Luo, Luo, CVPR 2023; its method section was out of our reach, this follows the released code. Idea: modality
dropout, and a frozen teacher that sees every modality. The student takes over how the teacher sees the samples of a
batch in relation to one another, above all those that the teacher is uncertain of (MAD). In the first epochs e <= E the
combinations are found whose decisions drift most from those with all modalities, W; later a second head, dropped at
inference, is trained on their samples (MAR), with gradient into the encoders. With c_i from the non-empty subsets:

    L = CE(z, y) + [e > E] (lambda_1 MAD + lambda_2 MAR)      MAR = 1/B sum_i [c_i in W] CE(z'_i, y_i)

MAD is in losses/mad.py, W in losses/weak_combinations.py. The released code differs where it slips: for classification
its MAR singles out no sample and its MAD weighs columns, see mar_reduction and mad_weight_axis; it finds W on the
samples that it is then tested on (here: the training split without augmentation), selects by random combinations, and
for segmentation takes the entropy of features and never puts the teacher in evaluation mode.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from mmlab.availability import (
    Combination,
    combination_name,
    every_combination,
    limited,
    marked,
    membership,
    named_combination,
    without_one,
)
from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice
from mmlab.backbones.grid import averages
from mmlab.errors import UserError
from mmlab.losses.mad import Axis, dense_mad, entropy, mad, margin_weights
from mmlab.losses.standard_normal_kl import standard_normal_kl
from mmlab.losses.weak_combinations import (
    class_counts,
    decision_distances,
    overlap_distances,
    seven_classes,
    weak_set,
)
from mmlab.methods.base import OptimizerFactory, SchedulerFactory
from mmlab.methods.evaluation import full_size
from mmlab.methods.taught import STUDENT, Taught
from mmlab.metrics.intersection_over_union import IntersectionOverUnion
from mmlab.networks.base import Decision, Features
from mmlab.networks.probabilistic import ProbabilisticBlock, sample
from mmlab.precision import precise
from mmlab.types import Batch, Regression, Segmentation

LARGEST = (30, 40)
"""Higher maps are averaged to this size before their places are compared."""


class MMANet(Taught):
    """Margin-aware distillation and modality-aware regularisation, in the stages ``teacher`` and ``student``.

    Which combinations are weak is measured at the end of the epochs 2, 3 and 4 of the student's (counted from 0, for
    the usual warm-up of 5; for segmentation from epoch 6): the decisions without one modality are compared with those
    with all, for classes by their frequencies, for pixels by the mean IoU on the training split. At the end of epoch
    warmup_epochs the farthest and all its subsets are weak. Distances and choice are part of the checkpoint.

    Released settings (mad_weight, mar_weight, warmup_epochs): CASIA-SURF and CeFA 30, 0.5, 5; NYUv2 4, 0.2, 10;
    Cityscapes 10, 0.1, 10; sound and frames (CREMA-D, Kinetics-Sounds) 0.5, 0.01, 5, with distil_from 0 and every
    modality alone weak. For classification, mar_weight was chosen with official_outer: with the intended one, try 0.5
    to 32.

    Ours, since the source has classes and pixels only: for numbers, the task's loss stands in place of the
    cross-entropy, all samples weigh the same in MAD, and decisions are compared in seven equal steps of their range.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        mad_weight: lambda_1; 0 switches MAD off.
        mar_weight: lambda_2; 0 switches MAR off.
        warmup_epochs: E, the last epoch, counted from 0, without MAR.
        distil_from: the epoch, counted from 0, from which MAD acts; warmup_epochs + 1 unless given.
        weak: the weak combinations by name (rgb, rgb+ir), where they aren't to be measured.
        mad_weight_axis: row, where a sample's weight is that of its own relations, or column for parity with the
            released code for classification.
        mar_reduction: intended, or official_outer for parity with the released code for classification, which
            multiplies the second head's mean loss over all samples by the number of weak ones.
        probabilistic: whether the student's features become Gaussians as in DMRNet, after MAD and before both heads.
        kl_weight: with probabilistic, of their divergence from the standard normal.
        teacher_epochs: of the first stage; the Trainer's max_epochs by default.
        teacher_dropout: whether the teacher is trained with one modality or all of them, at random, as released for
            CeFA.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train; a fresh one for each stage.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, or an option doesn't fit.
    """

    combinations: Tensor
    weak: Tensor
    distances: Tensor

    def __init__(
        self,
        spec: dict[str, Any],
        mad_weight: float = 30.0,
        mar_weight: float = 0.5,
        warmup_epochs: int = 5,
        distil_from: int | None = None,
        weak: list[str] | None = None,
        mad_weight_axis: Axis = "row",
        mar_reduction: Literal["intended", "official_outer"] = "intended",
        probabilistic: bool = False,
        kl_weight: float = 1e-3,
        teacher_epochs: int | None = None,
        teacher_dropout: bool = False,
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, teacher_epochs, teacher_dropout, backbone, backbones, optimizer, scheduler)
        weights = {"mad_weight": mad_weight, "mar_weight": mar_weight, "kl_weight": kl_weight}
        for option, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(f"MMANet's {option} is {weight}: give a number of 0 or more.")
        self.mines = weak is None and mar_weight > 0
        if warmup_epochs < self.mines:
            raise UserError(
                f"MMANet's warmup_epochs is {warmup_epochs}: give {int(self.mines)} or more"
                + (", since weak combinations are found in these epochs, or name them by weak." if self.mines else ".")
            )
        if distil_from is not None and distil_from < 0:
            raise UserError(f"MMANet's distil_from is {distil_from}: give 0 or more.")
        for option, value, usual in (
            ("mad_weight_axis", mad_weight_axis, "row"),
            ("mar_reduction", mar_reduction, "intended"),
        ):
            if self._dense and value != usual:
                raise UserError(
                    f"MMANet's {option} {value} is that of the released code for classification: leave {option} out "
                    f"for segmentation."
                )
        self.mad_weight, self.mar_weight, self.kl_weight = mad_weight, mar_weight, kl_weight
        self.warmup_epochs = warmup_epochs
        self.distil_from = warmup_epochs + 1 if distil_from is None else distil_from
        self.mad_weight_axis: Axis = mad_weight_axis
        self.mar_reduction = mar_reduction
        self.block = ProbabilisticBlock(self.network.width) if probabilistic else None
        self.second = self.network.second_head()
        names = self.spec.names
        every = every_combination(len(names))
        chosen = [named_combination(names, text) for text in weak or []]
        self.register_buffer("combinations", torch.tensor(every), persistent=False)
        self.register_buffer("weak", marked(len(names), chosen))
        self.register_buffer("distances", torch.zeros(len(names), dtype=torch.float64))

    @property
    def _dense(self) -> bool:
        return isinstance(self.spec.task, Segmentation)

    def decide(self, hidden: Features) -> Decision:
        """The head's decision, with Gaussians from their means."""
        if self.block is not None:
            hidden = Features(self.block.mean(hidden.deep, self.gathered), hidden.skips)
        return self.network.head(hidden)

    def student_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The task's loss with random modalities, MAD and MAR."""
        available = self.available(batch)
        fused = self.network.fuse(self.network.encode(batch.inputs), available)
        hidden = decided = self.network.trunk(fused)
        kl = {}
        if self.block is not None:
            mean, log_variance = self.block(hidden.deep, self.gathered)
            decided = Features(sample(mean, log_variance, self.draws(batch)), hidden.skips)
            kl["kl"] = standard_normal_kl(mean, log_variance, by_place=self._dense).mean()
        task = self.task_loss(self.network.head(decided), batch.target)
        weak = self.is_weak(available) & (self.current_epoch > self.warmup_epochs)
        mar = self.regularisation(fused, decided, batch.target, weak)
        distance = torch.zeros_like(task)
        if self.mad_weight and self.current_epoch >= self.distil_from:
            distance = self.distillation(hidden, *self.taught(batch))
        loss = task + self.mad_weight * distance + self.mar_weight * mar
        loss = loss + self.kl_weight * kl["kl"] if kl else loss
        return {"loss": loss, self.spec.task.loss: task, "mad": distance, "mar": mar, **kl}

    def is_weak(self, available: Tensor) -> Tensor:
        """Whose combination is weak, (B,) bool.

        Args:
            available: (B, M) bool.
        """
        return (membership(available, self.combinations) & self.weak).any(dim=1)

    def regularisation(self, fused: Features, hidden: Features, target: Tensor, weak: Tensor) -> Tensor:
        """MAR, a scalar; exactly 0, with its gradient, if no sample of the batch is weak.

        Args:
            fused: what the trunk took.
            hidden: what the head decided from.
            target: of the batch.
            weak: (B,) bool, whose combination is weak.
        """
        if self._dense:
            # A decoder is costly: only the weak ones, or one that doesn't count, since with several processes each
            # must take part.
            rows = weak.nonzero().squeeze(1) if weak.any() else weak.new_zeros(1, dtype=torch.long)
            return self.task_loss(self.second(fused.of(rows), hidden.of(rows)), target[rows], weak[rows])
        decision = self.second(fused, hidden)
        if self.mar_reduction == "official_outer":
            return self.gathered(weak).sum() * self.task_loss(decision, target)
        return self.task_loss(decision, target, weak)

    def distillation(self, student: Features, teacher: Features, logits: Tensor) -> Tensor:
        """MAD, a scalar, over the batch of all processes.

        For segmentation every place of the three coarsest maps is a sample, see
        :func:`~mmlab.losses.mad.dense_mad`; the three losses are added up.

        Args:
            student: what leaves its trunk.
            teacher: what leaves its trunk.
            logits: the teacher's.
        """
        with torch.autocast(logits.device.type, enabled=False):
            if not self._dense:
                own = self.gathered(precise(student.deep), gradient=True)
                theirs, logits = self.gathered(precise(teacher.deep)), self.gathered(logits)
                numbers = isinstance(self.spec.task, Regression)
                uncertainty = torch.ones_like(logits[:, 0]) if numbers else entropy(logits)
                return mad(own, theirs, margin_weights(uncertainty), self.mad_weight_axis)
            total = torch.zeros((), dtype=precise(logits).dtype, device=logits.device)
            maps = ((features.deep, *features.skips[-2:]) for features in (student, teacher))
            for own, theirs in zip(*maps, strict=True):
                size = LARGEST if own.shape[2] > LARGEST[0] else (own.shape[2], own.shape[3])
                scores = _places(self.gathered(_averaged(precise(logits), size)))
                total = total + dense_mad(
                    _places(self.gathered(_averaged(precise(own), size), gradient=True)),
                    _places(self.gathered(_averaged(precise(theirs), size))),
                    margin_weights(entropy(scores)),
                )
            return total

    def on_train_start(self) -> None:
        """Says so if the run is too short for MAR, or MAD, to act."""
        super().on_train_start()
        epochs = self.trainer.max_epochs or 0
        starts = {"MAR": (self.mar_weight, self.warmup_epochs + 1), "MAD": (self.mad_weight, self.distil_from)}
        for part, (weight, start) in starts.items():
            if self.stage == STUDENT and weight and 0 < epochs <= start:
                rank_zero_warn(
                    f"MMANet's {part} starts after {start} epochs, but there are only {epochs}: it never acts; lower "
                    f"warmup_epochs{' or distil_from' if part == 'MAD' else ''}, or set {part.lower()}_weight to 0 to "
                    f"leave it out."
                )

    def on_train_epoch_end(self) -> None:
        """In the warm-up, measures how far each combination drifts; logs ``train/distance_<combination>``."""
        super().on_train_epoch_end()
        if self.stage != STUDENT or not self.mines:
            return
        candidates = without_one(len(self.spec.names))
        # As released; a shorter warm-up has its last epoch at least.
        first = min(6 if self._dense else 2, self.warmup_epochs - 1)
        if first <= self.current_epoch < self.warmup_epochs:
            self.distances += self._measured([*candidates, (True,) * len(self.spec.names)])
        if self.current_epoch == self.warmup_epochs:
            self.choose_weak(candidates)
        names = [combination_name(self.spec.names, candidate) for candidate in candidates]
        self.log_dict({f"train/distance_{name}": d.float() for name, d in zip(names, self.distances, strict=True)})

    def choose_weak(self, candidates: list[Combination]) -> None:
        """Fixes the weak combinations by the distances so far.

        Args:
            candidates: those that the distances are of.
        """
        chosen = weak_set(self.distances, candidates)
        self.weak.copy_(marked(len(self.spec.names), chosen))
        rank_zero_info(f"weak combinations: {', '.join(combination_name(self.spec.names, each) for each in chosen)}")

    @torch.no_grad()
    def _measured(self, combinations: list[Combination]) -> Tensor:
        """How far each combination but the last is from the last, (K - 1,), on the training split, in evaluation mode.

        Every process sees its share.
        """
        task = self.spec.task
        self.eval()
        classes = 7 if isinstance(task, Regression) else task.outputs
        counts = torch.zeros(len(combinations), classes, dtype=torch.long, device=self.device)
        overlaps = []
        if isinstance(task, Segmentation):
            overlaps = [IntersectionOverUnion(task.classes, task.ignore_index).to(self.device) for _ in combinations]
        for raw in self._data.whole("train"):
            batch = self._data.transform(raw.to(self.device), None)
            presents = [limited(batch.present, combination) for combination in combinations]
            for number, prediction in enumerate(self.forward_each(batch.inputs, presents)):
                can = presents[number].any(dim=1)
                logits, target = prediction.logits[can].float(), batch.target[can]
                if isinstance(task, Segmentation):
                    overlaps[number].update(task.decision(full_size(logits, target)), target)
                else:
                    decided = task.decision(logits)
                    if isinstance(task, Regression):
                        decided = seven_classes(decided, task.low, task.high)
                    counts[number] += class_counts(decided, classes)
        self.train()
        if overlaps:
            *each, full = (overlap.compute()["miou"].double() for overlap in overlaps)
            return overlap_distances(torch.stack(each), full)
        counts = self.trainer.strategy.reduce(counts, reduce_op="sum")
        return decision_distances(counts[:-1], counts[-1])


def _averaged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) to (B, C, *size), as adaptive pooling does."""
    if maps.shape[2:] == size:
        return maps
    rows, columns = (
        averages(before, after, maps.device).to(maps.dtype) for before, after in zip(maps.shape[2:], size, strict=True)
    )
    return torch.einsum("bchw,yh,xw->bcyx", maps, rows, columns)


def _places(maps: Tensor) -> Tensor:
    """(B, C, h, w) to (B * h * w, C)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)
