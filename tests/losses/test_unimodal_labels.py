import torch

from mmlab.losses.unimodal_labels import (
    centres,
    closeness,
    label_weights,
    mixed_labels,
    moved_labels,
    weighted_errors,
)

KNOWN = torch.ones(5, dtype=torch.bool)
BANK = torch.tensor([[1.0, 0.0], [3.0, 2.0], [10.0, 10.0], [-1.0, -1.0], [0.0, 4.0]])
LABELS = torch.tensor([1.0, 2.0, 0.0, -1.0, -3.0])


def test_centres_are_the_means_of_both_sides_and_zero_is_on_none():
    both, found = centres(BANK, LABELS, KNOWN, exclude_zero=True)
    torch.testing.assert_close(both, torch.tensor([[2.0, 1.0], [-0.5, 1.5]]))
    assert found.all()
    both, _ = centres(BANK, LABELS, KNOWN, exclude_zero=False)
    torch.testing.assert_close(both, torch.tensor([[14 / 3, 4.0], [-0.5, 1.5]]))


def test_an_empty_side_is_said_and_no_nan():
    both, found = centres(BANK, LABELS.abs(), KNOWN, exclude_zero=True)
    assert found.tolist() == [True, False]
    assert (both[1] == 0).all()
    both, found = centres(BANK, LABELS, LABELS > 1, exclude_zero=True)  # the others lack the modality
    assert found.tolist() == [True, False]
    torch.testing.assert_close(both[0], BANK[1])


def test_closeness_is_signed():
    both = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    rows = torch.tensor([[0.0, 5.0], [0.5, 0.0], [-0.5, 0.0], [-1.0, 0.0]])
    torch.testing.assert_close(closeness(rows, both), torch.tensor([0.0, 2.0, -2 / 3, -1.0]))
    torch.testing.assert_close(closeness(both[:1], both), torch.tensor([2 / 1e-8]))  # at the positive one


def test_a_modality_that_is_where_all_are_together_keeps_the_label():
    multimodal = torch.tensor([2.0, -1.0, 0.5])
    fused = torch.tensor([0.7, -0.3, 1.2])
    torch.testing.assert_close(moved_labels(multimodal, fused[None], fused)[0], multimodal)


def test_a_label_moves_by_ratio_and_difference():
    moved = moved_labels(torch.tensor([2.0]), torch.tensor([[1.5], [-0.5]]), torch.tensor([0.5]))
    torch.testing.assert_close(moved, torch.tensor([[0.5 * 6 + 0.5 * 3], [0.5 * -2 + 0.5 * 1]]))


def test_a_label_between_equally_far_centres_is_a_number():
    moved = moved_labels(torch.tensor([2.0]), torch.tensor([[0.0], [1.5]]), torch.tensor([0.0]))
    torch.testing.assert_close(moved, torch.tensor([[1.0], [1.5e8]]))


def test_old_labels_weigh_more_in_later_epochs():
    old, new = torch.tensor([3.0]), torch.tensor([0.0])
    torch.testing.assert_close(mixed_labels(old, new, 2), torch.tensor([1.0]))
    torch.testing.assert_close(mixed_labels(old, new, 3), torch.tensor([1.5]))
    torch.testing.assert_close(mixed_labels(old, new, 9), torch.tensor([2.4]))


def test_the_loss_its_gradient_and_what_a_sample_lacks():
    multimodal = torch.tensor([1.0, 1.0, -2.0, 0.5])
    labels = torch.tensor([[1.0, 3.0, -1.0, 0.0], [2.0, 1.0, -2.0, 0.5]])
    predictions = torch.randn(2, 4).requires_grad_()
    kept = torch.tensor([[True, True, True, False], [True, True, True, True]])
    losses = weighted_errors(predictions, labels, multimodal, kept)
    weights = torch.tanh((labels - multimodal).abs())
    torch.testing.assert_close(label_weights(labels, multimodal), weights)
    expected = (weights * (predictions - labels).abs() * kept).sum(dim=1) / 4
    torch.testing.assert_close(losses, expected)
    (gradient,) = torch.autograd.grad(losses.sum(), predictions)
    torch.testing.assert_close(gradient, weights * (predictions - labels).sign() * kept / 4)
