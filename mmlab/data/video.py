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
    from av.container import InputContainer


def read_frames(path: Path, side: int) -> np.ndarray:
    """The first frame of every second, resized until the shorter side is ``side``, then cut to the centre square.

    Args:
        path: of the video.
        side: in pixels.

    Returns:
        (seconds, 3, side, side) uint8, RGB.

    Raises:
        BadSample: if the file can't be decoded or has no video stream.
        UserError: if PyAV is not installed.
    """
    squares = []
    with _opened(path) as container:
        if not container.streams.video:
            raise BadSample("no video stream")
        container.streams.video[0].thread_type = "AUTO"
        start, last = None, -1
        for frame in container.decode(video=0):
            if frame.time is None:
                raise BadSample("frames without time stamps")
            start = frame.time if start is None else start
            # Time stamps are rounded to the stream's clock: a frame just short of a second opens it.
            second = int(frame.time - start + 1e-3)
            if second <= last:
                continue
            last = second
            scale = side / min(frame.width, frame.height)
            width, height = max(side, round(frame.width * scale)), max(side, round(frame.height * scale))
            image = frame.reformat(width, height, format="rgb24", interpolation="AREA").to_ndarray()
            top, left = (height - side) // 2, (width - side) // 2
            squares.append(image[top : top + side, left : left + side].transpose(2, 0, 1))
    if not squares:
        raise BadSample("no video frame")
    return np.stack(squares)


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
    """Writes an mp4 file (MPEG-4 video, AAC sound: encoders that every FFmpeg has).

    Args:
        path: to write to.
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
    with av.open(str(temporary), "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=fps)
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
