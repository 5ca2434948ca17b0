import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmlab.data.moving_shapes import CLASSES, FLOW_STD, MOTIONS, PATTERNS, RGB_MEAN, RGB_STD, MovingShapes, filmed
from mmlab.draws import Draws
from mmlab.errors import UserError

SCENES = 48


def tiny(**options) -> MovingShapes:
    return MovingShapes(train_size=36, val_size=12, test_size=24, **options)


def scenes(epoch: int = 0):
    index = torch.arange(SCENES)
    return filmed(index % 12, Draws(0, epoch, index))


def fetched(following: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """The next frame (B, C, H, W) at the places where the flow (B, 2, H, W) sends each pixel, and where those lie."""
    height, width = flow.shape[-2:]
    x, y = torch.arange(width) + flow[:, 0], torch.arange(height)[:, None] + flow[:, 1]
    grid = torch.stack((2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1), dim=-1)
    inside = grid.abs().amax(dim=-1) <= 1
    return F.grid_sample(following, grid, align_corners=True), inside


def warping_error(frame, following, flow, shape, next_shape) -> tuple[torch.Tensor, torch.Tensor]:
    """Grey levels by which the frame and the fetched next frame differ, and which pixels can be compared.

    Those can whose place in the next frame lies wholly on what they are of: the shape, or the ground.
    """
    warped, inside = fetched(following, flow)
    cover, _ = fetched(next_shape[:, None].float(), flow)
    seen = inside & (cover[:, 0] == shape.float())
    return (warped - frame).abs().amax(dim=1), seen


def test_splits_fit_the_spec():
    data = tiny()
    splits = data.splits()
    spec = data.spec(len(splits["train"]))
    assert {name: len(split) for name, split in splits.items()} == {"train": 36, "val": 12, "test": 24}
    assert spec.names == ("flow", "rgb")
    assert spec.task.outputs == 12 == len(set(CLASSES))
    batch = splits["train"].__getitems__([3, 1])
    assert batch.inputs["rgb"].dtype == torch.uint8
    for modality, transform in zip(spec.modalities, data.transforms().values(), strict=True):
        for draws in (None, Draws(0, 0, batch.index)):
            out = transform(batch.inputs[modality.name], draws)
            assert out.shape == (2, *modality.shape)
            assert out.dtype == torch.float32
    assert np.bincount(splits["test"].targets).tolist() == [2] * 12


def test_inputs_are_normalised():
    data = MovingShapes(train_size=240, val_size=12, test_size=12)
    arrays = data.splits()["train"].arrays
    for name, transform in data.transforms().items():
        out = transform(torch.from_numpy(arrays[name]), None).transpose(0, 1).flatten(1)
        assert out.mean(dim=1).abs().max() < 0.15
        assert (out.std(dim=1) - 1).abs().max() < 0.1


def test_the_flow_takes_each_frame_to_the_next():
    seen = scenes()
    for step in range(4):
        now, then = seen.frames[:, :, step], seen.frames[:, :, step + 1]
        error, clear = warping_error(now, then, seen.flow[:, :, step], seen.shape[:, step], seen.shape[:, step + 1])
        assert clear.float().mean() > 0.75
        # What is left is the bilinear interpolation of the pattern.
        assert error[clear].mean() < 1
        assert error[clear].quantile(0.99) < 6
        still, _ = warping_error(now, then, 0 * seen.flow[:, :, step], seen.shape[:, step], seen.shape[:, step + 1])
        on_shape = clear & seen.shape[:, step]
        assert still[on_shape].mean() > 4 * error[on_shape].mean()


def test_the_flow_of_a_mirrored_scene_takes_its_frames_to_the_next():
    seen, data = scenes(), tiny()
    draws = Draws(5, 0, torch.arange(SCENES))
    flow = data.transforms()["flow"](seen.flow, draws) * torch.tensor(FLOW_STD).view(1, 2, 1, 1, 1)
    scale = torch.tensor(RGB_STD).view(1, 3, 1, 1, 1), torch.tensor(RGB_MEAN).view(1, 3, 1, 1, 1)
    frames = data.transforms()["rgb"](seen.frames, draws) * scale[0] + scale[1]
    shape = data.transforms()["rgb"](seen.shape[:, None].float().expand(-1, 3, -1, -1, -1), draws)
    shape = (shape * scale[0] + scale[1])[:, 0] > 0.5
    mirrored = (draws.uniform("scene/flip") < 0.5)[:, 0]
    assert 10 < mirrored.sum() < 38
    for step in range(4):
        error, clear = warping_error(
            frames[:, :, step], frames[:, :, step + 1], flow[:, :, step], shape[:, step], shape[:, step + 1]
        )
        clear = clear & shape[:, step]  # the repeated edge of the ground doesn't move
        assert error[mirrored][clear[mirrored]].mean() < 2
        unturned = flow[:, :, step] * torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
        wrong, _ = warping_error(frames[:, :, step], frames[:, :, step + 1], unturned, shape[:, step], shape[:, step])
        crossing = (torch.arange(SCENES) % 12 // 3 == 2) & mirrored
        assert wrong[crossing][clear[crossing]].mean() > 4 * error[crossing][clear[crossing]].mean()


def test_the_motion_is_that_of_the_class():
    seen, labels = scenes(), torch.arange(SCENES) % 12
    at_shape = seen.flow.where(seen.shape[:, None, :4], torch.nan).flatten(2).nanmean(dim=2)
    spread = seen.flow[:, 0].where(seen.shape[:, :4], 0).flatten(1).amax(dim=1)
    for label, (u, v), widest in zip(labels.tolist(), at_shape.tolist(), spread.tolist(), strict=True):
        name = CLASSES[label].split()[1]
        assert name == MOTIONS[label // 3]
        if name in ("rising", "falling"):
            assert u == pytest.approx(0, abs=1e-5)
            assert 1 <= (v if name == "falling" else -v) <= 2.001
        elif name == "crossing":
            assert v == pytest.approx(0, abs=1e-5)
            assert 1 <= abs(u) <= 2.001
        else:
            assert abs(u) < 0.6
            assert abs(v) < 0.6
            assert widest > 0.3
    crossing = at_shape[labels // 3 == 2, 0]
    assert crossing.min() < 0 < crossing.max()


def test_neither_picture_nor_flow_tells_the_other_half_of_the_class():
    index = torch.arange(SCENES)
    draws = Draws(0, 0, index)
    for pattern in range(3):  # the same draws with another pattern
        labels = torch.full((SCENES,), pattern)
        assert torch.equal(filmed(labels, draws).flow, filmed(0 * labels, draws).flow)
        assert PATTERNS[pattern] == CLASSES[pattern].split()[0]
    for motion in range(1, 4):  # the same draws with another motion
        labels = torch.full((SCENES,), 3 * motion)
        assert torch.equal(filmed(labels, draws).frames[:, :, 2], filmed(0 * labels, draws).frames[:, :, 2])
        assert not torch.equal(filmed(labels, draws).flow, filmed(0 * labels, draws).flow)


def test_data_depend_on_their_seed_and_a_larger_set_begins_with_the_smaller():
    base, larger, other = tiny(), MovingShapes(40, 12, 24), tiny(data_seed=1)
    one = base.splits()
    for name in ("flow", "rgb"):
        array = one["train"].arrays[name]
        assert np.array_equal(array, larger.splits()["train"].arrays[name][:36])
        assert not np.array_equal(array[:12], one["val"].arrays[name])
        assert not np.array_equal(array, other.splits()["train"].arrays[name])


def test_noise_has_its_standard_deviation():
    clean, noisy = tiny().splits()["train"].arrays, tiny(rgb_noise=8.0, flow_noise=0.3).splits()["train"].arrays
    assert (noisy["rgb"].astype(float) - clean["rgb"]).std() == pytest.approx(8.0, rel=0.02)
    assert (noisy["flow"].astype(float) - clean["flow"]).std() == pytest.approx(0.3, rel=0.02)
    assert tiny(rgb_noise=8.0).details() == {"rgb_noise": 8.0, "flow_noise": 0.0, "data_seed": 0}


def test_wrong_options_are_refused():
    with pytest.raises(UserError, match=r"val_size is 5.*12 or more"):
        MovingShapes(val_size=5)
    with pytest.raises(UserError, match="flow_noise is -1"):
        MovingShapes(flow_noise=-1)
    with pytest.raises(UserError, match="no raw layout"):
        tiny().write_synthetic()
