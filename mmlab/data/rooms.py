"""Rooms: solids on the floor of a furnished room, in colour, depth and infrared. Procedural: no files, no download."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab.data import raycast
from mmlab.data.aligned import AlignedDepth, AlignedImage, AlignedLabels, Geometry
from mmlab.data.base import Transform
from mmlab.data.procedural import ProceduralDataset
from mmlab.draws import Draws
from mmlab.types import Classification, Modality, Segmentation

BACKGROUND = ("floor", "wall", "ceiling", "poster")
SOLIDS = ("box", "ball", "cylinder", "cone")
SHAPES = (raycast.box, raycast.ball, raycast.cylinder, raycast.cone)
FLOOR, WALL, CEILING, POSTER, FIRST_SOLID = range(5)

HEIGHT, WIDTH = 64, 80
SIDE = 32
FOCAL = WIDTH / 2 / math.tan(math.radians(35))  # pixels; the picture is 70 degrees wide
SLOTS = 4  # solids in a room, of which all but the first may be missing
POSTERS = 2
SURFACES = 3 + POSTERS + SLOTS  # floor, wall, ceiling, posters, solids: each has its own paint

GRAIN = 14.0  # grey levels, white noise on the colours
INFRARED_GRAIN = 8.0
DEPTH_NOISE = (10.0, 6.0)  # millimetres: everywhere, and for each square metre of distance
DROPOUT, GRAZING = 0.03, 0.15  # pixels without depth: this share, and where a surface is seen at a smaller cosine

# Measured on the default training part of each task.
RGB = {"segmentation": ((98.1,), (52.6,)), "patches": ((91.0,), (52.7,))}
DEPTH = {"segmentation": (3358.0, 1126.0), "patches": (2626.0, 991.0)}
IR = {"segmentation": (67.1, 32.6), "patches": (85.0, 40.6)}
SIZES = {"segmentation": (300, 60, 100), "patches": (1200, 240, 480)}


class Rooms(ProceduralDataset):
    """Two to four solids in a room with posters on its walls, in colour, depth and infrared, all aligned.

    - ``segmentation``: floor, wall, ceiling, poster, box, ball, cylinder or cone for every pixel of 64 x 80. Training
      zooms in by up to 1.4, crops and mirrors, with one draw for all.
    - ``patches``: which solid stands in the middle of a crop of 32 x 32 around it, of the same sharpness; 4 classes,
      balanced. Training moves by up to two pixels and mirrors, with one draw for all.

    What sets the modalities apart: half of the solids have about the colour of the wall, so that little but the shading
    shows them; a poster is flat, so depth doesn't show it, and a third of the posters show in colour only, a third in
    infrared only; depth (millimetres along the camera's axis) is noisy, the more the farther, and 0 where nothing was
    measured; infrared is lit from the camera and falls off with the distance, and what a surface reflects of it has
    nothing to do with its colour. Size of the room, height, turn and tilt of the camera, light, textures, paint, places
    and sizes are random. A sample depends on ``data_seed``, its split and its position only: a larger set begins with
    the smaller one.

    Args:
        task: ``segmentation``, or ``patches`` for classification.
        train_size: number of training samples; 300 for segmentation and 1200 for patches unless given.
        val_size: likewise, 60 and 240.
        test_size: likewise, 100 and 480.
        data_seed: of the data, not of the run.

    Raises:
        UserError: if a split has fewer samples than there are solids.
    """

    at_once = 32
    classes_are = "solid"

    def __init__(
        self,
        task: Literal["segmentation", "patches"] = "segmentation",
        train_size: int | None = None,
        val_size: int | None = None,
        test_size: int | None = None,
        data_seed: int = 0,
    ) -> None:
        given = (train_size, val_size, test_size)
        train, val, test = (usual if own is None else own for own, usual in zip(given, SIZES[task], strict=True))
        super().__init__(len(SOLIDS), train, val, test, data_seed)
        self._task: Literal["segmentation", "patches"] = task

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``rgb`` (3, H, W), ``depth`` and ``ir`` (1, H, W)."""
        size = self._size
        (rgb_mean, rgb_std), (depth_mean, depth_std), (ir_mean, ir_std) = self._scales
        return (
            Modality("rgb", "image", (3, *size), rgb_mean, rgb_std, 0.0, 255.0),
            # About as strong as the usual noise of pictures: a fifth of the spread.
            Modality("depth", "depth", (1, *size), (depth_mean,), (depth_std,), 0.0, 32767.0, noise=depth_std / 5),
            Modality("ir", "image", (1, *size), (ir_mean,), (ir_std,), 0.0, 255.0),
        )

    @property
    def task(self) -> Segmentation | Classification:
        """What is seen at every pixel, or which solid stands in the middle."""
        return Segmentation(BACKGROUND + SOLIDS) if self._task == "segmentation" else Classification(SOLIDS)

    def details(self) -> dict[str, object]:
        """The variant in use, as plain data for result.json."""
        return {"variant": self._task, "data_seed": self._data_seed}

    def transforms(self) -> dict[str, Transform]:
        """One geometric draw for the three modalities and the labels."""
        (rgb_mean, rgb_std), (depth_mean, depth_std), (ir_mean, ir_std) = self._scales
        segmentation = self._task == "segmentation"
        geometry = Geometry(self._size, (1.0, 1.4)) if segmentation else Geometry(self._size, shift=2)
        transforms: dict[str, Transform] = {
            "rgb": AlignedImage(geometry, rgb_mean, rgb_std),
            "depth": AlignedDepth(geometry, depth_mean, depth_std, keep_invalid=True),
            "ir": AlignedImage(geometry, (ir_mean,), (ir_std,)),
        }
        return transforms | ({"target": AlignedLabels(geometry)} if segmentation else {})

    def arrays(self, labels: Tensor, draws: Draws) -> dict[str, Tensor]:
        """``rgb``, ``depth``, ``ir``, and for segmentation the label maps."""
        scene = furnished(labels, draws)
        directions = camera_rays(scene, self._size, centred=self._task == "patches", draws=draws)
        seen = hung(scene, cast(scene, directions), draws)
        views = pictures(scene, seen, self._size, draws)
        if self._task == "segmentation":
            views["target"] = seen.label.view(-1, *self._size).to(torch.uint8)
        return views

    @property
    def _size(self) -> tuple[int, int]:
        return (HEIGHT, WIDTH) if self._task == "segmentation" else (SIDE, SIDE)

    @property
    def _scales(self) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], tuple[float, float], tuple[float, float]]:
        return RGB[self._task], DEPTH[self._task], IR[self._task]


