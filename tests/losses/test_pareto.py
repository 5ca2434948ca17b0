import pytest
import torch

from mmlab.losses.pareto import normalisers, pareto_weight


def weight(first, second, losses):
    rows = torch.stack([torch.as_tensor(first), torch.as_tensor(second)]).double()
    return float(pareto_weight(rows @ rows.T, torch.tensor(losses, dtype=torch.float64)))


@pytest.fixture
def random():
    return torch.randn(2, 9, generator=torch.Generator().manual_seed(1))


def test_equal_losses_with_orthogonal_gradients_weigh_the_same():
    assert weight([3.0, 0.0], [0.0, 0.1], [0.7, 0.7]) == pytest.approx(0.5)


def test_the_larger_loss_weighs_more():
    assert weight([3.0, 0.0], [0.0, 0.1], [3.0, 1.0]) == pytest.approx(0.9)


@pytest.mark.parametrize("losses", [[100.0, 1.0], [1.0, 100.0]])
def test_between_the_ends_nothing_is_clipped(losses):
    found = weight([1.0, 0.0], [0.0, 1.0], losses)
    assert found == pytest.approx(losses[0] ** 2 / (losses[0] ** 2 + losses[1] ** 2), rel=1e-9)
    assert 0 < min(found, 1 - found) < 0.001


def test_the_tasks_can_be_exchanged(random):
    assert weight(random[0], random[1], [2.0, 0.6]) == pytest.approx(1 - weight(random[1], random[0], [0.6, 2.0]))
    same = [0.5, 2.0]
    assert weight([1.0, 0.0], [1.0, 0.0], same) == pytest.approx(1 - weight([1.0, 0.0], [1.0, 0.0], same[::-1]))


def test_the_gradients_scale_has_no_effect_and_their_normaliser_grows_with_the_loss(random):
    plain = weight(random[0], random[1], [2.0, 0.6])
    assert 0.001 < plain < 0.999
    assert weight(65536 * random[0], 1e-3 * random[1], [2.0, 0.6]) == pytest.approx(plain)
    products = random @ random.T
    once, twice = (normalisers(products, torch.tensor([2.0 * k, 0.6])) for k in (1, 2))
    torch.testing.assert_close(twice / once, torch.tensor([2.0, 1.0]))


def test_it_makes_the_weighted_sum_shortest(random):
    losses = torch.tensor([2.0, 0.6])
    h = random / (losses * random.norm(dim=1))[:, None]
    best = weight(random[0], random[1], losses.tolist())
    tried = torch.linspace(0, 1, 2001)
    lengths = (tried[:, None] * h[0] + (1 - tried[:, None]) * h[1]).norm(dim=1)
    assert float(tried[lengths.argmin()]) == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize(
    ("first", "second", "losses", "expected"),
    [
        ([1.0, 0.0], [2.0, 0.0], [2.0, 1.0], 0.999),
        ([1.0, 0.0], [2.0, 0.0], [1.0, 2.0], 0.001),
        ([1.0, 0.0], [0.0, 0.0], [1.0, 1.0], 0.999),  # the second gradient vanishes
        ([1.0, 0.0], [0.0, 1.0], [1.0, 0.0], 0.999),  # the second loss
        ([0.0, 0.0], [0.0, 1.0], [1.0, 1.0], 0.001),
        ([0.0, 0.0], [0.0, 0.0], [1.0, 1.0], 0.999),
        ([float("inf"), 0.0], [0.0, 1.0], [1.0, 1.0], 0.999),
        ([1.0, 0.0], [0.0, float("inf")], [1.0, 1.0], 0.001),
        ([1.0, 0.0], [0.0, float("nan")], [1.0, 1.0], 0.001),
    ],
)
def test_the_ends_and_what_the_released_code_divides_by_zero(first, second, losses, expected):
    assert weight(first, second, losses) == pytest.approx(expected)
