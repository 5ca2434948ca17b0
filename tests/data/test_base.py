import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from mmlab.data.base import LabelMaps, Split, carve_validation, refuse_existing
from mmlab.errors import UserError


def toy_split(rows: list[int]) -> Split:
    count = len(rows)
    return Split(
        ids=[f"clip{row}" for row in rows],
        targets=np.arange(count) % 3,
        rows=np.array(rows),
        arrays={"a": np.arange(20, dtype=np.int16).reshape(10, 2), "v": np.arange(10, dtype=np.uint8)},
        present=np.stack((np.ones(count, bool), np.arange(count) % 2 == 0), axis=1),
    )


def test_a_batch_keeps_the_order_that_was_asked_for():
    split = toy_split([9, 0, 4, 4, 7])
    batch = split.__getitems__([4, 0, 3, 1])
    assert batch.index.tolist() == [4, 0, 3, 1]
    assert batch.inputs["v"].tolist() == [7, 9, 4, 0]
    assert batch.inputs["a"].tolist() == [[14, 15], [18, 19], [8, 9], [0, 1]]
    assert batch.target.tolist() == [1, 0, 0, 1]
    assert batch.present.tolist() == [[True, True], [True, True], [True, False], [True, False]]


def test_a_batch_keeps_the_raw_types_and_owns_its_bytes():
    split = toy_split([0, 1, 2])
    batch = split.__getitems__([0, 1, 2])
    assert batch.inputs["a"].dtype == torch.int16
    assert batch.inputs["v"].dtype == torch.uint8
    assert batch.target.dtype == batch.index.dtype == torch.int64
    assert batch.present.dtype == torch.bool
    batch.inputs["v"].fill_(99)
    assert split.arrays["v"][0] == 0


def test_a_batch_reads_memory_mapped_arrays(tmp_path):
    np.save(tmp_path / "v.npy", np.arange(10, dtype=np.uint8))
    split = toy_split([3, 1, 2])
    split.arrays["v"] = np.load(tmp_path / "v.npy", mmap_mode="r")
    assert split.__getitems__([0, 1, 2]).inputs["v"].tolist() == [3, 1, 2]


def test_digest_follows_ids_targets_and_order():
    base = toy_split([1, 2, 3]).digest()
    assert base == hashlib.sha256(b"clip1\t0\nclip2\t1\nclip3\t2\n").hexdigest()
    assert base == toy_split([1, 2, 3]).digest()
    assert base != toy_split([2, 1, 3]).digest()
    other_target = toy_split([1, 2, 3])
    other_target.targets = np.array([0, 1, 1])
    assert base != other_target.digest()


def test_validation_is_stratified_and_complete():
    targets = np.repeat([0, 1, 2], [100, 40, 10])
    train, val = carve_validation(targets, 0.1, seed=0)
    assert np.bincount(targets[val]).tolist() == [10, 4, 1]
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(150))
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()


def test_validation_depends_on_its_seed_only():
    targets = np.repeat([0, 1], 50)
    first, again, other = (carve_validation(targets, 0.2, seed)[1] for seed in (0, 0, 1))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_a_small_class_gives_one_and_a_single_sample_stays_in_training():
    train, val = carve_validation(np.array([0, 0, 1]), 0.01, seed=0)
    assert len(val) == 1
    assert val[0] in (0, 1)
    assert 2 in train


def test_groups_are_not_torn_apart():
    targets = np.repeat([0, 1], 60)
    groups = np.arange(120) // 4
    train, val = carve_validation(targets, 0.2, seed=0, groups=groups)
    assert not set(groups[train]) & set(groups[val])
    assert np.bincount(targets[val]).tolist() == [12, 12]


def test_a_full_folder_is_refused(tmp_path):
    refuse_existing(tmp_path / "new")
    refuse_existing(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        refuse_existing(tmp_path)


def test_a_negative_seed_of_the_split_is_refused() -> None:
    with pytest.raises(UserError, match="split_seed is -1; it must be 0 or more"):
        carve_validation(np.zeros(8, dtype=np.int64), 0.25, seed=-1)


def test_label_maps_stay_on_the_disk(tmp_path: Path) -> None:
    maps = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
    np.save(tmp_path / "labels.npy", maps)
    rows = np.array([3, 0, 4])
    stored = LabelMaps(np.load(tmp_path / "labels.npy", mmap_mode="r"), rows)
    images = np.zeros((5, 1, 2, 3), np.uint8)

    def split(targets: np.ndarray | LabelMaps) -> Split:
        return Split(["a", "b", "c"], targets, rows, {"rgb": images}, np.ones((3, 1), bool))

    batch = split(stored).__getitems__([2, 0])
    assert torch.equal(batch.target, torch.from_numpy(maps[[4, 3]]))
    assert batch.target.dtype == torch.uint8
    assert stored.shape == (3, 2, 3)
    # The same split, whether its maps are in memory or not; another one with another map.
    assert split(stored).digest() == split(maps[rows]).digest()
    assert split(stored).digest() != split(maps[[3, 0, 2]]).digest()
