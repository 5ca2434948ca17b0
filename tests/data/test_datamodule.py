from __future__ import annotations

import numpy as np
import pytest
import torch

from mmlab.data.base import MultimodalDataset, Split, SplitName, Transform
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.data.keypad import Keypad
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.types import Batch, Classification, DataSpec, Modality


def shifted(raw: torch.Tensor, draws: Draws | None) -> torch.Tensor:
    """Never zero, and another value for each draw."""
    noise = torch.zeros(len(raw), 1) if draws is None else draws.uniform("noise")
    return raw.float() + 1 + noise


class Gappy(MultimodalDataset):
    """Two vectors a sample, every third without the second."""

    def __init__(self, sizes: tuple[int, int, int] = (12, 6, 5)) -> None:
        self.sizes = sizes

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return Modality("audio", "vector", (2,)), Modality("image", "vector", (3,))

    @property
    def task(self) -> Classification:
        return Classification(("a", "b"))

    def splits(self) -> dict[SplitName, Split]:
        return dict(zip(("train", "val", "test"), map(self._split, self.sizes), strict=True))

    def transforms(self) -> dict[str, Transform]:
        return {"audio": shifted, "image": shifted}

    def _split(self, size: int) -> Split:
        present = np.ones((size, 2), dtype=bool)
        present[::3, 1] = False
        arrays = {"audio": np.zeros((size, 2), np.int16), "image": np.zeros((size, 3), np.uint8)}
        return Split([f"s{number}" for number in range(size)], np.arange(size) % 2, np.arange(size), arrays, present)


def whole(data: MultimodalDataModule, split: SplitName) -> Batch:
    return data.splits[split].__getitems__(list(range(len(data.splits[split]))))


@pytest.mark.parametrize("draws", [None, Draws(0, 0, torch.arange(12))], ids=["evaluation", "training"])
def test_a_missing_modality_is_zero_after_the_transform(draws: Draws | None) -> None:
    data = MultimodalDataModule(Gappy())
    batch = data.transform(whole(data, "train"), draws)
    lacks = torch.arange(12) % 3 == 0
    assert torch.equal(batch.inputs["image"][lacks], torch.zeros(4, 3))
    assert (batch.inputs["image"][~lacks] >= 1).all()
    assert (batch.inputs["audio"] >= 1).all()
    assert torch.equal(~batch.present[:, 1], lacks)


def test_augmentation_depends_on_seed_epoch_and_sample_alone() -> None:
    data = MultimodalDataModule(Keypad(train_size=24, val_size=12, test_size=12))
    together = data.transform(whole(data, "train"), Draws(0, 3, torch.arange(24)))
    for start, size in ((0, 1), (5, 7), (23, 1)):
        positions = list(range(start, start + size))
        part = data.transform(data.splits["train"].__getitems__(positions), Draws(0, 3, torch.tensor(positions)))
        assert torch.equal(part.inputs["image"], together.inputs["image"][positions])
        torch.testing.assert_close(part.inputs["audio"], together.inputs["audio"][positions])
    for seed, epoch in ((1, 3), (0, 4)):
        other = data.transform(whole(data, "train"), Draws(seed, epoch, torch.arange(24)))
        assert not torch.equal(other.inputs["image"], together.inputs["image"])


class At:
    """What the data module asks a Trainer for."""

    global_rank, world_size = 0, 1

    def __init__(self, training: bool, epoch: int) -> None:
        self.training, self.current_epoch = training, epoch


def test_only_training_is_augmented_and_by_the_epoch() -> None:
    data = MultimodalDataModule(Gappy(), seed=5)

    def audio(training: bool, epoch: int) -> torch.Tensor:
        data.trainer = At(training, epoch)  # type: ignore[assignment]
        return data.on_after_batch_transfer(whole(data, "train"), 0).inputs["audio"]

    assert torch.equal(audio(False, 0), torch.ones(12, 2))
    assert torch.equal(audio(False, 1), torch.ones(12, 2))
    assert torch.equal(audio(True, 1), 1 + Draws(5, 1, torch.arange(12)).uniform("noise").expand(12, 2))
    assert not torch.equal(audio(True, 0), audio(True, 1))


def test_the_spec_is_plain_and_comes_from_the_data_set() -> None:
    spec = MultimodalDataModule(Gappy()).spec
    assert spec["train_size"] == 12
    assert spec["dataset"] == "Gappy"
    assert DataSpec.from_dict(spec).names == ("audio", "image")
    assert isinstance(spec["modalities"][0], dict)


def test_loaders_cover_their_splits() -> None:
    data = MultimodalDataModule(Gappy(), batch_size=4, eval_batch_size=2)
    assert [len(batch) for batch in data.train_dataloader()] == [4, 4, 4]
    for loader, size in ((data.val_dataloader(), 6), (data.test_dataloader(), 5), (data.predict_dataloader(), 5)):
        parts = [batch.index.tolist() for batch in loader]
        assert [sample for part in parts for sample in part] == list(range(size))
        assert max(map(len, parts)) == 2
    data.predict_split = "train"
    assert sum(len(batch) for batch in data.predict_dataloader()) == 12


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, r"--data\.batch_size is 0"),
        ({"batch_size": -4}, r"--data\.batch_size is -4"),
        ({"eval_batch_size": 0}, r"--data\.eval_batch_size is 0"),
        ({"workers": -1}, r"--data\.workers is -1"),
    ],
)
def test_numbers_that_make_no_sense(options: dict[str, int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        MultimodalDataModule(Gappy(), **options)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(UserError, match="the val split of Gappy is empty"):
        _ = MultimodalDataModule(Gappy((12, 0, 5))).splits
