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
    return (bits >> by) & ((1 << (64 - by)) - 1)


def _mixed(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _FIRST
    bits = (bits ^ _shifted(bits, 27)) * _SECOND
    return bits ^ _shifted(bits, 31)


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
        key = _mixed(self._keys + zlib.crc32(name.encode()))
        steps = torch.arange(1, count + 1, device=key.device) * _GOLDEN
        bits = _mixed(key[:, None] + steps)
        return _shifted(bits, 40).to(torch.float32) * 2.0**-24

    def normal(self, name: str, count: int = 1) -> Tensor:
        """(B, count) float32, standard normal (Box-Muller)."""
        first, second = self.uniform(name, 2 * count).split(count, dim=1)
        return torch.sqrt(-2.0 * torch.log1p(-first)) * torch.cos(2.0 * math.pi * second)
