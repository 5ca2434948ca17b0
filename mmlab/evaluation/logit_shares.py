"""Which modality the decision is made by: shares of the fused logits' margin.

Where the fused logits f are a sum of parts c^m of the modalities, with d the decided class and r the runner-up in f,
the part of m in the margin is c^m_d - c^m_r, and the share of m

    mean |c^m_d - c^m_r| / sum_m' mean |c^m'_d - c^m'_r|,

the means over the samples that have every modality. What is in f and in no c^m (the joint head of DI-MML) counts as
one part more, ``rest``. This is a definition of this project. A part that is large but the same for every class has no
share; one that speaks against the decision has the same share as one that speaks for it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmlab.types import Prediction

REST = "rest"
_LEAST = 1e-12
_TOLERANCE = 0.01  # of the spread of the fused logits: what half precision may round


def logit_shares(prediction: Prediction, names: Sequence[str], present: Tensor) -> dict[str, float] | None:
    """The shares by modality, which sum to 1; with ``rest`` where something is in no part.

    The parts are the unimodal logits if these sum to the fused ones, a constant of each class apart; else the unimodal
    logits times the fusion weights.

    Args:
        prediction: (N, C) logits of a whole split.
        names: the modalities, in order.
        present: (N, M) bool.

    Returns:
        None where the fused logits are no sum of parts, or fewer than two samples have every modality.
    """
    complete = present.all(dim=1)
    if prediction.unimodal.keys() != set(names) or prediction.logits.shape[1] < 2 or complete.sum() < 2:
        return None
    fused = prediction.logits[complete]
    parts = torch.stack([prediction.unimodal[name][complete] for name in names])
    if not _sums_to(parts, fused):
        if prediction.weights is None:
            return None
        parts = parts * prediction.weights[complete].T[..., None]
    rest = fused - parts.sum(dim=0)
    decided, rival = fused.topk(2, dim=1).indices.unbind(dim=1)
    every = torch.cat([parts, rest[None]])
    rows = torch.arange(len(fused), device=fused.device)
    sizes = (every[:, rows, decided] - every[:, rows, rival]).abs().mean(dim=1)
    if _sums_to(parts, fused):
        sizes[-1] = 0
    shares = dict(zip((*names, REST), (sizes / sizes.sum().clamp(min=_LEAST)).tolist(), strict=True))
    return shares if shares[REST] else {name: shares[name] for name in names}


def _sums_to(parts: Tensor, fused: Tensor) -> bool:
    """Whether what is missing to the fused logits is the same for every sample: a bias, which is no modality's."""
    rest = fused - parts.sum(dim=0)
    rest = rest - rest.mean(dim=1, keepdim=True)
    spread = (fused - fused.mean(dim=1, keepdim=True)).abs().mean()
    return bool((rest - rest.mean(dim=0)).abs().max() <= _TOLERANCE * spread)
