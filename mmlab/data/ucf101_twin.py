"""The synthetic twin of UCF101: short videos whose hue and direction of motion tell the class, in both raw layouts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmlab.data.optical_flow import flow_to_bytes
from mmlab.data.video import write_video

CLASSES = ("ApplyEyeMakeup", "Archery", "HandstandPushups", "YoYo")
STEPS = ((0, -2), (0, 2), (2, 0), (0, 0))
"""Motion of each class, (right, down) in pixels a frame."""
HEIGHT, WIDTH = 48, 64
GROUPS, CLIPS = 6, 2


def write_lists(root: Path) -> None:
    """Writes ``ucfTrainTestlist``; a third of the groups is the test part of each split.

    The second split's test list has labels, the others have none: both are in circulation.
    """
    folder = root / "ucfTrainTestlist"
    folder.mkdir()
    (folder / "classInd.txt").write_text("".join(f"{label} {name}\n" for label, name in enumerate(CLASSES, 1)))
    for split in (1, 2, 3):
        parts: dict[str, list[str]] = {"train": [], "test": []}
        for label, name, group, clip in _videos():
            part = "test" if (group - 1) % 3 == split - 1 else "train"
            labelled = f" {label + 1}" if part == "train" or split == 2 else ""
            parts[part].append(f"{name}/v_{name}_g{group:02}_c{clip:02}.avi{labelled}\n")
        for part, lines in parts.items():
            (folder / f"{part}list{split:02}.txt").write_text("".join(lines))


def write_images(root: Path) -> None:
    """Writes pictures and u and v flow as JPEG files; the flow is that by which the pictures were made."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for label, name, group, clip in _videos():
        frames = _frames(label, 9 + group, rng)
        flow = flow_to_bytes(np.array(STEPS[label], dtype=np.float32))
        streams = {"jpegs_256": list(frames)}
        for component, value in zip("uv", flow, strict=True):
            noise = rng.integers(-1, 2, (len(frames) - 1, HEIGHT, WIDTH))
            streams[f"tvl1_flow/{component}"] = list((value + noise).astype(np.uint8))
        for stream, images in streams.items():
            folder = root / stream / _released(f"v_{name}_g{group:02}_c{clip:02}")
            folder.mkdir(parents=True)
            for number, image in enumerate(images, 1):
                Image.fromarray(image).save(folder / f"frame{number:06}.jpg", quality=90)


def write_videos(root: Path) -> None:
    """Writes silent avi files.

    Raises:
        UserError: if PyAV is not installed.
    """
    rng = np.random.default_rng(0)
    for label, name, group, clip in _videos():
        folder = root / "UCF-101" / name
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{_released(f'v_{name}_g{group:02}_c{clip:02}')}.avi"
        write_video(file, _frames(label, 9 + group, rng), fps=25)


def _videos() -> Iterator[tuple[int, str, int, int]]:
    """Class, its name, group and clip of each video."""
    for label, name in enumerate(CLASSES):
        for group in range(1, GROUPS + 1):
            for clip in range(1, CLIPS + 1):
                yield label, name, group, clip


def _released(video: str) -> str:
    # The spelling of the files that are in circulation, where the lists have another.
    return video.replace("HandstandPushups", "HandStandPushups")


def _frames(label: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 48, 64, 3) uint8: a smooth texture of the class's hue that moves by the class's step."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    phases = rng.uniform(0, 2 * np.pi, 3)
    hue = np.array([label % 2, label // 2 % 2, 1]) * 120 + 60
    right, down = STEPS[label]
    frames = np.empty((count, HEIGHT, WIDTH, 3), np.uint8)
    for number in range(count):
        x, y = columns - right * number, rows - down * number
        waves = np.sin(x / 2.5 + phases[0]) + np.sin(y / 2.5 + phases[1]) + np.sin((x + y) / 5 + phases[2])
        frames[number] = (hue + 25 * waves[:, :, None]).clip(0, 255)
    return frames
