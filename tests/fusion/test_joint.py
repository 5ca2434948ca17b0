import pytest
import torch

from mmlab.errors import UserError
from mmlab.fusion.joint import ConcatFusion, FiLMFusion, GatedFusion, MMCosineFusion, SumFusion, known_features

HEADS = [ConcatFusion, SumFusion, FiLMFusion, GatedFusion, MMCosineFusion]
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


@pytest.mark.parametrize("head", [ConcatFusion, SumFusion, MMCosineFusion])
def test_parts_sum_to_the_logits_and_each_depends_on_its_modality_alone(head):
    fusion = head(WIDTHS, outputs=7)
    features = features_of(WIDTHS)
    present = torch.tensor([[True, True, True], [False, True, True], [True, False, False]] * 2)
    everything = torch.ones_like(present)
    torch.testing.assert_close(fusion.parts(features, everything).sum(dim=0), fusion(features, everything))
    before = fusion.parts(features, present)
    features["image"] = features["image"] + 1
    changed = fusion.parts(features, present)
    assert [torch.equal(*pair) for pair in zip(before, changed, strict=True)] == [True, False, True]


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


def test_the_parts_of_the_modalities_that_a_sample_has_add_up_to_the_logits():
    fusion = ConcatFusion(WIDTHS, outputs=7)
    features = features_of(WIDTHS)
    present = torch.tensor([[True, True, True], [False, True, True], [True, False, False]] * 2)
    parts = fusion.parts(features, present)
    torch.testing.assert_close((parts * present.T[..., None]).sum(dim=0), fusion(features, present))
    weight, bias = fusion.classifier.weight, fusion.classifier.bias
    torch.testing.assert_close(parts[1, 0], weight[:, 3:8] @ features["image"][0] + bias / 3)
    torch.testing.assert_close(parts[1, 1], weight[:, 3:8] @ features["image"][1] + bias / 2)


def test_parts_are_not_rounded_under_autocast():
    fusion = ConcatFusion(WIDTHS, outputs=7)
    features, present = features_of(WIDTHS), torch.ones(6, 3, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        parts = fusion.parts(features, present)
    torch.testing.assert_close(parts, fusion.parts(features, present), rtol=0, atol=0)


def test_mmcosine_equation():
    fusion = MMCosineFusion({"audio": 3, "image": 5}, outputs=2, scale=7.0)
    features = features_of(["audio", "image"])
    weight = fusion.classifier.weight
    cosines = torch.zeros(6, 2)
    for sample in range(6):
        for c in range(2):
            for feature, columns in ((features["audio"], weight[:, :3]), (features["image"], weight[:, 3:])):
                dot = (feature[sample] * columns[c]).sum()
                cosines[sample, c] += dot / feature[sample].norm() / columns[c].norm()
    present = torch.ones(6, 2, dtype=torch.bool)
    torch.testing.assert_close(fusion(features, present), 7 * cosines)
    louder = {"audio": 100 * features["audio"], "image": features["image"]}
    torch.testing.assert_close(fusion(louder, present), 7 * cosines)


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_a_missing_modality_adds_nothing_to_cosines_and_gets_no_gradient(precision):
    fusion = MMCosineFusion({"audio": 3, "image": 5}, outputs=2).to(precision)
    features = {name: value.to(precision).requires_grad_() for name, value in features_of(["audio", "image"]).items()}
    logits = fusion(features, torch.tensor([[True, False]] * 6))
    assert (logits.abs() <= 10.1).all()
    logits.square().sum().backward()
    assert features["image"].grad.abs().sum() == 0
    assert features["audio"].grad.isfinite().all()
    assert fusion.classifier.weight.grad.isfinite().all()
