from __future__ import annotations

import numpy as np
import pytest

from mmlab.data.base import Split
from mmlab.data.loader import EvaluationOrder, TrainingLoader, TrainingOrder, evaluation_loader
from mmlab.errors import UserError


def split_of(size: int) -> Split:
    return Split(
        ids=[f"s{number}" for number in range(size)],
        targets=np.arange(size) % 3,
        rows=np.arange(size),
        arrays={"audio": np.arange(size, dtype=np.int16)[:, None]},
        present=np.ones((size, 1), dtype=bool),
    )


def batches(order: TrainingOrder | EvaluationOrder) -> list[list[int]]:
    return list(order)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        made = TrainingOrder(50, 8, seed, 0, 1)
        made.epoch = epoch
        return batches(made)

    assert order(0, 0) == order(0, 0)
    different = [order(0, 0), order(0, 1), order(1, 0), order(1, 1)]
    assert all(one != other for number, one in enumerate(different) for other in different[:number])
    for made in different:
        assert [len(batch) for batch in made] == [8] * 6
        assert len({sample for batch in made for sample in batch}) == 48


def test_no_sample_is_left_out_forever() -> None:
    order = TrainingOrder(10, 8, 0, 0, 1)
    seen: set[int] = set()
    for order.epoch in range(8):
        seen.update(*order)
    assert seen == set(range(10))


@pytest.mark.parametrize("world", [2, 3, 4])
def test_all_processes_together_see_the_batches_of_one(world: int) -> None:
    alone = batches(TrainingOrder(101, 24, 5, 0, 1))
    shares = [batches(TrainingOrder(101, 24, 5, rank, world)) for rank in range(world)]
    assert len(alone) == 4
    for number, batch in enumerate(alone):
        parts = [share[number] for share in shares]
        assert {len(part) for part in parts} == {24 // world}
        assert sorted(sample for part in parts for sample in part) == sorted(batch)


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    assert [sorted(batch) for batch in TrainingOrder(5, 8, 0, 0, 1)] == [[0, 1, 2, 3, 4]]
    shares = [batches(TrainingOrder(5, 8, 0, rank, 2)) for rank in range(2)]
    assert [[len(batch) for batch in share] for share in shares] == [[2], [2]]


def test_what_the_processes_cannot_share_is_refused() -> None:
    with pytest.raises(UserError, match=r"--data\.batch_size 16 .* choose a multiple of 3"):
        TrainingOrder(96, 16, 0, 0, 3)
    with pytest.raises(UserError, match="3 training samples for 4 processes"):
        TrainingOrder(3, 4, 0, 0, 4)
    with pytest.raises(UserError, match="3 samples can't be evaluated by 4 processes"):
        EvaluationOrder(3, 4, 0, 4)


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize(("size", "batch"), [(4, 1), (7, 3), (12, 4), (37, 16), (37, 64), (41, 5)])
def test_evaluation_covers_every_sample_once(world: int, size: int, batch: int) -> None:
    shares = [EvaluationOrder(size, batch, rank, world) for rank in range(world)]
    seen = [sample for share in shares for part in share for sample in part]
    assert sorted(seen) == list(range(size))
    for share in shares:
        parts = batches(share)
        assert len(parts) == len(share)
        assert all(1 <= len(part) <= max(batch // world, 1) for part in parts)


def test_an_evaluation_loader_keeps_the_order() -> None:
    loader = evaluation_loader(split_of(10), 4, 0, 0, 1)
    assert [batch.index.tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def loader_of(workers: int) -> TrainingLoader:
    return TrainingLoader(split_of(50), TrainingOrder(50, 8, 3, 0, 1), workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_place_in_an_epoch_is_taken_up_again(workers: int) -> None:
    whole = loader_of(workers)
    whole.set_epoch(1)
    expected = [batch.index.tolist() for batch in whole]
    whole.set_epoch(2)
    following = [batch.index.tolist() for batch in whole]

    left = loader_of(workers)
    left.set_epoch(1)
    walk = iter(left)
    begun = [next(walk).index.tolist() for _ in range(4)]
    state = left.state_dict()
    assert state == {"epoch": 1, "position": 4}  # batches handed out, however many the workers have fetched ahead

    again = loader_of(workers)
    again.load_state_dict(state)
    again.set_epoch(1)
    rest = [batch.index.tolist() for batch in again]
    assert begun + rest == expected
    again.set_epoch(2)
    assert [batch.index.tolist() for batch in again] == following


def test_a_place_in_another_epoch_does_not_shorten_this_one() -> None:
    loader = loader_of(0)
    loader.load_state_dict({"epoch": 1, "position": 6})
    loader.set_epoch(2)
    assert len(list(loader)) == len(loader) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(workers: int) -> None:
    batch = next(iter(loader_of(workers)))
    assert batch.index.tolist() == next(iter(TrainingOrder(50, 8, 3, 0, 1)))
    assert batch.inputs["audio"][:, 0].tolist() == batch.index.tolist()
    assert batch.target.tolist() == [position % 3 for position in batch.index.tolist()]
