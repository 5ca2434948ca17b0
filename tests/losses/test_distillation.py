import pytest
import torch

from mmlab.losses.distillation import decision_divergence, feature_distillation, number_divergence


def logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_equals_its_definition_with_the_teacher_first():
    student, teacher = logits(5, 4), logits(5, 4, seed=1)
    p, q = (teacher / 3).softmax(1), (student / 3).softmax(1)
    torch.testing.assert_close(decision_divergence(student, teacher, 3.0), 9 * (p * (p / q).log()).sum(1))
    assert not torch.allclose(decision_divergence(teacher, student, 3.0), decision_divergence(student, teacher, 3.0))


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_equal_logits_have_none_whatever_their_scale(scale):
    student = (scale * logits(5, 4)).requires_grad_()
    loss = decision_divergence(student, student.detach(), 2.0).sum()
    loss.backward()
    assert abs(loss.item()) < 1e-12
    assert student.grad.abs().max() < 1e-12


def test_it_knows_the_samples_order():
    student = logits(6, 4)
    assert (decision_divergence(student, student.roll(1, 0), 2.0) > 0).all()


def test_saturated_logits_stay_finite():
    student = torch.tensor([[30.0, -30.0], [-3000.0, 3000.0]], requires_grad=True)
    loss = decision_divergence(student, torch.tensor([[-30.0, 30.0], [3000.0, -3000.0]]), 2.0)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert (loss > 100).all()
    assert student.grad.isfinite().all()


def test_only_the_student_learns():
    student, teacher = logits(5, 4).requires_grad_(), logits(5, 4, seed=1).requires_grad_()
    (
        decision_divergence(student, teacher, 2.0).sum() + number_divergence(student[:, :1], teacher[:, :1]).sum()
    ).backward()
    assert teacher.grad is None
    assert (student.grad != 0).all()


def test_pixels_are_averaged():
    student, teacher = logits(2, 3, 4, 5), logits(2, 3, 4, 5, seed=1)
    pixels = [each.permute(0, 2, 3, 1).reshape(40, 3) for each in (student, teacher)]
    expected = decision_divergence(*pixels, 2.0).view(2, 20).mean(dim=1)
    torch.testing.assert_close(decision_divergence(student, teacher, 2.0), expected)


def test_numbers_are_means_of_gaussians():
    student, teacher = logits(5, 1), logits(5, 1, seed=1)
    gaussians = [torch.distributions.Normal(each[:, 0], 1.0) for each in (teacher, student)]
    torch.testing.assert_close(number_divergence(student, teacher), torch.distributions.kl_divergence(*gaussians))


def test_half_precision_is_computed_in_full():
    student, teacher = (logits(5, 4, seed=seed).bfloat16() for seed in (0, 1))
    assert decision_divergence(student, teacher, 2.0).dtype == torch.float32
    assert number_divergence(student[:, :1], teacher[:, :1]).dtype == torch.float32


def test_features():
    student, teacher = torch.zeros(2, 3).bfloat16(), torch.full((2, 3), 2.0).bfloat16()
    found = feature_distillation(student, teacher)
    assert found.item() == 4
    assert found.dtype == torch.float32
