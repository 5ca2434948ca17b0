import pytest
import torch

from mmlab.errors import UserError
from mmlab.fusion.joint import ConcatFusion, FiLMFusion, GatedFusion, SumFusion, known_features

HEADS = [ConcatFusion, SumFusion, FiLMFusion, GatedFusion]
WIDTHS = {"audio": 3, "image": 5, "depth": 4}


def features_of(names, samples=6):
    return {name: torch.randn(samples, WIDTHS[name]) for name in names}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("names", [("audio", "image"), ("audio", "image", "depth")])
def test_every_parameter_and_every_modality_counts(head, names):
    torch.manual_seed(0)
    fusion = head({name: WIDTHS[name] for name in names}, outputs=7)
    features = {name: value.requires_grad_() for name, value in features_of(names).items()}
    logits = fusion(features, torch.ones(6, len(names), dtype=torch.bool))
    assert logits.shape == (6, 7)
    logits.square().sum().backward()
    assert all(value.grad.abs().sum() > 0 for value in features.values())
    assert all(parameter.grad.abs().sum() > 0 for parameter in fusion.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_a_missing_modality_counts_as_zero(head):
    torch.manual_seed(0)
    fusion = head(WIDTHS, outputs=7)
    features = features_of(WIDTHS)
    present = torch.tensor([[True, True, True], [False, True, True], [True, False, False]] * 2)
    zeroed = {name: value * present[:, m, None] for m, (name, value) in enumerate(features.items())}
    expected = fusion(zeroed, torch.ones_like(present))
    torch.testing.assert_close(fusion(features, present), expected)
    assert not torch.allclose(fusion(features, torch.ones_like(present)), expected)


@pytest.mark.parametrize("head", HEADS)
def test_one_modality_is_refused(head):
    with pytest.raises(UserError, match="audio"):
        head({"audio": 3}, outputs=7)


def test_known_features_keep_their_type():
    features = {"a": torch.ones(2, 3).bfloat16()}
    (known,) = known_features(features, torch.tensor([[True], [False]]))
    assert known.dtype == torch.bfloat16
    assert known.float().sum(dim=1).tolist() == [3, 0]


def test_film_equation():
    fusion = FiLMFusion({"audio": 3, "image": 5}, outputs=2)
    features = features_of(["audio", "image"])
    modulation = fusion.modulations[0](features["audio"])
    expected = fusion.classifier(modulation[:, :5] * features["image"] + modulation[:, 5:])
    torch.testing.assert_close(fusion(features, torch.ones(6, 2, dtype=torch.bool)), expected)


def test_gated_equation():
    fusion = GatedFusion({"audio": 3, "image": 5}, outputs=2)
    features = features_of(["audio", "image"])
    gate = torch.sigmoid(fusion.gate(features["audio"]))
    expected = fusion.classifier(gate * fusion.projections[0](features["image"]))
    torch.testing.assert_close(fusion(features, torch.ones(6, 2, dtype=torch.bool)), expected)
