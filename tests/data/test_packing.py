import json
import threading
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from mmlab.data import packing
from mmlab.data.packing import BadSample, Sample, open_packed, pack, packed_options
from mmlab.errors import UserError

LAYOUT = {"audio": ((4,), "int16"), "image": ((3, 2, 2), "uint8")}


def write_raw(root: Path, count: int = 70) -> list[Sample]:
    """Raw files that hold a number each; every tenth sample lacks the image."""
    root.mkdir()
    samples = []
    for number in range(count):
        file = root / f"{number:03}.txt"
        file.write_text(str(number))
        files = {"audio": file} if number % 10 == 3 else {"audio": file, "image": file}
        samples.append(
            Sample(f"s{number}", "test" if number % 5 == 0 else "train", "odd" if number % 2 else "even", files)
        )
    return samples


def decode(sample: Sample) -> dict[str, np.ndarray]:
    text = sample.files["audio"].read_text()
    if not text.isdigit():
        raise BadSample("no number")
    values = {"audio": np.full(4, int(text) - 20, np.int16), "image": np.full((3, 2, 2), int(text), np.uint8)}
    return {name: values[name] for name in sample.files}


class Killed(Exception):
    pass


def test_what_was_packed_is_read_back(tmp_path: Path) -> None:
    pack(tmp_path / "p", "Toy", {"size": 2}, write_raw(tmp_path / "raw"), LAYOUT, decode, workers=2)
    packed = open_packed(tmp_path / "p", "Toy", "mmlab prepare Toy")
    assert packed.ids == [f"s{number}" for number in range(70)]
    assert packed.arrays["audio"][:, 0].tolist() == [number - 20 for number in range(70)]
    assert packed.arrays["image"].shape == (70, 3, 2, 2)
    assert packed.arrays["image"].dtype == np.uint8
    lacking = [position for position in range(70) if position % 10 == 3]
    assert np.flatnonzero(~packed.present[:, 1]).tolist() == lacking
    assert packed.present[:, 0].all()
    assert not packed.arrays["image"][lacking].any()
    assert packed.meta["counts"] == {"test": 14, "train": 56}
    assert packed.meta["classes"] == ["even", "odd"]
    assert packed_options(tmp_path / "p") == {"size": 2}
    assert sorted(file.name for file in (tmp_path / "p").iterdir()) == [
        "audio.npy",
        "image.npy",
        "index.csv",
        "pack.json",
    ]


def test_a_packed_part_becomes_a_split(tmp_path: Path) -> None:
    pack(tmp_path / "p", "Toy", {}, write_raw(tmp_path / "raw"), LAYOUT, decode)
    packed = open_packed(tmp_path / "p", "Toy", "mmlab prepare Toy")
    split = packed.take(np.flatnonzero(packed.split == "test"), {"even": 0, "odd": 1})
    batch = split.__getitems__([2, 0])
    assert batch.inputs["audio"][:, 0].tolist() == [-10, -20]
    assert batch.target.tolist() == [0, 0]
    assert split.targets.tolist() == [number % 2 for number in range(0, 70, 5)]


def test_bad_samples_are_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = write_raw(tmp_path / "raw")
    for number in (4, 40):
        samples[number].files["audio"].write_text("?")
    pack(tmp_path / "p", "Toy", {}, samples, LAYOUT, decode)
    packed = open_packed(tmp_path / "p", "Toy", "mmlab prepare Toy")
    assert len(packed.ids) == 68
    assert "s4" not in packed.ids
    assert "s40" not in packed.ids
    assert [entry["id"] for entry in packed.meta["bad"]] == ["s4", "s40"]
    assert packed.meta["bad"][1] == {"id": "s40", "file": str(tmp_path / "raw" / "040.txt"), "reason": "no number"}
    assert packed.arrays["audio"][packed.rows[packed.ids.index("s5")], 0] == -15
    assert "2 bad ones are left out and named in pack.json (first: s4: no number)" in capsys.readouterr().out


