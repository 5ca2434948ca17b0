import pytest
import torch

from mmlab.losses.noise_level import noise_level_loss

EVERY = torch.ones(2, 2, dtype=torch.bool)


def test_it_is_the_squared_error_of_the_level():
    x = 2 * torch.tensor([[1.0, 2.0], [5.0, 11.0]]).log()
    assert noise_level_loss(x, torch.tensor([[1, 2], [5, 11]]), EVERY) == pytest.approx(0, abs=1e-6)
    assert noise_level_loss(x, torch.tensor([[2, 2], [2, 9]]), EVERY) == pytest.approx((1 + 9) / 2 + 4 / 2, rel=1e-5)


@pytest.mark.parametrize("saturated", [1000.0, -1000.0])
def test_an_infinite_loss_is_zero_and_has_no_gradient(saturated):
    x = torch.tensor([[saturated, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = noise_level_loss(x, torch.full((2, 2), 3), EVERY)
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert (loss == 0) == (saturated > 0)
    assert bool((gradient == 0).all()) == (saturated > 0)


def test_a_missing_modality_is_left_out():
    x = torch.tensor([[1000.0, 0.0], [0.0, 0.0]], requires_grad=True)
    present = torch.tensor([[False, True], [True, True]])
    levels = torch.tensor([[1, 3], [2, 1]])
    loss = noise_level_loss(x, levels, present)
    assert loss == 1 + 4 / 2
    (gradient,) = torch.autograd.grad(loss, x)
    assert gradient[0, 0] == 0
    assert noise_level_loss(x, levels, present, torch.tensor([2.0, 4.0])) == 1 / 2 + 4 / 4
