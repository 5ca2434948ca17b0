import pytest
import torch

from mmlab.errors import UserError
from mmlab.fusion.late import fuse
from mmlab.fusion.static import StaticLateFusion, present_weights, static_weights


def test_weights_sum_to_one():
    assert static_weights(None, ["a", "b"]).tolist() == [0.5, 0.5]
    assert static_weights([1, 3], ["a", "b"]).tolist() == [0.25, 0.75]


@pytest.mark.parametrize("given", [[1.0], [1.0, 0.0], [1.0, float("inf")], [1.0, -1.0]])
def test_weights_that_do_not_fit(given):
    with pytest.raises(UserError, match="audio, visual"):
        static_weights(given, ["audio", "visual"])


def test_weights_are_renormalised_over_present_modalities():
    weights = torch.tensor([0.5, 0.25, 0.25])
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False]])
    expected = [[0.5, 0.25, 0.25], [2 / 3, 0, 1 / 3], [0, 1, 0]]
    torch.testing.assert_close(present_weights(weights, present), torch.tensor(expected))


def test_fuse_is_the_weighted_sum_in_float32():
    logits = torch.randn(2, 3, 4)
    weights = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.25, 0.75]])
    torch.testing.assert_close(fuse(logits, weights), torch.einsum("mbc,bm->bc", logits, weights))
    assert fuse(logits.bfloat16(), weights).dtype == torch.float32
    assert fuse(logits.double(), weights).dtype == torch.float64


def test_a_missing_modality_does_not_reach_the_fused_logits():
    fusion = StaticLateFusion({"a": 3, "b": 5}, outputs=4, weights=[1, 2])
    features = {"a": torch.randn(2, 3), "b": torch.randn(2, 5)}
    present = torch.tensor([[True, True], [True, False]])
    decision = fusion(features, present)
    fused, unimodal, weights = decision.logits, decision.unimodal, decision.weights
    assert unimodal.shape == (2, 2, 4)
    torch.testing.assert_close(weights, torch.tensor([[1 / 3, 2 / 3], [1, 0]]))
    torch.testing.assert_close(fused[1], unimodal[0, 1])
    torch.testing.assert_close(fused[0], (unimodal[0, 0] + 2 * unimodal[1, 0]) / 3)


def test_heads_keep_full_precision_under_autocast():
    fusion = StaticLateFusion({"a": 3, "b": 5}, outputs=4, weights=None)
    with torch.autocast("cpu", torch.bfloat16):
        features = {"a": torch.randn(2, 3).bfloat16(), "b": torch.randn(2, 5).bfloat16()}
        decision = fusion(features, torch.ones(2, 2, dtype=torch.bool))
    assert decision.logits.dtype == decision.unimodal.dtype == torch.float32


def test_one_modality_is_refused():
    with pytest.raises(UserError, match="Unimodal"):
        StaticLateFusion({"audio": 3}, outputs=4, weights=None)
