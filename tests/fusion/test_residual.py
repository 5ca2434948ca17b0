import pytest
import torch

from mmlab.fusion.joint import ConcatFusion, FiLMFusion, GatedFusion, SumFusion
from mmlab.fusion.residual import logits_alone, logits_without, residual_weights, reweighted

WIDTHS = {"audio": 4, "visual": 3, "depth": 5}


def drawn(modalities=3, missing=False):
    generator = torch.Generator().manual_seed(0)
    names = list(WIDTHS)[:modalities]
    features = {name: torch.randn(6, WIDTHS[name], generator=generator) for name in names}
    present = torch.ones(6, modalities, dtype=torch.bool)
    if missing:
        present[torch.arange(6), torch.arange(6) % modalities] = False
    return features, present


@pytest.fixture
def scores():
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


RELIANCE = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)


@pytest.mark.parametrize("missing", [False, True])
def test_weights_sum_to_the_number_of_modalities_and_scale_does_not_matter(scores, missing):
    _, present = drawn(3, missing)
    weights = residual_weights(scores, RELIANCE, present)
    torch.testing.assert_close(weights.sum(dim=1), present.sum(dim=1).double())
    assert (weights[~present] == 0).all()
    assert (weights[present] > 0).all()
    torch.testing.assert_close(residual_weights(scores, 7 * RELIANCE, present), weights)
    torch.testing.assert_close(residual_weights(scores + torch.arange(6)[:, None], RELIANCE, present), weights)


def test_equal_levels_and_reliance_double_the_features():
    features, present = drawn()
    weights = residual_weights(torch.full((6, 3), 1.3), torch.full((3,), 2.5), present)
    torch.testing.assert_close(weights, torch.ones(6, 3))
    for name, feature in reweighted(features, weights).items():
        torch.testing.assert_close(feature, 2 * features[name])


def test_without_levels_the_reliance_decides():
    _, present = drawn(2)
    weights = residual_weights(torch.zeros(6, 2), torch.tensor([32.0, 10.0]), present)
    torch.testing.assert_close(weights, torch.tensor([20 / 42, 64 / 42]).expand(6, 2))
    three = residual_weights(torch.zeros(6, 3, dtype=torch.float64), RELIANCE, drawn(3)[1])
    torch.testing.assert_close(three, (3 / RELIANCE / (1 / RELIANCE).sum()).expand(6, 3))


def test_two_modalities_are_the_released_division():
    _, present = drawn(2)
    level = torch.rand(6, 2, dtype=torch.float64) + 1
    d = torch.tensor([3.7, 1.9], dtype=torch.float64)
    u = level.square()
    crosswise = 2 * u.flip(1) / u.sum(dim=1, keepdim=True) / d
    expected = 2 * crosswise / crosswise.sum(dim=1, keepdim=True)
    torch.testing.assert_close(residual_weights(2 * level.log(), d, present), expected)


@pytest.mark.parametrize("raised", range(3))
def test_who_is_noisier_or_relied_on_more_weighs_less(scores, raised):
    _, present = drawn()
    before = residual_weights(scores, RELIANCE, present)
    step = torch.eye(3, dtype=torch.float64)[raised]
    for after in (
        residual_weights(scores + 0.1 * step, RELIANCE, present),
        residual_weights(scores, RELIANCE + 0.1 * step, present),
    ):
        assert (after[:, raised] < before[:, raised]).all()
        others = [m for m in range(3) if m != raised]
        assert (after[:, others] > before[:, others]).all()


@pytest.mark.parametrize("x", [1000.0, -1000.0])
def test_saturated_levels_and_no_reliance_are_finite(x):
    score = torch.tensor([[x, 0.0], [x, x]], requires_grad=True)
    present = torch.ones(2, 2, dtype=torch.bool)
    weights = residual_weights(score, torch.ones(2), present)
    torch.testing.assert_close(weights.sum(dim=1), torch.full((2,), 2.0))
    assert weights[0].tolist() == ([0.0, 2.0] if x > 0 else [2.0, 0.0])
    weights.square().sum().backward()
    assert score.grad.isfinite().all()
    none = residual_weights(torch.zeros(2, 2), torch.zeros(2), present)
    torch.testing.assert_close(none, torch.ones(2, 2))


@pytest.mark.parametrize("missing", [False, True])
def test_concatenation_alone_keeps_the_bias(missing):
    features, present = drawn(3, missing)
    head = ConcatFusion(WIDTHS, 2)
    alone, without = logits_alone(head, features, present), logits_without(head, features, present)
    whole, bias = head(features, present), head.classifier.bias
    torch.testing.assert_close(alone.sum(dim=0) - 2 * bias, whole)
    torch.testing.assert_close(without + alone - bias, whole.expand(3, 6, 2))
    columns = head.classifier.weight.split([4, 3, 5], dim=1)
    expected = features["visual"] * present[:, [1]] @ columns[1].T + bias
    torch.testing.assert_close(alone[1], expected)


def test_a_sum_leaves_a_layer_out_with_its_bias():
    features, present = drawn()
    head = SumFusion(WIDTHS, 2)
    alone, without = logits_alone(head, features, present), logits_without(head, features, present)
    torch.testing.assert_close(alone.sum(dim=0), head(features, present))
    torch.testing.assert_close(without + alone, head(features, present).expand(3, 6, 2))


def test_a_gate_alone_gates_itself():
    features, present = drawn(2)
    head = GatedFusion({name: WIDTHS[name] for name in features}, 2)
    p, q = head.gate(features["audio"]), head.projections[0](features["visual"])
    first, second = logits_alone(head, features, present)
    torch.testing.assert_close(first, head.classifier(p.sigmoid() * p))
    torch.testing.assert_close(second, head.classifier(q.sigmoid() * q))


@pytest.mark.parametrize("kind", [GatedFusion, FiLMFusion])
def test_what_is_left_out_has_no_effect(kind):
    features, present = drawn(2)
    head = kind({name: WIDTHS[name] for name in features}, 2)
    changed = features | {"audio": features["audio"] + 1}
    before, after = (logits_without(head, each, present) for each in (features, changed))
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])
