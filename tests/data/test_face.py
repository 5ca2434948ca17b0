import math

import numpy as np
import torch
from torch import Tensor

from mmlab.data.casia_surf import CASIASURF
from mmlab.data.cefa import CeFA
from mmlab.data.face import RandomTurnCropFlip
from mmlab.draws import Draws

SIDE, SIZE = 144, 112
PLAIN = RandomTurnCropFlip(SIDE, SIZE, (0.0,), (1.0,), draw="face")


def canvas_of(degrees: int) -> int:
    c, s = 0.8 * abs(math.cos(math.radians(degrees))), 0.8 * abs(math.sin(math.radians(degrees)))
    return int(SIDE * s + SIDE * c)


def turned(picture: np.ndarray, degrees: int) -> np.ndarray:
    """(C, H, W) about its centre onto the canvas of that angle, pixel by pixel, 0 outside."""
    side = canvas_of(degrees)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    padded = np.pad(picture.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    canvas = np.zeros((len(picture), side, side))
    for y in range(side):
        for x in range(side):
            across, down = x - (side - 1) / 2, y - (side - 1) / 2
            column = cos * across - sin * down + (SIDE - 1) / 2 + 1
            row = sin * across + cos * down + (SIDE - 1) / 2 + 1
            left, top = math.floor(column), math.floor(row)
            if not (0 <= left <= SIDE and 0 <= top <= SIDE):
                continue
            right, low = column - left, row - top
            upper = (1 - right) * padded[:, top, left] + right * padded[:, top, left + 1]
            lower = (1 - right) * padded[:, top + 1, left] + right * padded[:, top + 1, left + 1]
            canvas[:, y, x] = (1 - low) * upper + low * lower
    return canvas


def test_one_resampling_gives_what_the_steps_give_one_by_one() -> None:
    raw = torch.randint(0, 256, (6, 1, SIDE, SIDE), dtype=torch.uint8)
    draws = Draws(1, 2, torch.arange(6))
    seen = PLAIN(raw, draws)
    angles = (draws.uniform("face/angle")[:, 0] * 61).long() - 30
    places, flips = draws.uniform("face/place", 2), draws.uniform("face/flip")[:, 0] < 0.5
    assert len(set(flips.tolist())) == 2
    for picture, angle, place, flip, got in zip(raw.numpy(), angles, places, flips, seen.numpy(), strict=True):
        canvas = turned(picture, int(angle))
        left, top = (int(part * (canvas.shape[1] - SIZE)) for part in place)
        cut = canvas[:, top : top + SIZE, left : left + SIZE]
        np.testing.assert_allclose(got, cut[:, :, ::-1] if flip else cut, atol=0.02)


def ramps(samples: int) -> Tensor:
    """Pictures that hold their own coordinates: the column in one channel, the row in the other, from the centre."""
    along = torch.arange(SIDE, dtype=torch.float32) - (SIDE - 1) / 2
    return torch.stack((along.expand(SIDE, SIDE), along[:, None].expand(SIDE, SIDE))).expand(samples, 2, SIDE, SIDE)


def test_angles_are_whole_degrees_and_squares_lie_within_the_canvas() -> None:
    seen = PLAIN(ramps(3000), Draws(0, 0, torch.arange(3000))).double()
    middle = SIZE // 2
    here, right, below = seen[:, :, middle, middle], seen[:, :, middle, middle + 1], seen[:, :, middle + 1, middle]
    across, down = right - here, below - here  # where a step in the result leads in the picture
    flips = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0] < 0
    torch.testing.assert_close(across.norm(dim=1), torch.ones(3000).double(), atol=1e-3, rtol=0)
    angles = torch.rad2deg(torch.atan2(-down[:, 0], down[:, 1]))
    torch.testing.assert_close(angles, angles.round(), atol=5e-3, rtol=0)
    assert sorted(set(angles.round().int().tolist())) == list(range(-30, 31))
    assert 0.45 < flips.double().mean() < 0.55

    corners: dict[int, set[int]] = {}
    for place, degrees, flip in zip(here.tolist(), angles.round().int().tolist(), flips.tolist(), strict=True):
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        half = (canvas_of(degrees) - 1) / 2
        x = cos * place[0] + sin * place[1] + half - (SIZE - 1 - middle if flip else middle)
        y = -sin * place[0] + cos * place[1] + half - middle
        for corner in (x, y):
            assert abs(corner - round(corner)) < 5e-3
            corners.setdefault(canvas_of(degrees), set()).add(round(corner))
    # The upper end of the corner's range, canvas - 112, is left out.
    assert corners[115] == {0, 1, 2}
    for canvas, found in corners.items():
        assert min(found) >= 0
        assert max(found) <= canvas - SIZE - 1


def test_outside_of_the_picture_is_black() -> None:
    white = torch.full((200, 3, SIDE, SIDE), 255, dtype=torch.uint8)
    seen = CASIASURF().transforms()["rgb"](white, Draws(0, 0, torch.arange(200)))
    torch.testing.assert_close(seen.max(), torch.tensor((255 - 127.5) / 128))
    torch.testing.assert_close(seen.min(), torch.tensor(-127.5 / 128))


def test_the_modalities_share_the_draw() -> None:
    for data in (CASIASURF(), CeFA()):
        same = torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8)
        draws = Draws(3, 1, torch.arange(4))
        rgb, depth, ir = (data.transforms()[modality.name](same, draws) for modality in data.modalities)
        assert torch.equal(rgb, depth)
        assert torch.equal(rgb, ir)
        assert not torch.equal(rgb, data.transforms()["rgb"](same, Draws(3, 2, torch.arange(4))))


def test_evaluation_shows_the_whole_picture() -> None:
    picture = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8).repeat_interleave(16, 2).repeat_interleave(16, 3)
    transform = CASIASURF().transforms()["depth"]
    seen = transform(picture, None)
    assert seen.shape == (2, 3, SIZE, SIZE)
    assert seen.dtype == torch.float32
    raw = seen * 128 + 127.5
    torch.testing.assert_close(raw.mean((2, 3)), picture.float().mean((2, 3)), atol=0.5, rtol=0)
    # The middle of a block of one colour is that colour.
    assert torch.allclose(raw[0, :, 6, 6], picture[0, :, 8, 8].float(), atol=1e-3)
    torch.testing.assert_close(transform(picture[:1], None), seen[:1])
