"""A probabilistic block: from the features of several modalities to one Gaussian for each number in them.

Source: Wei, Luo, Wang, Luo, "Robust Multimodal Learning via Representation Decoupling" (DMRNet), ECCV 2024, as its
released code has it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlab.backbones.gaussian import Gathered, GatheredBatchNorm
from mmlab.draws import Draws
from mmlab.precision import precise


class ProbabilisticBlock(nn.Module):
    """``mu = BN(A f + a)`` and ``s = BN(B f + b)``, the logarithm of the variance; two branches without an activation.

    Every place of a map goes through the same layers, so that vectors are maps of one place. Weights start
    Xavier-normal as for the released code's vectors, for maps too, where it has Kaiming by fan-out: the normalisation
    takes the scale away.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = Branch(width)
        self.log_variance = Branch(width)

    def forward(self, deep: Tensor, gathered: Gathered) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, both of the shape of ``deep``, in float32 at least.

        Args:
            deep: (B, D) or (B, D, h, w).
            gathered: joins the rows of all processes; the statistics of a training batch are over all of them.
        """
        return self.mean(deep, gathered), self.log_variance(deep, gathered)


class Branch(nn.Module):
    """A linear layer at every place, and batch normalisation.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = GatheredBatchNorm(width)
        nn.init.xavier_normal_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        # The normalisation takes the bias away again: its gradient is rounding noise, of which Adam would make steps.
        self.linear.bias.register_hook(torch.zeros_like)

    def forward(self, deep: Tensor, gathered: Gathered) -> Tensor:
        """(B, D) or (B, D, h, w) to the same shape."""
        maps = deep if deep.dim() == 4 else deep[:, :, None, None]
        maps = F.conv2d(maps, self.linear.weight[:, :, None, None], self.linear.bias)
        maps = precise(maps)
        every = torch.ones(len(maps), dtype=torch.bool, device=maps.device)
        return self.norm(maps[:, None], every, gathered).view_as(deep)


def sample(mean: Tensor, log_variance: Tensor, draws: Draws) -> Tensor:
    """``mu + eps exp(s / 2)``, one standard normal draw for each number; gradient flows to both.

    Args:
        mean: (B, ...).
        log_variance: likewise.
        draws: the batch's.
    """
    eps = draws.field("probabilistic", mean[0].numel()).view_as(mean).to(mean.dtype)
    return mean + eps * (log_variance / 2).exp()
