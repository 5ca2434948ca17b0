import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mmlab.cli.main import main
from mmlab.data.corruption import Corruption
from mmlab.data.mhad import MHAD
from mmlab.data.sensors import SensorDataset
from mmlab.data.uschad import USCHAD
from mmlab.draws import Draws
from mmlab.errors import UserError

Command = Callable[..., str]
BOTH = pytest.mark.parametrize("kind", [USCHAD, MHAD])


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both synthetic twins, prepared by the real command."""
    folder = tmp_path_factory.mktemp("sensors")
    for kind in (USCHAD, MHAD):
        assert main(["prepare", kind.__name__, "--root", str(folder / kind.__name__), "--synthetic"]) == 0
    return folder


@pytest.fixture
def raw(twins: Path, tmp_path: Path) -> Path:
    """A copy of USC-HAD's twin, not prepared."""
    return Path(shutil.copytree(twins / "USCHAD", tmp_path / "raw", ignore=shutil.ignore_patterns("packed*")))


def of(kind: type[SensorDataset], twins: Path, **options: object) -> SensorDataset:
    return kind(root=str(twins / kind.__name__), **options)  # type: ignore[arg-type]


def change(file: Path, by: Callable[[np.ndarray], np.ndarray]) -> None:
    np.save(file, by(np.load(file)))


def test_the_command_says_what_it_packed(mmlab: Command) -> None:
    said = mmlab("prepare USCHAD --root r --synthetic")
    assert "Packed 144 samples into r/packed." in said
    assert [line.split(",")[0] for line in said.splitlines()[-3:]] == [
        "train: 84 samples",
        "val: 12 samples",
        "test: 48 samples",
    ]
    assert "r/packed is prepared already." in mmlab("prepare USCHAD --root r")


@BOTH
def test_honest_and_official_splits(twins: Path, kind: type[SensorDataset]) -> None:
    splits = of(kind, twins).splits()
    classes = len(kind.activities)
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 7 * classes,
        "val": classes,
        "test": 4 * classes,
    }
    assert sorted(splits["val"].targets) == list(range(classes))
    assert not set(splits["train"].ids) & set(splits["val"].ids)
    assert all("/test/" in name for name in splits["test"].ids)
    assert splits["test"].ids[2] == "node_1/test/00002"
    assert splits["test"].targets[:5].tolist() == [0, 0, 1, 1, 2]
    assert of(kind, twins, split_seed=1).splits()["val"].digest() != splits["val"].digest()
    official = of(kind, twins, protocol="official").splits()
    assert len(official["train"]) == 8 * classes
    assert official["val"].digest() == official["test"].digest() == splits["test"].digest()


def test_a_choice_of_subjects(twins: Path, mmlab: Command) -> None:
    splits = of(USCHAD, twins, nodes=[2]).splits()
    assert {name.split("/")[0] for split in splits.values() for name in split.ids} == {"node_2"}
    assert len(splits["test"]) == 24
    assert "train: 36 samples" in mmlab(f"prepare USCHAD --root {twins / 'USCHAD'} --nodes [1]")
    assert "train: 36 samples" in mmlab(f"prepare USCHAD --root {twins / 'USCHAD'} --nodes 1")
    with pytest.raises(UserError, match=r"has no node 100, but 1, 2; .* run: mmlab prepare USCHAD --root"):
        of(USCHAD, twins, nodes=[100]).splits()
    with pytest.raises(UserError, match=r"nodes is \[1, 1\]; name each subject once"):
        USCHAD(nodes=[1, 1])
    with pytest.raises(UserError, match=r"nodes is \[\]; name each subject once"):
        USCHAD(nodes=[])


def test_what_the_encoders_see_of_uschad(twins: Path) -> None:
    data = of(USCHAD, twins)
    train = data.splits()["train"]
    batch = train.__getitems__([50, 3])
    assert [(modality.name, modality.kind, modality.shape) for modality in data.modalities] == [
        ("accelerometer", "sequence", (200, 3)),
        ("gyroscope", "sequence", (200, 3)),
    ]
    for name, number in (("accelerometer", 1), ("gyroscope", 2)):
        seen = data.transforms()[name](batch.inputs[name], Draws(0, 0, batch.index))
        assert seen.dtype == torch.float32
        for values, id in zip(seen, (train.ids[50], train.ids[3]), strict=True):
            node, _, row = id.split("/")
            file = twins / "USCHAD" / node / f"x_train_{number}.npy"
            np.testing.assert_array_equal(values.numpy(), np.load(file)[int(row)].T)


