import pytest
import torch

from mmlab.losses.level_kl import level_kl

MAPS = (4, 3, 2, 5)


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(MAPS, dtype=torch.float64, generator=generator).requires_grad_()
    std = (0.1 + torch.rand(MAPS, dtype=torch.float64, generator=generator)).requires_grad_()
    return mean, std, torch.tensor([1, 3, 7, 11], dtype=torch.uint8)


def test_it_is_torch_s_divergence_from_a_prior_of_that_variance(maps):
    mean, std, level = maps
    ours = torch.distributions.Normal(mean, std)
    prior = torch.distributions.Normal(0.0, level.double().sqrt().view(-1, 1, 1, 1))
    expected = torch.distributions.kl_divergence(ours, prior).flatten(1).sum(dim=1)
    torch.testing.assert_close(level_kl(mean, std, level), expected, rtol=1e-5, atol=0)


def test_it_is_zero_where_the_gaussian_is_the_prior():
    level = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    std = level.sqrt()[:, None].expand(3, 6)
    assert level_kl(torch.zeros(3, 6), std, level).abs().max() < 1e-6
    for mean, width in ((0.1, 1.0), (0.0, 1.1), (0.0, 0.9)):
        assert (level_kl(torch.full((3, 6), mean), width * std, level) > 1e-3).all()


def test_places_add_up(maps):
    mean, std, level = maps
    halves = [level_kl(m, s, level) for m, s in zip(mean.split((1, 4), dim=3), std.split((1, 4), dim=3), strict=True)]
    torch.testing.assert_close(level_kl(mean, std, level), sum(halves))


def test_its_gradients(maps):
    mean, std, level = maps
    rows, prior = len(mean), level.view(-1, 1, 1, 1)
    of_mean, of_std = torch.autograd.grad(level_kl(mean, std, level).mean(), (mean, std))
    torch.testing.assert_close(of_mean, mean.detach() / (prior * rows))
    torch.testing.assert_close(of_std, ((std / prior - std / (std.square() + 1e-8)) / rows).detach())


def test_a_variance_that_vanishes_is_finite():
    assert level_kl(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(1)).isfinite().all()
