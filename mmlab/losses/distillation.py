"""What a student takes over from a teacher's features and logits, sample by sample.

Sources: Romero et al., "FitNets", ICLR 2015 (features); Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural
Network", 2015 (logits).
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


def logit_distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(teacher / T) || softmax(student / T))``, the mean over samples (and places), a scalar.

    Args:
        student: (B, C) or (B, C, H, W) logits, with gradient.
        teacher: of the same shape.
        temperature: T, above 0.
    """
    precision = torch.promote_types(student.dtype, torch.float32)
    log, target = ((each.to(precision) / temperature).log_softmax(dim=1) for each in (student, teacher))
    return temperature**2 * (target.exp() * (target - log)).sum(dim=1).mean()
