"""Which modalities are there: the combinations that there can be, their names, and a random one for each sample."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations

import torch
from torch import Tensor

from mmlab.draws import Draws
from mmlab.errors import UserError, did_you_mean

Combination = tuple[bool, ...]
"""Which of the modalities are there, in the data set's order; one at least."""


def every_combination(modalities: int) -> list[Combination]:
    """The 2^M - 1 non-empty combinations: single modalities first, all of them last.

    For three modalities 100, 010, 001, 110, 101, 011, 111.
    """
    return [
        tuple(position in chosen for position in range(modalities))
        for size in range(1, modalities + 1)
        for chosen in combinations(range(modalities), size)
    ]


def without_one(modalities: int) -> list[Combination]:
    """The M combinations that lack one modality: for three 011, 101, 110, the first modality's first.

    With one modality alone there is none.
    """
    if modalities < 2:
        return []
    return [tuple(position != absent for position in range(modalities)) for absent in range(modalities)]


def subsets(combination: Combination) -> list[Combination]:
    """A combination's own non-empty subsets, itself included, in the order of :func:`every_combination`."""
    every = every_combination(len(combination))
    return [each for each in every if all(inside or not has for has, inside in zip(each, combination, strict=True))]


def combination_name(names: Sequence[str], combination: Combination) -> str:
    """``audio``, or ``rgb+depth``."""
    return "+".join(name for name, has in zip(names, combination, strict=True) if has)


def named_combination(names: Sequence[str], text: str) -> Combination:
    """The reverse of :func:`combination_name`; the order in the text doesn't matter.

    Raises:
        UserError: if it names something that is no modality, or one of them twice.
    """
    chosen = text.split("+")
    for name in chosen:
        if name not in names:
            raise UserError(
                f"the combination {text!r} names {name!r}, which is no modality{did_you_mean(name, names)}: join some "
                f"of {', '.join(names)} by +."
            )
    if len(set(chosen)) < len(chosen):
        raise UserError(f"the combination {text!r} names a modality twice: name each once.")
    return tuple(name in chosen for name in names)


def limited(present: Tensor, combination: Combination) -> Tensor:
    """What remains of each sample's modalities, (B, M) bool, where only a combination is there."""
    return present & torch.tensor(combination, device=present.device)


def random_available(draws: Draws, present: Tensor) -> Tensor:
    """For each sample one of the non-empty subsets of the modalities that it has, all equally likely.

    Args:
        draws: the batch's, in training: functions of the seed, the epoch and the sample.
        present: (B, M) bool, at least one in each row.

    Returns:
        (B, M) bool.
    """
    rank = present.cumsum(dim=1) - 1  # of each modality among those that the sample has
    subsets_of_each = (1 << present.sum(dim=1, keepdim=True)) - 1
    number = 1 + (draws.uniform("available") * subsets_of_each).long().minimum(subsets_of_each - 1)
    return present & (number >> rank.clamp(min=0)).bitwise_and_(1).bool()


def marked(modalities: int, chosen: Collection[Combination]) -> Tensor:
    """Which of :func:`every_combination` are chosen, (2^M - 1,) bool."""
    return torch.tensor([combination in chosen for combination in every_combination(modalities)])


def membership(available: Tensor, combinations: Tensor) -> Tensor:
    """Which sample has exactly which combination, (B, K) bool.

    Args:
        available: (B, M) bool.
        combinations: (K, M) bool.
    """
    return (available[:, None] == combinations).all(dim=2)
