from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mmlab.losses.distillation import feature_distillation, logit_distillation


@pytest.mark.parametrize("shape", [(5, 4), (2, 4, 3, 6)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_logits_divergence_is_torch_s_at_every_place(shape: tuple[int, ...], temperature: float) -> None:
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    rows = [logits.movedim(1, -1).flatten(0, -2) / temperature for logits in (student, teacher)]
    expected = F.kl_div(rows[0].log_softmax(1), rows[1].softmax(1), reduction="batchmean") * temperature**2
    torch.testing.assert_close(logit_distillation(student, teacher, temperature), expected)
    assert logit_distillation(teacher + 3, teacher, temperature).item() == pytest.approx(0, abs=1e-12)


def test_saturated_logits_in_half_precision() -> None:
    student, teacher = torch.tensor([[0.0, 900.0]]).bfloat16(), torch.tensor([[900.0, 0.0]]).bfloat16()
    assert logit_distillation(student, teacher, 1.0).item() == pytest.approx(900, rel=0.01)


def test_features() -> None:
    student, teacher = torch.zeros(2, 3).bfloat16(), torch.full((2, 3), 2.0).bfloat16()
    found = feature_distillation(student, teacher)
    assert found.item() == 4
    assert found.dtype == torch.float32
