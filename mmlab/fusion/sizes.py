"""Refuses the sizes that a network can't have."""

from __future__ import annotations

from collections.abc import Mapping

from mmlab.errors import UserError


def check_sizes(network: str, sizes: Mapping[str, int], dropout: float = 0.0) -> None:
    """Refuses sizes and a dropout that can't be.

    Args:
        network: how a message calls it.
        sizes: by the option's name.
        dropout: share that is dropped in training.

    Raises:
        UserError: if a size is below 1, or the dropout is not a share below 1.
    """
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{network} can't have {name} {size}: give 1 or more.")
    if not 0 <= dropout < 1:
        raise UserError(f"{network} can't have dropout {dropout}: give 0 or more and less than 1.")
