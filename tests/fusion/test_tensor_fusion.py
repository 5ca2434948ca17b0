import pytest
import torch

from mmlab.errors import UserError
from mmlab.fusion.tensor_fusion import TensorFusion, outer_product, with_one

WIDTHS = {"text": 3, "audio": 5, "vision": 4}


def features_of(names, samples=4):
    return {name: torch.randn(samples, WIDTHS[name], dtype=torch.float64) for name in names}


@pytest.mark.parametrize(
    ("names", "equation"), [(("text", "audio"), "bi,bj->bij"), (("text", "audio", "vision"), "bi,bj,bk->bijk")]
)
def test_the_equation(names, equation):
    fusion = TensorFusion({name: WIDTHS[name] for name in names}, 2, width=3, hidden=6, dropout=0.0).double()
    features = features_of(names)
    ones = torch.ones(4, 1, dtype=torch.float64)
    vectors = []
    for (name, feature), layers in zip(features.items(), fusion.subnetworks, strict=True):
        assert layers[0].weight.shape == (3, WIDTHS[name])
        vectors.append(torch.cat([(feature @ layers[0].weight.T + layers[0].bias).clamp(min=0), ones], dim=1))
    hidden = torch.einsum(equation, *vectors).reshape(4, -1)
    for layers in fusion.inference[:2]:
        hidden = (hidden @ layers[0].weight.T + layers[0].bias).clamp(min=0)
    expected = hidden @ fusion.inference[2].weight.T + fusion.inference[2].bias
    present = torch.ones(4, len(names), dtype=torch.bool)
    torch.testing.assert_close(fusion(features, present), expected)
    assert fusion(features_of(names, 1), present[:1]).shape == (1, 2)


def test_how_many_parameters():
    fusion = TensorFusion(WIDTHS, 2, width=3, hidden=6, dropout=0.0)
    subnetworks = sum((width + 1) * 3 for width in WIDTHS.values())
    assert sum(p.numel() for p in fusion.parameters()) == subnetworks + (4**3 + 1) * 6 + 7 * 6 + 7 * 2


def test_the_product_of_a_missing_modality_is_that_of_the_others():
    features = features_of(WIDTHS)
    present = torch.tensor([[True, False, True]] * 4)
    cells = outer_product(with_one(features, present)).unflatten(1, (4, 6, 5))
    assert cells[:, :, :5].count_nonzero() == 0
    others = {name: features[name] for name in ("text", "vision")}
    torch.testing.assert_close(cells[:, :, 5].flatten(1), outer_product(with_one(others, present[:, [0, 2]])))


def test_a_missing_modality_does_not_matter():
    fusion = TensorFusion(WIDTHS, 2, width=3, hidden=6, dropout=0.0).double()
    features, present = features_of(WIDTHS), torch.tensor([[True, False, True]] * 4)
    before = fusion(features, present)
    features["audio"] = features["audio"] + 9
    torch.testing.assert_close(fusion(features, present), before, rtol=0, atol=0)
    assert not torch.allclose(fusion(features, torch.ones_like(present)), before)


def test_products_of_half_precision_do_not_overflow():
    fusion = TensorFusion(WIDTHS, 2, width=3, hidden=6, dropout=0.0)
    features = {name: 500 * value.half() for name, value in features_of(WIDTHS).items()}
    with torch.autocast("cpu", torch.bfloat16):
        logits = fusion(features, torch.ones(4, 3, dtype=torch.bool))
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert logits.abs().max() > 65504  # what half precision can't hold was really there


@pytest.mark.parametrize(
    ("modalities", "width", "words"),
    [
        (3, 100, "1,030,301 numbers of each sample, more than 1,000,000: choose a width of 99 or less"),
        (2, 1000, "choose a width of 999 or less"),
        (12, 3, "choose a width of 2 or less"),
        (20, 1, "choose the method LMF"),
        (1, 3, "only modality 0"),
        (2, 0, "width 0"),
    ],
)
def test_what_can_not_be_is_refused(modalities, width, words):
    with pytest.raises(UserError, match=words):
        TensorFusion({f"modality {m}": 2 for m in range(modalities)}, 2, width=width, hidden=1, dropout=0.0)


def test_the_width_that_the_message_names_works():
    TensorFusion({"text": 2, "audio": 2, "vision": 2}, 1, width=99, hidden=1, dropout=0.0)
