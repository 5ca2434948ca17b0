"""A data set of two vectors: one tells the class, the other is white noise. And one whose vectors tell a number."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mmlab.data.base import Split, SplitName, Transform
from mmlab.data.procedural import ProceduralDataset
from mmlab.draws import Draws
from mmlab.types import Classification, Modality, Regression, Task
from tests.own_datasets import with_gaps

CLASSES = ("red", "green", "blue")
WIDTH = 4


def as_it_is(raw: Tensor, draws: Draws | None) -> Tensor:
    return raw


class SignalAndNoise(ProceduralDataset):
    """Three classes."""

    at_once = 4096

    def __init__(self, train_size: int = 240, val_size: int = 60, test_size: int = 600) -> None:
        super().__init__(len(CLASSES), train_size, val_size, test_size, 0)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return Modality("signal", "vector", (WIDTH,)), Modality("noise", "vector", (WIDTH,))

    @property
    def task(self) -> Task:
        return Classification(CLASSES)

    def transforms(self) -> dict[str, Transform]:
        return {"signal": as_it_is, "noise": as_it_is}

    def arrays(self, labels: Tensor, draws: Draws) -> dict[str, Tensor]:
        signal = 2 * F.one_hot(labels, WIDTH) + 0.5 * draws.normal("signal", WIDTH)
        return {"signal": signal, "noise": draws.normal("noise", WIDTH)}


class Uneven(SignalAndNoise):
    """Every split lacks one vector or the other in places."""

    def splits(self) -> dict[SplitName, Split]:
        splits = super().splits()
        return {name: with_gaps({"train": split})["train"] for name, split in splits.items()}


class NumberAndNoise(SignalAndNoise):
    """A number that the first vector tells."""

    @property
    def task(self) -> Task:
        return Regression(-3.0, 3.0)

    def arrays(self, labels: Tensor, draws: Draws) -> dict[str, Tensor]:
        signal = draws.normal("signal", WIDTH)
        target = signal.sum(dim=1).clamp(-3, 3)
        return {"signal": signal, "noise": draws.normal("noise", WIDTH), "target": target}
