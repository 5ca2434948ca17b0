"""Frames and sound of video files, through PyAV (the extra ``video``). Used only while data are prepared."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmlab.data.packing import BadSample
from mmlab.errors import UserError

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer


def read_frames(path: Path, side: int, fewest: int = 1) -> np.ndarray:
    """The first frame of every second, resized until the shorter side is ``side``, then cut to the centre square.

    Args:
        path: of the video.
        side: in pixels.
        fewest: a video of fewer seconds gives this many frames all the same: others are added in their order,
            one after the other, each the farthest in time from those that are there.

    Returns:
        (max(seconds, fewest), 3, side, side) uint8, RGB.

    Raises:
        BadSample: if the file can't be decoded, has no video stream or not that many frames.
        UserError: if PyAV is not installed.
    """
    squares: dict[int, np.ndarray] = {}
    count, last = 0, -1
    with _opened(path) as container:
        for number, second, frame in _frames(container):
            count = number + 1
            if second > last:
                last = second
                squares[number] = _square(frame, side)
    if count < fewest:
        raise BadSample(f"{count} of the {fewest} video frames that are needed" if count else "no video frame")
    wanted = set(squares)
    while len(wanted) < fewest:
        wanted.add(max(range(count), key=lambda number: min(abs(number - there) for there in wanted)))
    # A second pass costs less than the memory that all frames of a long video would take.
    if len(wanted) > len(squares):
        with _opened(path) as container:
            squares = {number: _square(frame, side) for number, _, frame in _frames(container) if number in wanted}
    return np.stack(list(squares.values()))


def _frames(container: InputContainer) -> Iterator[tuple[int, int, VideoFrame]]:
    """Each frame with its number and its second, both from 0."""
    if not container.streams.video:
        raise BadSample("no video stream")
    container.streams.video[0].thread_type = "AUTO"
    start = None
    for number, frame in enumerate(container.decode(video=0)):
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


def write_video(path: Path, frames: np.ndarray, fps: int, audio: np.ndarray, rate: int) -> None:
    """Writes an mp4 file (MPEG-4 video) or an flv file (Sorenson video), with AAC sound: any FFmpeg has these encoders.

    Args:
        path: to write to; its ending is ``.mp4`` or ``.flv``.
        frames: (T, height, width, 3) uint8, RGB; even height and width.
        fps: frames per second.
        audio: (samples,) int16, mono.
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
        sound = container.add_stream("aac", rate=rate)
        sound.layout = "mono"
        for image in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
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
