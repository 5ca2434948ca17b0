"""A probabilistic head: from feature maps to a Gaussian at every place.

Source: Wei, Zhang, Chen, He, Duan, "Unbiased Dynamic Multimodal Fusion", CVPR 2026 Findings, as its released code has
it: a 1 x 1 convolution and batch normalisation each for the mean and for the logarithm of the variance.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mmlab.precision import precise

Gathered = Callable[[Tensor, bool], Tensor]
"""From a process's rows to those of all processes; the second argument says whether gradient flows through."""


class GatheredBatchNorm(nn.Module):
    """Batch normalisation over the samples of all processes that have the modality.

    torch's own normalises each process's share by itself, and its synchronised kind runs on a GPU only; with either,
    the result would depend on how a batch is split over devices, or on zeros in place of missing samples. Momentum
    0.1 and epsilon 1e-5 are torch's.

    Args:
        channels: of the maps.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, maps: Tensor, has: Tensor, gathered: Gathered) -> Tensor:
        """Normalises channel by channel; by the running statistics in evaluation.

        Args:
            maps: (B, T, channels, h, w), in float32 at least.
            has: (B,) bool, whose maps count in the statistics.
            gathered: joins the rows of all processes.
        """
        mean, var = self._moments(maps, has, gathered) if self.training else (self.running_mean, self.running_var)
        centred = maps - mean.view(-1, 1, 1)
        return centred * (self.weight * (var + 1e-5).rsqrt()).view(-1, 1, 1) + self.bias.view(-1, 1, 1)

    def _moments(self, maps: Tensor, has: Tensor, gathered: Gathered) -> tuple[Tensor, Tensor]:
        kept = has.view(-1, 1, 1, 1, 1)
        places = maps.shape[1] * maps.shape[3] * maps.shape[4]
        count = (has.sum() * places).to(maps.dtype).expand(maps.shape[2])
        mean = (maps * kept).sum(dim=(0, 1, 3, 4)) / count.clamp(min=1)
        squares = ((maps - mean.view(-1, 1, 1)) * kept).square().sum(dim=(0, 1, 3, 4))
        # Squared deviations from the processes' own means: a difference of large squares would lose its digits.
        counts, means, squares = gathered(torch.stack([count, mean, squares])[None], True).unbind(dim=1)
        count = counts.sum(dim=0)
        mean = (counts * means).sum(dim=0) / count.clamp(min=1)
        squares = (squares + counts * (means - mean).square()).sum(dim=0)
        with torch.no_grad():
            step = 0.1 * (count > 0)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), step.to(self.running_mean.dtype))
            unbiased = squares / (count - 1).clamp(min=1)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), step.to(self.running_var.dtype))
        return mean, squares / count.clamp(min=1)


class GaussianHead(nn.Module):
    """The mean and the standard deviation of the features at every place.

    One convolution makes the mean in its first half and the logarithm of the variance in its second, and one
    normalisation holds for both, channel by channel. For features without a place, maps are (B, 1, D, 1, 1), and the
    convolution is a linear layer. Convolutions start as in the released code, Kaiming-normal by fan-out.

    Args:
        channels: D, of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 2 * channels, kernel_size=1)
        self.norm = GatheredBatchNorm(2 * channels)
        for half in self.convolution.weight.chunk(2):
            nn.init.kaiming_normal_(half, mode="fan_out", nonlinearity="relu")
        assert self.convolution.bias is not None
        # The normalisation takes the bias away again: its gradient is rounding noise, of which Adam would make steps.
        self.convolution.bias.register_hook(torch.zeros_like)

    def forward(self, maps: Tensor, has: Tensor, gathered: Gathered) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, both of the shape of ``maps``, in float32 at least.

        Where a sample lacks the modality they are 0 and 1.

        Args:
            maps: (B, T, D, h, w).
            has: (B,) bool, which samples have the modality.
            gathered: joins the rows of all processes.
        """
        both = self.convolution(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
        both = precise(both)
        both = self.norm(both, has, gathered).masked_fill(~has.view(-1, 1, 1, 1, 1), 0.0)
        mean, log_variance = both.chunk(2, dim=2)
        return mean, (log_variance / 2).exp()
