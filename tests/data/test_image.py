import pytest
import torch

from mmlab.data.image import (
    Normalise,
    RandomClipCropFlip,
    RandomCropFlip,
    RandomResizedCropFlip,
    RandomShift,
    RandomShiftFlip,
)
from mmlab.draws import Draws


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def batch_draws(batch: int, epoch: int = 0) -> Draws:
    return Draws(0, epoch, torch.arange(batch))


def test_normalise_of_clips_goes_by_the_second_axis():
    raw = pixels(2, 3, 4, 5, 6)
    normal = Normalise((10.0, 20.0, 30.0), (2.0, 4.0, 8.0))(raw, None)
    torch.testing.assert_close(normal[:, 2], (raw[:, 2].float() - 30.0) / 8.0)
    assert normal.dtype == torch.float32


def test_shift_is_off_in_evaluation():
    raw = pixels(3, 1, 8, 8)
    torch.testing.assert_close(RandomShift(2, (5.0,), (2.0,))(raw, None), Normalise((5.0,), (2.0,))(raw, None))


def test_shift_moves_by_whole_pixels_and_uses_every_move():
    field = (torch.arange(12)[:, None] * 12 + torch.arange(12)).to(torch.uint8)
    moved = RandomShift(2, (0.0,), (1.0,))(field.expand(400, 1, 12, 12), batch_draws(400))
    # The middle is out of reach of the edges: the value found there tells where it came from.
    rows, columns = moved[:, 0, 6, 6].long() // 12 - 6, moved[:, 0, 6, 6].long() % 12 - 6
    assert set(rows.tolist()) == set(columns.tolist()) == {-2, -1, 0, 1, 2}
    for sample, row, column in zip(moved, rows.tolist(), columns.tolist(), strict=True):
        down, right = (torch.arange(12) + row).clamp(0, 11), (torch.arange(12) + column).clamp(0, 11)
        torch.testing.assert_close(sample[0], field[down][:, right].float())


def test_shift_moves_the_frames_of_a_sample_together():
    still = pixels(4, 1, 1, 9, 9).expand(4, 1, 5, 9, 9)
    moved = RandomShift(3, (0.0,), (1.0,))(still, batch_draws(4))
    assert moved.shape == (4, 1, 5, 9, 9)
    torch.testing.assert_close(moved, moved[:, :, :1].expand_as(moved))


def test_shift_depends_on_sample_and_epoch_only():
    raw, shift = pixels(6, 2, 10, 10), RandomShift(3, (0.0,), (1.0,))
    whole = shift(raw, batch_draws(6))
    part = shift(raw[[4, 1]], Draws(0, 0, torch.tensor([4, 1])))
    torch.testing.assert_close(part, whole[[4, 1]])
    assert (shift(raw, batch_draws(6, epoch=1)) != whole).any()


def test_shift_flip_is_off_in_evaluation():
    raw = pixels(3, 2, 8, 8)
    changed = RandomShiftFlip(2, 2, (5.0,), (2.0,), turned=0)(raw, None)
    torch.testing.assert_close(changed, Normalise((5.0,), (2.0,))(raw, None))


def test_shift_flip_mirrors_half_of_the_time_and_moves_by_whole_steps():
    field = (torch.arange(15)[:, None] * 15 + torch.arange(15)).to(torch.uint8)
    changed = RandomShiftFlip(1, 2, (0.0,), (1.0,))(field.expand(300, 1, 15, 15), batch_draws(300))[:, 0].long()
    mirrored = changed[:, 7, 7] > changed[:, 7, 8]
    assert 0.4 < mirrored.float().mean() < 0.6
    # The middle of an odd width is its own mirror image.
    rows, columns = changed[:, 7, 7] // 15 - 7, changed[:, 7, 7] % 15 - 7
    assert set(rows.tolist()) == set(columns.tolist()) == {-2, 0, 2}
    for sample, flip, row, column in zip(changed, mirrored, rows, columns, strict=True):
        down, right = (torch.arange(15) + row).clamp(0, 14), torch.arange(15)
        across = ((right.flip(0) if flip else right) + column).clamp(0, 14)
        torch.testing.assert_close(sample, field[down][:, across].long())


