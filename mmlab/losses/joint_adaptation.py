"""Joint adaptation: draws features and the decisions made from them, as one distribution, to those of a teacher.

The discrepancy of P(features, decision) is that of P(features) plus that of P(decision | features). The first is the
maximum mean discrepancy, see :mod:`mmlab.losses.mmd`; the second compares the decisions sample by sample:

    alpha MMD(f_r, f_p) + beta T^2 KL(softmax(z_p / T) || softmax(z_r / T))

Source: the loss that Wei et al. released for MSH-Net ("Modality-Shared Hallucination with Joint Adaptation
Distillation", 2023). That OMD, of the same authors, uses the same one is this project's inference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def decision_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(teacher / T) || softmax(student / T))`` of each sample; 0 where both are equal.

    Args:
        student: (B, C) logits, or (B, C, H, W), whose pixels are averaged.
        teacher: as ``student``; gets no gradient.
        temperature: T, above 0.

    Returns:
        (B,), in float32 at least.
    """
    precision = torch.promote_types(student.dtype, torch.float32)
    log_student = (student.to(precision) / temperature).log_softmax(dim=1)
    log_teacher = (teacher.detach().to(precision) / temperature).log_softmax(dim=1)
    each = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * each.flatten(1).mean(dim=1) if each.dim() > 1 else temperature**2 * each


def number_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """The same for a predicted number, taken for the mean of a Gaussian of variance 1: half the squared difference.

    Temperature cancels out. Ours: the source has classes alone.

    Args:
        student: (B, 1).
        teacher: (B, 1); gets no gradient.

    Returns:
        (B,), in float32 at least.
    """
    precision = torch.promote_types(student.dtype, torch.float32)
    return (student.to(precision) - teacher.detach().to(precision)).square().squeeze(1) / 2