@dataclass
class Scene:
    """Rooms with what is in them. The camera stands at x = y = 0, y points into the room, z upwards; in metres.

    Attributes:
        camera: (B, 3), where it is.
        turn: (B,) to which side it looks, in radians, 0 along y.
        tilt: (B,) how far down it looks, in radians.
        low: (B, 3), the room's least corner.
        high: (B, 3), its greatest.
        kind: (B, S) of each solid, positions in ``SOLIDS``; -1 where there is none.
        place: (B, S, 2) on the floor.
        angle: (B, S) by which it is turned.
        size: (B, S, 3), half the width, half the depth, the height.
    """

    camera: Tensor
    turn: Tensor
    tilt: Tensor
    low: Tensor
    high: Tensor
    kind: Tensor
    place: Tensor
    angle: Tensor
    size: Tensor


@dataclass
class Seen:
    """What each ray meets first.

    Attributes:
        distance: (B, N) along the camera's axis, in metres.
        normal: (B, N, 3) of length 1.
        point: (B, N, 3) in the room.
        label: (B, N), positions in ``BACKGROUND + SOLIDS``.
        surface: (B, N), which of the room's surfaces it is.
        facing: (B, N), cosine between the normal and the way back to the camera.
    """

    distance: Tensor
    normal: Tensor
    point: Tensor
    label: Tensor
    surface: Tensor
    facing: Tensor


def furnished(kinds: Tensor, draws: Draws) -> Scene:
    """Rooms, of which each has a solid of a given kind nearest to the camera.

    Args:
        kinds: (B,) positions in ``SOLIDS``.
        draws: of the samples.
    """
    left, right, ahead, high, eye, turn, tilt = draws.uniform("room", 7).unbind(dim=1)
    ahead = 3.6 + 2.2 * ahead
    low = torch.stack((-1.4 - 2 * left, torch.full_like(left, -0.5), torch.zeros_like(left)), dim=1)
    corner = torch.stack((1.4 + 2 * right, ahead, 2.3 + 0.8 * high), dim=1)
    turn = math.radians(15) * (2 * turn - 1)
    others = (draws.uniform("solids/kind", SLOTS) * len(SOLIDS)).long()
    missing = torch.tensor([0.0, 0.0, 0.3, 0.6])
    others = torch.where(draws.uniform("solids/missing", SLOTS) < missing, -1, others)
    kind = torch.cat((kinds[:, None], others[:, 1:]), dim=1)
    away = draws.uniform("solids/away", SLOTS)
    away = torch.cat((1.6 + 0.8 * away[:, :1], 2.6 + (ahead[:, None] - 3.1) * away[:, 1:]), dim=1)
    aside = turn[:, None] + math.radians(26) * (2 * draws.uniform("solids/aside", SLOTS) - 1)
    place = torch.stack((away * aside.sin(), away * aside.cos()), dim=2)
    size = draws.uniform("solids/size", 3 * SLOTS).view(-1, SLOTS, 3)
    half = 0.16 + 0.24 * size[..., :2]
    return Scene(
        camera=torch.stack((torch.zeros_like(eye), torch.zeros_like(eye), 1.1 + 0.6 * eye), dim=1),
        turn=turn,
        tilt=math.radians(8) + math.radians(14) * tilt,
        low=low,
        high=corner,
        kind=kind,
        # Out of the walls: a solid's half diagonal is at most 0.57.
        place=place.clamp(low[:, None, :2] + 0.6, corner[:, None, :2] - 0.6),
        angle=2 * math.pi * draws.uniform("solids/angle", SLOTS),
        size=torch.cat((half, 0.35 + 0.65 * size[..., 2:]), dim=2),
    )


