"""Late fusion weighted by energy, with confidences that are ranked by how hard each sample was (QMF).

Source: Zhang et al., "Provable Dynamic Fusion for Low-Quality Multimodal Data", ICML 2023, in the form of its released
text-image code: weights without gradient, history written before it is read. (Its RGB-D code does both the other way
round, which gives NaN in the first step.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab.errors import UserError
from mmlab.fusion.late import Gathered, LateDecision, WeightedFusion, fuse
from mmlab.losses.confidence_ranking import Ranking, ranking_losses, relative_history


class QMFFusion(WeightedFusion):
    """Weights ``logsumexp(z^m) / 10``: neither normalised over the modalities nor kept positive, as in the paper.

    A missing modality has weight 0.

    Args:
        widths: each modality's feature width, in the data set's order.
        outputs: C.
        train_size: number of training samples, for their history.
        rank_weight: of the ranking losses.
        ranking: see :func:`~mmlab.losses.confidence_ranking.ranking_losses`.

    Raises:
        UserError: if there is only one modality, or the weight is negative.
    """

    loss_sum: Tensor

    def __init__(
        self, widths: Mapping[str, int], outputs: int, train_size: int, rank_weight: float, ranking: Ranking
    ) -> None:
        super().__init__(widths, outputs)
        if not (math.isfinite(rank_weight) and rank_weight >= 0):
            raise UserError(f"rank_weight is {rank_weight}; give a number of 0 or more.")
        self.rank_weight = rank_weight
        self.ranking: Ranking = ranking
        self.register_buffer("loss_sum", torch.zeros(len(widths), train_size))

    def decide(
        self, unimodal: Tensor, features: Sequence[Tensor], present: Tensor, calibrate: bool = False
    ) -> LateDecision:
        """Weighs each modality by the energy of its own logits."""
        confidence = unimodal.logsumexp(dim=2).T / 10
        weights = confidence.detach() * present
        return LateDecision(fuse(unimodal, weights), unimodal, weights, confidence)

    def objective(
        self, decision: LateDecision, target: Tensor, index: Tensor, present: Tensor, gathered: Gathered
    ) -> dict[str, Tensor]:
        """Adds the batch's cross-entropies to the history, then ranks the confidences by it.

        Neighbours are those of the batch of all processes, and every process writes the whole history.
        """
        assert decision.confidence is not None
        each = torch.stack([F.cross_entropy(logits, target, reduction="none") for logits in decision.unimodal])
        rows, has = gathered(index, False), gathered(present, False)
        self.loss_sum[:, rows] += (gathered(each.T, False) * has).T.to(self.loss_sum.dtype)
        history = relative_history(self.loss_sum, rows)
        ranks = ranking_losses(gathered(decision.confidence, True).T, history, has, self.ranking)
        return {f"rank_{name}": self.rank_weight * rank for name, rank in zip(self.names, ranks, strict=True)}
