"""MNL, Multimodal Negative Learning: the better modality tells the others which classes not to choose.

Paper: Gong, Gao, Zhu, Hu, Cao, NeurIPS 2025. Idea: late fusion f = sum_m w_m z^m; on each sample, the modality g with
both the larger target probability and the larger margin over the strongest fused competitor guides the weaker k, by
its detached probabilities p^g, over the classes that are not the label y. Where the two criteria disagree, nobody does.

    L = CE(f, y) + sum_m u_m CE(z^m, y) + lam * mean_i sum_{c != y} -sg(p^g_c) log p^k_c          (variant: paper)

The official code (variant: official, the default: the published numbers were made with it) divides the guidance by
the number of classes too, gives the guided modality an extra -log p^k_y / C, and has no warm-up, which the paper has.

The paper combines the guidance with the dynamic fusions QMF and PDF, the released code doesn't. Here (ours) the
guidance is added to what QMF or PDF trains by, with the competitor of the margins taken from the dynamically fused f.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice, widths
from mmlab.errors import UserError
from mmlab.fusion.late import WeightedFusion
from mmlab.fusion.pdf import PDFFusion
from mmlab.fusion.qmf import QMFFusion
from mmlab.fusion.static import StaticLateFusion
from mmlab.losses.confidence_ranking import Ranking
from mmlab.losses.non_target_guidance import Rule, Scope, Variant, negative_learning
from mmlab.methods.base import OptimizerFactory, SchedulerFactory
from mmlab.methods.late import LateFusionMethod
from mmlab.types import Batch


class MNL(LateFusionMethod):
    """Multimodal Negative Learning on late fusion, static or dynamic.

    Any number of modalities and samples with missing ones: a modality takes as guide the one of largest target
    probability among those that beat it; a missing one neither guides nor is guided (both ours).

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        variant: the objective of the official code or of the paper.
        lam: strength of the guidance; 0.7 belongs to the official variant, whose guidance is divided by C.
        warmup_epochs: epochs without guidance.
        guidance_rule: who guides: dynamic (target probability and margin), confidence (target probability only),
            prior (one modality, always), off (plain late fusion).
        guidance_scope: guided classes; all is an ablation that includes the target.
        prior_guide: the guide of the rule prior; the first modality unless given.
        fusion: how the logits are fused: static, or with the weights of qmf or pdf (see those methods).
        weights: static fusion weights in the order of the modalities, scaled to sum 1; all equal unless given.
        rank_weight: of QMF's ranking losses, 1 unless given.
        ranking: the sign of QMF's margin, released (the default) or corrected_margin.
        unimodal_weights: weights u_m of the unimodal cross-entropies; all 1 unless given.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, or an option doesn't fit.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        variant: Variant = "official",
        lam: float = 0.7,
        warmup_epochs: int = 0,
        guidance_rule: Rule = "dynamic",
        guidance_scope: Scope = "non_target",
        prior_guide: str | None = None,
        fusion: Literal["static", "qmf", "pdf"] = "static",
        weights: list[float] | None = None,
        rank_weight: float | None = None,
        ranking: Ranking | None = None,
        unimodal_weights: list[float] | None = None,
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, unimodal_weights, backbone, backbones, optimizer, scheduler)
        if lam < 0:
            raise UserError(f"MNL can't have lam {lam}: it is the guidance's strength, give 0 or more.")
        if warmup_epochs < 0:
            raise UserError(f"MNL can't warm up for {warmup_epochs} epochs: give warmup_epochs 0 or more.")
        if prior_guide is not None and guidance_rule != "prior":
            raise UserError(
                f"MNL uses prior_guide {prior_guide!r} only by the rule prior: set guidance_rule to prior or leave "
                f"prior_guide out."
            )
        if self.spec.task.outputs == 2 and guidance_scope == "non_target" and guidance_rule != "off":
            rank_zero_warn(
                "with two classes, only one is not the target: MNL's guidance then has no spread to teach and only "
                "narrows the guided modality's margin; guidance_rule off is late fusion without it."
            )
        self.variant: Variant = variant
        self.lam = lam
        self.warmup_epochs = warmup_epochs
        self.guidance_rule: Rule = guidance_rule
        self.guidance_scope: Scope = guidance_scope
        self.prior = 0 if prior_guide is None else self.spec.position(prior_guide)
        for option, value, owner in (
            ("weights", weights, "static"),
            ("rank_weight", rank_weight, "qmf"),
            ("ranking", ranking, "qmf"),
        ):
            if value is not None and fusion != owner:
                raise UserError(f"MNL uses {option} only with fusion {owner}: set fusion to {owner}, or leave it out.")
        sizes, outputs = widths(self.encoders), self.spec.task.outputs
        self.fusion: WeightedFusion
        if fusion == "static":
            self.fusion = StaticLateFusion(sizes, outputs, weights)
        elif fusion == "qmf":
            rank_weight = 1.0 if rank_weight is None else rank_weight
            self.fusion = QMFFusion(sizes, outputs, self.spec.train_size, rank_weight, ranking or "released")
        else:
            self.fusion = PDFFusion(sizes, outputs)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Late fusion's cross-entropies, the guidance, and what a dynamic fusion itself trains by."""
        decision, _ = self.decide(batch.inputs, batch.present)
        terms = negative_learning(
            decision.logits,
            decision.unimodal,
            batch.target,
            batch.present,
            counts=self.counts(batch.present),
            lam=self.lam,
            variant=self.variant,
            rule=self.guidance_rule,
            scope=self.guidance_scope,
            prior=self.prior,
            unimodal_weights=self.unimodal_weights,
            warming_up=self.current_epoch < self.warmup_epochs,
        )
        own = self.fusion.objective(decision, batch.target, batch.index, batch.present, self.gathered)
        return {
            "loss": terms.loss + sum(own.values(), torch.zeros_like(terms.loss)),
            "ce_fused": terms.ce_fused,
            **{f"ce_{name}": ce for name, ce in zip(self.spec.names, terms.ce_unimodal, strict=True)},
            "guidance": terms.guidance,
            "extra_target_ce": terms.extra_target_ce,
            **own,
        }