def camera_rays(scene: Scene, size: tuple[int, int], centred: bool, draws: Draws) -> Tensor:
    """The direction of each pixel's ray, (B, height * width, 3), of length 1 along the camera's axis.

    Args:
        scene: the rooms.
        size: (height, width) of the picture, in pixels.
        centred: whether the first solid stands in the picture's middle, give or take three pixels, in place of what
            the camera looks at; the picture then is a cut-out of what the camera would see with a larger sensor.
        draws: of the samples.
    """
    right, down, axis = _camera(scene)
    rows, columns = (torch.arange(side) - (side - 1) / 2 for side in size)
    x, y = columns.repeat(len(rows)).expand(len(axis), -1), rows.repeat_interleave(len(columns)).expand(len(axis), -1)
    if centred:
        middle = torch.cat((scene.place[:, 0], scene.size[:, 0, 2:] / 2), dim=1) - scene.camera
        depth = (middle * axis).sum(dim=1)
        move = 3 * (2 * draws.uniform("patch/move", 2) - 1)
        x = x + (FOCAL * (middle * right).sum(dim=1) / depth + move[:, 0])[:, None]
        y = y + (FOCAL * (middle * down).sum(dim=1) / depth + move[:, 1])[:, None]
    return axis[:, None] + (x[..., None] * right[:, None] + y[..., None] * down[:, None]) / FOCAL


def cast(scene: Scene, directions: Tensor) -> Seen:
    """What each ray (B, N, 3) meets first, but for the posters."""
    hits = raycast.room(scene.camera, directions, scene.low, scene.high)
    distance, normal = hits.distance, hits.normal
    label = torch.where(normal[..., 2] > 0.5, FLOOR, torch.where(normal[..., 2] < -0.5, CEILING, WALL))
    surface = label.clone()
    for slot in range(SLOTS):
        for kind, shape in enumerate(SHAPES):
            rows = (scene.kind[:, slot] == kind).nonzero()[:, 0]
            if not len(rows):
                continue
            angle = scene.angle[rows, slot]
            origin = scene.camera[rows] - F.pad(scene.place[rows, slot], (0, 1))
            local = shape(
                _turned(origin[:, None], -angle)[:, 0], _turned(directions[rows], -angle), scene.size[rows, slot]
            )
            nearer = local.distance < distance[rows]
            distance[rows] = torch.where(nearer, local.distance, distance[rows])
            normal[rows] = torch.where(nearer[..., None], _turned(local.normal, angle), normal[rows])
            label[rows] = torch.where(nearer, FIRST_SOLID + kind, label[rows])
            surface[rows] = torch.where(nearer, 3 + POSTERS + slot, surface[rows])
    facing = -(normal * F.normalize(directions, dim=2)).sum(dim=2)
    point = scene.camera[:, None] + distance[..., None] * directions
    return Seen(distance, normal, point, label, surface, facing)


def hung(scene: Scene, seen: Seen, draws: Draws) -> Seen:
    """What is seen with two posters on the walls: one ahead, one to the left or to the right.

    Args:
        scene: the rooms.
        seen: without posters.
        draws: of the samples.
    """
    on_wall, label, surface = seen.label == WALL, seen.label, seen.surface
    for number in range(POSTERS):
        along, up, wide, high, side = draws.uniform(f"poster/{number}", 5)[:, :, None].unbind(dim=1)
        if number == 0:
            faces = seen.normal[..., 1] < -0.5
            middle = (scene.high[:, 1] * scene.turn.tan())[:, None] + 3 * along - 1.5
        else:
            faces = seen.normal[..., 0] * torch.where(side < 0.5, 1.0, -1.0) > 0.5
            middle = 1.6 + (scene.high[:, 1:2] - 2.4) * along
        across = (seen.point[..., 0 if number == 0 else 1] - middle).abs() < 0.3 + 0.3 * wide
        upright = (seen.point[..., 2] - 1.2 - 0.7 * up).abs() < 0.25 + 0.25 * high
        covered = on_wall & faces & across & upright
        label, surface = torch.where(covered, POSTER, label), torch.where(covered, 3 + number, surface)
    return replace(seen, label=label, surface=surface)


