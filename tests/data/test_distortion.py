from itertools import pairwise

import pytest
import torch
from torch import Tensor

from mmlab.data.corruption import Cell, Corruption, Name
from mmlab.data.distortion import blur, drop_steps, occlude, shift_sound
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.types import Batch, Modality
from tests.data.test_corruption import changed_rows, part

IMAGE = Modality("image", "image", (3, 20, 30), (120.0, 110.0, 100.0), (60.0, 50.0, 70.0), 0.0, 255.0)
FRAMES = Modality("frames", "frames", (3, 6, 8, 8))
FLOW = Modality("flow", "flow", (2, 5, 8, 8))
SOUND = Modality("sound", "audio", (1, 10, 40))
POSE = Modality("pose", "sequence", (9, 2))
VOICE = Modality("voice", "sequence", (7, 4), ragged=True)
TEXT = Modality("text", "text", (2, 12), blank=7)
MODALITIES = (IMAGE, FRAMES, FLOW, SOUND, POSE, VOICE, TEXT)
TOUCHED: dict[Name, tuple[str, ...]] = {
    "blur": ("image", "frames"),
    "occlusion": ("image", "frames", "sound"),
    "frame_drop": ("frames", "flow", "pose", "voice"),
    "desync": ("sound",),
    "missing_unequal": tuple(modality.name for modality in MODALITIES),
}
SEVERITIES = (1.0, 2.5, 5.0, 7.5, 10.0)


def batch_of(size: int = 60) -> Batch:
    generator = torch.Generator().manual_seed(0)
    present = torch.rand(size, len(MODALITIES), generator=generator) < 0.8
    present[:, 0] |= ~present.any(dim=1)
    inputs = {modality.name: torch.randn((size, *modality.shape), generator=generator) for modality in MODALITIES}
    inputs["text"] = torch.randint(1, 6, (size, *TEXT.shape), generator=generator)
    steps = torch.arange(7) < torch.randint(1, 8, (size, 1), generator=generator)
    inputs["voice"][..., -1] = 1.0
    inputs["voice"][~steps] = 0.0
    for position, modality in enumerate(MODALITIES):
        inputs[modality.name][~present[:, position]] = 0
    return Batch(inputs, torch.arange(size) % 3, present, torch.arange(100, 100 + size))


def uniform(size: int, count: int) -> Tensor:
    return Draws(0, 0, torch.arange(size)).uniform("any", count)


# What holds for each of them.


@pytest.mark.parametrize("name", TOUCHED)
def test_what_is_touched_and_what_stays_the_same_bits(name: Name) -> None:
    corrupt, batch = Corruption(name, MODALITIES), batch_of()
    assert corrupt.touched == TOUCHED[name]
    before = {key: each.clone() for key, each in batch.inputs.items()}
    out = corrupt(batch, 10.0, 0)
    for position, modality in enumerate(MODALITIES):
        clean, after = batch.inputs[modality.name], out.inputs[modality.name]
        assert torch.equal(clean, before[modality.name])
        assert (after.shape, after.dtype) == (clean.shape, clean.dtype)
        assert not after[~out.present[:, position]].any()
        assert (after is clean) == (modality.name not in corrupt.touched)
        if modality.name in corrupt.touched:
            share = changed_rows(clean, after)[batch.present[:, position]].double().mean()
            # At 10 the first of seven modalities is dropped with probability 1/7, the last one almost always.
            assert (0.02 < share <= 1) if name == "missing_unequal" else (0.25 < share < 0.75)
    nothing = corrupt(batch, 0.0, 0)
    assert all(nothing.inputs[key] is batch.inputs[key] for key in batch.inputs)


@pytest.mark.parametrize("name", TOUCHED)
def test_a_sample_is_the_same_in_every_batch(name: Name) -> None:
    corrupt, batch = Corruption(name, MODALITIES), batch_of()
    whole = corrupt(batch, 5.0, 3)
    for rows in (torch.tensor([5]), torch.randperm(60)[:17], torch.arange(59, -1, -1)):
        apart = corrupt(part(batch, rows), 5.0, 3)
        assert torch.equal(apart.present, whole.present[rows])
        for key in batch.inputs:  # products of matrices may round as the size of the batch has it
            torch.testing.assert_close(apart.inputs[key], whole.inputs[key][rows], atol=1e-5 * (name == "blur"), rtol=0)
    other = corrupt(batch, 5.0, 4)
    assert all((other.inputs[key] != whole.inputs[key]).any() for key in corrupt.touched)


