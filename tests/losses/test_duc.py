import math

import pytest
import torch

from mmlab.losses import duc
from mmlab.losses.duc import class_means, class_sums, duc_loss, effective_dims, nearest_hits, one_sided_dims


def features(samples=6, width=8, seed=0):
    return torch.randn(samples, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def every(samples=6):
    return torch.ones(samples, dtype=torch.bool)


DIMS = torch.arange(8) % 3 == 0


def judged(values, target, classes):
    """Hits of each dimension, as in the method."""
    sums, counts = class_sums(values, target, classes)
    return nearest_hits(values, target, class_means(sums, counts), counts)


def test_only_the_student_learns_and_only_on_the_chosen_dimensions():
    student, teacher = features().requires_grad_(), features(seed=1).requires_grad_()
    duc_loss(student, teacher, DIMS, 1.0, every()).backward()
    assert teacher.grad is None
    assert (student.grad[:, ~DIMS] == 0).all()
    assert (student.grad[:, DIMS] != 0).all()


def test_the_loss_equals_its_definition():
    student, teacher = features(), features(seed=1)
    scores = student[:, DIMS] @ teacher[:, DIMS].T / 2.0
    expected = -sum(math.log(math.exp(scores[i, i]) / scores[i].exp().sum()) for i in range(6)) / 6
    assert duc_loss(student, teacher, DIMS, 2.0, every()).item() == pytest.approx(expected, rel=1e-12)


def test_the_loss_where_nothing_can_be_told_apart():
    student, teacher, none = features(), features(seed=1), torch.zeros(8, dtype=torch.bool)
    log_b = pytest.approx(math.log(6), rel=1e-12)
    assert duc_loss(student, teacher, none, 1.0, every()).item() == log_b
    assert duc_loss(torch.zeros_like(student), teacher, DIMS, 1.0, every()).item() == log_b
    assert duc_loss(student, teacher[:1].expand(6, 8), DIMS, 1.0, every()).item() == log_b
    assert duc_loss(student[:1], teacher[:1], DIMS, 1.0, every(1)) == 0
    assert duc_loss(100 * student, 100 * student, DIMS, 1e-3, every()) >= 0


def test_huge_features_in_half_precision_stay_finite():
    student = (200 * features()).to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = duc_loss(student, 200 * features(seed=1).to(torch.bfloat16), DIMS, 1.0, every())
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_samples_without_both_modalities_take_no_part():
    student, teacher = features().requires_grad_(), features(seed=1)
    both = torch.tensor([True, False, True, True, False, True])
    loss = duc_loss(student, teacher, DIMS, 1.0, both)
    torch.testing.assert_close(loss, duc_loss(student[both], teacher[both], DIMS, 1.0, every(4)))
    loss.backward()
    assert (student.grad[~both] == 0).all()
    nobody = duc_loss(student, teacher, DIMS, 1.0, ~every())
    assert nobody == 0
    student.grad = None
    nobody.backward()
    assert (student.grad == 0).all()


def test_hits_equal_a_search_sample_by_sample(monkeypatch):
    values, target = features(40, 5), torch.arange(40) % 3
    means = torch.stack([values[target == c].mean(dim=0) for c in range(3)])
    expected = [
        sum(min(range(3), key=lambda c: abs(values[i, d] - means[c, d])) == target[i] for i in range(40))
        for d in range(5)
    ]
    assert judged(values, target, 3).tolist() == expected
    monkeypatch.setattr(duc, "_AT_ONCE", 1)  # sample by sample
    assert judged(values, target, 3).tolist() == expected


def test_shares_of_the_samples_add_up():
    values, target = features(41, 6).float(), torch.arange(41) % 4
    parts = [class_sums(values[k::2], target[k::2], 4) for k in range(2)]
    sums, counts = (sum(part) for part in zip(*parts, strict=True))
    means = class_means(sums, counts)
    hits = sum(nearest_hits(values[k::2], target[k::2], means, counts) for k in range(2))
    assert torch.equal(hits, judged(values, target, 4))


def test_the_split_is_the_same_in_any_unit_and_any_order():
    values, target = features(40, 6), torch.arange(40) % 4
    hits = judged(values, target, 4)
    scale, shift = torch.tensor([0.01, 1, 3, 50, 7, 0.2]), torch.tensor([5, -3, 0, 100, 0.5, -20])
    assert torch.equal(judged(values * scale + shift, target, 4), hits)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(judged(values[order], target[order], 4), hits)


def test_a_class_without_samples_is_nobodys_nearest():
    values, target = features(30, 5), torch.arange(30) % 3
    renamed = torch.tensor([0, 1, 3])[target]
    assert torch.equal(judged(values, renamed, 4), judged(values, target, 3))


def test_a_dead_dimension_falls_to_the_lowest_class():
    values, target = features(30, 5), torch.tensor([0, 1, 2, 2, 2]).repeat(6)
    values[:, 1] = 0
    assert judged(values, target, 3)[1] == (target == 0).sum()


def test_effective_means_strictly_better_than_the_mean():
    assert effective_dims(torch.tensor([3, 5, 4, 4])).tolist() == [False, True, False, False]
    # A third of 10 is no binary fraction: equal dimensions must tie all the same.
    assert not effective_dims(torch.full((7,), 10)).any()
    hits = torch.randint(0, 50, (20, 8), generator=torch.Generator().manual_seed(0))
    assert not effective_dims(hits).all(dim=1).any()


def test_a_pair_never_teaches_both_ways():
    effective = torch.rand(3, 16, generator=torch.Generator().manual_seed(0)) < 0.5
    dims = one_sided_dims(effective)
    assert not (dims & dims.transpose(0, 1)).any()
    assert torch.equal(dims[2, 0], effective[2] & ~effective[0])
    assert not one_sided_dims(effective[:1].expand(3, 16)).any()


def test_equal_features_teach_each_other_nothing():
    values, target = features(40, 16), torch.arange(40) % 4
    every = [judged(each, target, 4) for each in (values, values.clone(), features(40, 16, seed=1))]
    dims = one_sided_dims(effective_dims(torch.stack(every)))
    assert not dims[0, 1].any()
    assert not dims[1, 0].any()
    assert dims[0, 2].any()
    assert torch.equal(dims[0, 2], dims[1, 2])
