"""Random draws that are a function of (seed, epoch, sample, draw) and of nothing else.

A counter-based generator: the four numbers are mixed into 64 bits, which are the draw. Results therefore don't
depend on the number of workers or devices, on the batch size, or on the order in which samples come, and a
whole batch is drawn at once on the device. The mixer is splitmix64's finaliser (Steele, Lea and Flood, 2014).
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
_SECOND = -7723592293110705685  # 0x94D049BB133111EB


def _shifted(bits: Tensor, by: int) -> Tensor:
    # torch has no unsigned 64-bit shift: shift with the sign, then clear what the sign brought in.
    return (bits >> by).bitwise_and_((1 << (64 - by)) - 1)


def _mixed(bits: Tensor) -> Tensor:
    bits = _shifted(bits, 30).bitwise_xor_(bits).mul_(_FIRST)
    bits = _shifted(bits, 27).bitwise_xor_(bits).mul_(_SECOND)
    return _shifted(bits, 31).bitwise_xor_(bits)


class Draws:
    """The draws of one batch.

    Args:
        seed: the run's seed (or a fixed one, for noise that must be the same in every run).
        epoch: the training epoch.
        index: (B,) int64, the samples' positions in their split.
    """

    def __init__(self, seed: int, epoch: int, index: Tensor) -> None:
        start = torch.full_like(index, seed) * _GOLDEN
        self._keys = _mixed(_mixed(_mixed(start) + epoch + 1) + index + 1)

    def uniform(self, name: str, count: int = 1) -> Tensor:
        """(B, count) float32 in [0, 1), the same whenever the same name is asked for.

        Two transforms that ask for one name share the draw: that is how aligned modalities share their geometry.
        """
        return _unit(self._bits(name, count), 40)

    def normal(self, name: str, count: int = 1) -> Tensor:
        """(B, count) float32, standard normal (Box-Muller)."""
        first, second = self.uniform(name, 2 * count).split(count, dim=1)
        return torch.sqrt(-2.0 * torch.log1p(-first)) * torch.cos(2.0 * math.pi * second)

    def field(self, name: str, count: int) -> Tensor:
        """(B, count) float32, standard normal, for many numbers: a quarter of the cost of :meth:`normal`.

        Both halves of Box-Muller come from the 64 bits of one draw. :meth:`normal` takes four times as many bits for
        as many numbers; what has been published with it must not change.
        """
        bits = self._bits(name, -(-count // 2))
        radius = _unit(bits, 40).neg_().log1p_().mul_(-2.0).sqrt_()
        angle = _unit(bits, 16).mul_(2.0 * math.pi)
        return torch.cat((radius * angle.cos(), radius.mul_(angle.sin())), dim=1)[:, :count]

    def _bits(self, name: str, count: int) -> Tensor:
        key = _mixed(self._keys + zlib.crc32(name.encode()))
        return _mixed(key[:, None] + torch.arange(1, count + 1, device=key.device) * _GOLDEN)


def _unit(bits: Tensor, start: int) -> Tensor:
    """24 of the bits as a float32 in [0, 1)."""
    return (bits >> start).bitwise_and_((1 << 24) - 1).to(torch.float32).mul_(2.0**-24)