def test_no_usable_sample_is_an_error(tmp_path: Path) -> None:
    samples = write_raw(tmp_path / "raw", 2)
    for sample in samples:
        sample.files["audio"].write_text("?")
    with pytest.raises(UserError, match=r"no usable sample \(.*000.txt: no number\)"):
        pack(tmp_path / "p", "Toy", {}, samples, LAYOUT, decode)
    assert not (tmp_path / "p").exists()
    assert not (tmp_path / "p.partial").exists()


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    samples = write_raw(tmp_path / "raw")
    samples[7].files["audio"].write_text("?")
    seen: list[str] = []

    def dies(sample: Sample) -> dict[str, np.ndarray]:
        if sample.id == "s40":
            raise Killed
        return decode(sample)

    def watched(sample: Sample) -> dict[str, np.ndarray]:
        seen.append(sample.id)
        return decode(sample)

    with pytest.raises(Killed):
        pack(tmp_path / "p", "Toy", {}, samples, LAYOUT, dies)
    assert not (tmp_path / "p").exists()
    pack(tmp_path / "p", "Toy", {}, samples, LAYOUT, watched)
    assert seen == [f"s{number}" for number in range(32, 70)]
    packed = open_packed(tmp_path / "p", "Toy", "mmlab prepare Toy")
    assert packed.ids == [f"s{number}" for number in range(70) if number != 7]
    assert packed.arrays["audio"][packed.rows, 0].tolist() == [number - 20 for number in range(70) if number != 7]


@pytest.mark.parametrize("change", ["options", "samples", "file"])
def test_a_killed_run_starts_over_when_something_changed(tmp_path: Path, change: str) -> None:
    samples = write_raw(tmp_path / "raw")
    options = {"size": 2}

    def dies(sample: Sample) -> dict[str, np.ndarray]:
        if sample.id == "s40":
            raise Killed
        return decode(sample)

    with pytest.raises(Killed):
        pack(tmp_path / "p", "Toy", options, samples, LAYOUT, dies)
    if change == "options":
        options = {"size": 3}
    elif change == "samples":
        samples = samples[1:]
    else:
        samples[1].files["audio"].write_text("100")
    seen = 0

    def watched(sample: Sample) -> dict[str, np.ndarray]:
        nonlocal seen
        seen += 1
        return decode(sample)

    pack(tmp_path / "p", "Toy", options, samples, LAYOUT, watched)
    assert seen == len(samples)
    packed = open_packed(tmp_path / "p", "Toy", "mmlab prepare Toy")
    assert packed.arrays["audio"][packed.rows[packed.ids.index("s1")], 0] == (80 if change == "file" else -19)


def test_a_finished_pack_is_left_alone_and_a_stale_one_replaced(tmp_path: Path) -> None:
    samples = write_raw(tmp_path / "raw", 5)
    pack(tmp_path / "p", "Toy", {}, samples, LAYOUT, decode)

    def never(sample: Sample) -> dict[str, np.ndarray]:
        raise AssertionError(sample.id)

    pack(tmp_path / "p", "Toy", {}, samples, LAYOUT, never)
    samples[2].files["audio"].write_text("200")
    pack(tmp_path / "p", "Toy", {}, samples, LAYOUT, decode)
    assert open_packed(tmp_path / "p", "Toy", "mmlab prepare Toy").arrays["audio"][2, 0] == 180
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "p.lock", "raw"]


def test_the_lock_is_given_back_even_after_an_error(tmp_path: Path) -> None:
    samples = write_raw(tmp_path / "raw", 2)

    def dies(sample: Sample) -> dict[str, np.ndarray]:
        raise Killed

    with pytest.raises(Killed) as caught:
        pack(tmp_path / "p", "Toy", {}, samples, LAYOUT, dies)
    FileLock(tmp_path / "p.lock").acquire(blocking=False).lock.release()
    assert caught.traceback  # keeps the failed call's frame, and whatever it still holds, alive until here


def test_a_folder_of_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="holds files that are no packed data"):
        pack(tmp_path / "p", "Toy", {}, write_raw(tmp_path / "raw", 2), LAYOUT, decode)
    assert (tmp_path / "p" / "thesis.txt").read_text() == "precious"


def test_a_decoder_that_gives_another_shape_is_caught(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"audio of s0 has shape \(1,\), not \(4,\)"):
        pack(
            tmp_path / "p",
            "Toy",
            {},
            write_raw(tmp_path / "raw", 1),
            LAYOUT,
            lambda _: {"audio": np.zeros(1, np.int16)},
        )


def test_too_little_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"GB free, but packing needs 1000000000\.0 GB"):
        pack(tmp_path / "p", "Toy", {}, write_raw(tmp_path / "raw", 1), {"audio": ((10**18,), "uint8")}, decode)


