"""How precise a computation is at least."""

from __future__ import annotations

import torch
from torch import Tensor


def precise(values: Tensor) -> Tensor:
    """In float32 at least: half precision is widened, float64 stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
