import pytest
import torch
import torch.nn.functional as F

from mmlab.errors import UserError
from mmlab.fusion.pdf import PDFFusion, holo_confidence, relative_calibration

WIDTHS = {"a": 3, "b": 5, "c": 4}
CLASSES = 4
TARGET = torch.tensor([0, 1, 2, 3, 0, 1])
INDEX = torch.arange(6)


def alone(rows, gradient):  # as Method.gathered with one process
    return rows if gradient else rows.detach()


def made(modalities=2):
    torch.manual_seed(0)
    widths = dict(list(WIDTHS.items())[:modalities])
    features = {name: torch.randn(6, width, requires_grad=True) for name, width in widths.items()}
    return PDFFusion(widths, CLASSES), features


def everybody(modalities=2):
    return torch.ones(6, modalities, dtype=torch.bool)


def some(modalities=2):
    present = everybody(modalities)
    present[torch.arange(0, 6, 2), torch.arange(0, 6, 2) % modalities] = False
    return present


def test_holo_confidence_of_two():
    r = torch.tensor([[0.9, 0.2], [0.5, 0.5], [0.01, 0.99]])
    holo = holo_confidence(r, torch.ones(3, 2, dtype=torch.bool))
    product = (r[:, 0] * r[:, 1]).log()
    torch.testing.assert_close(holo, torch.stack((r[:, 1].log() / product, r[:, 0].log() / product), dim=1))
    torch.testing.assert_close(holo.sum(dim=1), torch.ones(3))
    assert holo[0, 0] > holo[0, 1]  # the other one of the first is not to be trusted


