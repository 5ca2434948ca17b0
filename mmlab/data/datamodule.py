"""The one data module: any data set, its loaders, and the transforms on the training device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from mmlab.data.base import MultimodalDataset, Split, SplitName
from mmlab.data.corruption import Cell, Corruption
from mmlab.data.loader import TrainingLoader, TrainingOrder, evaluation_loader
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.types import Batch


class MultimodalDataModule(LightningDataModule):
    """Loads any data set of mmlab, or one of your own.

    Args:
        dataset: the data set, by class name, with its own options.
        batch_size: training samples in a step, over all devices together, so that a result doesn't depend on
            their number. An incomplete last batch of an epoch is not trained on.
        eval_batch_size: samples in an evaluation step, over all devices together; batch_size by default.
        workers: processes that copy bytes for each loader; 0 copies in the main process.
        seed: of the order and of all augmentation; the run's seed.

    Raises:
        UserError: for a number that makes no sense, and whatever the data set raises when opened.
    """

    def __init__(
        self,
        dataset: MultimodalDataset,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        least_values = (("batch_size", batch_size, 1), ("eval_batch_size", eval_batch_size, 1), ("workers", workers, 0))
        for name, value, least in least_values:
            if value is not None and value < least:
                raise UserError(f"--data.{name} is {value}; it must be {least} or more.")
        self.dataset = dataset
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.workers = workers
        self.seed = seed
        self.predict_split: SplitName = "test"
        self.corruptions: Sequence[tuple[Corruption, Sequence[Cell]]] = ()
        self._transforms = dataset.transforms()

    @cached_property
    def splits(self) -> dict[SplitName, Split]:
        """The opened splits."""
        splits = self.dataset.splits()
        for name, split in splits.items():
            if not len(split):
                raise UserError(f"the {name} split of {type(self.dataset).__name__} is empty.")
        return splits

    @cached_property
    def trained_on(self) -> dict[str, Any]:
        """The classes, if there are some, and the SHA-256 of the training split, as plain data for checkpoints."""
        return {
            "classes": list(getattr(self.dataset.task, "classes", ())),
            "train": self.splits["train"].digest(),
        }

    @property
    def spec(self) -> dict[str, Any]:
        """The DataSpec as plain data, which the command line hands to the method."""
        return self.dataset.spec(len(self.splits["train"])).to_dict()

    def train_dataloader(self) -> TrainingLoader:
        """Shuffled batches, the order a function of the seed and the epoch."""
        order = TrainingOrder(len(self.splits["train"]), self.batch_size, self.seed, *self._place())
        return TrainingLoader(self.splits["train"], order, self.workers)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The whole validation split."""
        return self.whole("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """The whole test split."""
        return self.whole("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The whole of the split named by ``predict_split``."""
        return self.whole(self.predict_split)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Copies without waiting (the batch lies in page-locked memory where there is a GPU)."""
        return batch.to(device, non_blocking=True)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Turns raw arrays into encoder inputs, on the device; augments in training only."""
        training = self.trainer is not None and self.trainer.training
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        return self.transform(batch, Draws(self.seed, epoch, batch.index) if training else None)

    def transform(self, batch: Batch, draws: Draws | None) -> Batch:
        """Raw batch to encoder inputs; a modality that a sample lacks is zero.

        Args:
            batch: as the loaders yield it, on the device to compute on.
            draws: the random draws of augmentation; None for none.
        """
        inputs = {}
        for position, modality in enumerate(self.dataset.modalities):
            name = modality.name
            tensor = self._transforms[name](batch.inputs[name], draws)
            has = batch.present[:, position].view(-1, *[1] * (tensor.dim() - 1))
            inputs[name] = tensor.masked_fill(~has, 0.0)
        on_target = self._transforms.get("target")
        target = batch.target if on_target is None else on_target(batch.target, draws)
        return Batch(inputs, target, batch.present, batch.index, batch.complete)

    @property
    def variants(self) -> int:
        """In how many variants the test split is seen: as it is, or in each cell of each corruption."""
        return sum(len(cells) for _, cells in self.corruptions) or 1

    def variants_of(self, batch: Batch) -> Iterator[Batch]:
        """A batch of the test split in each variant, made when it is asked for.

        Args:
            batch: encoder inputs.
        """
        if not self.corruptions:
            yield batch
        for corruption, cells in self.corruptions:
            yield from corruption.each(batch, cells)

    def whole(self, name: SplitName) -> DataLoader[Batch]:
        """Raw batches of a whole split in order, each sample once; a method's pass over the training split, say."""
        return evaluation_loader(self.splits[name], self.eval_batch_size, self.workers, *self._place())

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
