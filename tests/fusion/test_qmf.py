import pytest
import torch
import torch.nn.functional as F

from mmlab.errors import UserError
from mmlab.fusion.qmf import QMFFusion
from mmlab.losses.confidence_ranking import ranking_losses, relative_history

WIDTHS = {"a": 3, "b": 5, "c": 4}
CLASSES, TRAIN_SIZE = 4, 12
TARGET = torch.tensor([0, 1, 2, 3, 0, 1])
INDEX = torch.tensor([7, 0, 11, 3, 5, 2])


def alone(rows, gradient):  # as Method.gathered with one process
    return rows if gradient else rows.detach()


def made(modalities=2, rank_weight=1.0, ranking="released", train_size=TRAIN_SIZE):
    torch.manual_seed(0)
    widths = dict(list(WIDTHS.items())[:modalities])
    fusion = QMFFusion(widths, CLASSES, train_size, rank_weight, ranking)
    return fusion, {name: torch.randn(6, width) for name, width in widths.items()}


def everybody(modalities=2):
    return torch.ones(6, modalities, dtype=torch.bool)


def some(modalities=2):
    present = everybody(modalities)
    present[torch.arange(0, 6, 2), torch.arange(0, 6, 2) % modalities] = False
    return present


def cross_entropies(decision):
    return torch.stack([F.cross_entropy(logits, TARGET, reduction="none") for logits in decision.unimodal]).detach()


@pytest.mark.parametrize("modalities", [2, 3])
def test_weights_are_energies_that_are_not_normalised(modalities):
    fusion, features = made(modalities)
    decision = fusion(features, everybody(modalities))
    energies = decision.unimodal.exp().sum(dim=2).log().T / 10
    torch.testing.assert_close(decision.weights, energies)
    torch.testing.assert_close(decision.logits, torch.einsum("bm,mbc->bc", energies, decision.unimodal))


def test_a_weight_may_be_negative():
    fusion, _ = made()
    unimodal = torch.tensor([[[-30.0, -40.0, -50.0, -60.0]], [[30.0, 0.0, 0.0, 0.0]]])
    decision = fusion.decide(unimodal, [], torch.ones(1, 2, dtype=torch.bool))
    torch.testing.assert_close(decision.weights, torch.tensor([[-3.0, 3.0]]), rtol=0, atol=1e-4)


def test_the_fused_loss_has_no_gradient_through_the_weights():
    fusion, features = made()
    decision = fusion(features, everybody())
    assert not decision.weights.requires_grad
    assert decision.confidence.requires_grad
    weighted = (decision.weights.T[..., None].clone() * decision.unimodal).sum(dim=0)
    by_constants = torch.autograd.grad(F.cross_entropy(weighted, TARGET), fusion.heads.parameters(), retain_graph=True)
    gradients = torch.autograd.grad(F.cross_entropy(decision.logits, TARGET), fusion.heads.parameters())
    for gradient, expected in zip(gradients, by_constants, strict=True):
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("ranking", ["released", "corrected_margin"])
@pytest.mark.parametrize("modalities", [2, 3])
def test_the_history_is_written_before_it_is_read(modalities, ranking):
    fusion, features = made(modalities, rank_weight=0.3, ranking=ranking)
    # The released margin forgives all small differences: these are large.
    decision = fusion({name: 30 * feature for name, feature in features.items()}, everybody(modalities))
    losses = fusion.objective(decision, TARGET, INDEX, everybody(modalities), alone)
    written = torch.zeros(modalities, TRAIN_SIZE)
    written[:, INDEX] = cross_entropies(decision)
    torch.testing.assert_close(fusion.loss_sum, written)
    history = relative_history(written, INDEX)
    ranks = ranking_losses(decision.confidence.T, history, everybody(modalities), ranking)
    assert list(losses) == [f"rank_{name}" for name in list(WIDTHS)[:modalities]]
    torch.testing.assert_close(torch.stack(list(losses.values())), 0.3 * ranks)
    assert sum(losses.values()) > 0  # an unwritten history would have given 0


def test_the_history_adds_up_and_is_saved():
    fusion, features = made()
    decision = fusion(features, everybody())
    for _ in range(3):
        fusion.objective(decision, TARGET, INDEX, everybody(), alone)
    torch.testing.assert_close(fusion.loss_sum[:, INDEX], 3 * cross_entropies(decision))
    others = torch.ones(TRAIN_SIZE, dtype=torch.bool)
    others[INDEX] = False
    assert torch.equal(fusion.loss_sum[:, others], torch.zeros(2, TRAIN_SIZE - 6))
    assert not fusion.loss_sum.requires_grad
    again, _ = made()
    again.load_state_dict(fusion.state_dict())
    assert torch.equal(again.loss_sum, fusion.loss_sum)