@pytest.mark.parametrize("name", TOUCHED)
def test_severities_are_nested(name: Name) -> None:
    corrupt, batch = Corruption(name, MODALITIES), batch_of()
    outs = list(corrupt.each(batch, [Cell(severity, 1) for severity in SEVERITIES]))
    for weak, strong in pairwise(outs):
        assert not (strong.present & ~weak.present).any()
        for key in corrupt.touched:
            hit, hit_more = (changed_rows(batch.inputs[key], out.inputs[key]) for out in (weak, strong))
            assert not (hit & ~hit_more).any()


@pytest.mark.parametrize("name", [*TOUCHED, "gaussian", "missing"])
def test_several_cells_are_what_each_is_alone(name: Name) -> None:
    corrupt, batch = Corruption(name, MODALITIES), batch_of(12)
    cells = [Cell(severity, seed) for severity in (0.0, 5.0, 10.0) for seed in (0, 1)]
    for cell, together in zip(cells, corrupt.each(batch, cells), strict=True):
        alone = corrupt(batch, cell.severity, cell.noise_seed)
        assert torch.equal(together.present, alone.present)
        assert all(torch.equal(together.inputs[key], alone.inputs[key]) for key in batch.inputs)


@pytest.mark.parametrize(
    ("name", "modalities"),
    [
        ("blur", (SOUND, FLOW)),
        ("occlusion", (POSE, FLOW)),
        ("frame_drop", (IMAGE, SOUND, Modality("one", "frames", (3, 1, 8, 8)))),
        ("desync", (SOUND, IMAGE)),
        ("desync", (FRAMES, VOICE)),
        ("missing_unequal", (SOUND,)),
    ],
)
def test_a_corruption_that_would_change_nothing_is_refused(name: Name, modalities: tuple[Modality, ...]) -> None:
    with pytest.raises(UserError, match=rf"the corruption {name} needs .*{modalities[0].name} \("):
        Corruption(name, modalities)


def test_knowing_that_a_batch_is_complete_ends_with_missing_modalities() -> None:
    batch = batch_of()
    batch.complete = True
    assert Corruption("gaussian", MODALITIES)(batch, 5.0, 0).complete
    assert not Corruption("missing", MODALITIES)(batch, 5.0, 0).complete


# Each by itself.


def test_a_point_becomes_a_normal_density() -> None:
    point = torch.zeros(1, 1, 1, 81, 121)
    point[..., 40, 60] = 1.0
    out = blur(point, 1.0)[0, 0, 0]
    assert out.sum().item() == pytest.approx(1, abs=1e-5)
    for axis, size in enumerate(out.shape):
        place = torch.arange(size) - size // 2
        spread = (out.sum(dim=1 - axis) * place.square()).sum().sqrt()
        assert spread.item() == pytest.approx(0.05 * 81, rel=1e-3)


def test_a_blur_keeps_what_is_even_and_widens_with_severity() -> None:
    torch.testing.assert_close(blur(torch.full((2, 3, 9, 12), 0.7), 1.0), torch.full((2, 3, 9, 12), 0.7))
    noise = torch.randn(4, 3, 96, 96)
    spreads = [blur(noise, severity / 10).std() for severity in SEVERITIES]
    assert all(wide < narrow for narrow, wide in zip([noise.std(), *spreads], spreads, strict=False))


