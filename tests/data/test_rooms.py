import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmlab.data.rooms import (
    CEILING,
    FIRST_SOLID,
    FLOOR,
    POSTER,
    SLOTS,
    SOLIDS,
    WALL,
    Rooms,
    camera_rays,
    cast,
    furnished,
    hung,
    pictures,
)
from mmlab.draws import Draws
from mmlab.errors import UserError

TASKS = pytest.mark.parametrize("task", ["segmentation", "patches"])


def tiny(task: str = "segmentation", **options: int) -> Rooms:
    return Rooms(task, **({"train_size": 16, "val_size": 4, "test_size": 8} | options))  # type: ignore[arg-type]


@TASKS
def test_splits_fit_the_spec(task: str) -> None:
    data = tiny(task)
    splits = data.splits()
    spec = data.spec(16)
    assert {name: len(split) for name, split in splits.items()} == {"train": 16, "val": 4, "test": 8}
    assert spec.names == ("rgb", "depth", "ir")
    batch = splits["train"].__getitems__([3, 1])
    transforms = data.transforms()
    for draws in (None, Draws(0, 0, batch.index)):
        for modality in spec.modalities:
            seen = transforms[modality.name](batch.inputs[modality.name], draws)
            assert seen.shape == (2, *modality.shape)
            assert seen.dtype == torch.float32
    assert batch.present.all()
    if task == "patches":
        assert spec.task.classes == SOLIDS
        assert batch.target.tolist() == [3, 1]
        assert np.bincount(splits["test"].targets).tolist() == [2] * 4
    else:
        assert len(spec.task.classes) == 8
        assert transforms["target"](batch.target, Draws(0, 0, batch.index)).shape == (2, 64, 80)
        assert set(np.unique(splits["train"].targets)) == set(range(8))
        # Each room has its first solid in sight or behind another one.
        shown = [(splits["train"].targets == FIRST_SOLID + kind).any(axis=(1, 2)) for kind in range(4)]
        assert np.mean([shown[position % 4][position] for position in range(16)]) > 0.9


@TASKS
def test_training_cuts_everything_alike(task: str) -> None:
    data = tiny(task)
    transforms, draws = data.transforms(), Draws(0, 0, torch.arange(30))
    height, width = data.modalities[0].shape[1:]
    ramp = (1 + torch.arange(width) + 2 * torch.arange(height)[:, None]).expand(30, 1, -1, -1)
    found = {}
    for modality in data.modalities:
        raw = ramp.expand(-1, modality.shape[0], -1, -1)
        found[modality.name] = transforms[modality.name](raw, draws)[:, 0] * modality.std[0] + modality.mean[0]
    if task == "segmentation":
        found["target"] = transforms["target"](ramp[:, 0].to(torch.uint8), draws)
    for name, places in found.items():
        assert (places - found["rgb"]).abs().max() < 1.6, name  # half a pixel in both directions
    assert len({round(float(place[0, 0]), 1) for place in found["rgb"]}) > 5


@TASKS
def test_inputs_are_normalised(task: str) -> None:
    data = tiny(task, train_size=64)
    arrays = data.splits()["train"].arrays
    for name, transform in data.transforms().items():
        if name != "target":
            seen = transform(torch.from_numpy(arrays[name]), None)
            assert seen.mean().abs() < 0.2
            assert (seen.std() - 1).abs() < 0.2


@TASKS
def test_data_depend_on_their_seed_and_a_larger_set_begins_with_the_smaller(task: str) -> None:
    one, again, other = tiny(task).splits(), tiny(task, train_size=40).splits(), tiny(task, data_seed=1).splits()
    for name, array in one["train"].arrays.items():
        assert np.array_equal(array, again["train"].arrays[name][:16])
        assert not np.array_equal(array[:4], one["val"].arrays[name])
        assert not np.array_equal(array, other["train"].arrays[name])
    assert np.array_equal(one["train"].targets, again["train"].targets[:16])