def pictures(scene: Scene, seen: Seen, size: tuple[int, int], draws: Draws) -> dict[str, Tensor]:
    """``rgb`` (B, 3, H, W) uint8, ``depth`` (B, 1, H, W) int16 in millimetres, ``ir`` (B, 1, H, W) uint8.

    Args:
        scene: the rooms.
        seen: by each of their pixels.
        size: (H, W).
        draws: of the samples.
    """
    pixels = size[0] * size[1]
    colour, infrared, wave, depth_of_wave = _paint(draws)
    where = seen.surface[..., None]
    phase = (seen.point * wave.take_along_dim(where, 1)).sum(dim=2)
    texture = 1 + depth_of_wave.gather(1, seen.surface) * torch.sin(2 * math.pi * phase)
    lamp, exposure = draws.uniform("light", 4).split((3, 1), dim=1)
    # Below the ceiling, not behind the camera.
    lowest = torch.cat((scene.low[:, :1], 0.5 * torch.ones_like(exposure), scene.high[:, 2:] - 0.4), dim=1)
    towards = F.normalize((lowest + (scene.high - lowest) * 0.9 * lamp)[:, None] - seen.point, dim=2)
    shade = 0.35 + 0.65 * (seen.normal * towards).sum(dim=2).clamp(min=0)
    rgb = 255 * (0.8 + 0.4 * exposure[..., None]) * colour.take_along_dim(where, 1) * (texture * shade)[..., None]
    grain = GRAIN * draws.field("grain/rgb", 3 * pixels).view(-1, 3, *size)
    far = (seen.point - scene.camera[:, None]).norm(dim=2)
    ir = 255 * (infrared.gather(1, seen.surface) * seen.facing.clamp(min=0)).sqrt() * 1.6 / far
    ir = ir + INFRARED_GRAIN * draws.field("grain/ir", pixels)
    spread = DEPTH_NOISE[0] + DEPTH_NOISE[1] * seen.distance.square()
    depth = 1000 * seen.distance + spread * draws.field("grain/depth", pixels)
    lost = (draws.uniform("grain/lost", pixels) < DROPOUT) | (seen.facing < GRAZING)
    return {
        "rgb": _grey_levels(rgb.transpose(1, 2).unflatten(2, size) + grain),
        "depth": depth.round().clamp(1, 32767).masked_fill(lost, 0).to(torch.int16).view(-1, 1, *size),
        "ir": _grey_levels(ir.view(-1, 1, *size)),
    }


def _paint(draws: Draws) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What each surface is painted with.

    Returns:
        Colour (B, S, 3), infrared reflectance (B, S), both 0 to 1, waves of the texture for each metre (B, S, 3), and
        their depth (B, S).
    """
    colour = 0.15 + 0.7 * draws.uniform("paint/colour", 3 * SURFACES).view(-1, SURFACES, 3)
    infrared = 0.1 + 0.8 * draws.uniform("paint/infrared", SURFACES)
    wave = F.normalize(draws.normal("paint/wave", 3 * SURFACES).view(-1, SURFACES, 3), dim=2)
    wave = wave * (1 + 2 * draws.uniform("paint/density", SURFACES))[..., None]
    depth = 0.3 * draws.uniform("paint/depth", SURFACES)
    like_wall = torch.zeros_like(infrared, dtype=torch.bool)
    like_wall[:, 3 + POSTERS :] = draws.uniform("paint/like_wall", SLOTS) < 0.5
    ink = draws.uniform("paint/ink", POSTERS)
    like_wall[:, 3 : 3 + POSTERS] = ink < 1 / 3
    infrared[:, 3 : 3 + POSTERS] = torch.where(ink > 2 / 3, infrared[:, WALL, None], infrared[:, 3 : 3 + POSTERS])
    wall, alike = slice(WALL, WALL + 1), like_wall[..., None]
    colour = torch.where(alike, colour[:, wall], colour)
    return colour, infrared, torch.where(alike, wave[:, wall], wave), torch.where(like_wall, depth[:, wall], depth)


def _camera(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """To the right, downwards, and where it looks; (B, 3) each, of length 1."""
    cos, sin, none = scene.turn.cos(), scene.turn.sin(), torch.zeros_like(scene.turn)
    flat, down = scene.tilt.cos(), scene.tilt.sin()
    axis = torch.stack((sin * flat, cos * flat, -down), dim=1)
    right = torch.stack((cos, -sin, none), dim=1)
    return right, torch.linalg.cross(axis, right), axis


def _turned(vectors: Tensor, angle: Tensor) -> Tensor:
    """(B, N, 3) turned by (B,) about the vertical."""
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    x, y, z = vectors.unbind(dim=2)
    return torch.stack((cos * x - sin * y, sin * x + cos * y, z), dim=2)


def _grey_levels(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)
