import math

import pytest
import torch

from mmlab.losses.cpc import cpc


def pair(samples, width=4):
    return torch.randn(2, samples, width, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("over", ["prediction", "target"])
def test_one_sample_is_exactly_zero(over):
    x, g = both = pair(1)
    loss = cpc(x, g, over)
    assert loss == 0
    assert (torch.autograd.grad(loss, both)[0] == 0).all()


def test_identical_samples_tell_nothing():
    x, g = torch.randn(2, 1, 3, dtype=torch.float64)
    loss = cpc(x.expand(6, 3), g.expand(6, 3))
    assert float(loss) == pytest.approx(math.log(6), abs=1e-12)


@pytest.mark.parametrize("over", ["prediction", "target"])
def test_it_lies_between_its_bounds(over):
    low, high = (math.log(1 + 4 * math.exp(2 * sign)) for sign in (-1, 1))
    for _ in range(20):
        x, g = pair(5, 2)
        assert low <= cpc(x, g, over) <= high
    best = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert float(cpc(best, best, over)) == pytest.approx(math.log(1 + math.exp(-2)))
    assert float(cpc(best, -best, over)) == pytest.approx(math.log(1 + math.exp(2)))


def test_only_directions_count_and_no_order():
    x, g = pair(5)
    scales, order = torch.rand(2, 5, 1, dtype=torch.float64) + 0.1, torch.randperm(5)
    torch.testing.assert_close(cpc(x * scales[0], g * scales[1]), cpc(x, g))
    torch.testing.assert_close(cpc(x[order], g[order]), cpc(x, g))


@pytest.mark.parametrize("over", ["prediction", "target"])
def test_among_what_the_right_one_is_found(over):
    x, g = pair(5)
    own, other = (x, g) if over == "prediction" else (g, x)
    each = []
    for i in range(5):
        cosines = [own[i] @ other[j] / (own[i].norm() * other[j].norm()) for j in range(5)]
        each.append(sum(cosine.exp() for cosine in cosines).log() - cosines[i])
    torch.testing.assert_close(cpc(x, g, over), sum(each) / 5)


def test_the_directions_are_each_other_with_roles_changed():
    x, g = pair(5)
    torch.testing.assert_close(cpc(x, g, "target"), cpc(g, x, "prediction"))
    assert abs(cpc(x, g, "target") - cpc(x, g)) > 1e-3


@pytest.mark.parametrize("over", ["prediction", "target"])
def test_only_samples_that_take_part_are_compared(over):
    x, g = both = pair(6)
    kept = torch.tensor([True, False, True, True, False, True])
    loss = cpc(x, g, over, kept)
    torch.testing.assert_close(loss, cpc(x[kept], g[kept], over))
    (gradient,) = torch.autograd.grad(loss, both)
    assert (gradient[:, ~kept] == 0).all()
    assert (gradient[:, kept] != 0).any()
    everyone = torch.ones(6, dtype=torch.bool)
    torch.testing.assert_close(cpc(x, g, over, everyone), cpc(x, g, over))


@pytest.mark.parametrize("count", [0, 1])
def test_no_sample_or_one_that_takes_part_is_zero(count):
    x, g = both = pair(4)
    loss = cpc(x, g, kept=torch.arange(4) < count)
    assert loss == 0
    assert (torch.autograd.grad(loss, both)[0] == 0).all()


def test_half_precision_and_zero_rows_give_finite_numbers():
    x, g = torch.randn(2, 4, 3, dtype=torch.bfloat16)
    x[1] = 0
    g[2] = 0
    x, g = x.requires_grad_(), g.requires_grad_()
    loss = cpc(x, g)
    assert loss.dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (x, g)))
