"""Self-MM: labels of single modalities that are generated in training, for sentiment regression.

Paper: Yu, Xu, Yuan, Wu, "Learning Modality-Specific Representations with Self-Supervised Multi-Task Learning for
Multimodal Sentiment Analysis", AAAI 2021. Idea: one label for a clip says nothing of what is in a modality alone. Each
modality s gets a branch and a label y_s of its own, first the clip's y_m; from the second epoch on, y_s moves by where
the sample lies between the centres of positive and negative samples, in its own branch and in that of all modalities:

    L = mean_i ( |yhat_m - y_m| + sum_s tanh(|y_s - y_m|) |yhat_s - y_s| )
    r_k = (d-_k - d+_k) / d+_k       y' = clamp( (r_s / r_m) y_m / 2 + (y_m + r_s - r_m) / 2 )
    y_s <- ((e - 1) y_s + 2 y') / (e + 1)       in epoch e

A sample's labels move after its loss, so that own labels weigh nothing before the third epoch. Of the released code
(thuiar/MMSA), left out are labels that turn to NaN where no sample is positive, or none negative.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice
from mmlab.fusion.branches import USUAL_DROPOUTS, USUAL_WIDTHS, BranchDropouts, BranchWidths
from mmlab.methods.base import OptimizerFactory, SchedulerFactory
from mmlab.methods.self_labelled import SelfLabelled
from mmlab.types import Batch


class SelfMM(SelfLabelled):
    """Each modality has a branch whose labels are generated in training (AAAI 2021).

    Labels, representations and centres are part of the checkpoint, by training sample. The published setting makes a
    step of the summed gradients of four batches: --trainer.accumulate_grad_batches 4; at the end of an epoch, fewer
    make none. With several processes, all remember the same.

    Only what all modalities say is the decision; the share of generated labels that had to be clamped is logged as
    ``clamped``. Ours, since the source has complete text, audio and vision: other modalities and their number; what a
    sample lacks is seen as zeros by its encoder, and its label and loss are left out.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        branch_widths: of the branches' representations (fusion, text, audio, vision).
        branch_dropouts: of the branches' inputs (fusion, text, audio, vision).
        exclude_zero: whether a label of 0 belongs neither to the positive nor to the negative centre, as in MMSA; in
            the authors' first code it counts as positive.
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

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The errors, weighted by the labels as they were; then the labels move."""
        decision = self.decide(batch.inputs, batch.present)
        return self.multitask(decision, batch) | {"clamped": self.relabel(decision, batch)}
