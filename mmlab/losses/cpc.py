"""Contrastive predictive coding: how well one vector can be told from the others of a batch by a prediction of it.

Source: Han, Chen and Poria, "Improving Multimodal Fusion with Hierarchical Mutual Information Maximization for
Multimodal Sentiment Analysis", EMNLP 2021, in the form of its released code: rows of length 1, no temperature. An
InfoNCE bound: ``log B`` less the loss is at most the mutual information.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab.precision import precise

Over = Literal["prediction", "target"]
"""Among what the right one is to be found: predictions for a fixed vector, or vectors for a fixed prediction."""


def cpc(target: Tensor, prediction: Tensor, over: Over = "prediction", kept: Tensor | None = None) -> Tensor:
    """``-(1/B) sum_i (S_ii - log sum_j exp S_ij)`` with cosines ``S_ij`` of vector i and prediction j, a scalar.

    Exactly 0 for a batch of one; ``log B`` where all samples are the same.

    Args:
        target: (B, D), the vectors x.
        prediction: (B, D), of each from its condition.
        over: prediction, as the released code does, or target: ``S_ji`` in place of ``S_ij`` within the logarithm.
        kept: (B,) bool, the samples that take part; all unless given, and the loss is 0 where none does.
    """
    x, g = (F.normalize(precise(rows), dim=1, eps=1e-8) for rows in (target, prediction))
    similarity = x @ g.T if over == "prediction" else g @ x.T
    if kept is None:
        return -similarity.log_softmax(dim=1).diagonal().mean()
    # Not minus infinity: a row of nothing else has no softmax.
    similarity = similarity.masked_fill(~kept, torch.finfo(similarity.dtype).min)
    each = torch.where(kept, similarity.log_softmax(dim=1).diagonal(), 0.0)
    return -each.sum() / kept.sum().clamp(min=1)
