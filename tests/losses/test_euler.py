import math

import pytest
import torch

from mmlab.losses.euler import euler, phase_loss

GENERATOR = torch.Generator().manual_seed(0)


def phases(samples=5, modalities=2, width=7):
    drawn = torch.rand(samples, modalities, width, generator=GENERATOR, dtype=torch.float64) * math.pi / 2
    return drawn, torch.ones(samples, modalities, dtype=torch.bool)


def test_both_parts_lie_on_the_circle_of_the_amplitude():
    feature = torch.randn(5, 6, generator=GENERATOR, dtype=torch.float64)
    amplitude = torch.tensor([[2.0], [-0.5]], dtype=torch.float64)
    real, imaginary = euler(feature, amplitude)
    torch.testing.assert_close(real**2 + imaginary**2, amplitude.square().expand(2, 3).reshape(1, 6).expand(5, 6))
    torch.testing.assert_close(real[:, :3], 2 * feature[:, :3].cos())  # the first channel's amplitude
    torch.testing.assert_close(imaginary[:, 3:], -0.5 * feature[:, 3:].sin())


def test_the_mapping_repeats_every_two_pi():
    feature = torch.randn(5, 6, generator=GENERATOR, dtype=torch.float64)
    amplitude = torch.ones(6, 1, dtype=torch.float64)
    torch.testing.assert_close(euler(feature + 6 * math.pi, amplitude), euler(feature, amplitude))


@pytest.mark.parametrize("axis", ["batch", "feature"])
@pytest.mark.parametrize("modalities", [2, 3])
def test_the_phase_term_lies_between_its_bounds(axis, modalities):
    values, present = phases(modalities=modalities)
    assert 0 < phase_loss(values, present, axis) < 1
    same = values[:, :1].expand_as(values)
    assert phase_loss(same, present, axis).abs() < 1e-12
    apart = torch.zeros(2, 2, 2)
    apart[0, 0, 0] = apart[0, 1, 1] = apart[1, 0, 1] = apart[1, 1, 0] = 1.0
    assert phase_loss(apart, present[:2, :2], axis) == 1


def test_dead_features_keep_it_from_zero_and_scale_does_not_show():
    values, present = phases(width=8)
    values[:, 1] = 0.3 * values[:, 0]
    assert phase_loss(values, present, "batch").abs() < 1e-12
    values[:, :, :2] = 0
    values.requires_grad_()
    loss = phase_loss(values, present, "batch")
    torch.testing.assert_close(loss, torch.tensor(2 / 8, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(loss, values)
    assert gradient.isfinite().all()
    assert (gradient[:, :, :2] == 0).all()


@pytest.mark.parametrize("axis", ["batch", "feature"])
def test_three_modalities_are_the_mean_over_their_pairs(axis):
    values, present = phases(modalities=3)
    pairs = [phase_loss(values[:, pair], present[:, pair], axis) for pair in ([0, 1], [0, 2], [1, 2])]
    torch.testing.assert_close(phase_loss(values, present, axis), torch.stack(pairs).mean())


@pytest.mark.parametrize("axis", ["batch", "feature"])
def test_a_pair_is_compared_on_the_samples_that_have_both(axis):
    values, present = phases(samples=6)
    present[:2, 0] = False
    expected = phase_loss(values[2:], present[2:], axis)
    torch.testing.assert_close(phase_loss(values, present, axis), expected)

    values, present = phases(modalities=3)
    present[:, 2] = False
    expected = phase_loss(values[:, :2], present[:, :2], axis)
    torch.testing.assert_close(phase_loss(values, present, axis), expected)
    present[:, 1] = False
    assert phase_loss(values, present, axis) == 0