def test_holo_confidence_of_three():
    r = torch.tensor([[0.9, 0.2, 0.6]])
    logs = r[0].log()
    expected = torch.stack([logs[1] + logs[2], logs[0] + logs[2], logs[0] + logs[1]]) / (2 * logs.sum())
    holo = holo_confidence(r, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(holo[0], expected)
    assert holo.sum().item() == pytest.approx(1, abs=1e-6)


def test_holo_confidence_counts_only_what_a_sample_has():
    r = torch.tensor([[0.9, 0.2, 0.6]]).expand(2, 3)
    present = torch.tensor([[True, False, True], [False, True, False]])
    holo = holo_confidence(r, present)
    two = holo_confidence(torch.tensor([[0.9, 0.6]]), torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(holo[0, [0, 2]], two[0])
    assert holo[1, 1].item() == pytest.approx(0, abs=1e-6)


def test_calibration_is_relative_to_the_most_certain():
    unimodal = torch.tensor([[[4.0, 0, 0]], [[1.0, 0, 0]], [[0.0, 0, 0]]])
    distance = (unimodal.softmax(dim=2) - 1 / 3).abs().mean(dim=2).T
    factor = relative_calibration(unimodal, torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(factor, distance / distance[0, 0])
    assert factor[0, 0] == 1
    assert 0 < factor[0, 1] < 1
    assert factor[0, 2].item() == pytest.approx(0, abs=1e-6)
    without_the_first = relative_calibration(unimodal, torch.tensor([[False, True, True]]))
    assert without_the_first[0, 1] == 1


def test_calibration_does_nothing_where_all_are_equally_far_from_uniform():
    equal = torch.tensor([[[2.0, 0, 0]], [[0.0, 0, 2.0]]])
    both = torch.ones(1, 2, dtype=torch.bool)
    torch.testing.assert_close(relative_calibration(equal, both), torch.ones(1, 2))
    assert torch.equal(relative_calibration(torch.zeros(2, 1, 4), both), torch.ones(1, 2))


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_weights_are_a_softmax_of_beliefs(modalities, calibrate, missing):
    fusion, features = made(modalities)
    present = some(modalities) if missing else everybody(modalities)
    decision = fusion(features, present, calibrate)
    nets = zip(fusion.confidence_nets, features.values(), strict=True)
    r = torch.cat([net(feature) for net, feature in nets], dim=1)
    torch.testing.assert_close(decision.confidence, r)
    belief = r + holo_confidence(r, present)
    if calibrate:
        belief = belief * relative_calibration(decision.unimodal, present)
    mass = belief.exp() * present
    weights = mass / mass.sum(dim=1, keepdim=True)
    torch.testing.assert_close(decision.weights, weights.detach())
    assert torch.equal(decision.weights == 0, ~present)
    torch.testing.assert_close(decision.logits, torch.einsum("bm,mbc->bc", weights, decision.unimodal))


def test_calibration_moves_the_weights_unless_all_logits_are_uniform():
    fusion, features = made()
    plain, calibrated = (fusion(features, everybody(), calibrate).weights for calibrate in (False, True))
    assert (plain - calibrated).abs().max() > 1e-3
    for head in fusion.heads:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    plain, calibrated = (fusion(features, everybody(), calibrate).weights for calibrate in (False, True))
    assert torch.equal(plain, calibrated)


def test_the_fused_loss_has_no_gradient_through_weights_or_nets():
    fusion, features = made()
    decision = fusion(features, everybody())
    assert not decision.weights.requires_grad
    loss = F.cross_entropy(decision.logits, TARGET)
    nets = torch.autograd.grad(loss, fusion.confidence_nets.parameters(), retain_graph=True, allow_unused=True)
    assert all(gradient is None for gradient in nets)
    weighted = (decision.weights.T[..., None].clone() * decision.unimodal).sum(dim=0)
    by_constants = torch.autograd.grad(F.cross_entropy(weighted, TARGET), features.values(), retain_graph=True)
    for gradient, expected in zip(torch.autograd.grad(loss, features.values()), by_constants, strict=True):
        torch.testing.assert_close(gradient, expected)


def test_the_confidence_loss_trains_the_nets_and_nothing_else():
    fusion, features = made()
    decision = fusion(features, everybody())
    losses = fusion.objective(decision, TARGET, INDEX, everybody(), alone)
    assert list(losses) == ["confidence_a", "confidence_b"]
    total = sum(losses.values())
    others = [*features.values(), *fusion.heads.parameters()]
    assert all(
        gradient is None for gradient in torch.autograd.grad(total, others, retain_graph=True, allow_unused=True)
    )
    total.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in fusion.confidence_nets.parameters())


@pytest.mark.parametrize("modalities", [2, 3])
def test_the_confidence_loss_is_over_who_has_the_modality(modalities):
    fusion, features = made(modalities)
    present = some(modalities)
    decision = fusion(features, present)
    losses = fusion.objective(decision, TARGET, INDEX, present, alone)
    for m, loss in enumerate(losses.values()):
        rows = present[:, m]
        true_class = decision.unimodal[m].softmax(dim=1)[torch.arange(6), TARGET]
        torch.testing.assert_close(loss, (decision.confidence[:, m] - true_class).abs()[rows].mean())


@pytest.mark.parametrize("biases", [(200.0, 200.0), (-200.0, -200.0), (200.0, -200.0)])
def test_confidences_of_0_and_1_give_finite_weights(biases):
    fusion, features = made()
    for net, bias in zip(fusion.confidence_nets, biases, strict=True):
        torch.nn.init.constant_(net[2].bias, bias)
    decision = fusion(features, everybody())
    assert set(decision.confidence.flatten().tolist()) == {float(bias > 0) for bias in biases}
    assert decision.weights.isfinite().all()
    torch.testing.assert_close(decision.weights.sum(dim=1), torch.ones(6))
    if biases[0] == biases[1]:
        torch.testing.assert_close(decision.weights, torch.full((6, 2), 0.5))
    else:
        assert (decision.weights[:, 0] > 0.8).all()


def test_half_precision_features_leave_the_weights_in_full():
    fusion, features = made()
    with torch.autocast("cpu", torch.bfloat16):
        decision = fusion({name: feature.bfloat16() for name, feature in features.items()}, everybody(), True)
    assert decision.logits.dtype == decision.weights.dtype == decision.confidence.dtype == torch.float32


def test_the_first_layers_of_the_nets_are_decayed():
    fusion, _ = made(3)
    first = [net[0] for net in fusion.confidence_nets]
    assert [layer.in_features for layer in first] == list(WIDTHS.values())
    expected = [id(parameter) for layer in first for parameter in (layer.weight, layer.bias)]
    assert [(id(parameter), decay) for parameter, decay in fusion.decays()] == [(key, 1.0) for key in expected]


def test_one_modality_is_refused():
    with pytest.raises(UserError, match="Unimodal"):
        made(1)
