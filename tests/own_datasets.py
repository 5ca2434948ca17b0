"""Data sets of a person's own: a number to predict, and a class for every pixel; and a method for the latter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice
from mmlab.data.base import MultimodalDataset, Split, SplitName, Transform
from mmlab.data.image import Normalise
from mmlab.data.keypad import Keypad
from mmlab.draws import Draws
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory
from mmlab.types import Batch, Modality, Prediction, Regression, Segmentation, Task

SIZES: dict[SplitName, int] = {"train": 48, "val": 16, "test": 17}


class Brightness(MultimodalDataset):
    """How bright two pictures are together, from -3 to 3."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(Modality(name, "image", (1, 8, 8), (128.0,), (64.0,), 0.0, 255.0) for name in ("front", "rear"))

    @property
    def task(self) -> Task:
        return Regression(-3.0, 3.0)

    def transforms(self) -> dict[str, Transform]:
        return {name: Normalise((128.0,), (64.0,)) for name in ("front", "rear")}

    def splits(self) -> dict[SplitName, Split]:
        return {name: self._split(number, name, size) for number, (name, size) in enumerate(SIZES.items())}

    def _split(self, number: int, name: str, size: int) -> Split:
        rng = np.random.default_rng(number)
        level = rng.uniform(40, 215, (2, size))
        pictures = np.clip(rng.normal(level[:, :, None, None, None], 20, (2, size, 1, 8, 8)), 0, 255).astype(np.uint8)
        targets = ((level.mean(axis=0) - 127.5) / 87.5 * 3).astype(np.float32)
        ids = [f"{name}{position}" for position in range(size)]
        arrays = {"front": pictures[0], "rear": pictures[1]}
        return Split(ids, targets, np.arange(size), arrays, np.ones((size, 2), dtype=bool))


def with_gaps(splits: dict[SplitName, Split]) -> dict[SplitName, Split]:
    """Training samples of two modalities lack one or the other then, in an uneven pattern."""
    rows = np.arange(len(splits["train"]))
    present = np.ones((len(rows), 2), dtype=bool)
    present[rows % 3 == 0, 0] = False
    present[rows % 7 == 1, 1] = False
    present[~present.any(axis=1)] = True
    return {**splits, "train": replace(splits["train"], present=present)}


class Gaps(Keypad):
    """Keypad whose training samples lack one modality or the other."""

    def splits(self) -> dict[SplitName, Split]:
        return with_gaps(super().splits())


class PartlyDark(Brightness):
    """Brightness whose training samples lack one picture or the other."""

    def splits(self) -> dict[SplitName, Split]:
        return with_gaps(super().splits())


class Halves(Brightness):
    """Which pixels lie in the brighter half; the pictures and their label map are mirrored together in training."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(replace(modality, shape=(1, 20, 20)) for modality in super().modalities)

    @property
    def task(self) -> Task:
        return Segmentation(("dark", "bright"))

    def transforms(self) -> dict[str, Transform]:
        def mirrored(tensor: Tensor, draws: Draws | None) -> Tensor:
            if draws is None:
                return tensor
            flip = draws.uniform("mirror")[:, 0] < 0.5
            return torch.where(flip.view(-1, *[1] * (tensor.dim() - 1)), tensor.flip(-1), tensor)

        normalise = Normalise((128.0,), (64.0,))
        pictures: dict[str, Transform] = {
            name: lambda raw, draws: mirrored(normalise(raw, draws), draws) for name in ("front", "rear")
        }
        return {**pictures, "target": mirrored}

    def _split(self, number: int, name: str, size: int) -> Split:
        rng = np.random.default_rng(number)
        right = rng.integers(0, 2, size).astype(bool)
        targets = np.zeros((size, 20, 20), dtype=np.int64)
        targets[right, :, 10:] = 1
        targets[~right, :, :10] = 1
        pictures = np.clip(rng.normal(80 + 100 * targets[:, None], 30), 0, 255).astype(np.uint8)
        targets[:, 0] = 255  # unlabelled
        ids = [f"{name}{position}" for position in range(size)]
        present = np.ones((size, 2), dtype=bool)
        return Split(ids, targets, np.arange(size), {"front": pictures, "rear": pictures}, present)


class EachPixel(Method):
    """One convolution over both pictures."""

    tasks = (Segmentation,)

    def __init__(
        self,
        spec: dict[str, Any],
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-1),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        self.head = nn.Conv2d(len(self.spec.modalities), self.spec.task.outputs, kernel_size=3, padding=1)

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        return Prediction(self.head(torch.cat([inputs[name] for name in self.spec.names], dim=1)))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        logits = self(batch.inputs, batch.present).logits
        return {"loss": self.spec.task.criterion(logits, batch.target).mean()}
