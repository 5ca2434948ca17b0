"""How to weigh two losses so that neither's gradient rules: the min-norm point of their normalised gradients.

Source: Desideri, "Multiple-gradient descent algorithm (MGDA)", 2012, in closed form for two losses as in Sener and
Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018; normalisation and end weights are those
of ERL-MR's released code (ACM Multimedia 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

END = 0.999
VANISHED = 1e-12


def normalisers(products: Tensor, losses: Tensor) -> Tensor:
    """What each gradient is divided by: its loss times its norm, (2,).

    Args:
        products: (2, 2) inner products of the two gradients.
        losses: (2,) their values.
    """
    return losses * products.diagonal().sqrt()


def min_norm_weight(products: Tensor) -> Tensor:
    """The first of two weights that sum to 1 and make the weighted sum of two gradients shortest.

    ``(c - b) / (a + c - 2 b)`` with ``a = <h_0, h_0>``, ``b = <h_0, h_1>``, ``c = <h_1, h_1>``. Where the shorter of
    them is the shortest point itself, it gets 0.999 and the other 0.001; between the ends nothing is clipped.

    Args:
        products: (2, 2) inner products of the (normalised) gradients h.

    Returns:
        A scalar in (0, 1).
    """
    a, b, c = products[0, 0], products[0, 1], products[1, 1]
    return torch.where(b >= a, END, torch.where(b >= c, 1 - END, (c - b) / (a + c - 2 * b)))


def pareto_weight(products: Tensor, losses: Tensor) -> Tensor:
    """The weight of the first of two losses, from the inner products of their gradients.

    With orthogonal gradients it is ``loss_0^2 / (loss_0^2 + loss_1^2)``; the gradients' own scale has no effect.

    Args:
        products: (2, 2) inner products of the gradients, without normalisation.
        losses: (2,) their values, positive.

    Returns:
        A scalar in (0, 1). The released code divides by zero where a gradient or a loss vanishes: there (ours) the
        other one gets 0.999, the first one where both vanish. A gradient that isn't finite gets 0.999 (ours): under
        a gradient scaler the step's own gradient then overflows as well, and the scaler leaves the step out.
    """
    n = normalisers(products, losses)
    weight = min_norm_weight(products / torch.outer(n, n))
    weight = torch.where(n[0] < VANISHED, 1 - END, weight)
    weight = torch.where(n[1] < VANISHED, END, weight)
    weight = torch.where(n[1].isfinite(), weight, 1 - END)
    return torch.where(n[0].isfinite(), weight, END)
