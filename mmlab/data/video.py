"""Frames and sound of video files, through PyAV (the extra ``video``). Used only while data are prepared."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmlab.data.packing import BadSample
from mmlab.errors import UserError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer


def read_frames(path: Path, side: int, fewest: int = 1, seconds: tuple[int, int] | None = None) -> np.ndarray:
    """The first frame of every second, resized until the shorter side is ``side``, then cut to the centre square.

    Args:
        path: of the video.
        side: in pixels.
        fewest: a video of fewer seconds gives this many frames all the same: others are added in their order,
            one after the other, each the farthest in time from those that are there.
        seconds: the first and the last second that are looked at, counted from 0, of the last one the first frame only;
            None for the whole video.

    Returns:
        (max(number of seconds, fewest), 3, side, side) uint8, RGB.

    Raises:
        BadSample: if the file can't be decoded, has no video stream or not that many frames in these seconds.
        UserError: if PyAV is not installed.
    """
    squares: dict[int, np.ndarray] = {}
    numbers: list[int] = []
    last = -1
    first_second, last_second = (0, math.inf) if seconds is None else seconds
    with _opened(path) as container:
        for number, second, frame in _frames(container):
            if second < first_second:
                continue
            if second > last_second:
                break
            numbers.append(number)
            if second > last:
                last = second
                squares[number] = _square(frame, side)
            if second == last_second:
                break
    if len(numbers) < fewest:
        where = "" if seconds is None else f" in the seconds {seconds[0]} to {seconds[1]}"
        count = f"{len(numbers)} of the {fewest} video frames that are needed" if numbers else "no video frame"
        raise BadSample(count + where)
    wanted = set(squares)
    while len(wanted) < fewest:
        wanted.add(max(numbers, key=lambda number: min(abs(number - there) for there in wanted)))
    # A second pass costs less than the memory that all frames of a long video would take.
    if len(wanted) > len(squares):
        with _opened(path) as container:
            squares = {number: _square(frame, side) for number, _, frame in _frames(container) if number in wanted}
    return np.stack(list(squares.values()))


def count_frames(path: Path) -> int:
    """How many frames can be decoded, whatever the file's header says.

    Args:
        path: of the video.

    Raises:
        BadSample: if the file can't be decoded or has no video stream.
        UserError: if PyAV is not installed.
    """
    with _opened(path) as container:
        return sum(1 for _ in _decoded(container))


def read_numbered_frames(path: Path, numbers: Collection[int]) -> dict[int, np.ndarray]:
    """Some frames in their own size.

    Args:
        path: of the video.
        numbers: of the frames, from 0; those past the end have no entry in the result.

    Returns:
        By number, (height, width, 3) uint8, RGB.

    Raises:
        BadSample: if the file can't be decoded or has no video stream.
        UserError: if PyAV is not installed.
    """
    with _opened(path) as container:
        wanted = ((number, frame) for number, frame in enumerate(_decoded(container)) if number in numbers)
        return {number: frame.to_ndarray(format="rgb24") for number, frame in wanted}


def _decoded(container: InputContainer) -> Iterator[VideoFrame]:
    if not container.streams.video:
        raise BadSample("no video stream")
    container.streams.video[0].thread_type = "AUTO"
    yield from container.decode(video=0)


def _frames(container: InputContainer) -> Iterator[tuple[int, int, VideoFrame]]:
    """Each frame with its number and its second, both from 0."""
    start = None
    for number, frame in enumerate(_decoded(container)):
        if frame.time is None:
            raise BadSample("frames without time stamps")
        start = frame.time if start is None else start
        # Time stamps are rounded to the stream's clock: a frame just short of a second opens it.
        yield number, int(frame.time - start + 1e-3), frame


def _square(frame: VideoFrame, side: int) -> np.ndarray:
    scale = side / min(frame.width, frame.height)
    width, height = max(side, round(frame.width * scale)), max(side, round(frame.height * scale))
    image = frame.reformat(width, height, format="rgb24", interpolation="AREA").to_ndarray()
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side].transpose(2, 0, 1)


def read_audio(path: Path, rate: int) -> np.ndarray:
    """The first sound track, mixed to mono and resampled.

    Args:
        path: of the video.
        rate: in Hz.

    Returns:
        (samples,) int16.

    Raises:
        BadSample: if the file can't be decoded or has no sound.
        UserError: if PyAV is not installed.
    """
    parts = []
    with _opened(path) as container:
        if not container.streams.audio:
            raise BadSample("no audio stream")
        import av

        resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
        for frame in container.decode(audio=0):
            parts += resampler.resample(frame)
        parts += resampler.resample(None)
    if not parts:
        raise BadSample("no sound in the audio stream")
    return np.concatenate([part.to_ndarray()[0] for part in parts])


def write_video(path: Path, frames: np.ndarray, fps: int, audio: np.ndarray | None = None, rate: int = 16_000) -> None:
    """Writes an mp4 or avi file (MPEG-4 video) or an flv file (Sorenson video): any FFmpeg has these encoders.

    Args:
        path: to write to; its ending is ``.mp4``, ``.avi`` or ``.flv``.
        frames: (T, height, width, 3) uint8, RGB; even height and width.
        fps: frames per second.
        audio: (samples,) int16, mono, stored as AAC; None for a silent video.
        rate: of the audio, in Hz.

    Raises:
        UserError: if PyAV is not installed.
    """
    _require_av()
    import av

    temporary = path.with_name(path.name + ".tmp")
    with av.open(str(temporary), "w", format=path.suffix[1:]) as container:
        video = container.add_stream("flv" if path.suffix == ".flv" else "mpeg4", rate=fps)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        sound = None if audio is None else container.add_stream("aac", rate=rate, layout="mono")
        for image in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
        if sound is not None and audio is not None:
            block = av.AudioFrame.from_ndarray(audio[None], format="s16", layout="mono")
            block.sample_rate = rate
            container.mux(sound.encode(block))
            container.mux(sound.encode(None))
    os.replace(temporary, path)


def _require_av() -> None:
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UserError('Decoding video needs PyAV, which is not installed: run pip install "mmlab[video]".') from error


@contextmanager
def _opened(path: Path) -> Iterator[InputContainer]:
    _require_av()
    import av

    try:
        with av.open(str(path)) as container:
            yield container
    except (av.FFmpegError, OSError) as error:
        raise BadSample(f"can't be decoded: {error.strerror or error}") from error
