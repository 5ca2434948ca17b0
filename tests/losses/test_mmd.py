import math

import pytest
import torch

from mmlab.losses.mmd import base_bandwidth, mmd, squared_distances


def features(samples=6, width=8, seed=0):
    return torch.randn(samples, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def defined(one, other):
    """By its definition, pair by pair."""
    both = torch.cat((one, other))
    n = len(both)
    distances = [[((x - y) ** 2).sum() for y in both] for x in both]
    h = sum(sum(row) for row in distances).item() / (n * n - n) / 4

    def kernel(i, j):
        return sum((-distances[i][j] / (h * 2**k)).exp() for k in range(5))

    b = len(one)
    pairs = [(i, j) for i in range(b) for j in range(b)]
    return sum(kernel(i, j) + kernel(b + i, b + j) - kernel(i, b + j) - kernel(b + i, j) for i, j in pairs) / b**2


def test_it_equals_its_definition_and_so_does_its_gradient():
    one, other = features().requires_grad_(), features(seed=1)
    found = mmd(one, other)
    expected = defined(one, other)  # whose width is a number, so that it has no slope
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, one)[0] for value in (found, expected)))


def test_equal_features_in_any_order_have_none():
    one = features().requires_grad_()
    loss = mmd(one, one.detach()[torch.tensor([3, 1, 0, 5, 4, 2])])
    assert abs(loss.item()) < 1e-12
    (gradient,) = torch.autograd.grad(mmd(one, one.detach()), one)
    assert gradient.abs().max() < 1e-12


def test_it_is_symmetric_bounded_and_without_a_unit():
    one, other = features(), 3 + 0.1 * features(seed=1)
    loss = mmd(one, other)
    torch.testing.assert_close(mmd(other, one), loss)
    torch.testing.assert_close(mmd(100 * one, 100 * other), loss)
    torch.testing.assert_close(mmd(one[:, :, None, None], other[:, :, None, None]), loss)
    assert 0 < loss <= 10
    assert 0 < mmd(one, 1e6 + other) <= 10


def test_of_one_row_it_is_a_constant():
    constant = 10 - 2 * sum(math.exp(-(2.0 ** (2 - k))) for k in range(5))
    assert constant == pytest.approx(6.186276, abs=1e-6)
    for seed in (1, 2):
        assert mmd(features(1), features(1, seed=seed)).item() == pytest.approx(constant, rel=1e-12)


def test_rows_that_do_not_count():
    one, other = features().requires_grad_(), features(seed=1)
    kept = torch.tensor([True, False, True, True, False, True])
    loss = mmd(one, other, kept)
    torch.testing.assert_close(loss, mmd(one[kept], other[kept]))
    (gradient,) = torch.autograd.grad(loss, one)
    assert (gradient[~kept] == 0).all()
    assert (gradient[kept] != 0).all()
    assert mmd(one, other, torch.zeros(6, dtype=torch.bool)) == 0


@pytest.mark.parametrize("value", [0.0, 1.0, 123.456])
def test_identical_features_in_the_whole_batch(value):
    one = torch.full((6, 8), value, requires_grad=True)
    loss = mmd(one, one.detach())
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert one.grad.isfinite().all()
    rows = torch.ones(12, dtype=torch.bool)
    distances = squared_distances(torch.cat((one, one)), rows)
    assert base_bandwidth(distances, rows) > 0


def test_half_precision_is_only_where_the_features_come_from():
    one, other = (20 * features(width=64, seed=seed).float() for seed in (0, 1))
    expected = mmd(one.bfloat16().double(), other.bfloat16().double())
    with torch.autocast("cpu", torch.bfloat16):
        found = mmd(one.bfloat16(), other.bfloat16())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def test_close_features_far_from_the_origin_keep_their_digits():
    one, other = features(), features(seed=1)
    expected = mmd(one.float(), other.float())
    torch.testing.assert_close(mmd((1000 + one).float(), (1000 + other).float()), expected, rtol=2e-3, atol=0)


def test_nothing_as_large_as_all_pairs_of_features_is_kept():
    one = features(16, 512).requires_grad_()
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: sizes.append(saved.numel()) or saved, lambda x: x):
        mmd(one, features(16, 512, seed=1))
    assert max(sizes) <= 32 * 512