def test_half_precision_blurs_no_other_picture() -> None:
    pictures = torch.randn(2, 3, 16, 20)
    whole = blur(pictures, 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(blur(pictures, 1.0), whole)


def test_what_is_hidden_is_one_rectangle_of_the_right_area_that_grows() -> None:
    ones, u = torch.ones(200, 3, 40, 60), uniform(200, 2)
    before = torch.zeros(200, 40, 60, dtype=torch.bool)
    for severity in SEVERITIES:
        hidden = occlude(ones, u, severity / 10) == 0
        assert torch.equal(hidden.any(dim=1), hidden.all(dim=1))
        hidden = hidden[:, 0]
        rows, columns = hidden.any(dim=2), hidden.any(dim=1)
        assert torch.equal(hidden, rows[:, :, None] & columns[:, None])
        for sides in (rows, columns):
            assert (sides.int().diff(dim=1).abs().sum(dim=1) <= 2).all()
        assert not (before & ~hidden).any()
        assert hidden.double().mean().item() == pytest.approx(severity / 20, abs=0.01)
        before = hidden
    middle = before.double().mean(dim=0)
    assert middle[20, 30] == 1.0
    for edge in (before[:, 0], before[:, -1], before[:, :, 0], before[:, :, -1]):
        assert 0 < edge.any(dim=1).double().mean() < 0.2


def test_frames_share_what_is_hidden() -> None:
    clean = batch_of().inputs["frames"]
    hidden = occlude(clean, uniform(60, 2), 0.5) != clean
    assert torch.equal(hidden.any(dim=(1, 2)), hidden.all(dim=(1, 2)))


def test_a_dropped_step_shows_the_last_one_that_was_kept() -> None:
    steps = torch.arange(6.0).expand(2, 6)[..., None]
    u = torch.tensor([[0.0, 0.9, 0.1, 0.2, 0.9, 0.1], [0.0] * 6])
    shown = drop_steps(steps, u, 0.3, 1, None)[..., 0]
    assert shown.tolist() == [[0, 1, 1, 1, 4, 4], [0] * 6]
    clip = steps[..., 0][:, None, :, None, None].expand(2, 3, 6, 4, 4)
    assert torch.equal(drop_steps(clip, u, 0.3, 2, None)[:, 1, :, 2, 2], shown)
    assert torch.equal(drop_steps(steps, u, 0.0, 1, None), steps)


def test_as_many_steps_are_dropped_as_severity_says() -> None:
    steps = torch.arange(50.0).expand(300, 50)[..., None]
    before = torch.zeros(300, 50, dtype=torch.bool)
    for severity in SEVERITIES:
        dropped = drop_steps(steps, uniform(300, 50), severity / 10, 1, None)[..., 0] != steps[..., 0]
        assert not dropped[:, 0].any()
        assert not (before & ~dropped).any()
        assert dropped[:, 1:].double().mean().item() == pytest.approx(severity / 10, abs=0.02)
        before = dropped


def test_ragged_sequences_keep_their_length_wherever_they_are_filled_up() -> None:
    values = torch.tensor([[0.0, 0.0], [5.0, 1.0], [6.0, 1.0], [7.0, 1.0], [0.0, 0.0]])[None]
    shown = drop_steps(values, torch.zeros(1, 5), 1.0, 1, values[..., -1] != 0)
    assert shown[0].tolist() == [[0.0, 0.0], [5.0, 1.0], [5.0, 1.0], [5.0, 1.0], [0.0, 0.0]]
    batch = batch_of()
    out = Corruption("frame_drop", MODALITIES)(batch, 10.0, 0)
    assert torch.equal(out.inputs["voice"][..., -1], batch.inputs["voice"][..., -1])
    shorter = part(batch, torch.arange(60))
    shorter.inputs["voice"] = shorter.inputs["voice"][:, :5]
    out, short = (Corruption("frame_drop", MODALITIES)(each, 5.0, 0).inputs["voice"] for each in (batch, shorter))
    assert torch.equal(short, out[:, :5])


def test_sound_moves_by_at_most_half_its_length_and_nothing_is_lost() -> None:
    sound = torch.arange(40.0).expand(500, 1, 3, 40)
    u = uniform(500, 1)[:, 0]
    for severity in SEVERITIES:
        out = shift_sound(sound, u, severity / 10)
        assert torch.equal(out.sort(dim=-1).values, sound)
        by = (20 * severity / 10 * (2 * u - 1)).round()
        assert torch.equal(out[:, 0, 0, 0], (-by) % 40)  # what came in at the front
        assert torch.equal(out[3], sound[3].roll(int(by[3]), dims=-1))
    assert by.min() < -17
    assert by.max() > 17


def test_modalities_are_missing_at_unequal_rates() -> None:
    names = ("a", "b", "c", "d")
    modalities = tuple(Modality(name, "vector", (2,)) for name in names)
    size = 6000
    batch = Batch(
        {name: torch.ones(size, 2) for name in names},
        torch.zeros(size),
        torch.ones(size, 4, dtype=torch.bool),
        torch.arange(size),
    )
    unequal = Corruption("missing_unequal", modalities)
    present = unequal(batch, 4.0, 0).present
    gone = 1 - present.double().mean(dim=0)
    # All four are drawn in 0.2 % of the samples, of which one is then left.
    torch.testing.assert_close(gone, 0.4 * torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.double), atol=0.02, rtol=0)
    assert unequal(batch, 10.0, 0).present.any(dim=1).all()
    assert unequal(batch, 10.0, 0).present[:, 3].double().mean() < 0.1
