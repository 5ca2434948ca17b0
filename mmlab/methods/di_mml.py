"""DI-MML, detached and interactive multimodal learning: no fused loss touches an encoder.

Paper: Fan, Xu, Wang, Liu, Guo, ACM Multimedia 2024. Idea: each modality has its own head; one more head is shared by
all, so that feature dimensions become comparable. From an epoch on, where a dimension tells classes apart in modality
t and not in s (judged once, on the training split), s is drawn to the detached t on it (DUC). Then all of that is
frozen, and a linear head h_F on the concatenated features is trained. Inference adds the logits of all M + 1 heads,
each weighted by softmax(confidence / tau2).

    stage 1   L = sum_m CE(h_m(z_m), y) + w_sh sum_m CE(h_s(z_m), y) + w_DUC sum_{t != s} DUC(z_s, sg(z_t))
    stage 2   L = CE(h_F([z_1; ...; z_M]), y)

This follows the released code; we had no access to the paper's text. The code exponentiates dot products, which
overflows (here: log-sum-exp), and lets a class without samples win every comparison (here: left out). It judges
dimensions on augmented samples and hands on the last epoch's encoders; both can be changed by an option.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice, widths
from mmlab.errors import UserError
from mmlab.fusion.joint import ConcatFusion, FiLMFusion, GatedFusion, SumFusion
from mmlab.fusion.late import fuse
from mmlab.losses.duc import class_means, class_sums, duc_loss, effective_dims, nearest_hits, one_sided_dims
from mmlab.losses.late_fusion import mean_over
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory, Stage
from mmlab.types import Batch, Prediction

ISOLATED, FUSION = "isolated", "fusion"
FUSIONS = {"concat": ConcatFusion, "sum": SumFusion, "film": FiLMFusion, "gated": GatedFusion}


class DIMML(Method):
    """Detached and Interactive Multimodal Learning, in two stages.

    The first stage, ``isolated``, has the Trainer's epochs, its checkpoints are selected by the certainty-weighted
    heads of the modalities alone; the second, ``fusion``, trains the head on all features.

    Ours, since the released code has two complete modalities of equal width: with more, every ordered pair teaches and
    learns; of unequal widths, each gets a linear layer to the largest, and what follows takes that for its features.
    A loss is averaged over the samples that have its modalities (the fused head's over complete samples). A sample that
    lacks a modality is classified without that modality's head and without the fused head.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        duc_temperature: divides the dot products of DUC; the released runs have 50 for CREMA-D and ModelNet40, 10 for
            AVE and UCF101.
        duc_start_epoch: the epoch, counted from 0, at whose start dimensions are judged and from which DUC acts.
        duc_weight: of DUC; 0 switches it off.
        shared_weight: of the shared head's cross-entropies.
        split_on_eval_transform: whether dimensions are judged on samples as in evaluation; with training's
            augmentation otherwise, as in the released code.
        certainty_temperature: tau2, of the heads' weights; the released runs have 1 for CREMA-D and UCF101, 3 for AVE
            and ModelNet40.
        fusion: the head of the second stage, concat in the released runs; sum, film and gated are those of joint
            training.
        fusion_epochs: of the second stage.
        encoders_from: which epoch of the first stage the second starts from: the last one, as in the released code, or
            the best on validation.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train; a fresh one for each stage.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, or an option doesn't fit.
    """

    dims: Tensor
    split_done: Tensor

    def __init__(
        self,
        spec: dict[str, Any],
        duc_temperature: float = 10.0,
        duc_start_epoch: int = 20,
        duc_weight: float = 1.0,
        shared_weight: float = 1.0,
        split_on_eval_transform: bool = False,
        certainty_temperature: float = 1.0,
        fusion: Literal["concat", "sum", "film", "gated"] = "concat",
        fusion_epochs: int = 20,
        encoders_from: Literal["last", "best"] = "last",
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        temperatures = {"duc_temperature": duc_temperature, "certainty_temperature": certainty_temperature}
        for option, temperature in temperatures.items():
            if not (math.isfinite(temperature) and temperature > 0):
                raise UserError(f"DIMML divides by {option}, which is {temperature}: give a number above 0.")
        for option, weight in {"duc_weight": duc_weight, "shared_weight": shared_weight}.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(f"DIMML's {option} is {weight}: give a number of 0 or more.")
        if duc_start_epoch < 0:
            raise UserError(f"DIMML's duc_start_epoch is {duc_start_epoch}: give 0 or more.")
        if fusion_epochs < 1:
            raise UserError(
                f"DIMML's fusion_epochs is {fusion_epochs}, but the fused head must be trained: give 1 or more."
            )
        own, outputs = widths(self.encoders), self.spec.task.outputs
        width = max(own.values())
        # Dimensions are compared with one another.
        unequal = len(set(own.values())) > 1
        self.projections = nn.ModuleDict({name: nn.Linear(size, width) for name, size in own.items() if unequal})
        self.duc_temperature = duc_temperature
        self.duc_start_epoch = duc_start_epoch
        self.duc_weight = duc_weight
        self.shared_weight = shared_weight
        self.split_on_eval_transform = split_on_eval_transform
        self.certainty_temperature = certainty_temperature
        self.fusion_epochs = fusion_epochs
        self.encoders_from = encoders_from
        self.heads = nn.ModuleDict({name: nn.Linear(width, outputs) for name in own})
        self.shared_head = nn.Linear(width, outputs)
        self.fused_head = FUSIONS[fusion](dict.fromkeys(own, width), outputs)
        for layer in self.fused_head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        # Teacher, student, dimension; and whether they have been judged already.
        self.register_buffer("dims", torch.zeros(len(own), len(own), width, dtype=torch.bool))
        self.register_buffer("split_done", torch.tensor(False))

    def stages(self) -> list[Stage]:
        """Encoders with the modalities' and the shared head, then the fused head alone."""
        return [
            Stage(ISOLATED, trains=("encoders", "projections", "heads", "shared_head"), keep=self.encoders_from),
            Stage(FUSION, epochs=self.fusion_epochs, trains=("fused_head",)),
        ]

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features (B, D) of each modality in the heads' precision: logits in half precision would make ties."""
        precision = self.shared_head.weight.dtype
        features = {name: feature.to(precision) for name, feature in super().encode(inputs).items()}
        with torch.autocast(self.shared_head.weight.device.type, enabled=False):
            return features | {name: layer(features[name]) for name, layer in self.projections.items()}

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """Adds the logits of all heads, the more certain ones with more weight.

        The prediction's weights are those of the modalities' heads; what is missing to 1 is the fused head's. Its
        uncertainty is 1 - the probability of each modality's own decision.
        """
        features = self.encode(inputs)
        complete = present.all(dim=1, keepdim=True)
        if self.stage == ISOLATED:  # the fused head is not trained yet
            complete = torch.zeros_like(complete)
        with torch.autocast(present.device.type, enabled=False):
            unimodal = {name: self.heads[name](feature) for name, feature in features.items()}
            logits = torch.stack([*unimodal.values(), self.fused_head(features, present)])
        usable = torch.cat((present, complete), dim=1)
        confidence, weights = certainty_weights(logits, usable, self.certainty_temperature)
        return Prediction(fuse(logits, weights), unimodal, weights[:, :-1], 1 - confidence[:, :-1], features)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The objective of the stage."""
        features = self.encode(batch.inputs)
        with torch.autocast(batch.present.device.type, enabled=False):
            return self._fusion_losses(features, batch) if self.stage == FUSION else self._isolated(features, batch)

    def _isolated(self, features: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        counts = self.counts(batch.present)

        def cross_entropies(logits: list[Tensor]) -> Tensor:
            each = torch.stack([self.spec.task.criterion(scores, batch.target) for scores in logits])
            return mean_over(each, batch.present.T, counts)

        own = cross_entropies([self.heads[name](feature) for name, feature in features.items()])
        shared = cross_entropies([self.shared_head(feature) for feature in features.values()])
        pairs = self._duc(features, batch.present)
        duc = torch.stack(list(pairs.values())).sum()
        return {
            "loss": own.sum() + self.shared_weight * shared.sum() + self.duc_weight * duc,
            **{f"ce_{name}": part for name, part in zip(self.spec.names, own, strict=True)},
            **{f"ce_shared_{name}": part for name, part in zip(self.spec.names, shared, strict=True)},
            **pairs,
        }

    def _duc(self, features: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        """DUC of each ordered pair, over the batch of all processes; zeros before its time."""
        pairs = {(t, s): f"duc_{self.spec.names[t]}_to_{self.spec.names[s]}" for t, s in self._pairs}
        if not self._duc_acts:
            return {name: present.new_zeros((), dtype=torch.float32) for name in pairs.values()}
        every = [self.gathered(feature, gradient=True) for feature in features.values()]
        has = self.gathered(present).T
        return {
            name: duc_loss(every[s], every[t], self.dims[t, s], self.duc_temperature, has[t] & has[s])
            for (t, s), name in pairs.items()
        }

    def _fusion_losses(self, features: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        complete = batch.present.all(dim=1)
        each = self.spec.task.criterion(self.fused_head(features, batch.present), batch.target)
        return {"loss": mean_over(each, complete, self.counts(complete[:, None])[0])}

    @property
    def _pairs(self) -> list[tuple[int, int]]:
        """Teacher and student, by position."""
        return list(itertools.permutations(range(len(self.spec.names)), 2))

    @property
    def _duc_acts(self) -> bool:
        return self.duc_weight > 0 and self.current_epoch >= self.duc_start_epoch

    def on_train_start(self) -> None:
        """Says so if DUC will never act."""
        super().on_train_start()
        epochs = self.trainer.max_epochs or 0
        if self.stage == ISOLATED and self.duc_weight and 0 < epochs <= self.duc_start_epoch:
            rank_zero_warn(
                f"DIMML's DUC starts after {self.duc_start_epoch} epochs, but there are only {epochs}: it never acts; "
                f"lower duc_start_epoch, or set duc_weight to 0 to leave it out."
            )

    def on_train_epoch_start(self) -> None:
        """Judges the dimensions once, when DUC starts."""
        if self.stage == ISOLATED and self._duc_acts and not self.split_done:
            self._split_dimensions()

    def on_train_epoch_end(self) -> None:
        """Logs, besides the losses, on how many dimensions t teaches s: ``train/dims_<t>_to_<s>``."""
        super().on_train_epoch_end()
        if self.stage == ISOLATED:
            names = self.spec.names
            self.log_dict(
                {f"train/dims_{names[t]}_to_{names[s]}": self.dims[t, s].sum().float() for t, s in self._pairs}
            )

    @torch.no_grad()
    def _split_dimensions(self) -> None:
        """One pass over the training split in evaluation mode; every process sees its share."""
        self.eval()
        rows: list[Batch] = []
        for raw in self._data.whole("train"):
            raw = raw.to(self.device)
            batch = self._data.transform(raw, None if self.split_on_eval_transform else self.draws(raw))
            rows.append(Batch(self.encode(batch.inputs), batch.target, batch.present, batch.index))
        self.train()
        target, present = torch.cat([row.target for row in rows]), torch.cat([row.present for row in rows])
        hits = []
        for m, name in enumerate(self.spec.names):
            has = present[:, m]
            features, labels = torch.cat([row.inputs[name] for row in rows])[has], target[has]
            sums, counts = (self._over_processes(part) for part in class_sums(features, labels, self.spec.task.outputs))
            hits.append(self._over_processes(nearest_hits(features, labels, class_means(sums, counts), counts)))
        self.dims.copy_(one_sided_dims(effective_dims(torch.stack(hits))))
        self.split_done.fill_(True)

    def _over_processes(self, share: Tensor) -> Tensor:
        return self.trainer.strategy.reduce(share, reduce_op="sum")


def certainty_weights(logits: Tensor, usable: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """How much each head counts: softmax over heads of its largest probability, divided by the temperature.

    Args:
        logits: (K, B, C), of K heads.
        usable: (B, K) bool, at least one true in each row; the weight of the other heads is exactly 0.
        temperature: above 0; the larger, the more equal the weights.

    Returns:
        The confidences and the weights, both (B, K); the weights of a sample sum to 1.
    """
    confidence = logits.softmax(dim=2).amax(dim=2).T
    return confidence, (confidence / temperature).masked_fill(~usable, float("-inf")).softmax(dim=1)
