"""Rays against the inside of a room and against simple solids: how far it is to what they meet, and how that faces.

Every shape stands on the ground z = 0, around the vertical axis x = y = 0, and is met from outside and from above the
ground: its base is never seen. A distance is a multiple of the ray's direction, whatever its length; infinite where the
ray misses. All samples and all rays are computed at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LEAST = 1e-9
"""Stands for a direction's component of 0, along which nothing is ever reached."""


@dataclass
class Hits:
    """What rays meet.

    Attributes:
        distance: (B, N), infinite where there is nothing.
        normal: (B, N, 3) of length 1, out of the surface; of no meaning where there is nothing.
    """

    distance: Tensor
    normal: Tensor


def room(origin: Tensor, directions: Tensor, low: Tensor, high: Tensor) -> Hits:
    """The walls, the floor and the ceiling of a room from inside; a ray meets one for certain.

    Args:
        origin: (B, 3), within the room.
        directions: (B, N, 3).
        low: (B, 3), the room's least corner.
        high: (B, 3), its greatest.
    """
    directions = _never_zero(directions)
    bound = torch.where(directions > 0, high[:, None], low[:, None])
    distance, axis = ((bound - origin[:, None]) / directions).min(dim=2)
    return Hits(distance, _towards(directions, axis))


def box(origin: Tensor, directions: Tensor, size: Tensor) -> Hits:
    """A box.

    Args:
        origin: (B, 3).
        directions: (B, N, 3).
        size: (B, 3), half its width (x), half its depth (y), its height (z).
    """
    directions = _never_zero(directions)
    high = size[:, None]
    low = high * torch.tensor([-1.0, -1.0, 0.0])
    first, second = (low - origin[:, None]) / directions, (high - origin[:, None]) / directions
    enters, axis = first.minimum(second).max(dim=2)
    leaves = first.maximum(second).amin(dim=2)
    return Hits(_where(enters, (enters <= leaves) & (enters > 0)), _towards(directions, axis))


def ball(origin: Tensor, directions: Tensor, size: Tensor) -> Hits:
    """A ball that lies on the ground.

    Args:
        origin: (B, 3).
        directions: (B, N, 3).
        size: (B, 3), its diameter (z).
    """
    radius = size[:, None, 2] / 2
    start = origin[:, None] - torch.stack((torch.zeros_like(radius),) * 2 + (radius,), dim=2)
    a, b = directions.square().sum(dim=2), (start * directions).sum(dim=2)
    root = b.square() - a * (start.square().sum(dim=2) - radius.square())
    distance = (-b - root.clamp(min=0).sqrt()) / a
    normal = (start + distance[..., None] * directions) / radius[..., None]
    return Hits(_where(distance, (root >= 0) & (distance > 0)), normal)


def cylinder(origin: Tensor, directions: Tensor, size: Tensor) -> Hits:
    """An upright cylinder.

    Args:
        origin: (B, 3).
        directions: (B, N, 3).
        size: (B, 3), its radius (x) and its height (z).
    """
    directions = _never_zero(directions)
    radius, height = size[:, None, 0], size[:, None, 2]
    start, flat = origin[:, None, :2], directions[..., :2]
    a, b = flat.square().sum(dim=2), (start * flat).sum(dim=2)
    root = b.square() - a * (start.square().sum(dim=2) - radius.square())
    side = (-b - root.clamp(min=0).sqrt()) / a
    z = origin[:, None, 2] + side * directions[..., 2]
    side = _where(side, (root >= 0) & (side > 0) & (z >= 0) & (z <= height))
    top = (height - origin[:, None, 2]) / directions[..., 2]
    inside = (start + top[..., None] * flat).square().sum(dim=2) <= radius.square()
    top = _where(top, (top > 0) & inside & (directions[..., 2] < 0))
    around = (start + side.nan_to_num(posinf=0.0)[..., None] * flat) / radius[..., None]
    sideways = torch.cat((around, torch.zeros_like(side)[..., None]), dim=2)
    upwards = torch.tensor([0.0, 0.0, 1.0])
    return Hits(side.minimum(top), torch.where((top < side)[..., None], upwards, sideways))


def cone(origin: Tensor, directions: Tensor, size: Tensor) -> Hits:
    """An upright cone.

    Args:
        origin: (B, 3).
        directions: (B, N, 3).
        size: (B, 3), the radius of its base (x) and its height (z).
    """
    height = size[:, None, 2]
    slope = (size[:, None, 0] / height).square()
    start = torch.cat((origin[:, None, :2], origin[:, None, 2:] - height[..., None]), dim=2)  # from the apex
    signs = torch.stack((torch.ones_like(slope), torch.ones_like(slope), -slope), dim=2)
    a = _never_zero((signs * directions * directions).sum(dim=2))
    b = (signs * start * directions).sum(dim=2)
    root = b.square() - a * (signs * start * start).sum(dim=2)
    distance = torch.full_like(a, torch.inf)
    for sign in (-1, 1):
        one = (-b + sign * root.clamp(min=0).sqrt()) / a
        z = start[..., 2] + one * directions[..., 2]
        one = _where(one, (root >= 0) & (one > 0) & (z <= 0) & (z >= -height))
        distance = distance.minimum(one)
    point = start + distance.nan_to_num(posinf=0.0)[..., None] * directions
    return Hits(distance, torch.nn.functional.normalize(signs * point, dim=2))


def _never_zero(values: Tensor) -> Tensor:
    return torch.where(values.abs() < _LEAST, _LEAST, values)


def _where(distance: Tensor, met: Tensor) -> Tensor:
    return torch.where(met, distance, torch.inf)


def _towards(directions: Tensor, axis: Tensor) -> Tensor:
    """The normal along an axis (B, N) that faces the ray."""
    along = torch.nn.functional.one_hot(axis, 3)
    return -along * directions.sign()
