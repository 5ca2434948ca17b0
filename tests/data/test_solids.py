import numpy as np
import pytest
import torch

from mmlab.data.solids import BODIES, CLASSES, ELEVATION, FRONTS, REARS, Solids, picture, solid
from mmlab.draws import Draws
from mmlab.errors import UserError


def tiny(**options) -> Solids:
    return Solids(train_size=30, val_size=12, test_size=24, **options)


def test_splits_fit_the_spec():
    data = tiny()
    splits = data.splits()
    spec = data.spec(len(splits["train"]))
    assert {name: len(split) for name, split in splits.items()} == {"train": 30, "val": 12, "test": 24}
    assert spec.names == ("front", "rear")
    assert spec.task.outputs == 12 == len(BODIES) * len(FRONTS) * len(REARS)
    batch = splits["train"].__getitems__([3, 1])
    for modality, transform in zip(spec.modalities, data.transforms().values(), strict=True):
        assert batch.inputs[modality.name].dtype == torch.uint8
        for draws in (None, Draws(0, 0, batch.index)):
            out = transform(batch.inputs[modality.name], draws)
            assert out.shape == (2, *modality.shape)
            assert out.dtype == torch.float32
    assert splits["val"].ids[1] == "val-00001"
    assert np.bincount(splits["test"].targets).tolist() == [2] * 12


def test_inputs_are_normalised_and_the_views_are_shifted_apart():
    data = Solids(train_size=240, val_size=12, test_size=12)
    arrays = data.splits()["train"].arrays
    for name, transform in data.transforms().items():
        out = transform(torch.from_numpy(arrays[name]), None)
        assert abs(out.mean().item()) < 0.1
        assert abs(out.std().item() - 1) < 0.1
    same, draws = torch.from_numpy(arrays["front"]), Draws(0, 0, torch.arange(240))
    front, rear = (transform(same, draws) for transform in data.transforms().values())
    moved_apart = (front - front.mean()).sub(rear - rear.mean()).abs().amax((1, 2, 3)) > 0.1
    assert moved_apart.float().mean() > 0.9


def test_data_depend_on_their_seed_and_a_larger_set_begins_with_the_smaller():
    base, again, larger, other = tiny(), tiny(), Solids(70, 12, 24), tiny(data_seed=1)
    one = base.splits()
    for name in ("front", "rear"):
        array = one["train"].arrays[name]
        assert np.array_equal(array, again.splits()["train"].arrays[name])
        assert np.array_equal(array, larger.splits()["train"].arrays[name][:30])
        assert not np.array_equal(array[:12], one["val"].arrays[name])
        assert not np.array_equal(array, other.splits()["train"].arrays[name])


@pytest.mark.parametrize(("hidden", "from_view", "seen_by"), [(1, "front", "rear"), (2, "rear", "front")])
def test_a_part_of_the_class_shows_on_one_side_only(hidden: int, from_view: str, seen_by: str):
    draws = Draws(0, 0, torch.arange(120))
    classes = torch.arange(120) % 12
    one, other = solid(classes, draws), solid(classes ^ hidden, draws)  # another knob, or another bar
    assert torch.equal(picture(*one, from_view, 20.0, draws), picture(*other, from_view, 20.0, draws))
    changed = picture(*one, seen_by, 0.0, draws) != picture(*other, seen_by, 0.0, draws)
    assert (changed.flatten(1).sum(dim=1) > 5).all()


def test_every_point_of_a_solid_is_where_its_planes_say():
    # Points drawn in space, seen from the front without perspective: those inside must fall on pixels of the solid.
    draws, classes = Draws(3, 0, torch.arange(24)), torch.arange(24) % 12
    normals, offsets = solid(classes, draws)
    shown = picture(normals, offsets, "front", 0.0, draws)[:, 0] > 0
    points = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)) * 3 - 1.5
    inside = ((normals @ points.T) <= offsets[..., None]).all(dim=2).any(dim=1)
    turn, tilt, zoom = draws.uniform("picture/pose", 3).double().unbind(dim=1)
    turn, tilt = torch.deg2rad(40 * turn - 20), torch.deg2rad(ELEVATION[0] + (ELEVATION[1] - ELEVATION[0]) * tilt)
    move = draws.uniform("picture/front", 5)[:, 2:4].double() * 2 - 1
    x, y, z = points.double().T
    right = turn.cos()[:, None] * x + turn.sin()[:, None] * y
    away = turn.cos()[:, None] * y - turn.sin()[:, None] * x
    up = tilt.cos()[:, None] * z + tilt.sin()[:, None] * away
    column = (16 + (9 + 2 * zoom)[:, None] * right + move[:, :1]).long()
    row = (16 - (9 + 2 * zoom)[:, None] * up - move[:, 1:]).long()
    sample = torch.arange(24)[:, None].expand_as(row)
    assert inside.sum() > 25_000
    assert shown[sample[inside], row[inside], column[inside]].float().mean() > 0.999
    # And the solid fills no more than they do, but for the pixels at its rim.
    filled = torch.zeros_like(shown)
    filled[sample[inside], row[inside], column[inside]] = True
    assert (shown.sum() - filled.sum()) / shown.sum() < 0.25


def test_a_box_seen_from_straight_ahead_is_a_rectangle():
    class Still(Draws):
        def uniform(self, name: str, count: int = 1) -> torch.Tensor:
            # No turn, no lean, no move; the elevation is the lowest.
            drawn = {"picture/pose": [0.5, 0.0, 0.0], "solid/size": [0.0] * 4}.get(name, [0.5] * count)
            return torch.tensor(drawn).expand(len(self._keys), count)

    draws = Still(0, 0, torch.arange(1))
    shown = picture(*solid(torch.tensor([0]), draws), "rear", 0.0, draws)[0, 0] > 0
    # Half width 0.8 at 9 pixels a unit; the height shows by cos 5 degrees, the top by sin 5 degrees.
    assert shown.any(dim=0).sum() in (14, 15, 16)
    assert shown.sum() == shown.any(dim=0).sum() * shown.any(dim=1).sum()
    expected = 2 * 9 * 0.8 * (np.cos(np.deg2rad(5)) + np.sin(np.deg2rad(5)))
    assert abs(shown.any(dim=1).sum().item() - expected) < 1.5


def test_noise_is_what_it_says():
    draws, classes = Draws(0, 0, torch.arange(48)), torch.arange(48) % 12
    normals, offsets = solid(classes, draws)
    clean, noisy = (picture(normals, offsets, "rear", noise, draws).double() for noise in (0.0, 10.0))
    lit = (clean > 60) & (clean < 195)  # away from black and white, where noise is cut
    assert abs((noisy - clean)[lit].std() - 10) < 0.5


def test_wrong_options_are_refused():
    with pytest.raises(UserError, match=rf"val_size is 5.*{len(CLASSES)} or more"):
        Solids(val_size=5)
    with pytest.raises(UserError, match=r"rear_noise is -1\.0; give a number of grey levels, 0 or more"):
        Solids(rear_noise=-1.0)


def test_details_name_the_variant():
    assert tiny(rear_noise=3.0).details() == {"front_noise": 20.0, "rear_noise": 3.0, "data_seed": 0}
