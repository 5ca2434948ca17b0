import pytest
import torch
import torch.nn.functional as F

from mmlab.data import raycast

RADIUS, HEIGHT = 0.7, 1.3
SIZE = torch.tensor([[RADIUS, 0.5, HEIGHT]], dtype=torch.float64)


def inside(shape: str, point: torch.Tensor) -> torch.Tensor:
    """Whether points (..., 3) lie within a shape, by its definition."""
    x, y, z = point.unbind(dim=-1)
    standing = (z >= 0) & (z <= HEIGHT)
    return {
        "box": (x.abs() <= RADIUS) & (y.abs() <= 0.5) & standing,
        "ball": x**2 + y**2 + (z - HEIGHT / 2) ** 2 <= (HEIGHT / 2) ** 2,
        "cylinder": (x**2 + y**2 <= RADIUS**2) & standing,
        "cone": (x**2 + y**2 <= (RADIUS * (1 - z / HEIGHT)) ** 2) & standing,
    }[shape]


def rays(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    origin = torch.tensor([[0.4, -3.0, 1.9]], dtype=torch.float64)
    aims = torch.rand(1, count, 3, dtype=torch.float64) * torch.tensor([2.4, 1.6, 1.5]) - torch.tensor([1.2, 0.8, 0.0])
    return origin, (aims - origin[:, None]) * (0.5 + torch.rand(1, count, 1, dtype=torch.float64))


@pytest.mark.parametrize("shape", ["box", "ball", "cylinder", "cone"])
def test_rays_meet_the_surface_first_and_see_it_from_outside(shape: str) -> None:
    origin, directions = rays(400)
    hits = getattr(raycast, shape)(origin, directions, SIZE)
    met = hits.distance.isfinite()
    assert 0.2 < met.double().mean() < 0.95
    # By small steps along the ray: nothing is inside before the hit, and something is right behind it.
    steps = torch.linspace(0, 4, 4001, dtype=torch.float64)
    along = origin[:, None, None] + steps[:, None] * directions[:, :, None]
    first = inside(shape, along)
    assert torch.equal(first.any(dim=2) | met, met)  # what the steps find is found
    found = first.any(dim=2) & met
    stepped = steps[first.int().argmax(dim=2)]
    assert (stepped - hits.distance)[found].abs().max() < 2e-3
    assert (met & ~found).double().mean() < 0.02  # only what a ray grazes falls between two steps
    assert torch.allclose(hits.normal[met].norm(dim=1), torch.ones(1, dtype=torch.float64))
    assert ((hits.normal * directions).sum(dim=2)[met] < 1e-9).all()
    # A little out along the normal is outside, a little in is inside.
    point = origin[:, None] + hits.distance[..., None].nan_to_num(posinf=0.0) * directions
    out, within = (inside(shape, point + by * hits.normal) for by in (1e-6, -1e-6))
    assert not out[met].any()
    assert within[met].double().mean() > 0.99


def test_a_room_is_met_everywhere_from_inside() -> None:
    low, high = torch.tensor([[-2.0, -1.0, 0.0]]), torch.tensor([[1.5, 4.0, 2.5]])
    directions = F.normalize(torch.randn(1, 500, 3), dim=2)
    origin = torch.tensor([[0.0, 0.0, 1.5]])
    hits = raycast.room(origin, directions, low, high)
    point = origin[:, None] + hits.distance[..., None] * directions
    assert ((point >= low - 1e-4) & (point <= high + 1e-4)).all()
    on_it = torch.minimum((point - low).abs(), (point - high).abs())
    axis = hits.normal.abs().argmax(dim=2)
    assert on_it.gather(2, axis[..., None]).max() < 1e-4
    assert ((hits.normal * directions).sum(dim=2) < 0).all()
    straight = raycast.room(origin, torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, -2.0]]]), low, high)
    assert straight.distance[0].tolist() == pytest.approx([4.0, 0.75])
    assert straight.normal[0].tolist() == [[0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]


def test_every_sample_has_its_own_shape() -> None:
    origin = torch.tensor([[0.0, -4.0, 0.5], [0.0, -4.0, 0.5]])
    ahead = torch.tensor([0.0, 1.0, 0.0]).expand(2, 1, 3)
    sizes = torch.tensor([[0.5, 0.5, 1.0], [1.0, 2.0, 1.0]])
    assert raycast.box(origin, ahead, sizes).distance[:, 0].tolist() == pytest.approx([3.5, 2.0])
    assert raycast.cylinder(origin, ahead, sizes).distance[:, 0].tolist() == pytest.approx([3.5, 3.0])
    assert raycast.cone(origin, ahead, sizes).distance[:, 0].tolist() == pytest.approx([3.75, 3.5])
    assert raycast.ball(origin, ahead, sizes).distance[:, 0].tolist() == pytest.approx([3.5, 3.5])
    assert raycast.box(origin, -ahead, sizes).distance.isinf().all()
