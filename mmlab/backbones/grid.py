"""Averages over a coarse grid, as products with fixed matrices.

The backward of torch's adaptive pooling, which gives the same averages, isn't deterministic on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor


def averages(size: int, bins: int, device: torch.device | None = None) -> Tensor:
    """(bins, size): row b averages the positions from floor(b size / bins) to ceil((b + 1) size / bins)."""
    position = torch.arange(size, device=device)
    b = torch.arange(bins, device=device)[:, None]
    first, end = b * size // bins, -(-(b + 1) * size // bins)
    return ((position >= first) & (position < end)) / (end - first)