def test_what_the_encoders_see_of_mhad(twins: Path) -> None:
    data = of(MHAD, twins)
    batch = data.splits()["test"].__getitems__([7])
    assert [(modality.name, modality.shape) for modality in data.modalities] == [
        ("accelerometer", (60, 9)),
        ("skeleton", (60, 105)),
    ]
    seen = {name: transform(batch.inputs[name], None)[0].numpy() for name, transform in data.transforms().items()}
    folder = twins / "MHAD" / "node_1"
    np.testing.assert_array_equal(seen["accelerometer"], np.load(folder / "x1_test.npy")[7])
    skeleton = np.load(folder / "x2_test.npy")[7]
    np.testing.assert_array_equal(seen["skeleton"][:, 35:70], skeleton[:, 1])
    assert batch.target.item() == np.load(folder / "y_test.npy")[7]


def test_noise_reaches_half_of_the_windows_by_its_severity(twins: Path) -> None:
    data = of(MHAD, twins)
    clean = data.splits()["test"].__getitems__(list(range(44)))
    noisy = Corruption("gaussian", data.modalities)(clean, severity=5, noise_seed=0)
    for name in data.sensors:
        added = noisy.inputs[name] - clean.inputs[name]
        reached = added.flatten(1).any(dim=1)
        assert 10 < reached.sum() < 34
        assert added[reached].std().item() == pytest.approx(0.5, rel=0.05)


