"""What a student takes over from a teacher's features and decisions, sample by sample.

Sources: Romero et al., "FitNets", ICLR 2015 (features); Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural
Network", 2015 (decisions).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def feature_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference, a scalar, in float32 at least.

    Args:
        student: (B, ...), with gradient.
        teacher: of the same shape.
    """
    precision = torch.promote_types(student.dtype, torch.float32)
    return F.mse_loss(student.to(precision), teacher.to(precision))


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
    return temperature**2 * each.view(len(each), -1).mean(dim=1)


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
