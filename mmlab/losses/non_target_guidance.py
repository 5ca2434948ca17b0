"""Non-target guidance: the modality that knows better tells the others which classes not to choose.

Source: Gong, Gao, Zhu, Hu, Cao, "Multimodal Negative Learning", NeurIPS 2025, and its released code. Both cover
two modalities. The rules for more of them and for missing ones are this project's, made so that two complete
modalities give exactly the released code's values.

Decisions (competitor, margins, guides) are taken in float32 at least: in half precision, softmax makes ties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab.losses.late_fusion import late_fusion_losses

Variant = Literal["official", "paper"]
Rule = Literal["dynamic", "confidence", "prior", "off"]
Scope = Literal["non_target", "all"]


@dataclass(frozen=True)
class NegativeLearning:
    """The objective and everything that led to it.

    Attributes:
        loss: scalar, the weighted sum.
        ce_fused: scalar.
        ce_unimodal: (M,).
        guidance: scalar, reduced as the variant says, not yet multiplied by lambda.
        extra_target_ce: scalar, the official variant's cross-entropy of guided modalities; 0 in the paper's.
        guidance_per_sample: (B,), summed over classes and guided modalities.
        competitor: (B,) class indices.
        margin: (M, B).
        target_probability: (M, B).
        guide: (B, M), who guides the modality, -1 where nobody does.
    """

    loss: Tensor
    ce_fused: Tensor
    ce_unimodal: Tensor
    guidance: Tensor
    extra_target_ce: Tensor
    guidance_per_sample: Tensor
    competitor: Tensor
    margin: Tensor
    target_probability: Tensor
    guide: Tensor


def competitor(fused: Tensor, target: Tensor) -> Tensor:
    """The strongest class besides the target in the fused logits, shared by all modalities.

    Args:
        fused: (B, C) logits.
        target: (B,) class indices.

    Returns:
        (B,) class indices, the lowest on ties.
    """
    return fused.scatter(1, target[:, None], float("-inf")).argmax(dim=1)


def at_class(values: Tensor, classes: Tensor) -> Tensor:
    """Picks one class of each sample: (M, B, C) values and (B,) class indices give (M, B)."""
    return values.gather(2, classes[None, :, None].expand(len(values), -1, 1)).squeeze(2)


def confidence_margin(logits: Tensor, target: Tensor, competitor: Tensor) -> Tensor:
    """The Unimodal Confidence Margin (UCoM): target logit minus competitor logit, may be negative.

    Args:
        logits: (M, B, C).
        target: (B,) class indices.
        competitor: (B,) class indices.

    Returns:
        (M, B), in logits.
    """
    return at_class(logits, target) - at_class(logits, competitor)


def guides(target_probability: Tensor, margin: Tensor, present: Tensor, rule: Rule, prior: int = 0) -> Tensor:
    """Who guides whom on each sample.

    A modality dominates another by the larger target probability and, under ``dynamic``, the larger margin too; the
    later modality wins ties. Of those that dominate it, the one with the largest target probability guides (the
    latest on ties). A missing modality neither guides nor is guided.

    Args:
        target_probability: (M, B).
        margin: (M, B).
        present: (B, M) bool.
        rule: ``dynamic`` (both criteria), ``confidence`` (target probability only), ``prior`` (one modality guides
            all others on every sample), ``off``.
        prior: the guide of the rule ``prior``.

    Returns:
        (B, M) modality indices, -1 where nobody guides.
    """
    order = torch.arange(len(margin), device=margin.device)
    guide, guided = order[:, None, None], order[None, :, None]  # dominates: (guide, guided, B)
    if rule == "off":
        return torch.full_like(present, -1, dtype=torch.long)
    if rule == "prior":
        dominates = (guide == prior) & (guided != prior)
    else:
        dominates = _exceeds(target_probability, guide, guided)
        if rule == "dynamic":
            dominates = dominates & _exceeds(margin, guide, guided)
    dominates = dominates & present.T[:, None] & present.T[None, :]

    # Flipped, because argmax takes the first on ties and the latest shall win.
    strength = torch.where(dominates, target_probability[:, None], -1.0).flip(0)
    best = len(order) - 1 - strength.argmax(dim=0)
    return torch.where(dominates.any(dim=0), best, -1).T


def _exceeds(value: Tensor, guide: Tensor, guided: Tensor) -> Tensor:
    of_guide, of_guided = value[:, None], value[None, :]
    return ((guide < guided) & (of_guide > of_guided)) | ((guide > guided) & (of_guide >= of_guided))


def guidance(log_probability: Tensor, target: Tensor, guide: Tensor, scope: Scope) -> Tensor:
    """How far the guided modalities are from what their guides rule out.

    For a modality k with guide g: ``-sum_c sg(p^g_c) log p^k_c`` over the classes other than the target
    (``non_target``) or over all (``all``, an ablation). The guide gets no gradient, and its probabilities are not
    renormalised over the non-target classes.

    Args:
        log_probability: (M, B, C) log-softmax of the logits.
        target: (B,) class indices.
        guide: (B, M), -1 where nobody guides.
        scope: which classes are guided.

    Returns:
        (B,), summed over the guided modalities; 0 for an unguided sample.
    """
    index = guide.T.clamp(min=0)[..., None].expand_as(log_probability)
    taught = log_probability.detach().exp().gather(0, index)
    if scope == "non_target":
        taught = taught.scatter(2, target[None, :, None].expand(len(taught), -1, 1), 0.0)
    each = -(taught * log_probability).sum(dim=2)
    return (each * (guide.T >= 0)).sum(dim=0)


def negative_learning(
    fused: Tensor,
    unimodal: Tensor,
    target: Tensor,
    present: Tensor,
    *,
    counts: Tensor | None = None,
    lam: float,
    variant: Variant,
    rule: Rule,
    scope: Scope,
    prior: int,
    unimodal_weights: Tensor,
    warming_up: bool,
) -> NegativeLearning:
    """The whole objective of Multimodal Negative Learning.

    ``CE(f, y) + sum_m u_m CE(z^m, y) + lam * guidance [+ extra]``. The paper's guidance is the batch mean of
    :func:`guidance`. The official code divides it by the number of classes too and adds ``extra``: the cross-entropy
    of the guided modalities, summed and divided by B * C. That term stays as it is under ``scope="all"``.

    Args:
        fused: (B, C) logits.
        unimodal: (M, B, C) logits.
        target: (B,) class indices.
        present: (B, M) bool.
        counts: (M,) how many samples have each modality, see :func:`~mmlab.losses.late_fusion.mean_over`.
        lam: strength of the guidance. 0.7 belongs to the official variant's division by C.
        variant: whose reduction and terms.
        rule: who guides, see :func:`guides`.
        scope: which classes are guided, see :func:`guidance`.
        prior: the guide of the rule ``prior``.
        unimodal_weights: (M,), of the unimodal cross-entropies.
        warming_up: the guidance is computed, but is no part of the loss yet.

    Returns:
        The loss, its parts and the decisions behind it, in float32 at least.
    """
    precision = torch.promote_types(unimodal.dtype, torch.float32)
    fused, unimodal = fused.to(precision), unimodal.to(precision)
    ce_fused, ce_unimodal = late_fusion_losses(fused, unimodal, target, present, _cross_entropy, counts)

    rival = competitor(fused.detach(), target)
    margin = confidence_margin(unimodal.detach(), target, rival)
    target_probability = at_class(unimodal.detach().softmax(dim=2), target)
    guide = guides(target_probability, margin, present, rule, prior)

    log_probability = unimodal.log_softmax(dim=2)
    per_sample = guidance(log_probability, target, guide, scope)
    if variant == "official":
        classes = unimodal.shape[2]
        guided_ce = -(at_class(log_probability, target) * (guide.T >= 0)).sum(dim=0)
        strength, extra = per_sample.mean() / classes, guided_ce.mean() / classes
    else:
        strength, extra = per_sample.mean(), per_sample.new_zeros(())

    loss = ce_fused + (unimodal_weights * ce_unimodal).sum()
    if not warming_up:
        loss = loss + lam * strength + extra
    return NegativeLearning(
        loss=loss,
        ce_fused=ce_fused,
        ce_unimodal=ce_unimodal,
        guidance=strength,
        extra_target_ce=extra,
        guidance_per_sample=per_sample,
        competitor=rival,
        margin=margin,
        target_probability=target_probability,
        guide=guide,
    )


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target, reduction="none")
