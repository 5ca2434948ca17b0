import pytest
import torch

from mmlab.draws import Draws


def test_the_same_four_numbers_give_the_same_draw():
    index = torch.arange(5)
    assert torch.equal(Draws(3, 7, index).uniform("a", 4), Draws(3, 7, index).uniform("a", 4))


def test_a_draw_ignores_the_rest_of_the_batch():
    whole = Draws(3, 7, torch.arange(100))
    part = Draws(3, 7, torch.tensor([42, 7, 99]))
    assert torch.equal(part.uniform("a", 6), whole.uniform("a", 6)[[42, 7, 99]])
    assert torch.equal(part.normal("a", 6), whole.normal("a", 6)[[42, 7, 99]])
    assert torch.equal(part.field("a", 7), whole.field("a", 7)[[42, 7, 99]])


def test_each_of_seed_epoch_index_name_and_count_matters():
    index = torch.arange(1000)
    base = Draws(0, 0, index).uniform("a", 2)
    others = [
        Draws(1, 0, index).uniform("a", 2),
        Draws(0, 1, index).uniform("a", 2),
        Draws(0, 0, index + 1).uniform("a", 2),
        Draws(0, 0, index).uniform("b", 2),
        base.roll(1, dims=1),
    ]
    for other in others:
        # 24 bits: two of 2000 independent draws agree once in 8000 tries.
        assert (base == other).sum() <= 1
        correlation = torch.corrcoef(torch.stack((base.flatten(), other.flatten())))[0, 1]
        assert correlation.abs() < 0.1


def test_uniform_is_uniform():
    draws = Draws(1, 2, torch.arange(2000)).uniform("a", 50)
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws, bins=20, min=0, max=1)
    # Chi-squared with 19 degrees of freedom exceeds 43.8 once in a thousand.
    assert ((counts - 5000).square() / 5000).sum() < 43.8
    neighbours = torch.corrcoef(draws.T)[0, 1:]
    assert neighbours.abs().max() < 0.1


def test_the_bits_stay_what_they_were():
    draws = Draws(3, 7, torch.tensor([0, 41]))
    expected = [[4800797, 9731405, 4112956], [3419785, 9460372, 9784543]]
    assert (draws.uniform("a", 3) * 2**24).tolist() == expected


@pytest.mark.parametrize("kind", ["normal", "field"])
def test_normal_is_normal(kind):
    draws = getattr(Draws(1, 2, torch.arange(2000)), kind)("a", 50)
    assert torch.isfinite(draws).all()
    assert abs(draws.mean().item()) < 0.015
    assert abs(draws.std().item() - 1) < 0.01
    for bound, share in ((0.0, 0.5), (1.0, 0.8413), (2.0, 0.9772)):
        assert abs((draws < bound).float().mean().item() - share) < 0.006


def test_the_two_halves_of_a_field_are_independent():
    draws = Draws(1, 2, torch.arange(5000)).field("a", 20)
    for power in (1, 2):  # they share their radius: squares would show it
        assert torch.corrcoef(draws.pow(power).T).fill_diagonal_(0).abs().max() < 0.08
