import pytest
import torch
from torch import nn

from mmlab.draws import Draws
from mmlab.networks.probabilistic import ProbabilisticBlock, sample


def alone(rows, gradient):
    return rows


@pytest.fixture
def block():
    return ProbabilisticBlock(6).double()


def test_it_is_a_layer_and_a_batch_normalisation_for_each(block):
    maps = torch.randn(4, 6, 3, 2, dtype=torch.float64)
    found = block(maps, alone)
    for branch, own in zip((block.mean, block.log_variance), found, strict=True):
        norm = nn.BatchNorm2d(6).double()
        layer = nn.Conv2d(6, 6, kernel_size=1).double()
        with torch.no_grad():
            layer.weight.copy_(branch.linear.weight[:, :, None, None])
            layer.bias.copy_(branch.linear.bias)
        torch.testing.assert_close(own, norm(layer(maps)))
        torch.testing.assert_close(branch.norm.running_mean, norm.running_mean)
        torch.testing.assert_close(branch.norm.running_var, norm.running_var)


def test_vectors_are_maps_of_one_place(block):
    vectors = torch.randn(5, 6, dtype=torch.float64)
    for own, maps in zip(block(vectors, alone), block(vectors[:, :, None, None], alone), strict=True):
        assert own.shape == (5, 6)
        torch.testing.assert_close(own, maps[:, :, 0, 0])


def test_parameters():
    both = ProbabilisticBlock(512)
    for branch in (both.mean, both.log_variance):
        assert sum(parameter.numel() for parameter in branch.parameters()) == 263_680


def test_spread_starts_near_one(block):
    mean, log_variance = block(torch.randn(64, 6, dtype=torch.float64), alone)
    for each in (mean, log_variance):
        torch.testing.assert_close(each.mean(dim=0), torch.zeros(6, dtype=torch.float64))
        assert each.std(dim=0).sub(1).abs().max() < 0.05


def test_the_bias_that_the_normalisation_takes_away_stays(block):
    mean, log_variance = block(torch.randn(5, 6, dtype=torch.float64), alone)
    (mean.square().sum() + log_variance.sum()).backward()
    for branch in (block.mean, block.log_variance):
        assert torch.equal(branch.linear.bias.grad, torch.zeros(6, dtype=torch.float64))


def test_samples():
    mean, log_variance = torch.randn(2, 4000, 3, 2, 2, dtype=torch.float64)
    mean.requires_grad_()
    log_variance.requires_grad_()
    index = torch.arange(4000)
    given = sample(mean, log_variance, Draws(1, 0, index))
    torch.testing.assert_close(sample(mean, log_variance, Draws(1, 0, index)), given)
    assert (sample(mean, log_variance, Draws(1, 1, index)) != given).all()
    eps = ((given - mean) / (log_variance / 2).exp()).detach()
    assert eps.mean().abs() < 0.02
    assert eps.std() == pytest.approx(1, abs=0.02)
    # Every place has a draw of its own.
    assert torch.corrcoef(eps.flatten(1).T).sub(torch.eye(12)).abs().max() < 0.08
    given.sum().backward()
    assert torch.equal(mean.grad, torch.ones_like(mean))
    torch.testing.assert_close(log_variance.grad, eps * (log_variance.detach() / 2).exp() / 2)


def test_in_half_precision_the_gaussian_is_not():
    block = ProbabilisticBlock(6)
    with torch.autocast("cpu", torch.bfloat16):
        mean, log_variance = block(torch.randn(5, 6), alone)
    assert mean.dtype == log_variance.dtype == torch.float32