def test_what_is_not_prepared_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="p is not prepared; run: mmlab prepare Toy --root raw"):
        open_packed(tmp_path / "p", "Toy", "mmlab prepare Toy --root raw")
    assert packed_options(tmp_path / "p") is None


@pytest.mark.parametrize("damage", ["truncated", "missing", "garbage", "index", "json", "format"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "p"
    pack(folder, "Toy", {}, write_raw(tmp_path / "raw", 5), LAYOUT, decode)
    array = folder / "audio.npy"
    expected = "audio.npy can't be read"
    if damage == "truncated":
        array.write_bytes(array.read_bytes()[:-4])
    elif damage == "missing":
        array.unlink()
    elif damage == "garbage":
        array.write_bytes(b"garbage")
    elif damage == "index":
        (folder / "index.csv").write_bytes((folder / "index.csv").read_bytes()[:-10])
        expected = "index.csv can't be read"
    elif damage == "json":
        (folder / "pack.json").write_text("{")
        expected = "pack.json can't be read"
    else:
        meta = json.loads((folder / "pack.json").read_text())
        (folder / "pack.json").write_text(json.dumps({**meta, "format": 0}))
        expected = "packed in another format"
    with pytest.raises(UserError, match=expected):
        open_packed(folder, "Toy", "mmlab prepare Toy")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that refuses new files even to root")
@pytest.mark.timeout(20)
def test_a_folder_that_refuses_new_files_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"/proc/x can't be written .*choose a folder"):
        pack(Path("/proc/x"), "Toy", {}, write_raw(tmp_path / "raw", 1), LAYOUT, decode)


@pytest.mark.timeout(60)
def test_waiting_for_another_process_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    waits = threading.Event()

    def heard(text: str, **_: object) -> None:
        said.append(text)
        waits.set()

    monkeypatch.setattr(packing, "_SILENCE", 0.1)
    monkeypatch.setattr(packing, "print", heard, raising=False)
    samples = write_raw(tmp_path / "raw", 1)
    waiter = threading.Thread(target=pack, args=(tmp_path / "p", "Toy", {}, samples, LAYOUT, decode), daemon=True)
    with FileLock(tmp_path / "p.lock"):
        waiter.start()
        assert waits.wait(20)
        assert not (tmp_path / "p").exists()
    waiter.join()
    assert said[0] == f"waiting for another process that packs {tmp_path / 'p'}"
    assert (tmp_path / "p" / "pack.json").exists()


def test_a_folder_of_another_data_set_is_neither_opened_nor_replaced(tmp_path: Path) -> None:
    samples = write_raw(tmp_path / "raw")
    pack(tmp_path / "p", "Toy", {}, samples, LAYOUT, decode)
    with pytest.raises(UserError, match="holds Toy, not Other: give each data set a root of its own"):
        open_packed(tmp_path / "p", "Other", "mmlab prepare Other")
    with pytest.raises(UserError, match="holds Toy, not Other"):
        pack(tmp_path / "p", "Other", {}, samples, LAYOUT, decode)
    assert open_packed(tmp_path / "p", "Toy", "mmlab prepare Toy").meta["dataset"] == "Toy"


def test_a_folder_is_told_by_its_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "raw" / "clip"
    folder.mkdir(parents=True)
    for number in (1, 2):
        (folder / f"{number}.JPG").write_text(str(number))
    samples = [Sample("a", "train", "even", {"audio": folder, "image": folder})]

    def count(_: Sample) -> dict[str, np.ndarray]:
        return {"audio": np.zeros(4, np.int16), "image": np.zeros((3, 2, 2), np.uint8)}

    def packed_again() -> bool:
        pack(tmp_path / "p", "Toy", {}, samples, LAYOUT, count)
        return "is prepared already" not in capsys.readouterr().out

    assert packed_again()
    assert not packed_again()
    for name in (".DS_Store", "Thumbs.db", "._1.jpg", "notes.txt"):
        (folder / name).write_text("?")
    (folder / "sub.jpg").mkdir()
    assert not packed_again()
    before = folder.stat().st_mtime_ns
    (folder / "2.JPG").write_text("other")
    assert folder.stat().st_mtime_ns == before
    assert packed_again()
    (folder / "1.JPG").rename(folder / "3.JPG")
    assert packed_again()
    (folder / "4.png").write_text("4")
    assert packed_again()
    assert not packed_again()
