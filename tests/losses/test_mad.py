from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab.losses.mad import Axis, dense_mad, entropy, mad, margin_weights, similarities

AXES: list[Axis] = ["row", "column"]


def features(samples: int = 6, width: int = 5, teacher_width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return drawn(samples, width).requires_grad_(), drawn(samples, teacher_width), drawn(samples, 3)


@pytest.mark.parametrize("axis", AXES)
def test_it_is_zero_where_the_student_sees_what_the_teacher_sees(axis: Axis) -> None:
    student, teacher, logits = features()
    weights = margin_weights(entropy(logits))
    for factor in (1.0, 7.0):
        assert mad(factor * teacher, teacher, weights, axis).item() == pytest.approx(0, abs=1e-12)
        assert dense_mad(factor * teacher, teacher, weights).item() == pytest.approx(0, abs=1e-12)
    assert mad(student, teacher, weights, axis) > 0.1
    assert mad(student[:1], teacher[:1], torch.ones(1), axis).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("axis", AXES)
def test_rotations_and_the_order_of_the_samples_change_nothing(axis: Axis) -> None:
    student, teacher, logits = features()
    weights = margin_weights(entropy(logits))
    expected = mad(student, teacher, weights, axis)
    turns = [torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))[0] for width in (5, 8)]
    torch.testing.assert_close(mad(student @ turns[0], teacher @ turns[1], weights, axis), expected)
    order = torch.randperm(6)
    torch.testing.assert_close(mad(student[order], teacher[order], weights[order], axis), expected)


def test_with_equal_entropies_rows_and_columns_weigh_the_same() -> None:
    student, teacher, _ = features()
    weights = margin_weights(torch.full((6,), 0.7, dtype=torch.float64))
    expected = (similarities(student) - similarities(teacher)).square().sum() / 6
    for axis in AXES:
        torch.testing.assert_close(mad(student, teacher, weights, axis), expected)


@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])
def test_weights_are_shares_of_the_entropy_whatever_the_logits(size: float) -> None:
    logits = size * torch.tensor([[1.0, -1.0, 0.0], [0.1, 0.0, 0.0], [-1.0, 1.0, 1.0]])
    for given in (logits, logits[:1], logits.half()):
        weights = margin_weights(entropy(given))
        assert weights.isfinite().all()
        assert (weights >= 0).all()
        assert weights.sum().item() == pytest.approx(1)
    expected = torch.distributions.Categorical(logits=logits.double()).entropy()
    torch.testing.assert_close(entropy(logits).double(), expected, rtol=1e-5, atol=1e-6)


def test_without_any_uncertainty_all_samples_weigh_the_same() -> None:
    assert margin_weights(torch.zeros(4)).tolist() == [0.25] * 4


def undivided(student: Tensor, teacher: Tensor, weights: Tensor, blocks: int) -> Tensor:
    """The dense form with every similarity."""
    size = len(student) // blocks
    cuts = [size] * (blocks - 1) + [len(student) - size * (blocks - 1)]
    own, other = ((rows @ rows.T).split(cuts, dim=1) for rows in (student, teacher))
    pairs = zip(own, other, strict=True)
    return sum(
        (
            (weights * (F.normalize(one, dim=1) - F.normalize(two, dim=1)).square().sum(dim=1)).sum()
            for one, two in pairs
        ),
        torch.zeros(()),
    )


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("samples", [3, 8, 17, 40])  # less than the widths, between, and more
def test_the_dense_form_needs_no_matrix_of_all_places(samples: int, blocks: int) -> None:
    student, teacher, logits = features(samples)
    weights = margin_weights(entropy(logits))
    found, expected = dense_mad(student, teacher, weights, blocks), undivided(student, teacher, weights, blocks)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    of_found, of_expected = (torch.autograd.grad(loss, student)[0] for loss in (found, expected))
    torch.testing.assert_close(of_found, of_expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
@pytest.mark.parametrize("apart", [1.0, 1e-2])
def test_single_precision_is_enough_for_the_dense_form(scale: float, apart: float) -> None:
    _, teacher, logits = features(600, 32, 32)
    # As after a ReLU: with one direction that all share, similarities hardly differ.
    teacher = scale * teacher.relu()
    student = (teacher + apart * scale * torch.randn(600, 32, dtype=torch.float64)).requires_grad_()
    weights = margin_weights(entropy(logits))
    loss = dense_mad(student, teacher, weights)
    single = student.detach().float().requires_grad_()
    found = dense_mad(single, teacher.float(), weights.float())
    assert found.item() == pytest.approx(loss.item(), abs=3e-6)
    (exact,), (gradient,) = torch.autograd.grad(loss, student), torch.autograd.grad(found, single)
    assert (gradient - exact).norm() / exact.norm() < (1e-4 if apart == 1.0 else 2e-2)


def test_a_place_without_any_feature_does_no_harm() -> None:
    for samples in (6, 40):
        student, teacher, logits = features(samples)
        zeroed = student.detach().clone()
        zeroed[0] = 0
        zeroed.requires_grad_()
        for loss in (dense_mad(zeroed, teacher, margin_weights(entropy(logits))), mad(zeroed, teacher, logits[:, 0])):
            (gradient,) = torch.autograd.grad(loss, zeroed)
            assert loss.isfinite()
            assert gradient.isfinite().all()
