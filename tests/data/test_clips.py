from pathlib import Path

import numpy as np
import pytest

from mmlab.data.clips import evenly, mp4_files, name_missing, read_list, repeated
from mmlab.data.packing import BadSample
from mmlab.errors import UserError


def test_a_short_wave_is_repeated_and_a_long_one_cut() -> None:
    wave = np.array([3, -1, 7], dtype=np.int16)
    assert repeated(wave, 8).tolist() == [3, -1, 7, 3, -1, 7, 3, -1]
    assert repeated(wave, 8).dtype == np.int16
    assert repeated(wave, 2).tolist() == [3, -1]
    with pytest.raises(BadSample, match="sound is empty"):
        repeated(wave[:0], 8)


def test_it_is_the_rule_of_di_mml() -> None:
    """Ten times, and if that is too short ten times more; any wave that this fills."""
    rng = np.random.default_rng(0)
    for length in (2, 5, 12, 119, 120, 300):
        wave = rng.integers(-100, 100, length)
        tiled = np.tile(wave, 10)
        tiled = np.tile(tiled, 10) if len(tiled) < 120 else tiled
        np.testing.assert_array_equal(repeated(wave, 120), tiled[:120])


def test_frames_are_picked_evenly() -> None:
    assert evenly(np.arange(11), 10).tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert evenly(np.arange(10), 10).tolist() == list(range(10))
    assert evenly(np.arange(4), 10).tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]
    assert evenly(np.arange(30), 3).tolist() == [5, 15, 25]


def test_lists_are_text(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfone\r\n \r\ntwo\n")
    assert read_list(tmp_path / "list.txt", "") == {1: "one", 3: "two"}
    (tmp_path / "list.txt").write_text(" \n\n")
    with pytest.raises(UserError, match=r"list.txt is empty; copy it anew"):
        read_list(tmp_path / "list.txt", "")
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"list.txt is no UTF-8 text"):
        read_list(tmp_path / "list.txt", "")
    with pytest.raises(UserError, match=r"absent.txt can't be read .*; put it there\."):
        read_list(tmp_path / "absent.txt", "put it there")


def test_mp4_files_are_found_in_any_case(tmp_path: Path) -> None:
    for name in ("b.MP4", "a.mp4", "c.mp4.part", "mp4"):
        (tmp_path / name).touch()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "broken.mp4").symlink_to("gone.mp4")
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    assert [path.name for path in mp4_files(tmp_path.glob("*"))] == ["a.mp4", "b.MP4", "link.mp4"]
    assert mp4_files((tmp_path / "absent").glob("*")) == []


def test_missing_clips_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name_missing(tmp_path, ["b", "a"], 7)
    assert (tmp_path / "missing.txt").read_text() == "b\na\n"
    assert "no video of 2 of the 7 listed clips (first: b)" in capsys.readouterr().out
    name_missing(tmp_path, [], 7)
    assert not (tmp_path / "missing.txt").exists()
    assert capsys.readouterr().out == ""
