import pytest
import torch
import torch.nn.functional as F

from mmlab.errors import UserError
from mmlab.losses.late_fusion import late_fusion_losses, mean_over, weights_of_unimodal


def cross_entropy(logits, target):
    return F.cross_entropy(logits, target, reduction="none")


def test_each_modality_is_averaged_over_the_samples_that_have_it():
    torch.manual_seed(0)
    unimodal, fused = torch.randn(2, 4, 3), torch.randn(4, 3)
    target = torch.tensor([0, 1, 2, 0])
    present = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
    ce_fused, ce_unimodal = late_fusion_losses(fused, unimodal, target, present, cross_entropy)
    torch.testing.assert_close(ce_fused, F.cross_entropy(fused, target))
    torch.testing.assert_close(ce_unimodal[0], F.cross_entropy(unimodal[0], target))
    torch.testing.assert_close(ce_unimodal[1], F.cross_entropy(unimodal[1][[0, 2]], target[[0, 2]]))


def test_a_modality_that_nobody_has_costs_nothing_but_keeps_its_gradient():
    unimodal = torch.randn(2, 3, 4, requires_grad=True)
    present = torch.tensor([[True, False]] * 3)
    _, ce = late_fusion_losses(unimodal[0], unimodal, torch.tensor([0, 1, 2]), present, cross_entropy)
    assert ce[1] == 0
    (gradient,) = torch.autograd.grad(ce[1], unimodal)
    assert gradient.abs().sum() == 0


def test_half_precision_logits_give_float32_losses():
    unimodal = torch.randn(2, 3, 4).bfloat16()
    ce_fused, ce = late_fusion_losses(
        unimodal[0], unimodal, torch.tensor([0, 1, 2]), torch.ones(3, 2, dtype=torch.bool), cross_entropy
    )
    assert ce_fused.dtype == ce.dtype == torch.float32


def test_mean_over_nothing_is_zero():
    assert mean_over(torch.ones(3), torch.zeros(3, dtype=torch.bool)) == 0


def test_unimodal_weights():
    assert weights_of_unimodal(None, ["a", "b"]).tolist() == [1, 1]
    assert weights_of_unimodal([0, 2], ["a", "b"]).tolist() == [0, 2]


@pytest.mark.parametrize("given", [[1.0], [1.0, -1.0], [1.0, float("nan")]])
def test_unimodal_weights_that_do_not_fit(given):
    with pytest.raises(UserError, match="audio, visual"):
        weights_of_unimodal(given, ["audio", "visual"])
