import itertools

import pytest
import torch

from mmlab.losses.non_target_guidance import (
    at_class,
    competitor,
    confidence_margin,
    guidance,
    guides,
    negative_learning,
)

B, C = 40, 5


def case(modalities=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    unimodal = 2 * torch.randn(modalities, B, C, generator=generator, dtype=torch.float64)
    return unimodal, torch.randint(C, (B,), generator=generator)


def everywhere(unimodal):
    return torch.ones(unimodal.shape[1], len(unimodal), dtype=torch.bool)


def objective(unimodal, target, present=None, **changes):
    options = {
        "lam": 0.7,
        "variant": "official",
        "rule": "dynamic",
        "scope": "non_target",
        "prior": 0,
        "unimodal_weights": torch.ones(len(unimodal), dtype=unimodal.dtype),
        "warming_up": False,
        **changes,
    }
    present = everywhere(unimodal) if present is None else present
    return negative_learning(unimodal.mean(dim=0), unimodal, target, present, **options)


def gradient(unimodal, target, part="loss", **changes):
    leaf = unimodal.clone().requires_grad_()
    return torch.autograd.grad(getattr(objective(leaf, target, **changes), part), leaf)[0]


def plain(unimodal, target):
    leaf = unimodal.clone().requires_grad_()
    logits = [leaf.mean(dim=0), *leaf]
    loss = sum(torch.nn.functional.cross_entropy(each, target) for each in logits)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize(
    "changes",
    [{"lam": 0.0, "variant": "paper"}, {"rule": "off"}, {"rule": "off", "variant": "paper"}, {"warming_up": True}],
)
def test_without_guidance_it_is_late_fusion(changes):
    unimodal, target = case()
    loss, slope = plain(unimodal, target)
    torch.testing.assert_close(objective(unimodal, target, **changes).loss, loss)
    torch.testing.assert_close(gradient(unimodal, target, **changes), slope)


@pytest.mark.parametrize("scope", ["non_target", "all"])
def test_the_guide_gets_no_gradient_from_the_guidance(scope):
    unimodal, target = case()
    guide = objective(unimodal, target).guide
    slope = gradient(unimodal, target, "guidance", scope=scope)
    for first, second in ((0, 1), (1, 0)):
        rows = guide[:, second] == first
        assert rows.any()
        assert slope[first][rows].abs().max() == 0
        assert slope[second][rows].abs().min() > 0


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_unguided_rows_have_the_gradient_of_late_fusion(variant):
    unimodal, target = case()
    unguided = (objective(unimodal, target).guide < 0).all(dim=1)
    assert unguided.any()
    assert not unguided.all()
    slope = gradient(unimodal, target, variant=variant)
    torch.testing.assert_close(slope[:, unguided], plain(unimodal, target)[1][:, unguided])


def test_the_later_of_identical_modalities_guides():
    unimodal, target = case()
    twins = unimodal[:1].expand(2, -1, -1)
    assert objective(twins, target).guide.tolist() == [[1, -1]] * B


@pytest.mark.parametrize("rule", ["dynamic", "confidence"])
@pytest.mark.parametrize("variant", ["official", "paper"])
def test_a_constant_on_all_logits_of_a_modality_changes_nothing(rule, variant):
    unimodal, target = case(3)
    shifted = unimodal.clone()
    shifted[1, 4] += 3.0
    before, after = (objective(z, target, rule=rule, variant=variant) for z in (unimodal, shifted))
    torch.testing.assert_close(after.loss, before.loss)
    torch.testing.assert_close(after.margin, before.margin)
    assert torch.equal(after.guide, before.guide)
    assert torch.equal(after.competitor, before.competitor)


def test_permuting_classes_changes_nothing():
    unimodal, target = case(3)
    order = torch.tensor([3, 0, 4, 1, 2])
    permuted = objective(unimodal[:, :, order], order.argsort()[target])
    torch.testing.assert_close(permuted.loss, objective(unimodal, target).loss)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_permuting_modalities_permutes_guides_and_gradients(order):
    unimodal, target = case(3)
    order = torch.tensor(order)
    before = objective(unimodal, target).guide[:, order]
    renamed = torch.where(before < 0, before, order.argsort()[before.clamp(min=0)])
    assert torch.equal(objective(unimodal[order], target).guide, renamed)
    torch.testing.assert_close(gradient(unimodal[order], target), gradient(unimodal, target)[order])


def test_gradient_of_one_guided_row():
    unimodal, target = case()
    slope = B * gradient(unimodal, target, "guidance", variant="paper")
    probabilities = unimodal.softmax(dim=2)
    row, label = next((i, int(target[i])) for i in range(B) if objective(unimodal, target).guide[i, 1] == 0)
    rest = 1 - probabilities[0, row, label]
    expected = rest * probabilities[1, row] - probabilities[0, row]
    expected[label] = rest * probabilities[1, row, label]
    torch.testing.assert_close(slope[1, row], expected)
    assert slope[1, row, label] > 0


def test_guidance_vanishes_with_a_certain_guide():
    unimodal, target = case()
    assert (objective(unimodal, target).guidance_per_sample >= 0).all()
    certain = unimodal.clone()
    certain[0].scatter_(1, target[:, None], 60.0)
    sure = objective(certain, target)
    assert (sure.guide[:, 1] == 0).all()
    assert sure.guidance < 1e-12


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_all_classes_minus_non_target_is_the_target_term(variant):
    unimodal, target = case()
    narrow, wide = (objective(unimodal, target, variant=variant, scope=scope) for scope in ("non_target", "all"))
    log_target = at_class(unimodal.log_softmax(dim=2), target)
    term = torch.zeros(B, dtype=torch.float64)
    for guide, guided in ((0, 1), (1, 0)):
        rows = narrow.guide[:, guided] == guide
        term[rows] -= log_target[guide].exp()[rows] * log_target[guided][rows]
    torch.testing.assert_close(wide.guidance_per_sample - narrow.guidance_per_sample, term)
    divisor = B * C if variant == "official" else B
    torch.testing.assert_close(wide.loss - narrow.loss, 0.7 * term.sum() / divisor)


@pytest.mark.parametrize("seed", range(5))
def test_two_modalities_follow_the_published_rule(seed):
    unimodal, target = case(seed=seed)
    unimodal[1, :3] = unimodal[0, :3]  # ties
    terms = objective(unimodal, target)
    (margin_0, margin_1), (q_0, q_1) = terms.margin, terms.target_probability
    first = (margin_0 > margin_1) & (q_0 > q_1)
    second = (margin_0 <= margin_1) & (q_0 <= q_1)
    assert torch.equal(terms.guide[:, 1] == 0, first)
    assert torch.equal(terms.guide[:, 0] == 1, second)


def test_five_modalities_follow_the_rule_written_out():
    unimodal, target = case(5)
    unimodal[3, :4] = unimodal[1, :4]  # ties
    present = torch.rand(B, 5, generator=torch.Generator().manual_seed(1)) < 0.7
    present[:, 0] = True
    terms = objective(unimodal, target, present)
    xi, q = terms.margin.T.tolist(), terms.target_probability.T.tolist()
    for i in range(B):
        for k in range(5):
            best = -1
            for g in range(5):
                beats = (q[i][g] > q[i][k] and xi[i][g] > xi[i][k]) or (
                    g > k and q[i][g] >= q[i][k] and xi[i][g] >= xi[i][k]
                )
                if beats and present[i, g] and present[i, k] and (best < 0 or q[i][g] >= q[i][best]):
                    best = g
            assert terms.guide[i, k] == best


def test_a_fixed_guide_guides_all_others_that_are_there():
    q = torch.rand(3, 2)
    present = torch.tensor([[True, True, True], [True, False, True]])
    assert guides(q, q, present, "prior", prior=1).tolist() == [[1, -1, 1], [-1, -1, -1]]


def test_the_criteria_must_agree():
    q, xi = torch.tensor([[0.6], [0.5]]), torch.tensor([[1.0], [2.0]])
    present = torch.ones(1, 2, dtype=torch.bool)
    assert guides(q, xi, present, "dynamic").tolist() == [[-1, -1]]
    assert guides(q, xi, present, "confidence").tolist() == [[-1, 0]]
    assert guides(q, xi, present, "off").tolist() == [[-1, -1]]


def test_a_missing_modality_has_no_part_in_it():
    unimodal, target = case(3)
    present = everywhere(unimodal)
    present[2, 1] = False
    slope = gradient(unimodal, target, "guidance", present=present)
    assert slope[1, 2].abs().max() == 0
    changed = unimodal.clone()
    changed[1, 2] += torch.linspace(-5, 5, C)
    fused = unimodal.mean(dim=0)
    options = {
        "lam": 0.7,
        "variant": "official",
        "rule": "dynamic",
        "scope": "non_target",
        "prior": 0,
        "unimodal_weights": torch.ones(3),
        "warming_up": False,
    }
    before, after = (negative_learning(fused, z, target, present, **options).loss for z in (unimodal, changed))
    torch.testing.assert_close(after, before)


def test_the_competitor_is_the_strongest_other_class_and_the_first_on_ties():
    fused = torch.tensor([[3.0, 2.0, 2.0], [1.0, 4.0, 2.0]])
    target = torch.tensor([0, 2])
    assert competitor(fused, target).tolist() == [1, 1]
    margin = confidence_margin(fused[None], target, torch.tensor([1, 1]))
    assert margin.tolist() == [[1.0, -2.0]]


def test_unimodal_weights_scale_their_cross_entropies():
    unimodal, target = case()
    terms = objective(unimodal, target, rule="off", unimodal_weights=torch.tensor([0.0, 3.0]))
    torch.testing.assert_close(terms.loss, terms.ce_fused + 3 * terms.ce_unimodal[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    unimodal, target = case()
    rounded = unimodal.to(dtype)
    low = objective(rounded, target)
    exact = objective(rounded.float(), target)
    assert low.loss.dtype == torch.float32
    assert torch.equal(low.guide, objective(rounded.float(), target).guide)
    torch.testing.assert_close(low.ce_unimodal, exact.ce_unimodal)
    assert torch.isfinite(low.loss)


def test_autocast_changes_nothing():
    unimodal, target = case()
    expected = objective(unimodal.float(), target)
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(unimodal.float(), target)
    torch.testing.assert_close(terms.loss, expected.loss)


def test_guidance_is_zero_where_nobody_guides():
    unimodal, target = case()
    nobody = torch.full((B, 2), -1)
    assert guidance(unimodal.log_softmax(dim=2), target, nobody, "all").abs().max() == 0
