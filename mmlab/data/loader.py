"""Batches in an order that is a function of (seed, epoch), which can be left and taken up again in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from mmlab.data.base import Split
from mmlab.errors import UserError
from mmlab.types import Batch


class TrainingOrder(Sampler[list[int]]):
    """Shuffled batches of one process. All processes together see the batches that one alone would see.

    An incomplete last batch is left out (the next epoch's order is another), unless it is the only one.

    Args:
        size: number of samples.
        batch_size: of all processes together.
        seed: of the order.
        rank: of this process.
        world: number of processes.

    Raises:
        UserError: if the batch can't be divided among the processes.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int, world: int) -> None:
        if batch_size % world:
            raise UserError(
                f"--data.batch_size {batch_size} is the batch of all processes together and can't be divided among "
                f"{world} of them: choose a multiple of {world}."
            )
        self.size, self.seed, self.rank, self.world = size, seed, rank, world
        self.batch = min(batch_size, size - size % world)
        if not self.batch:
            raise UserError(f"there are {size} training samples for {world} processes: use fewer devices.")
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return self.size // self.batch

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        for number in range(self.start, len(self)):
            yield order[number * self.batch : (number + 1) * self.batch][self.rank :: self.world].tolist()


class EvaluationOrder(Sampler[list[int]]):
    """Every sample exactly once over all processes, in order; nothing is padded and nothing left out.

    Args:
        size: number of samples.
        batch_size: of all processes together.
        rank: of this process.
        world: number of processes.

    Raises:
        UserError: if there are fewer samples than processes.
    """

    def __init__(self, size: int, batch_size: int, rank: int, world: int) -> None:
        if size < world:
            raise UserError(f"a split of {size} samples can't be evaluated by {world} processes: use fewer devices.")
        self.own = np.arange(rank, size, world)
        self.batch = max(batch_size // world, 1)

    def __len__(self) -> int:
        return -(-len(self.own) // self.batch)

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(len(self)):
            yield self.own[number * self.batch : (number + 1) * self.batch].tolist()


def _as_it_is(batch: Any) -> Any:  # the split makes whole batches
    return batch


def _loader(split: Split, order: Sampler[list[int]], workers: int) -> DataLoader[Batch]:
    return DataLoader(
        split,
        batch_sampler=order,
        collate_fn=_as_it_is,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        # Its own generator: the default one would draw the workers' seeds from the run's global state.
        generator=torch.Generator().manual_seed(0),
    )


class TrainingLoader:
    """Training batches whose place within the epoch is part of a checkpoint (Lightning asks by these names)."""

    def __init__(self, split: Split, order: TrainingOrder, workers: int) -> None:
        self.sampler = self  # where Lightning looks for set_epoch
        self._order = order
        self._loader = _loader(split, order, workers)
        self._position = 0
        self._left: dict[str, int] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
        self._order.epoch = epoch

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing happens until the first batch is asked for, when the epoch is known for certain.
        left, self._left = self._left, None
        here = left is not None and left["epoch"] == self._order.epoch
        self._position = left["position"] if left is not None and here else 0
        self._order.start = self._position
        for batch in self._loader:
            self._position += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Which epoch, and how many of its batches have been handed out."""
        return {"epoch": self._order.epoch, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on there when iterated next."""
        self._left = state


def evaluation_loader(split: Split, batch_size: int, workers: int, rank: int, world: int) -> DataLoader[Batch]:
    """A loader over one process's share of a split, see :class:`EvaluationOrder`."""
    return _loader(split, EvaluationOrder(len(split), batch_size, rank, world), workers)
