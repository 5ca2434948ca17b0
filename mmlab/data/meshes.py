"""Triangle meshes: OFF files and shaded pictures of them. Used only while data are prepared.

The renderer is ours: perspective, with a depth buffer, in NumPy alone, so that it needs neither a display nor OpenGL.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmlab.data.packing import BadSample

ELEVATION = 30.0
DISTANCE = 2.5  # of the camera from the centre of the unit ball: its rim is seen under 47 degrees
MARGIN = 0.95  # of half the picture's side, what the unit ball's rim takes
LIGHT = (-0.3, 0.5, 0.8)  # direction to the lamp: right, up, towards the camera
AMBIENT = 0.25
FINER = 2  # pictures are drawn so many times larger and averaged: no jagged edges
_BATCH = 1 << 18  # rows of triangles, or pixels, at once: what memory a large mesh takes


@dataclass(frozen=True)
class Mesh:
    """A surface of triangles.

    Attributes:
        vertices: (V, 3) float64, z is up.
        triangles: (T, 3) int64, positions of their corners, in any orientation.
    """

    vertices: np.ndarray
    triangles: np.ndarray


def read_off(file: Path) -> Mesh:
    """Reads a text file in the Object File Format.

    The counts may follow ``OFF`` without a space, as in part of ModelNet40. Comments (from ``#`` on) and colours of
    faces are skipped, and so are faces of fewer than three corners. A face of more is cut into a fan of triangles from
    its first corner, which is exact where it is convex.

    Raises:
        BadSample: if the file can't be read, is no such file, ends early, has no face that could be seen, or is too
            large for its numbers to be reckoned with.
    """
    try:
        text = file.read_bytes().decode("ascii")
    except OSError as error:
        raise BadSample(f"can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadSample("no text in the Object File Format") from error
    header = re.match(r"(?:\s|#.*)*+OFF(?:\s|#.*)*+(\d+)\s+(\d+)(?:[^\S\n]+\d+)?[^\S\n]*(?:#.*)?(?=\n|$)", text)
    if header is None:
        raise BadSample("it doesn't begin with OFF and the numbers of vertices and faces")
    vertices, faces = int(header[1]), int(header[2])
    body = text[header.end() :]
    body = re.sub("#.*", "", body) if "#" in body else body
    try:
        numbers = np.fromstring(body, sep=" ")
    except ValueError as error:
        raise BadSample("there is something else than numbers below its header") from error
    if len(numbers) < 3 * vertices:
        raise BadSample(f"it ends after {len(numbers) // 3} of {vertices} vertices")
    if not np.isfinite(numbers).all():
        raise BadSample("a number is not finite")
    corners, rest = numbers[: 3 * vertices].reshape(-1, 3), numbers[3 * vertices :]
    if len(rest) == 4 * faces and (rest[::4] == 3).all() and (rest % 1 == 0).all():
        named = rest.reshape(-1, 4)[:, 1:]
    else:
        named = _fans(body, vertices, faces)
    if len(named) == 0:
        raise BadSample("it has no face")
    wrong = named[(named < 0) | (named >= vertices)]
    if len(wrong):
        raise BadSample(f"a face names vertex {wrong[0]:.15g}, but there are {vertices}, counted from 0")
    mesh = Mesh(corners, named.astype(np.int64))
    _refuse_unseen(mesh)
    return mesh


def _refuse_unseen(mesh: Mesh) -> None:
    with np.errstate(over="ignore", invalid="ignore"):
        centre, radius = _ball(mesh)
    if not np.isfinite(radius):
        raise BadSample("its vertices lie too far apart")
    if radius == 0:
        raise BadSample("all faces lie in one point")
    # Of a line in any direction, rounding leaves an area of some 1e-16.
    area = np.linalg.norm(_normals((mesh.vertices[mesh.triangles] - centre) / radius), axis=1)
    if area.max() < 1e-12:
        raise BadSample("no face has an area")


def _fans(body: str, vertices: int, faces: int) -> np.ndarray:
    """(T, 3) float64, the triangles of faces of any number of corners, one on each line below the vertices."""
    lines = [line.split() for line in body.splitlines() if line.strip()][vertices:]
    if len(lines) < faces:
        raise BadSample(f"it ends after {len(lines)} of {faces} faces")
    triangles = []
    for number, line in enumerate(lines[:faces]):
        try:
            count, *corners = (int(word) for word in line[: int(line[0]) + 1])
        except ValueError as error:
            raise BadSample(f"face {number} is no list of whole numbers") from error
        if len(corners) != count:
            raise BadSample(f"face {number} has {len(corners)} of its {count} corners")
        triangles += [(corners[0], *pair) for pair in itertools.pairwise(corners[1:])]
    return np.array(triangles, dtype=np.float64).reshape(-1, 3)


def render(mesh: Mesh, azimuth: float, side: int, elevation: float = ELEVATION) -> np.ndarray:
    """A picture of a mesh in grey on black.

    The box around the mesh is centred, and the mesh scaled until it touches the unit ball, which fills the picture.
    Both sides of a face are seen, in a grey that follows the angle to the light (Lambert); there are no shadows.

    Args:
        mesh: its faces must not all lie in one point.
        azimuth: where the camera stands, in degrees: 0 looks along +y, with +x to the right; 90 stands at +x.
        side: of the picture, in pixels.
        elevation: of the camera above the ground, in degrees.

    Returns:
        (side, side) uint8, 0 where there is nothing.
    """
    fine = side * FINER
    corners = _seen(mesh, azimuth, elevation)[mesh.triangles]
    grey = _shades(corners)
    nearness = 1 / (DISTANCE - corners[..., 2])
    scale = MARGIN * fine / 2 * np.sqrt(DISTANCE**2 - 1)
    across = fine / 2 + scale * corners[..., 0] * nearness
    down = fine / 2 - scale * corners[..., 1] * nearness
    nearest, picture = np.zeros(fine * fine), np.zeros(fine * fine)
    for triangle, pixel, near in _pixels(across, down, nearness, fine):
        np.maximum.at(nearest, pixel, near)
        front = nearest[pixel] == near
        picture[pixel[front]] = grey[triangle[front]]
    coarse = picture.reshape(side, FINER, side, FINER).mean(axis=(1, 3))
    return np.rint(255 * coarse).astype(np.uint8)


def _seen(mesh: Mesh, azimuth: float, elevation: float) -> np.ndarray:
    """(V, 3) vertices in the unit ball as the camera has them: right, up, towards it."""
    centre, radius = _ball(mesh)
    turn, tilt = np.deg2rad(azimuth), np.deg2rad(elevation)
    right = np.array([np.cos(turn), np.sin(turn), 0])
    towards = np.array([np.sin(turn) * np.cos(tilt), -np.cos(turn) * np.cos(tilt), np.sin(tilt)])
    return (mesh.vertices - centre) / radius @ np.stack((right, np.cross(towards, right), towards), axis=1)


def _ball(mesh: Mesh) -> tuple[np.ndarray, float]:
    """The centre (3,) of the box around what is used of a mesh, and how far it reaches from there."""
    used = mesh.vertices[np.unique(mesh.triangles)]
    centre = (used.min(axis=0) + used.max(axis=0)) / 2
    return centre, float(np.linalg.norm(used - centre, axis=1).max())


def _normals(corners: np.ndarray) -> np.ndarray:
    """(T, 3) of triangles with the corners (T, 3, 3): as long as twice their area."""
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def _shades(corners: np.ndarray) -> np.ndarray:
    """The grey of each triangle, (T,), of its corners (T, 3, 3)."""
    normal = _normals(corners)
    length = np.linalg.norm(normal, axis=1)
    light = np.array(LIGHT) / np.linalg.norm(LIGHT)
    return AMBIENT + (1 - AMBIENT) * np.abs(normal @ light) / np.where(length == 0, 1, length)


def _pixels(
    across: np.ndarray, down: np.ndarray, nearness: np.ndarray, side: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every pixel whose centre lies in a triangle, row by row of each triangle, in batches.

    Args:
        across: (T, 3) of the corners, in pixels from the left edge.
        down: (T, 3), in pixels from the upper edge.
        nearness: (T, 3) one over their distance from the camera, which is linear over the picture.
        side: of the picture.

    Yields:
        (N,) the triangles, (N,) the pixels, counted row by row, and (N,) the nearness there.
    """
    # Two triangles with a common edge walk it from the same end and so agree about it.
    order = np.argsort(down, axis=1)
    across, down, nearness = (np.take_along_axis(each, order, axis=1) for each in (across, down, nearness))
    top, rows = _whole(down[:, 0], down[:, 2], side)
    for triangle, step in _spread(rows):
        row = top[triangle] + step
        left, near_left, right, near_right = _span(across[triangle], down[triangle], nearness[triangle], row + 0.5)
        first, columns = _whole(left, right, side)
        for span, along in _spread(columns):
            column = first[span] + along
            width = np.maximum(right[span] - left[span], 1e-12)
            share = np.clip((column + 0.5 - left[span]) / width, 0, 1)
            near = near_left[span] + share * (near_right[span] - near_left[span])
            yield triangle[span], row[span] * side + column, near


def _whole(low: np.ndarray, high: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The first pixel whose centre lies between two bounds, and how many do."""
    # A hair wider: no gap may open between two triangles with a common edge.
    first = np.clip(np.ceil(low - 0.5 - 1e-9), 0, side)
    last = np.clip(np.floor(high - 0.5 + 1e-9), -1, side - 1)
    return first.astype(np.int64), np.maximum(last - first + 1, 0).astype(np.int64)


def _spread(counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Counts out each entry: its position as often as its count, and 0, 1, 2 ... beside it; in batches."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        before = ends[start] - counts[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + _BATCH, "right")))
        position = np.repeat(np.arange(start, stop), counts[start:stop])
        yield position, np.arange(len(position)) + before - (ends - counts)[position]
        start = stop


def _span(
    across: np.ndarray, down: np.ndarray, nearness: np.ndarray, height: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where a horizontal line enters and leaves each triangle: left end, nearness there, right end, nearness there.

    Args:
        across: (N, 3) of the corners, the uppermost first.
        down: (N, 3).
        nearness: (N, 3).
        height: (N,) of the line, between the uppermost and the lowest corner but for rounding.
    """
    at = np.arange(len(height))
    second = (height >= down[:, 1]).astype(np.int64)  # of the two edges beside the long one

    def crossing(upper: np.ndarray | int, lower: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        fall = down[at, lower] - down[at, upper]
        share = np.clip((height - down[at, upper]) / np.where(fall == 0, 1, fall), 0, 1)
        x = across[at, upper] + share * (across[at, lower] - across[at, upper])
        return x, nearness[at, upper] + share * (nearness[at, lower] - nearness[at, upper])

    (x, near), (other_x, other_near) = crossing(0, 2), crossing(second, second + 1)
    swap = x > other_x
    return (
        np.where(swap, other_x, x),
        np.where(swap, other_near, near),
        np.where(swap, x, other_x),
        np.where(swap, near, other_near),
    )