def test_streams_of_two_resolutions_stay_aligned():
    coarse = pixels(20, 3, 6, 8)
    fine = coarse.repeat_interleave(2, -1).repeat_interleave(2, -2)
    one = RandomShiftFlip(1, 1, (0.0,), (1.0,), draw="scene")(coarse, batch_draws(20))
    two = RandomShiftFlip(1, 2, (0.0,), (1.0,), draw="scene")(fine, batch_draws(20))
    torch.testing.assert_close(one.repeat_interleave(2, -1).repeat_interleave(2, -2), two)
    other = RandomShiftFlip(1, 1, (0.0,), (1.0,), draw="other")(coarse, batch_draws(20))
    assert (one != other).any()


def displacement(frame: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
    """The whole pixels (x, y) that the brightest spot of each frame (B, H, W) moves: (B, 2)."""

    def place(picture: torch.Tensor) -> torch.Tensor:
        spot = picture.flatten(1).argmax(dim=1)
        return torch.stack((spot % picture.shape[2], spot // picture.shape[2]), dim=1)

    return place(following) - place(frame)


def test_flow_of_a_mirrored_clip_is_its_mirrored_flow():
    # A spot that moves by (3, -2) from the first frame to the second, and the flow between them, at the spot.
    clip = torch.zeros(1, 1, 2, 20, 20, dtype=torch.uint8)
    clip[0, 0, 0, 11, 8] = clip[0, 0, 1, 9, 11] = 255
    flow = torch.zeros(1, 2, 1, 20, 20, dtype=torch.int8)
    flow[0, 0, 0, 11, 8], flow[0, 1, 0, 11, 8] = 3, -2
    draws = batch_draws(50)
    seen = RandomShiftFlip(2, 1, (0.0,), (1.0,), draw="scene")(clip.expand(50, 1, 2, 20, 20), draws)[:, 0]
    changed = RandomShiftFlip(2, 1, (0.0,), (1.0,), turned=0, draw="scene")(flow.expand(50, 2, 1, 20, 20), draws)
    moved = displacement(seen[:, 0], seen[:, 1])
    assert set(moved[:, 0].tolist()) == {3, -3}
    assert set(moved[:, 1].tolist()) == {-2}
    at_the_spot = changed[:, :, 0].flatten(2).gather(2, seen[:, 0].flatten(1).argmax(dim=1).expand(2, 50).T[:, :, None])
    torch.testing.assert_close(at_the_spot[:, :, 0], moved.float())


def test_the_lowest_flow_can_change_its_sign():
    lowest = torch.full((20, 2, 1, 4, 4), -128, dtype=torch.int8)
    changed = RandomShiftFlip(1, 1, (0.0,), (1.0,), turned=0)(lowest, batch_draws(20))
    assert set(changed[:, 0].flatten().tolist()) == {-128.0, 128.0}
    assert set(changed[:, 1].flatten().tolist()) == {-128.0}


def test_crop_evaluation_resizes_the_whole_image():
    raw = torch.full((2, 3, 40, 30), 100, dtype=torch.uint8)
    raw[1, :, :20] = 200
    out = RandomResizedCropFlip(10, (0.0,), (1.0,))(raw, None)
    assert out.shape == (2, 3, 10, 10)
    torch.testing.assert_close(out[0], torch.full((3, 10, 10), 100.0))
    torch.testing.assert_close(out[1, 0, [0, 9], 5], torch.tensor([200.0, 100.0]))


def gradients(batch: int, height: int, width: int) -> torch.Tensor:
    """Images whose first channel is the row and whose second is the column, in pixels."""
    rows = torch.arange(height).expand(width, height).T
    columns = torch.arange(width).expand(height, width)
    return torch.stack((rows, columns)).to(torch.uint8).expand(batch, 2, height, width)


def test_crops_have_the_usual_areas_and_ratios():
    side = 16
    out = RandomResizedCropFlip(side, (0.0,), (1.0,))(gradients(500, 100, 80), batch_draws(500))
    # Over a ramp, bilinear sampling is exact inside the image: the slope is the size of the box.
    inside = slice(4, 12)
    heights = out[:, 0, inside].mean(dim=2).diff(dim=1).mean(dim=1) * side
    slopes = out[:, 1, :, inside].mean(dim=1).diff(dim=1).mean(dim=1) * side
    widths = slopes.abs()
    share, ratio = heights * widths / 8000, widths / heights
    assert 0.079 < share.min() < 0.12
    assert 0.8 < share.max() < 1.001
    assert 0.45 < share.mean() < 0.56
    assert ratio.min() == pytest.approx(0.75, abs=0.02)
    assert ratio.max() == pytest.approx(4 / 3, abs=0.03)
    assert 0.4 < (slopes < 0).float().mean() < 0.6
    assert out[:, 0].min() >= 0
    assert out[:, 0].max() <= 99


def test_crop_of_a_narrow_image_stays_inside():
    # No ratio between 3/4 and 4/3 of an area of this size fits: every try fails, or nearly.
    out = RandomResizedCropFlip(8, (0.0,), (1.0,))(gradients(50, 100, 6), batch_draws(50))
    assert out[:, 1].max() <= 5
    assert (out[:, 1].amax(dim=(1, 2)) - out[:, 1].amin(dim=(1, 2)) > 2).all()


def test_crop_averages_where_it_shrinks():
    checks = ((torch.arange(128)[:, None] + torch.arange(128)) % 2 * 255).to(torch.uint8).expand(8, 1, 128, 128)
    out = RandomResizedCropFlip(4, (0.0,), (1.0,))(checks, batch_draws(8))
    assert (out - 127.5).abs().max() < 25


def test_frames_are_picked_from_their_segments():
    raw = torch.arange(10, dtype=torch.uint8).view(1, 10, 1, 1, 1).expand(300, 10, 3, 12, 12)
    transform = RandomResizedCropFlip(4, (0.0,), (1.0,), frames=5)
    centre = transform(raw, None)
    assert centre.shape == (300, 3, 5, 4, 4)
    torch.testing.assert_close(centre[0, 0, :, 0, 0], torch.tensor([1.0, 3.0, 5.0, 7.0, 9.0]))
    picked = transform(raw, batch_draws(300))[:, 0, :, 0, 0].round().long()
    for segment in range(5):
        assert set(picked[:, segment].tolist()) == {2 * segment, 2 * segment + 1}


def test_fewer_stored_frames_are_repeated_in_order():
    raw = torch.arange(2, dtype=torch.uint8).view(1, 2, 1, 1, 1).expand(3, 2, 3, 12, 12)
    out = RandomResizedCropFlip(4, (0.0,), (1.0,), frames=4)(raw, None)
    torch.testing.assert_close(out[0, 0, :, 0, 0], torch.tensor([0.0, 0.0, 1.0, 1.0]))


def test_each_frame_has_its_own_box_and_modalities_can_share_them():
    raw = gradients(6, 64, 64)[:, None].expand(6, 3, 2, 64, 64)
    one = RandomResizedCropFlip(8, (0.0,), (1.0,), frames=3, draw="scene")(raw, batch_draws(6))
    same = RandomResizedCropFlip(8, (0.0,), (2.0,), frames=3, draw="scene")(raw, batch_draws(6))
    other = RandomResizedCropFlip(8, (0.0,), (1.0,), frames=3, draw="other")(raw, batch_draws(6))
    torch.testing.assert_close(one, same * 2)
    assert (one - other).abs().max() > 1
    assert (one[:, :, 0] - one[:, :, 1]).abs().amax(dim=(1, 2, 3)).min() > 0.5


def test_plain_crops_are_windows_from_everywhere_mirrored_half_of_the_time():
    out = RandomCropFlip(8, (0.0,), (1.0,))(gradients(400, 12, 10), batch_draws(400)).long()
    assert out.shape == (400, 2, 8, 8)
    tops, lefts = out[:, 0, 0, 0], out[:, 1].amin(dim=(1, 2))
    assert set(tops.tolist()) == set(range(5))
    assert set(lefts.tolist()) == set(range(3))
    mirrored = out[:, 1, 0, 0] > out[:, 1, 0, 7]
    assert 0.4 < mirrored.float().mean() < 0.6
    steps = torch.arange(8)
    columns = lefts[:, None] + torch.where(mirrored[:, None], steps.flip(0), steps)
    torch.testing.assert_close(out[:, 0], (tops[:, None] + steps)[:, :, None].expand(400, 8, 8))
    torch.testing.assert_close(out[:, 1], columns[:, None, :].expand(400, 8, 8))


def test_plain_crops_of_the_whole_image_differ_by_the_mirror_only():
    raw = pixels(20, 3, 9, 9)
    out = RandomCropFlip(9, (10.0, 20.0, 30.0), (2.0, 4.0, 8.0))(raw, batch_draws(20))
    normal = Normalise((10.0, 20.0, 30.0), (2.0, 4.0, 8.0))(raw, None)
    same = [torch.equal(a, b) for a, b in zip(out, normal, strict=True)]
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(out, normal, strict=True)]
    assert all(one != other for one, other in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)


def test_plain_crops_are_resized_whole_in_evaluation():
    raw = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    raw[1, :, :16] = 200
    out = RandomCropFlip(28, (50.0,), (10.0,))(raw, None)
    torch.testing.assert_close(out[0], torch.full((3, 28, 28), 5.0))
    torch.testing.assert_close(out[1, 0, [0, 27], 5], torch.tensor([15.0, 5.0]))


def test_plain_crops_depend_on_the_sample_and_are_shared_by_name():
    raw = pixels(6, 3, 20, 20)
    scene = RandomCropFlip(8, (0.0,), (1.0,), draw="scene")
    whole = scene(raw, batch_draws(6))
    torch.testing.assert_close(scene(raw[[4, 1]], Draws(0, 0, torch.tensor([4, 1]))), whole[[4, 1]])
    assert (scene(raw, batch_draws(6, epoch=1)) != whole).any()
    torch.testing.assert_close(RandomCropFlip(8, (0.0,), (2.0,), draw="scene")(raw, batch_draws(6)) * 2, whole)
    assert (RandomCropFlip(8, (0.0,), (1.0,), draw="other")(raw, batch_draws(6)) != whole).any()


def test_clips_are_drawn_in_training_and_the_middle_one_in_evaluation():
    raw = torch.arange(3, dtype=torch.uint8).view(1, 3, 1, 1, 1, 1).expand(300, 3, 2, 4, 9, 11)
    transform = RandomClipCropFlip(8, (0.0,), (1.0,))
    drawn = transform(raw, batch_draws(300))
    assert drawn.shape == (300, 2, 4, 8, 8)
    assert torch.equal(drawn, drawn[:, :1, :1, :1, :1].expand_as(drawn))
    assert (drawn[:, 0, 0, 0, 0].long().bincount() > 70).all()
    assert torch.equal(transform(raw, None), torch.ones(300, 2, 4, 8, 8))


def test_clips_are_cut_at_the_centre_in_evaluation_with_statistics_of_their_own():
    raw = gradients(2, 12, 15)[:, None]
    out = RandomClipCropFlip(8, (0.0,), (1.0,), evaluation=((1.0,), (2.0,)))(raw, None)
    torch.testing.assert_close(out, (raw[:, 0, :, 2:10, 3:11] - 1.0) / 2.0)


def test_streams_of_a_clip_share_clip_window_and_mirror_and_flow_is_turned():
    still = gradients(60, 12, 15)  # the row and the column of each pixel
    picture = torch.stack((still, still + 20, still + 40), dim=1)
    flow = picture[:, :, :, None].expand(60, 3, 2, 5, 12, 15)
    draws = batch_draws(60)
    seen = RandomClipCropFlip(8, (0.0,), (1.0,), draw="scene")(picture, draws)
    turned = RandomClipCropFlip(8, (0.0,), (1.0,), turned=0, draw="scene")(flow, draws)
    mirrored = seen[:, 1, 0, 0] > seen[:, 1, 0, 7]
    assert 10 < mirrored.sum() < 50
    sign = torch.where(mirrored, -1.0, 1.0).view(-1, 1, 1, 1)
    for frame in range(5):
        torch.testing.assert_close(turned[:, :1, frame], sign * seen[:, :1])
        torch.testing.assert_close(turned[:, 1:, frame], seen[:, 1:])
    other = RandomClipCropFlip(8, (0.0,), (1.0,), draw="other")(picture, draws)
    assert (other != seen).any()
