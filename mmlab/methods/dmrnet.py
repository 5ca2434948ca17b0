"""DMRNet, decoupled multimodal representations: Gaussians in training, their means in evaluation.

Paper: Wei, Luo, Wang, Luo, "Robust Multimodal Learning via Representation Decoupling", ECCV 2024; its method section
was out of our reach, this follows the released code. Idea: with modality dropout, one head pulls all combinations of
modalities of a class into one direction. Here what leaves the trunk becomes a Gaussian N(mu, exp(s)); training decides
from a sample, evaluation from the mean, so that the means are freer. Combinations whose variance stays large are hard,
and their samples count more. With c_i drawn from the non-empty subsets, z_i = mu_i + eps exp(s_i / 2), H the hard ones:

    L = CE(z) + alpha mean_i KL(N(mu_i, exp(s_i)) || N(0, 1)) + beta [epoch >= e] L_H
    L_H = 1/B sum_i [c_i in H] CE(z_i)          for segmentation: that of a second decoder, on the samples in H alone

The released code differs where it slips: for classification its L_H is a multiple of CE(z), see hcr_reduction; for
segmentation its KL has no gradient; it mines with nan where a batch lacks a combination, and selects by random masks.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from mmlab.availability import combination_name, every_combination, marked, membership, named_combination
from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice
from mmlab.errors import UserError
from mmlab.losses.hard_combinations import mined, variance_sums
from mmlab.losses.standard_normal_kl import standard_normal_kl
from mmlab.methods.base import OptimizerFactory, SchedulerFactory
from mmlab.methods.incomplete import Incomplete
from mmlab.networks.base import Decision, Features
from mmlab.networks.probabilistic import ProbabilisticBlock, sample
from mmlab.types import Batch, Segmentation


class DMRNet(Incomplete):
    """Decoupled Multimodal Representation Network.

    The hard combinations are mined: in the epochs before hard_epoch, the predicted variance is averaged by combination;
    the one with the largest, among those that lack one modality, is hard, and so are its subsets (for two modalities
    the harder one alone; with more, the released code fixes such a set by hand). For segmentation they are all that
    lack a modality, as in the released code. Sums, counts and the choice are part of the checkpoint.

    Ours, since the source has classes and pixels only: for numbers, the task's own loss stands in place of the
    cross-entropy.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        kl_weight: alpha; 0.001 in all released runs.
        hard_weight: beta: 0.2 for CREMA-D, 0.3 for Kinetics-Sounds, 0.3 or 0.7 for CASIA-SURF, chosen with
            official_outer; 0.5 for NYUv2. As intended, a hard sample weighs 1 + beta in place of 1.
        hard_epoch: the epoch, counted from 0, from which hard samples count more; 6 unless given. For segmentation 11,
            and there the KL starts with it.
        hard: the hard combinations by name (rgb, rgb+ir) in place of the above.
        hcr_reduction: intended, or official_outer for parity with the released code for classification, which
            multiplies the mean loss of all samples by the number of hard ones: a random rescaling of the task's loss.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, or an option doesn't fit.
    """

    combinations: Tensor
    hard: Tensor
    variances: Tensor

    def __init__(
        self,
        spec: dict[str, Any],
        kl_weight: float = 1e-3,
        hard_weight: float = 0.5,
        hard_epoch: int | None = None,
        hard: list[str] | None = None,
        hcr_reduction: Literal["intended", "official_outer"] = "intended",
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        names = self.spec.names
        if len(names) < 2:
            raise UserError(
                f"DMRNet is about missing modalities, but {self.spec.dataset} has only {names[0]}: choose another "
                f"method (mmlab list methods) or data set."
            )
        for option, weight in {"kl_weight": kl_weight, "hard_weight": hard_weight}.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(f"DMRNet's {option} is {weight}: give a number of 0 or more.")
        pixels = isinstance(self.spec.task, Segmentation)
        if pixels and hcr_reduction == "official_outer":
            raise UserError(
                "DMRNet's hcr_reduction official_outer is that of the released code for classification: leave "
                "hcr_reduction out for segmentation."
            )
        self.mines = hard is None and not pixels
        self.hard_epoch = (11 if pixels else 6) if hard_epoch is None else hard_epoch
        if self.hard_epoch < self.mines:
            raise UserError(
                f"DMRNet's hard_epoch is {hard_epoch}: give {int(self.mines)} or more"
                + (", since hard combinations are found in the epochs before it." if self.mines else ".")
            )
        self.kl_weight, self.hard_weight, self.hcr_reduction = kl_weight, hard_weight, hcr_reduction
        self.block = ProbabilisticBlock(self.network.width)
        self.second = self.network.second_head().head if pixels else None
        every = every_combination(len(names))
        if hard is not None:
            chosen = [named_combination(names, text) for text in hard]
        else:
            chosen = [combination for combination in every if pixels and not all(combination)]
        self.register_buffer("combinations", torch.tensor(every), persistent=False)
        self.register_buffer("hard", marked(len(names), chosen))
        self.register_buffer("variances", torch.zeros(2, len(every), dtype=torch.float64))

    def decide(self, hidden: Features) -> Decision:
        """The head's decision from the mean."""
        mean = self.block.mean(hidden.deep, self.gathered)
        return self.network.head(Features(mean, hidden.skips))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The objective; before hard_epoch, the predicted variances are recorded."""
        available = self.available(batch)
        hidden = self.network.trunk(self.network.fuse(self.network.encode(batch.inputs), available))
        self._check_size(hidden)
        mean, log_variance = self.block(hidden.deep, self.gathered)
        sampled = Features(sample(mean, log_variance, self.draws(batch)), hidden.skips)
        decision = self.network.head(sampled)
        task = self.task_loss(decision, batch.target)
        kl = standard_normal_kl(mean, log_variance, by_place=self.second is not None).mean()
        members = membership(available, self.combinations)
        if self.current_epoch >= self.hard_epoch:
            kl_weight = self.kl_weight
            hard = self.hard_loss(sampled, decision, batch.target, (members & self.hard).any(dim=1))
        else:
            kl_weight = 0.0 if self.second is not None else self.kl_weight
            hard = self._idle_loss(task)
            if self.mines:
                self.variances += self.gathered(variance_sums(log_variance, members)[None]).sum(dim=0)
        loss = task + kl_weight * kl + self.hard_weight * hard
        return {"loss": loss, self.spec.task.loss: task, "kl": kl, "hard": hard}

    def hard_loss(self, sampled: Features, decision: Decision, target: Tensor, hard: Tensor) -> Tensor:
        """L_H, a scalar; 0 if no sample of the batch is hard.

        Args:
            sampled: what the head decided from.
            decision: what it decided.
            target: of the batch.
            hard: (B,) bool, whose combination is hard.
        """
        if self.second is None:
            if self.hcr_reduction == "official_outer":
                return self.gathered(hard).sum() * self.task_loss(decision, target)
            return self.task_loss(decision, target, hard)
        rows = hard.nonzero().squeeze(1)
        if not len(rows):  # one sample that doesn't count: with several processes, each must take part
            rows = rows.new_zeros(1)
        return self.task_loss(self.second(sampled.of(rows)), target[rows], hard[rows])

    def choose_hard(self) -> None:
        """Fixes the hard combinations by the variances recorded so far."""
        chosen = mined(self.variances, len(self.spec.names))
        self.hard.copy_(marked(len(self.spec.names), chosen))

    def on_train_start(self) -> None:
        """Says so if the run is too short for hard combinations to count."""
        super().on_train_start()
        epochs = self.trainer.max_epochs or 0
        if self.hard_weight and 0 < epochs <= self.hard_epoch:
            rank_zero_warn(
                f"DMRNet's hard combinations count after {self.hard_epoch} epochs, but there are only {epochs}: "
                f"nothing is trained with them; lower hard_epoch."
            )

    def on_train_epoch_start(self) -> None:
        """Chooses the hard combinations in the epoch from which they count, and tells which they are."""
        if self.current_epoch != self.hard_epoch:
            return
        if self.mines:
            self.choose_hard()
        every = every_combination(len(self.spec.names))
        hard = [combination_name(self.spec.names, every[number]) for number in self.hard.nonzero().flatten().tolist()]
        rank_zero_info(f"hard combinations: {', '.join(hard) or 'none'}")

    def _idle_loss(self, like: Tensor) -> Tensor:
        """Zero, with a gradient of zero for the second head: distributed training asks one of all that trains."""
        zero = torch.zeros_like(like)
        if self.second is None:
            return zero
        return zero + 0.0 * torch.stack([parameter.sum() for parameter in self.second.parameters()]).sum()

    def _check_size(self, hidden: Features) -> None:
        alone = self._trainer is None or self.trainer.world_size == 1
        if self.training and alone and hidden.deep[:, 0].numel() == 1:
            raise UserError(
                "DMRNet normalises over the samples of a batch, which one alone doesn't allow: give --data.batch_size "
                "2 or more."
            )
