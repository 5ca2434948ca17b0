import torch

from mmlab.availability import every_combination, membership
from mmlab.losses.hard_combinations import hardest, mined, variance_sums

EVERY = torch.tensor(every_combination(2))  # 10, 01, 11


def batches():
    """Four batches of log variances; the second has no sample with the first modality alone."""
    generator = torch.Generator().manual_seed(2)
    available = torch.tensor([[1, 0], [0, 1], [1, 1], [1, 0], [0, 1]]).bool().repeat(4, 1, 1)
    available[1] |= torch.tensor([False, True])
    return [(torch.randn(5, 3, generator=generator), mask) for mask in available]


def recorded(given):
    return sum(variance_sums(each, membership(mask, EVERY)) for each, mask in given)


def test_it_is_the_mean_over_all_samples_of_the_warm_up():
    sums = recorded(batches())
    assert sums[1].tolist() == [6, 8, 6]
    each = torch.cat([spread.exp().mean(dim=1) for spread, _ in batches()])
    alone = torch.cat([(mask == EVERY[0]).all(dim=1) for _, mask in batches()])
    torch.testing.assert_close((sums[0] / sums[1])[0], each[alone].double().mean())


def test_the_order_of_the_batches_does_not_matter():
    torch.testing.assert_close(recorded(batches()), recorded(batches()[::-1]))


def test_maps_are_averaged_over_their_places():
    maps, members = torch.randn(5, 3, 2, 4), membership(batches()[0][1], EVERY)
    torch.testing.assert_close(variance_sums(maps, members), variance_sums(maps.flatten(1), members))


def test_a_tie_takes_the_first_and_what_was_never_seen_is_not_taken():
    assert hardest(torch.tensor([[3.0, 6.0, 9.0], [1.0, 2.0, 3.0]]), range(3)) == 0
    assert hardest(torch.tensor([[3.0, 6.0, 9.0], [1.0, 2.0, 3.0]]), [2, 1]) == 2
    assert hardest(torch.tensor([[0.0, 0.1], [0.0, 5.0]]), range(2)) == 1
    assert hardest(torch.zeros(2, 3), range(3)) is None


def test_of_two_modalities_one_alone_is_hard():
    # That with both has the largest variance, but lacks nothing.
    assert mined(torch.tensor([[1.0, 2.0, 30.0], [1.0, 1.0, 3.0]]), 2) == [(False, True)]
    assert mined(torch.zeros(2, 3), 2) == []


def test_of_three_modalities_a_pair_and_its_subsets_are_hard():
    sums = torch.ones(2, 7)
    sums[0, every_combination(3).index((True, False, True))] = 2.0
    sums[0, every_combination(3).index((False, True, False))] = 9.0
    assert mined(sums, 3) == [(True, False, False), (False, False, True), (True, False, True)]
