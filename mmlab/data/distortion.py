"""Blur, occlusion, dropped frames and shifted sound: batched, on encoder inputs. The rules are this project's.

None of them needs the scale of the raw values: a blurred, repeated or shifted value is a mean or a copy of values that
are there, and what is hidden takes the mean, which is 0 after normalisation. ``strength`` is severity / 10.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST_BLUR = 0.05  # standard deviation, as a share of the shorter side
_LARGEST_AREA = 0.5
_LARGEST_SHIFT = 0.5


def blur(pictures: Tensor, strength: float) -> Tensor:
    """A Gaussian blur with a standard deviation of strength * 5 % of the shorter side.

    What lies beyond an edge doesn't count: the weights within the picture add up to 1. A standard deviation far below
    a pixel, as weak ones of tiny pictures are, changes nothing.

    Args:
        pictures: (B, ..., H, W).
        strength: above 0, up to 1.

    Returns:
        Of the shape of ``pictures``.
    """
    width = _LARGEST_BLUR * strength * min(pictures.shape[-2:])
    rows, columns = (_weights(size, width, pictures) for size in pictures.shape[-2:])
    # A test is corrupted within autocast, which would round the pictures of some runs and not of others.
    with torch.autocast(pictures.device.type, enabled=False):
        return rows @ pictures @ columns.T


def _weights(size: int, width: float, like: Tensor) -> Tensor:
    place = torch.arange(size, device=like.device, dtype=torch.float32)
    return torch.softmax(-(place - place[:, None]).square() / (2 * width * width), dim=1).to(like.dtype)


def occlude(values: Tensor, u: Tensor, strength: float) -> Tensor:
    """Sets a rectangle of strength * 50 % of the area, with the proportions of the whole, to the mean.

    It lies anywhere within the picture, and grows around a fixed point: a weaker one is a part of a stronger one.

    Args:
        values: (B, ..., H, W), normalised: the mean is 0; of a spectrogram H is frequency and W time.
        u: (B, 2) uniform in [0, 1), where the rectangle lies, down and across.
        strength: 0 to 1.

    Returns:
        Of the shape of ``values``; what is not hidden is the same bits.
    """
    side = (_LARGEST_AREA * strength) ** 0.5
    rows, columns = (_hidden(size, side, u[:, axis]) for axis, size in enumerate(values.shape[-2:]))
    hidden = rows[:, :, None] & columns[:, None, :]
    return values.masked_fill(hidden.view(-1, *[1] * (values.dim() - 3), *hidden.shape[1:]), 0.0)


def _hidden(size: int, side: float, u: Tensor) -> Tensor:
    centre = (torch.arange(size, device=u.device) + 0.5) / size
    start = (u * (1 - side))[:, None]
    return (centre >= start) & (centre < start + side)


def drop_steps(values: Tensor, u: Tensor, strength: float, axis: int, has: Tensor | None) -> Tensor:
    """Drops each step but the first with probability strength; the last one that was kept is shown in its place.

    Args:
        values: (B, ...) with T steps along an axis.
        u: (B, T) uniform in [0, 1).
        strength: 0 to 1.
        axis: of the steps.
        has: (B, T) bool, which steps belong to the sample; None for all. The others stay as they are.

    Returns:
        Of the shape of ``values``; every step is the same bits as some step.
    """
    dropped = u < strength
    dropped[:, 0] = False
    if has is not None:
        dropped[:, 1:] &= has[:, 1:] & has[:, :-1]
    steps = torch.arange(values.shape[axis], device=values.device)
    shown = torch.where(dropped, 0, steps).cummax(dim=1).values
    shape = [1] * values.dim()
    shape[0], shape[axis] = shown.shape
    return values.gather(axis, shown.view(shape).expand_as(values))


def shift_sound(values: Tensor, u: Tensor, strength: float) -> Tensor:
    """Shifts sound in time by up to strength * half of its length, earlier or later, all amounts alike.

    The shift is circular: what leaves at one end comes in at the other, so that nothing of the sound is lost.

    Args:
        values: (B, ..., T).
        u: (B,) uniform in [0, 1): below 1/2 the sound comes earlier, above later.
        strength: 0 to 1.

    Returns:
        Of the shape of ``values``, the same values in another order.
    """
    length = values.shape[-1]
    by = (_LARGEST_SHIFT * strength * length * (2 * u - 1)).round().long()
    source = (torch.arange(length, device=values.device) - by[:, None]) % length
    return values.gather(-1, source.view(-1, *[1] * (values.dim() - 2), length).expand_as(values))