def test_what_is_seen_is_where_it_should_be() -> None:
    draws = Draws(0, 0, torch.arange(12))
    scene = furnished(torch.arange(12) % 4, draws)
    seen = hung(scene, cast(scene, camera_rays(scene, (64, 80), False, draws)), draws)
    floor, wall, ceiling, poster = (seen.label == label for label in (FLOOR, WALL, CEILING, POSTER))
    assert seen.point[..., 2][floor].abs().max() < 1e-4
    assert ((seen.point[..., 2] - scene.high[:, 2:])[ceiling]).abs().max() < 1e-4
    on_side = torch.minimum((seen.point - scene.low[:, None]).abs(), (seen.point - scene.high[:, None]).abs())
    assert on_side[..., :2].amin(dim=2)[wall | poster].max() < 1e-3
    for slot in range(SLOTS):
        of_it = seen.surface == seen.surface.max() - SLOTS + 1 + slot
        away = (seen.point[..., :2] - scene.place[:, slot, None]).norm(dim=2)
        assert away[of_it].max() < 0.6
        assert (seen.label == FIRST_SOLID + scene.kind[:, slot, None])[of_it].all()
    assert (seen.facing > -1e-5).all()
    # The distance is along the camera's axis: a plane that faces the camera is equally far everywhere.
    directions = camera_rays(scene, (64, 80), False, draws)
    axis = F.normalize(directions.mean(dim=1), dim=1)
    along = ((seen.point - scene.camera[:, None]) * axis[:, None]).sum(dim=2)
    assert torch.allclose(along, seen.distance, atol=1e-3)


def test_a_patch_shows_its_solid_in_the_middle() -> None:
    draws, kinds = Draws(0, 0, torch.arange(80)), torch.arange(80) % 4
    scene = furnished(kinds, draws)
    seen = cast(scene, camera_rays(scene, (32, 32), True, draws))
    middle = seen.label.view(-1, 32, 32)[:, 15, 15]
    assert (middle == FIRST_SOLID + kinds).float().mean() > 0.9


def test_what_each_modality_tells() -> None:
    draws = Draws(0, 0, torch.arange(60))
    scene = furnished(torch.arange(60) % 4, draws)
    bare = cast(scene, camera_rays(scene, (64, 80), False, draws))
    seen = hung(scene, bare, draws)
    with_posters, without = pictures(scene, seen, (64, 80), draws), pictures(scene, bare, (64, 80), draws)
    changed = {name: (with_posters[name] != without[name]).flatten(1).any(dim=1) for name in with_posters}
    hangs = (seen.label == POSTER).any(dim=1)
    assert hangs.float().mean() > 0.8
    assert not changed["depth"].any()
    # Posters in colour only, in infrared only and in both.
    assert 0.05 < (changed["rgb"] & ~changed["ir"]).float().mean() < 0.5
    assert 0.05 < (changed["ir"] & ~changed["rgb"]).float().mean() < 0.5
    assert (changed["rgb"] & changed["ir"]).any()
    depth = with_posters["depth"][:, 0].flatten(1).double() / 1000
    measured = depth > 0
    assert 0.02 < (~measured).double().mean() < 0.08
    error = (depth - seen.distance)[measured]
    assert error.mean().abs() < 0.005
    near, far = (seen.distance[measured] < 2), (seen.distance[measured] > 4)
    assert error[near].std() < 0.05 < error[far].std()
    bright = with_posters["ir"][:, 0].flatten(1).double()
    assert bright[seen.distance < 2].mean() > 1.4 * bright[seen.distance > 4].mean()


def test_details_name_the_variant() -> None:
    assert tiny("patches").details() == {"variant": "patches", "data_seed": 0}
    assert Rooms().details() == {"variant": "segmentation", "data_seed": 0}


def test_wrong_inputs() -> None:
    with pytest.raises(UserError, match=r"Rooms's val_size is 3, but every split needs a sample of each solid"):
        tiny(val_size=3)
    with pytest.raises(UserError, match="no raw layout"):
        tiny().write_synthetic()