@pytest.mark.parametrize("train_size", [6, TRAIN_SIZE], ids=["the batch is all there is", "others are at 0"])
@pytest.mark.parametrize("ranking", ["released", "corrected_margin"])
def test_a_first_batch_with_equal_losses_costs_nothing(train_size, ranking):
    fusion, features = made(train_size=train_size, ranking=ranking)
    for head in fusion.heads:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    decision = fusion(features, everybody())
    index = INDEX if train_size > 6 else torch.arange(6)
    losses = fusion.objective(decision, TARGET, index, everybody(), alone)
    sum(losses.values()).backward()
    assert [value.item() for value in losses.values()] == [0, 0]
    assert all(torch.equal(each.grad, torch.zeros_like(each)) for each in fusion.heads.parameters())


def test_the_ranking_has_a_gradient_into_its_own_confidences_only():
    fusion, features = made(ranking="corrected_margin")
    decision = fusion(features, everybody())
    losses = fusion.objective(decision, TARGET, INDEX, everybody(), alone)
    (gradient,) = torch.autograd.grad(losses["rank_a"], decision.confidence, retain_graph=True)
    assert gradient[:, 0].abs().sum() > 0
    assert gradient[:, 1].abs().sum() == 0
    losses["rank_a"].backward()
    assert fusion.heads[0].weight.grad.abs().sum() > 0
    assert fusion.heads[1].weight.grad is None or fusion.heads[1].weight.grad.abs().sum() == 0


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("ranking", ["released", "corrected_margin"])
def test_a_missing_modality_is_not_weighed_not_written_and_not_ranked(modalities, ranking):
    fusion, features = made(modalities, ranking=ranking)
    present = some(modalities)
    decision = fusion(features, present)
    assert torch.equal(decision.weights == 0, ~present)
    losses = fusion.objective(decision, TARGET, INDEX, present, alone)
    torch.testing.assert_close(fusion.loss_sum[:, INDEX], cross_entropies(decision) * present.T)

    if ranking == "corrected_margin":
        history = relative_history(fusion.loss_sum, INDEX)
        expected = ranking_losses(decision.confidence.T, history, present, ranking)
        torch.testing.assert_close(torch.stack(list(losses.values())), expected)
        everyone = ranking_losses(decision.confidence.T, history, everybody(modalities), ranking)
        assert not torch.allclose(expected, everyone)

    other, changed = made(modalities, ranking=ranking)[0], dict(features)
    for m, name in enumerate(features):
        changed[name] = torch.where(present[:, m, None], features[name], 9.0)
    same = other(changed, present)
    torch.testing.assert_close(same.logits, decision.logits)
    ranked = other.objective(same, TARGET, INDEX, present, alone)
    torch.testing.assert_close(ranked, losses)
    assert torch.equal(other.loss_sum, fusion.loss_sum)


def test_a_constant_added_to_all_logits_moves_the_energy():
    fusion, _ = made()
    unimodal = torch.randn(2, 6, CLASSES)
    moved = unimodal + torch.tensor([10.0, 0.0])[:, None, None]
    weights = fusion.decide(unimodal, [], everybody()).weights
    torch.testing.assert_close(fusion.decide(moved, [], everybody()).weights, weights + torch.tensor([1.0, 0.0]))


def test_half_precision_features_leave_the_history_in_full():
    fusion, features = made()
    with torch.autocast("cpu", torch.bfloat16):
        half = {name: feature.bfloat16() for name, feature in features.items()}
        decision = fusion(half, everybody())
        losses = fusion.objective(decision, TARGET, INDEX, everybody(), alone)
    assert decision.logits.dtype == fusion.loss_sum.dtype == losses["rank_a"].dtype == torch.float32
    exact = fusion({name: feature.float() for name, feature in half.items()}, everybody())
    torch.testing.assert_close(fusion.loss_sum[:, INDEX], cross_entropies(exact))


@pytest.mark.parametrize("rank_weight", [-0.1, float("nan"), float("inf")])
def test_a_weight_that_is_none(rank_weight):
    with pytest.raises(UserError, match=r"rank_weight is .*0 or more"):
        made(rank_weight=rank_weight)


def test_one_modality_is_refused():
    with pytest.raises(UserError, match="Unimodal"):
        made(1)
