"""Dynamic residual weights: a modality's feature counts 1 + w times, w the smaller, the more it is noisy or relied on.

Source: Wei, Zhang, Chen, He, Duan, "Unbiased Dynamic Multimodal Fusion", CVPR 2026 Findings, as its released code has
it for two complete modalities. Any number of them, and missing ones, are this project's.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmlab.fusion.joint import ConcatFusion, FiLMFusion, GatedFusion, SumFusion, known_features

ResidualHead = ConcatFusion | SumFusion | GatedFusion | FiLMFusion
_LEAST = 1e-8  # a reliance is never smaller


def residual_weights(log_uncertainty: Tensor, reliance: Tensor, present: Tensor) -> Tensor:
    """The normalised reciprocals of uncertainty times reliance, w = n softmax_m(-x_m - ln d_m), n modalities present.

    For two modalities this is the released code's cross-wise division. Scaling all reliances, or adding one number to
    all x of a sample, changes nothing.

    Args:
        log_uncertainty: (B, M), x, the logarithm of the uncertainty; zeros where there is none.
        reliance: (M,), d, not negative; below 1e-8 it counts as that.
        present: (B, M) bool, at least one true in each row.

    Returns:
        (B, M), 0 where a modality is missing; each row sums to the number of modalities that the sample has.
    """
    score = -log_uncertainty - reliance.clamp(min=_LEAST).log()
    return present.sum(dim=1, keepdim=True) * score.masked_fill(~present, float("-inf")).softmax(dim=1)


def reweighted(features: Mapping[str, Tensor], weights: Tensor) -> dict[str, Tensor]:
    """(1 + w_m) f_m: a modality is lifted or damped, and never switched off.

    Args:
        features: (B, D_m) by modality, in order.
        weights: (B, M).
    """
    columns = weights.unbind(dim=1)
    return {name: (1 + w[:, None]) * f for (name, f), w in zip(features.items(), columns, strict=True)}


def logits_alone(head: ResidualHead, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
    """What a joint head says of each modality by itself.

    Concatenation: the other features are zero, the bias is kept. Sum: the modality's own layer. Gate: the modality's
    projection gated by itself, ``W [sigmoid(p) * p] + b``, as in the released code. FiLM (ours; what the
    released code calls by that name is an outer product): the other feature is zero.

    Args:
        head: the joint head.
        features: (B, D_m) by modality, in order.
        present: (B, M) bool; a missing modality's feature counts as zero.

    Returns:
        (M, B, C).
    """
    known = known_features(features, present)
    if isinstance(head, SumFusion):
        return torch.stack([layer(feature) for layer, feature in zip(head.classifiers, known, strict=True)])
    if isinstance(head, GatedFusion):
        layers = (head.gate, *head.projections)
        projected = [layer(feature) for layer, feature in zip(layers, known, strict=True)]
        return torch.stack([head.classifier(each.sigmoid() * each) for each in projected])
    own = torch.eye(len(known), dtype=torch.bool, device=present.device)
    return torch.stack([head(features, present & only) for only in own])


def logits_without(head: ResidualHead, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
    """What a joint head says with each modality left out in turn.

    Its feature is zero; of the sum, its layer is left out with its bias.

    Args:
        head: the joint head.
        features: (B, D_m) by modality, in order.
        present: (B, M) bool.

    Returns:
        (M, B, C), at [m] without modality m.
    """
    if isinstance(head, SumFusion):
        each = logits_alone(head, features, present)
        return each.sum(dim=0) - each
    own = torch.eye(len(features), dtype=torch.bool, device=present.device)
    return torch.stack([head(features, present & ~only) for only in own])
