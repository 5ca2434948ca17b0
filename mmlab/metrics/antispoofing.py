"""The error rates of face anti-spoofing."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric

LIVE = 1
"""The class of a living face; 0 is an attack."""


class SpoofingErrors(Metric):
    """Attacks taken for living faces, living faces taken for attacks, and the mean of both rates.

    ``acer = (apcer + bpcer) / 2`` with ``apcer`` = attacks accepted over all attacks, of all kinds together, and
    ``bpcer`` = living faces rejected over all living faces (ISO/IEC 30107-3, with the attacks pooled as in the
    CASIA-SURF challenge). The decision is the larger logit: no threshold is tuned. A class without a sample has no
    rate: it is nan, and so is ``acer``, never 0.
    """

    higher_is_better = False
    full_state_update = False
    wrong: Tensor
    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("wrong", torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, decision: Tensor, target: Tensor) -> None:
        """Counts samples.

        Args:
            decision: (B,) 1 for a living face, 0 for an attack.
            target: (B,) likewise.
        """
        each = torch.stack((target == 1 - LIVE, target == LIVE))
        self.total += each.sum(dim=1)
        self.wrong += (each & (decision != target)).sum(dim=1)

    def compute(self) -> dict[str, Tensor]:
        """``acer``, ``apcer`` and ``bpcer``, shares of 1."""
        apcer, bpcer = self.wrong.double() / self.total  # 0 / 0 is nan
        return {"acer": ((apcer + bpcer) / 2).float(), "apcer": apcer.float(), "bpcer": bpcer.float()}
