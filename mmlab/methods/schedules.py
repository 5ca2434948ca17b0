"""Learning rates by epoch that torch has no schedule for."""

from __future__ import annotations

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mmlab.errors import UserError

WARMUP = 5
"""Epochs that the rate takes to rise to the optimiser's own."""


class WarmupSteps(LRScheduler):
    """A rise over five epochs, then a tenth at one, two and three sixths of the run: the face networks' rates.

    The rate of epoch e is ``lr * k / 5`` for k = e + 1 up to 5, then ``lr * 0.1^n``, where n is how many of
    ``floor(epochs / 6)``, ``floor(2 epochs / 6)`` and ``floor(3 epochs / 6)`` are no larger than k - 5. It is stepped
    once an epoch.

    MMANet's and DMRNet's released code (Wei et al., CVPR 2023, ECCV 2024) starts the same rates two epochs later: in
    its epochs 0 and 1 the rate is 0, and nothing is learnt. That is ours to choose, and the default leaves these two
    epochs out.

    Args:
        optimizer: whose rates are set; the command line fills it in.
        epochs: of the whole run, or of one stage where a method has several.
        official: reproduces the released code's list, with the two epochs at rate 0.

    Raises:
        UserError: if there is no epoch.
    """

    def __init__(self, optimizer: Optimizer, epochs: int, official: bool = False) -> None:
        if epochs < 1:
            raise UserError(f"WarmupSteps: epochs is {epochs}; give the number of epochs of the run, 1 or more.")
        self.milestones = [sixths * epochs // 6 for sixths in (1, 2, 3)]
        self.official = official
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each parameter group in the epoch that begins."""
        place = max(self.last_epoch - 1, 0) if self.official else self.last_epoch + 1
        if place < WARMUP:
            return [base * place / WARMUP for base in self.base_lrs]
        tenths = sum(milestone <= place - WARMUP for milestone in self.milestones)
        return [base * 0.1**tenths for base in self.base_lrs]
