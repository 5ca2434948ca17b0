"""Encoders that run once for each input while a batch is evaluated in several ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

# By input tensor, then by what encodes it. Weak: the features of a corrupted input go when it goes.
_features: ContextVar[WeakIdKeyDictionary | None] = ContextVar("features", default=None)


@contextmanager
def shared_features() -> Iterator[None]:
    """Within this, :func:`once` remembers what it computed; for evaluation, where weights and inputs stay the same."""
    before = _features.set(WeakIdKeyDictionary())
    try:
        yield
    finally:
        _features.reset(before)


def once(encode: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """What an encoder says of an input; within :func:`shared_features`, the same tensor is encoded once.

    Inputs are told apart by which tensor they are, not by their values: neither they nor their features may be written
    to in place. Where gradients are taken, nothing is remembered.

    Args:
        encode: an encoder, or a method of one.
        inputs: (B, ...).

    Returns:
        Of any shape.
    """
    features = _features.get()
    if features is None or torch.is_grad_enabled():
        return encode(inputs)
    known = features.setdefault(inputs, {})
    if encode not in known:
        known[encode] = encode(inputs)
    return known[encode]
