"""Averages over a coarse grid, as products with fixed matrices.

The backward of torch's adaptive pooling, which gives the same averages, isn't deterministic on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor


def averages(size: int, bins: int) -> Tensor:
    """(bins, size): row b averages the positions from floor(b size / bins) to ceil((b + 1) size / bins)."""
    rows = torch.zeros(bins, size)
    for b in range(bins):
        first, end = b * size // bins, -(-(b + 1) * size // bins)
        rows[b, first:end] = 1 / (end - first)
    return rows
