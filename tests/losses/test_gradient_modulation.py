import math

import pytest
import torch

from mmlab.losses.gradient_modulation import discrepancy_ratios, generalisation_noise, modulation_coefficients


def ratios(sums, counts):
    return discrepancy_ratios(torch.tensor(sums), torch.tensor(counts)).tolist()


def test_two_modalities_compare_their_sums():
    assert ratios([6.0, 2.0], [10.0, 10.0]) == pytest.approx([3, 1 / 3])


def test_more_modalities_compare_to_the_mean_of_the_others():
    assert ratios([6.0, 2.0, 4.0], [10.0, 10.0, 10.0]) == pytest.approx([6 / 3, 2 / 5, 4 / 4])


def test_modalities_of_different_samples_compare_their_means():
    assert ratios([6.0, 2.0], [10.0, 5.0]) == pytest.approx([0.6 / 0.4, 0.4 / 0.6])


def test_a_modality_that_no_sample_has_is_left_out():
    assert ratios([6.0, 0.0, 2.0], [10.0, 0.0, 10.0]) == pytest.approx([3, 1, 1 / 3])
    assert ratios([6.0, 0.0], [10.0, 0.0]) == [1, 1]


def test_who_is_ahead_is_damped():
    k = modulation_coefficients(torch.tensor([3.0, 1 / 3, 1.0]), 0.5, "ogm_ge")
    assert k.tolist() == pytest.approx([1 - math.tanh(1.5), 1, 1])
    torch.testing.assert_close(modulation_coefficients(torch.tensor([3.0, 1 / 3, 1.0]), 0.5, "ogm"), k)


def test_who_is_behind_is_sped_up():
    k = modulation_coefficients(torch.tensor([3.0, 1 / 3, 1.0]), 0.5, "acc")
    assert k.tolist() == pytest.approx([1, 1 + math.tanh(1.5), 1])


@pytest.mark.parametrize("modulation", ["ogm_ge", "ogm", "acc", "noise"])
def test_without_strength_nothing_changes_even_where_a_score_is_zero(modulation):
    rho = discrepancy_ratios(torch.tensor([5.0, 0.0]), torch.tensor([10.0, 10.0]))
    assert modulation_coefficients(rho, 0.0, modulation).tolist() == [1, 1]
    assert modulation_coefficients(rho, 0.5, modulation).isfinite().all()


def test_noise_has_the_deviation_of_the_gradient_and_no_bias():
    gradient = torch.randn(64, 32, 3, 3, generator=torch.Generator().manual_seed(0)) * 0.3 + 5
    noise = generalisation_noise(gradient, torch.Generator().manual_seed(1))
    assert noise.shape == gradient.shape
    assert noise.std().item() == pytest.approx(gradient.std().item(), rel=0.02)
    assert abs(noise.mean().item()) < 4 * 0.3 / math.sqrt(gradient.numel())
    # A normal distribution, not only one of the right width.
    assert (noise.abs() < gradient.std()).float().mean().item() == pytest.approx(0.6827, abs=0.01)


def test_a_gradient_of_zeros_gets_1e_8():
    noise = generalisation_noise(torch.zeros(100, 100), torch.Generator().manual_seed(1))
    assert noise.std().item() == pytest.approx(1e-8, rel=0.05)


def test_a_single_number_has_no_deviation():
    assert generalisation_noise(torch.ones(1), torch.Generator().manual_seed(1)).abs().item() < 1e-7
