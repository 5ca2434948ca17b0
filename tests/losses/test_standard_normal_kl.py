import pytest
import torch

from mmlab.losses.standard_normal_kl import standard_normal_kl


def gaussian(*shape):
    generator = torch.Generator().manual_seed(1)
    mean, log_variance = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return mean.requires_grad_(), log_variance.requires_grad_()


def test_it_is_zero_for_the_standard_normal_alone():
    zero = torch.zeros(3, 4)
    assert torch.equal(standard_normal_kl(zero, zero), torch.zeros(3))
    for mean, log_variance in ((1e-3, 0.0), (0.0, 1e-3), (0.0, -1e-3), (0.0, 3.0), (0.0, -3.0)):
        assert (standard_normal_kl(zero + mean, zero + log_variance) > 0).all()


def test_it_is_torchs():
    mean, log_variance = gaussian(5, 7)
    ours = torch.distributions.Normal(mean, (log_variance / 2).exp())
    theirs = torch.distributions.kl_divergence(ours, torch.distributions.Normal(torch.zeros(()), torch.ones(())))
    torch.testing.assert_close(standard_normal_kl(mean, log_variance), theirs.sum(dim=1))


def test_gradients():
    mean, log_variance = gaussian(4, 6)
    standard_normal_kl(mean, log_variance).mean().backward()
    torch.testing.assert_close(mean.grad, mean.detach() / 4)
    torch.testing.assert_close(log_variance.grad, 0.5 * (log_variance.detach().exp() - 1) / 4)


def test_by_place_it_is_smaller_by_the_number_of_places():
    mean, log_variance = gaussian(3, 5, 2, 4)
    summed, by_place = (standard_normal_kl(mean, log_variance, by_place=each) for each in (False, True))
    torch.testing.assert_close(by_place, summed / 8)
    flat = standard_normal_kl(mean.flatten(1), log_variance.flatten(1))
    torch.testing.assert_close(summed, flat)
    vectors = gaussian(3, 5)
    torch.testing.assert_close(standard_normal_kl(*vectors, by_place=True), standard_normal_kl(*vectors))


@pytest.mark.parametrize("log_variance", [-30.0, -1e4, 30.0])
def test_variances_that_vanish_or_explode_are_finite(log_variance):
    mean = torch.zeros(2, 8, requires_grad=True)
    spread = torch.full((2, 8), log_variance, requires_grad=True)
    loss = standard_normal_kl(mean, spread).mean()
    loss.backward()
    assert loss.isfinite()
    assert mean.grad.isfinite().all()
    assert spread.grad.isfinite().all()
