"""Data that are computed from a seed: no files, no download."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from mmlab.data.base import MultimodalDataset, Split, SplitName
from mmlab.draws import Draws
from mmlab.errors import UserError


class ProceduralDataset(MultimodalDataset, ABC):
    """Samples of balanced classes, or with a score: one depends on ``data_seed``, its split and its position only.

    Args:
        classes: how many there are; 1 where targets are no classes.
        train_size: number of training samples.
        val_size: number of validation samples.
        test_size: number of test samples.
        data_seed: of the data, not of the run.

    Attributes:
        at_once: how many samples are made at a time, so that the memory needed doesn't grow with the set.

    Raises:
        UserError: if a split has fewer samples than there are classes.
    """

    at_once: int
    classes_are = "class"
    """What a class is called in messages."""

    def __init__(self, classes: int, train_size: int, val_size: int, test_size: int, data_seed: int) -> None:
        self._sizes: dict[SplitName, int] = {"train": train_size, "val": val_size, "test": test_size}
        for name, size in self._sizes.items():
            if size < classes:
                raise UserError(
                    f"{type(self).__name__}'s {name}_size is {size}, but every split needs a sample of each "
                    f"{self.classes_are}: set it to {classes} or more."
                )
        self._classes, self._data_seed = classes, data_seed

    @abstractmethod
    def arrays(self, labels: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Makes samples, (B, ...) raw values by modality in order, from their classes (B,) and their draws.

        Label maps, (B, H, W) under ``target``, or targets (B,) that are no balanced classes, take the classes' place.
        """

    def splits(self) -> dict[SplitName, Split]:
        """Makes the three splits (a few seconds for the default sizes)."""
        return {name: self._made(name, size, part) for part, (name, size) in enumerate(self._sizes.items())}

    def _made(self, name: SplitName, size: int, part: int) -> Split:
        index = torch.arange(size)
        target = index % self._classes
        pieces = [
            self.arrays(labels, Draws(self._data_seed, part, positions))
            for positions, labels in zip(index.split(self.at_once), target.split(self.at_once), strict=True)
        ]
        arrays = {modality: torch.cat([piece[modality] for piece in pieces]).numpy() for modality in pieces[0]}
        targets = arrays.pop("target", target.numpy())
        return Split(
            ids=[f"{name}-{position:05d}" for position in range(size)],
            targets=targets,
            rows=index.numpy(),
            arrays=arrays,
            present=np.ones((size, len(arrays)), dtype=bool),
        )