@BOTH
def test_each_sensor_of_the_twin_tells_a_part_of_the_class(twins: Path, kind: type[SensorDataset]) -> None:
    data = of(kind, twins)
    test = data.splits()["test"]
    parts = (test.targets // 4, test.targets % 4)
    for name, part in zip(kind.sensors, parts, strict=True):
        spectrum = np.abs(np.fft.rfft(test.arrays[name][test.rows], axis=1)).sum(axis=2)
        assert (spectrum.argmax(axis=1) == 2 + 3 * part).all()


@BOTH
def test_the_classes(kind: type[SensorDataset]) -> None:
    names = kind().task.classes
    assert len(set(names)) == {USCHAD: 12, MHAD: 11}[kind]


def test_windows_that_are_no_numbers_are_left_out_and_named(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file, row, value in (("x_train_1.npy", 5, np.nan), ("x_test_2.npy", 0, np.inf)):
        values = np.load(raw / "node_2" / file)
        values[row, 1, 7] = value
        np.save(raw / "node_2" / file, values)
    data = USCHAD(root=str(raw), protocol="official")
    data.prepare()
    assert "2 bad ones are left out and named in pack.json (first: node_2/train/00005: " in capsys.readouterr().out
    bad = json.loads((raw / "packed" / "pack.json").read_text())["bad"]
    assert {entry["id"]: entry["reason"] for entry in bad} == {
        "node_2/train/00005": "the accelerometer holds values that are no finite numbers",
        "node_2/test/00000": "the gyroscope holds values that are no finite numbers",
    }
    splits = data.splits()
    assert (len(splits["train"]), len(splits["test"])) == (95, 47)
    assert not {"node_2/train/00005", "node_2/test/00000"} & {*splits["train"].ids, *splits["test"].ids}


def test_arrays_of_other_types_and_a_subject_without_test_windows(raw: Path) -> None:
    first, second = raw / "node_1", raw / "node_2"
    change(first / "x_train_1.npy", lambda values: values.astype(np.float64))
    change(first / "x_train_2.npy", lambda values: (100 * values).astype(np.int16))
    change(first / "y_train.npy", lambda values: values.astype(np.float32))
    for file in ("x_test_1.npy", "x_test_2.npy", "y_test.npy"):
        change(second / file, lambda values: values[:0])
    (raw / "notes").mkdir()
    data = USCHAD(root=str(raw))
    data.prepare()
    splits = data.splits()
    assert (len(splits["train"]), len(splits["val"]), len(splits["test"])) == (84, 12, 24)
    assert splits["train"].arrays["gyroscope"].max() > 50
    with pytest.raises(UserError, match="has 48 training and 0 test windows of the chosen nodes, but needs both"):
        USCHAD(root=str(raw), nodes=[2]).splits()


def test_subjects_come_in_the_order_of_their_numbers(raw: Path) -> None:
    (raw / "node_1").rename(raw / "node_10")
    data = USCHAD(root=str(raw))
    data.prepare()
    assert data.splits()["test"].ids[0] == "node_2/test/00000"
    assert USCHAD(root=str(raw), nodes=[10]).splits()["test"].ids[0] == "node_10/test/00000"


def test_numbers_of_subjects_may_have_zeros_before_them(raw: Path) -> None:
    (raw / "node_1").rename(raw / "node_01")
    data = USCHAD(root=str(raw), nodes=[1])
    data.prepare()
    assert data.splits()["test"].ids[0] == "node_1/test/00000"
    shutil.copytree(raw / "node_01", raw / "node_1")
    with pytest.raises(UserError, match=r"node_01 and .*node_1 are both node 1; rename or remove one of them"):
        data.prepare()


@pytest.mark.filterwarnings("error")
def test_values_too_large_to_be_stored_are_no_finite_numbers(raw: Path) -> None:
    file = raw / "node_1" / "x_train_2.npy"
    values = np.load(file).astype(np.float64)
    values[3, 1, 7] = 1e200
    np.save(file, values)
    USCHAD(root=str(raw)).prepare()
    bad = json.loads((raw / "packed" / "pack.json").read_text())["bad"]
    assert [(entry["id"], entry["reason"]) for entry in bad] == [
        ("node_1/train/00003", "the gyroscope holds values that are no finite numbers")
    ]


@pytest.mark.parametrize(
    ("file", "by", "sentence"),
    [
        ("x_train_1.npy", lambda x: x[1:], r"x_train_1.npy .* shape \(47, 3, 200\) where \(48, 3, 200\) is expected"),
        ("x_test_2.npy", lambda x: x.swapaxes(1, 2), r"x_test_2.npy .* \(24, 200, 3\) where \(24, 3, 200\)"),
        ("y_test.npy", lambda y: y[:, None], r"y_test.npy .* \(24, 1\) where one label for each window is expected"),
        ("y_train.npy", lambda y: y + 1, r"row 44: the label is 12, .* 0 to 11 \(if they count from 1, subtract 1 in"),
        ("y_train.npy", lambda y: y - 1, r"row 0: the label is -1, but labels are 0 to 11; correct it"),
        ("y_train.npy", lambda y: y + 0.5, r"row 0: the label is 0.5, but labels are 0 to 11; correct it"),
        ("x_train_2.npy", lambda x: x.astype(str), r"x_train_2.npy holds no array of numbers"),
    ],
)
def test_wrong_arrays_are_said(raw: Path, file: str, by: Callable[[np.ndarray], np.ndarray], sentence: str) -> None:
    change(raw / "node_1" / file, by)
    with pytest.raises(UserError, match=sentence):
        USCHAD(root=str(raw)).prepare()
    assert not (raw / "packed").exists()


def test_unreadable_and_missing_files_are_said(raw: Path, tmp_path: Path, mmlab: Command) -> None:
    file = raw / "node_1" / "x_train_1.npy"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"x_train_1.npy can't be read .*; copy the file anew"):
        USCHAD(root=str(raw)).prepare()
    np.save(file, np.array([{}]), allow_pickle=True)
    with pytest.raises(UserError, match=r"x_train_1.npy can't be read .*; copy the file anew"):
        USCHAD(root=str(raw)).prepare()
    file.unlink()
    with pytest.raises(UserError, match=r"There is no .*x_train_1.npy; copy the folder .*node_1 anew"):
        USCHAD(root=str(raw)).prepare()
    assert "here holds no folder node_<number>" in mmlab("prepare MHAD --root here", code=2)
    with pytest.raises(UserError, match="not prepared; run: mmlab prepare MHAD --root"):
        MHAD(root=str(tmp_path)).splits()
    with pytest.raises(UserError, match=r"validation_share is 0; choose a share between 0 and 1"):
        MHAD(validation_share=0)


def test_the_twin_says_that_it_is_one(twins: Path, tmp_path: Path) -> None:
    data = of(MHAD, twins, nodes=[2, 1], validation_share=0.2, split_seed=3, protocol="official")
    assert data.details() == {
        "nodes": [1, 2],
        "validation_share": 0.2,
        "split_seed": 3,
        "protocol": "official",
        "synthetic": True,
    }
    assert MHAD(root=str(tmp_path)).details() | {"validation_share": 0} == {
        "nodes": "all",
        "validation_share": 0,
        "split_seed": 0,
        "protocol": "honest",
        "synthetic": False,
    }
    with pytest.raises(UserError, match="is not empty"):
        data.write_synthetic()
