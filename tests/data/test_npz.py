from pathlib import Path

import numpy as np
import pytest

from mmlab.data.npz import check_rows, data_root, read_npz, report_checksum, write_npz
from mmlab.errors import UserError

LAYOUT = {"x": ("int16", (None, 3)), "label": ("uint8", (None,)), "name": ("str", (None,))}


def arrays() -> dict[str, np.ndarray]:
    return {
        "x": np.arange(6, dtype=np.int16).reshape(2, 3),
        "label": np.array([0, 1], dtype=np.uint8),
        "name": np.array(["one", "another"]),
    }


def test_root_by_option_by_environment_and_by_default(monkeypatch):
    monkeypatch.delenv("MMLAB_DATA", raising=False)
    assert data_root(None, "set") == Path("../shared/data/set")
    monkeypatch.setenv("MMLAB_DATA", "/elsewhere")
    assert data_root(None, "set") == Path("/elsewhere/set")
    assert data_root("mine", "set") == Path("mine")


def test_what_is_written_is_read(tmp_path):
    write_npz(tmp_path / "a.npz", arrays())
    read = read_npz(tmp_path / "a.npz", LAYOUT)
    for name, array in arrays().items():
        assert np.array_equal(read[name], array)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_absent_file(tmp_path):
    with pytest.raises(UserError, match=r"There is no .*a\.npz.*MMLAB_DATA"):
        read_npz(tmp_path / "a.npz", LAYOUT)


def test_truncated_corrupt_and_foreign_files(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, {**arrays(), "x": np.random.default_rng(0).integers(0, 99, (500, 3)).astype(np.int16)})
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[400] ^= 0xFF
    for content in (whole[: len(whole) // 2], bytes(flipped), b"", b"no archive at all"):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"a\.npz can't be read \(.+\)"):
            read_npz(path, LAYOUT)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match=r"a\.npz can't be read"):
        read_npz(path, LAYOUT)


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", **{**arrays(), "name": np.array(["one", None], dtype=object)})
    with pytest.raises(UserError, match=r"a\.npz can't be read"):
        read_npz(tmp_path / "a.npz", LAYOUT)


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("x", np.zeros((2, 4), np.int16), r"'x' as int16 \(2, 4\) where int16 \(any, 3\)"),
        ("x", np.zeros((2, 3), np.int32), r"'x' as int32"),
        ("x", np.zeros(2, np.int16), r"'x' as int16 \(2,\)"),
        ("name", np.zeros(2), r"'name' as float64"),
    ],
)
def test_wrong_types_and_shapes(tmp_path, name, wrong, says):
    write_npz(tmp_path / "a.npz", {**arrays(), name: wrong})
    with pytest.raises(UserError, match=says):
        read_npz(tmp_path / "a.npz", LAYOUT)


def test_missing_array(tmp_path):
    write_npz(tmp_path / "a.npz", {"x": arrays()["x"]})
    with pytest.raises(UserError, match="has no array 'label'"):
        read_npz(tmp_path / "a.npz", LAYOUT)


def test_rows_and_labels_are_checked():
    path = Path("a.npz")
    check_rows(path, arrays(), ("x", "name"), classes=2)
    with pytest.raises(UserError, match="2 labels but 1 rows of 'x'"):
        check_rows(path, {**arrays(), "x": arrays()["x"][:1]}, ("x", "name"), classes=2)
    with pytest.raises(UserError, match="from 0 to 0"):
        check_rows(path, arrays(), ("x",), classes=1)


def test_checksum_report(tmp_path, capsys):
    (tmp_path / "a").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    report_checksum(tmp_path / "a", known)
    report_checksum(tmp_path / "a", known[::-1])
    published, other = capsys.readouterr().out.splitlines()
    assert published.endswith("a: the published file")
    assert "not the published file" in other
