"""Self-MI: Self-MM with mutual information between modalities, and with their fusion, as an auxiliary loss.

Paper: Nguyen, Nguyen, Le, Ha, "Self-MI: Efficient Multimodal Fusion via Self-Supervised Multi-Task Learning with
Auxiliary Mutual Information Maximization", PACLIC 2023. A RECONSTRUCTION: only its abstract was in our reach, and there
is no released code. Idea: labels of single modalities as in Self-MM; contrastive predictive coding keeps in the fused
vector H_m what each modality's encoder says, F_s, and in the modalities what they say of each other:

    L = L_SelfMM + alpha sum_s N(F_s; H_m) + beta ( N(F_a; F_t) + N(F_v; F_t) )
    N(x; c) = -(1/B) sum_i log( exp cos(x_i, W c_i + b) / sum_j exp cos(x_i, W c_j + b) )

From the abstract: the tasks, and that CPC acts on pairs of modalities and between the fusion and each. Ours: how they
add up, alpha and beta (those of MMIM, EMNLP 2021), which vectors and pairs, one linear predictor for each term, and
that information reaches the labels through the representations alone. Self-MM's part and N follow released code.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice, widths
from mmlab.errors import UserError
from mmlab.fusion.branches import USUAL_DROPOUTS, USUAL_WIDTHS, BranchDropouts, BranchWidths
from mmlab.losses.cpc import Over, cpc
from mmlab.methods.base import OptimizerFactory, SchedulerFactory
from mmlab.methods.self_labelled import Decision, SelfLabelled
from mmlab.types import Batch

FUSION = "fusion"


class SelfMI(SelfLabelled):
    """Self-MM with mutual information as an auxiliary loss (PACLIC 2023), a reconstruction from its abstract.

    Reconstructed are the sum of the losses and its weights, the vectors and pairs that CPC compares, the predictors,
    and how information reaches the labels, see the module's text. For labels of one's own, name a subclass of
    GeneratedLabels as ``generator`` in a subclass of this.

    Labels, representations and centres are part of the checkpoint, by training sample. Self-MM's setting makes a step
    of the summed gradients of four batches: --trainer.accumulate_grad_batches 4; at the end of an epoch, fewer make
    none. The negatives of CPC are the other samples of the batch, over all processes.

    Only what all modalities say is the decision. Ours: other modalities and their number, where the first one predicts
    the others; what a sample lacks is seen as zeros by its encoder, and its label, its loss and its CPC terms are left
    out.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        alpha: weight of CPC between the fusion and each modality.
        beta: weight of CPC between modalities.
        pairs: default, each modality from the first one (text), or all, which adds each from those before it.
        over: among what CPC finds the right one: prediction, as MMIM's released code does, or target, the usual reading
            of its equation.
        use_mi: false for Self-MM, without predictors.
        branch_widths: of the branches' representations (fusion, text, audio, vision).
        branch_dropouts: of the branches' inputs (fusion, text, audio, vision).
        exclude_zero: whether a label of 0 belongs neither to the positive nor to the negative centre, as in MMSA.
        label_bound: generated labels lie between its negative and it; the end of the data set's scale unless given.
        backbone: what encodes each modality: a backbone of sequences or vectors, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, asks for classes or has no labels below 0, or an option
            doesn't fit.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        alpha: float = 0.1,
        beta: float = 0.1,
        pairs: Literal["default", "all"] = "default",
        over: Over = "prediction",
        use_mi: bool = True,
        branch_widths: BranchWidths = USUAL_WIDTHS,
        branch_dropouts: BranchDropouts = USUAL_DROPOUTS,
        exclude_zero: bool = True,
        label_bound: float | None = None,
        backbone: Choice = "lstm",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(
            spec,
            branch_widths,
            branch_dropouts,
            exclude_zero,
            label_bound,
            backbone,
            backbones,
            optimizer,
            scheduler,
        )
        for option, weight in {"alpha": alpha, "beta": beta}.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(f"SelfMI's {option} is {weight}: give a number of 0 or more.")
        self.alpha, self.beta = alpha, beta
        self.over: Over = over
        names = self.spec.names
        every = list(combinations(names, 2)) if pairs == "all" else [(names[0], other) for other in names[1:]]
        self.terms = [*((FUSION, name) for name in names), *every] if use_mi else []
        sizes = widths(self.encoders)
        conditions = {**sizes, FUSION: self.fused.width}
        self.predictors = nn.ModuleDict(
            {f"{given}_{predicted}": nn.Linear(conditions[given], sizes[predicted]) for given, predicted in self.terms}
        )

    def information(self, decision: Decision, present: Tensor) -> dict[str, Tensor]:
        """CPC by its two vectors, the condition first: ``fusion_text``, ``text_audio`` ...; scalars.

        Args:
            decision: of a batch.
            present: (B, M) bool; a term is over the samples that have its modalities.
        """
        vectors = {**decision.features, FUSION: decision.representations[0]}
        has = {name: present[:, m] for m, name in enumerate(self.spec.names)}
        has[FUSION] = torch.ones_like(present[:, 0])
        found = {}
        with torch.autocast(present.device.type, enabled=False):
            for given, predicted in self.terms:
                name = f"{given}_{predicted}"
                found[name] = cpc(
                    self.gathered(vectors[predicted], gradient=True),
                    self.gathered(self.predictors[name](vectors[given]), gradient=True),
                    self.over,
                    self.gathered(has[given] & has[predicted]),
                )
        return found

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The errors, weighted by the labels as they were, and CPC; then the labels move."""
        decision = self.decide(batch.inputs, batch.present)
        parts = self.multitask(decision, batch)
        information = self.information(decision, batch.present)
        for (given, _), term in zip(self.terms, information.values(), strict=True):
            parts["loss"] = parts["loss"] + (self.alpha if given == FUSION else self.beta) * term
        named = {f"cpc_{name}": term for name, term in information.items()}
        return parts | named | {"clamped": self.relabel(decision, batch)}
