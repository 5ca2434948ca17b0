import sys
from pathlib import Path

import numpy as np
import pytest

from mmlab.data.packing import BadSample
from mmlab.data.video import count_frames, read_audio, read_frames, read_numbered_frames, write_video
from mmlab.errors import UserError

pytest.importorskip("av")
RATE = 16_000


def tone(seconds: float, frequency: float, rate: int = RATE) -> np.ndarray:
    return (10_000 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.int16)


def grey_ramp(seconds: int, fps: int) -> np.ndarray:
    """(T, 48, 64, 3): each frame is grey; its level tells its number."""
    levels = np.linspace(20, 220, seconds * fps).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (len(levels), 48, 64, 3)).copy()


def test_one_frame_of_each_second(tmp_path: Path) -> None:
    frames = grey_ramp(4, 5)
    write_video(tmp_path / "v.mp4", frames, 5, tone(4, 440), RATE)
    read = read_frames(tmp_path / "v.mp4", 24)
    assert read.shape == (4, 3, 24, 24)
    assert read.dtype == np.uint8
    np.testing.assert_allclose(read.mean(axis=(1, 2, 3)), frames[::5, 0, 0, 0], atol=6)
    assert [file.name for file in tmp_path.iterdir()] == ["v.mp4"]


def test_short_videos_give_as_many_frames_as_are_asked_for(tmp_path: Path) -> None:
    frames = grey_ramp(2, 10)
    write_video(tmp_path / "v.mp4", frames, 10, tone(2, 440), RATE)
    levels = frames[:, 0, 0, 0]

    def levels_of(fewest: int) -> np.ndarray:
        return read_frames(tmp_path / "v.mp4", 24, fewest).mean(axis=(1, 2, 3))

    np.testing.assert_allclose(levels_of(2), levels[[0, 10]], atol=6)
    np.testing.assert_allclose(levels_of(3), levels[[0, 10, 19]], atol=6)
    np.testing.assert_allclose(levels_of(4), levels[[0, 5, 10, 19]], atol=6)
    np.testing.assert_allclose(levels_of(20), levels, atol=6)
    with pytest.raises(BadSample, match="20 of the 21 video frames that are needed"):
        levels_of(21)


def test_frames_of_some_seconds_only(tmp_path: Path) -> None:
    frames = grey_ramp(5, 5)
    write_video(tmp_path / "v.mp4", frames, 5, tone(5, 440), RATE)
    levels = frames[:, 0, 0, 0]

    def levels_of(fewest: int, seconds: tuple[int, int]) -> np.ndarray:
        return read_frames(tmp_path / "v.mp4", 24, fewest, seconds).mean(axis=(1, 2, 3))

    np.testing.assert_allclose(levels_of(1, (1, 3)), levels[[5, 10, 15]], atol=4)
    np.testing.assert_allclose(levels_of(4, (1, 3)), levels[[5, 7, 10, 15]], atol=4)
    # Of the last second only its first frame belongs to them, and none of the others is looked at.
    np.testing.assert_allclose(levels_of(11, (1, 3)), levels[5:16], atol=4)
    np.testing.assert_allclose(levels_of(1, (3, 9)), levels[[15, 20]], atol=4)
    with pytest.raises(BadSample, match="11 of the 12 video frames that are needed in the seconds 1 to 3"):
        levels_of(12, (1, 3))
    with pytest.raises(BadSample, match="no video frame in the seconds 6 to 9"):
        levels_of(1, (6, 9))


def test_flv_files_are_written_too(tmp_path: Path) -> None:
    frames = grey_ramp(3, 5)
    write_video(tmp_path / "v.flv", frames, 5, tone(3, 440), RATE)
    assert (tmp_path / "v.flv").read_bytes()[:3] == b"FLV"
    np.testing.assert_allclose(read_frames(tmp_path / "v.flv", 24).mean(axis=(1, 2, 3)), frames[::5, 0, 0, 0], atol=6)
    assert abs(len(read_audio(tmp_path / "v.flv", RATE)) - 3 * RATE) < 0.2 * RATE


@pytest.mark.parametrize("side", [24, 96])
def test_the_centre_square_is_kept(tmp_path: Path, side: int) -> None:
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    frames[:, :, 8:56] = (0, 200, 0)
    frames[:, :, :8] = frames[:, :, 56:] = (200, 0, 0)
    write_video(tmp_path / "v.mp4", frames, 1, tone(3, 440), RATE)
    inner = read_frames(tmp_path / "v.mp4", side)[:, :, :, side // 8 : -side // 8].astype(int)
    assert inner.shape[:3] == (3, 3, side)
    assert (inner[:, 1] > 140).all()
    assert (inner[:, 0] < 60).all()


def test_sound_is_mono_at_the_rate_asked_for(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", grey_ramp(2, 5), 5, tone(2, 1000, 32_000), 32_000)
    sound = read_audio(tmp_path / "v.mp4", RATE)
    assert sound.dtype == np.int16
    assert abs(len(sound) - 2 * RATE) < 0.1 * RATE
    spectrum = np.abs(np.fft.rfft(sound))
    assert abs(spectrum.argmax() * RATE / len(sound) - 1000) < 2
    assert 8_000 < np.abs(sound[RATE // 2 : -RATE // 2]).max() < 12_000


def test_broken_files_are_bad_samples(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", grey_ramp(2, 5), 5, tone(2, 440), RATE)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "v.mp4").read_bytes()[:-3000])
    (tmp_path / "text.mp4").write_text("not a video")
    for name in ("cut.mp4", "text.mp4", "absent.mp4"):
        with pytest.raises(BadSample, match="can't be decoded"):
            read_frames(tmp_path / name, 24)
        with pytest.raises(BadSample, match="can't be decoded"):
            read_audio(tmp_path / name, RATE)


def test_absent_streams_are_named(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "silent.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image in grey_ramp(1, 5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(BadSample, match="no audio stream"):
        read_audio(tmp_path / "silent.mp4", RATE)
    import soundfile

    soundfile.write(tmp_path / "sound.wav", tone(1, 440), RATE)
    with pytest.raises(BadSample, match="no video stream"):
        read_frames(tmp_path / "sound.wav", 24)


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r'pip install "mmlab\[video\]"'):
        read_frames(tmp_path / "v.mp4", 24)


def test_numbered_frames_of_a_silent_avi(tmp_path: Path) -> None:
    frames = grey_ramp(2, 10)
    write_video(tmp_path / "v.avi", frames, 10)
    assert count_frames(tmp_path / "v.avi") == 20
    read = read_numbered_frames(tmp_path / "v.avi", {3, 17, 40})
    assert sorted(read) == [3, 17]
    for number, frame in read.items():
        assert frame.shape == (48, 64, 3)
        assert frame.mean() == pytest.approx(frames[number, 0, 0, 0], abs=6)
    with pytest.raises(BadSample, match="no audio stream"):
        read_audio(tmp_path / "v.avi", RATE)
    (tmp_path / "v.avi").write_bytes(b"no video")
    with pytest.raises(BadSample, match="can't be decoded"):
        count_frames(tmp_path / "v.avi")
