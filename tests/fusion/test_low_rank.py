import pytest
import torch
import torch.nn.functional as F

from mmlab.errors import UserError
from mmlab.fusion.low_rank import LowRankFusion
from mmlab.fusion.tensor_fusion import outer_product, with_one

WIDTHS = {"text": 3, "audio": 5, "vision": 4}


def features_of(names, samples=4):
    return {name: torch.randn(samples, WIDTHS[name], dtype=torch.float64) for name in names}


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize(
    ("names", "equation"), [(("text", "audio"), "ric,rjc->cij"), (("text", "audio", "vision"), "ric,rjc,rkc->cijk")]
)
@pytest.mark.parametrize("missing", [False, True])
def test_it_is_a_linear_layer_on_the_outer_product(rank, names, equation, missing):
    fusion = LowRankFusion({name: WIDTHS[name] for name in names}, 2, rank).double()
    torch.nn.init.normal_(fusion.bias)
    features = features_of(names)
    present = torch.ones(4, len(names), dtype=torch.bool)
    if missing:
        present[:2, 0] = present[2:, 1] = False
    weight = torch.einsum(equation, *fusion.factors).flatten(1)
    expected = F.linear(outer_product(with_one(features, present)), weight, fusion.bias)
    torch.testing.assert_close(fusion(features, present), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fusion({n: f[:1] for n, f in features.items()}, present[:1]), expected[:1])


def test_how_many_parameters():
    fusion = LowRankFusion(WIDTHS, 2, 3)
    assert sum(parameter.numel() for parameter in fusion.parameters()) == 3 * (4 + 6 + 5) * 2 + 2


def test_logits_start_with_unit_variance():
    fusion = LowRankFusion({"text": 200, "audio": 100, "vision": 50}, 2000, 4)
    features = {name: torch.randn(8, width) for name, width in (("text", 200), ("audio", 100), ("vision", 50))}
    assert fusion(features, torch.ones(8, 3, dtype=torch.bool)).std().item() == pytest.approx(1, abs=0.15)


def test_a_missing_modality_does_not_matter():
    fusion = LowRankFusion(WIDTHS, 2, 3).double()
    features, present = features_of(WIDTHS), torch.tensor([[True, False, True]] * 4)
    before = fusion(features, present)
    features["audio"] = features["audio"] + 9
    torch.testing.assert_close(fusion(features, present), before, rtol=0, atol=0)
    assert not torch.allclose(fusion(features, torch.ones_like(present)), before)


@pytest.mark.parametrize(("widths", "rank", "words"), [({"text": 3}, 2, "only text"), (WIDTHS, 0, "rank 0")])
def test_what_can_not_be_is_refused(widths, rank, words):
    with pytest.raises(UserError, match=words):
        LowRankFusion(widths, 2, rank)
