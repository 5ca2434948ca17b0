import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmlab.fusion.static import fuse
from mmlab.losses.non_target_guidance import competitor, confidence_margin
from mmlab.metrics.margins import (
    LocalMargins,
    Margins,
    lipschitz,
    local_radius,
    robustness_radius,
    smallest_radius,
)
from mmlab.types import Batch, Modality, Prediction

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "mnl" / "robustness_and_noise.json").read_text())
NAMES = ("audio", "image", "touch")
WIDTHS = (4, 6, 3)


class Late:
    """Linear heads on random features, in float64."""

    def __init__(self, size: int = 50, classes: int = 5, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        self.features = [normal(size, width) for width in WIDTHS]
        self.heads = [normal(classes, width) for width in WIDTHS]
        self.biases = [normal(classes) for _ in WIDTHS]
        self.weights = 0.2 + torch.rand(size, len(WIDTHS), generator=generator, dtype=torch.float64)
        self.target = torch.randint(0, classes, (size,), generator=generator)
        self.present = torch.ones(size, len(WIDTHS), dtype=torch.bool)

    def unimodal(self, features: list[Tensor] | None = None) -> Tensor:
        parts = zip(features or self.features, self.heads, self.biases, strict=True)
        return torch.stack([feature @ head.T + bias for feature, head, bias in parts])

    def fused(self, features: list[Tensor] | None = None) -> Tensor:
        return fuse(self.unimodal(features), self.weights)

    def rival(self) -> Tensor:
        return competitor(self.fused(), self.target)

    def radius(self) -> Tensor:
        rival = self.rival()
        margin = confidence_margin(self.unimodal(), self.target, rival)
        return robustness_radius(margin, lipschitz(self.heads, self.target, rival), self.weights)

    def normal(self, rival: Tensor) -> Tensor:
        """(B, D) of the fused margin to a rival, in the joint space of features."""
        steps = [head[self.target] - head[rival] for head in self.heads]
        return torch.cat([self.weights[:, m : m + 1] * step for m, step in enumerate(steps)], dim=1)

    def moved(self, by: Tensor) -> Tensor:
        """The fused logits after a move (B, D) of all features together."""
        parts = by.split(WIDTHS, dim=1)
        return self.fused([feature + part for feature, part in zip(self.features, parts, strict=True)])


def margin_of(fused: Tensor, target: Tensor, rival: Tensor) -> Tensor:
    return confidence_margin(fused[None], target, rival)[0]


def right(fused: Tensor, target: Tensor) -> Tensor:
    return margin_of(fused, target, competitor(fused, target)) > 0


# Reference numbers.


@pytest.mark.parametrize("name", ["robust_static", "robust_dynamic"])
def test_linear_heads_equal_the_reference(name):
    def given(section: str, what: str) -> Tensor:
        value = torch.tensor(GOLDEN[section][f"{name}/{what}"])
        return value.double() if value.is_floating_point() else value

    heads = [given("inputs", f"head_weight_{m}") for m in range(2)]
    weights, target = given("inputs", "fusion_weights"), given("inputs", "target")
    unimodal = torch.stack(
        [given("inputs", f"features_{m}") @ heads[m].T + given("inputs", f"head_bias_{m}") for m in range(2)]
    )
    fused = fuse(unimodal, weights)
    rival = competitor(fused, target)
    margin = confidence_margin(unimodal, target, rival)
    tau = lipschitz(heads, target, rival)
    radius = robustness_radius(margin, tau, weights)
    found = {
        "competitor_j": rival,
        "ucom": margin.T,
        "tau": tau.T,
        "robust_bound": radius,
        "robust_bound_clipped": radius.clamp(min=0),
        "robust_bound_min_over_classes": smallest_radius(unimodal, heads, target, weights),
        "fused_correct": fused.argmax(dim=1) == target,
    }
    # The file has its numbers to about seven digits in places.
    for what, value in found.items():
        torch.testing.assert_close(value, given("outputs", what), atol=1e-6, rtol=0)
    metric = Margins(("a", "b"), heads=True).set_dtype(torch.float64)
    metric.update(fused, unimodal, weights, torch.ones(weights.shape, dtype=torch.bool), target, heads)
    means = metric.compute()
    ucom = torch.stack([means["ucom_a"], means["ucom_b"]])
    torch.testing.assert_close(ucom, given("outputs", "mean_ucom"), atol=1e-6, rtol=0)
    torch.testing.assert_close(means["radius"], given("outputs", "mean_bound"), atol=1e-6, rtol=0)


# What the radius must be.


def test_the_radius_is_the_exact_distance_to_the_decision_boundary():
    late = Late()
    rival = late.rival()
    radius, normal = late.radius(), late.normal(rival)
    margin = margin_of(late.fused(), late.target, rival)
    # The projection onto the boundary between target and competitor is as far away as the radius says.
    projection = -(margin / normal.square().sum(dim=1))[:, None] * normal
    after = margin_of(late.moved(projection), late.target, rival)
    torch.testing.assert_close(after, torch.zeros_like(after), atol=1e-9, rtol=0)
    torch.testing.assert_close(projection.norm(dim=1), radius.abs(), atol=1e-9, rtol=0)
    torch.testing.assert_close(radius, margin / normal.norm(dim=1), atol=1e-9, rtol=0)


def test_the_smallest_radius_is_tight():
    late = Late(400)
    correct = right(late.fused(), late.target)
    assert 0.1 < correct.double().mean() < 0.9
    radius = smallest_radius(late.unimodal(), late.heads, late.target, late.weights)
    assert torch.equal(radius > 0, correct)
    # No move that is shorter flips a decision, in whatever direction ...
    generator = torch.Generator().manual_seed(1)
    for _ in range(200):
        step = torch.randn(400, sum(WIDTHS), generator=generator, dtype=torch.float64)
        step = step / step.norm(dim=1, keepdim=True) * 0.999 * radius[:, None]
        assert right(late.moved(step), late.target)[correct].all()
    # ... and straight towards some class a move that is a bit longer does.
    flipped = torch.zeros_like(correct)
    for label in range(5):
        towards = torch.full_like(late.target, label)
        normal = late.normal(towards)
        step = -normal / normal.norm(dim=1, keepdim=True).clamp(min=1e-9) * 1.001 * radius[:, None]
        flipped |= ~right(late.moved(step), late.target) & (towards != late.target)
        shorter = -normal / normal.norm(dim=1, keepdim=True).clamp(min=1e-9) * 0.999 * radius[:, None]
        assert right(late.moved(shorter), late.target)[correct].all()
    assert flipped[correct].all()
    assert (radius <= late.radius() + 1e-12).all()


def test_scaling_the_weights_changes_nothing():
    late = Late()
    before = late.radius(), smallest_radius(late.unimodal(), late.heads, late.target, late.weights)
    late.weights = late.weights * 37.0
    after = late.radius(), smallest_radius(late.unimodal(), late.heads, late.target, late.weights)
    torch.testing.assert_close(after, before)


def test_the_radius_is_negative_where_the_sample_is_misclassified_and_nowhere_else():
    late = Late(300)
    wrong = late.fused().argmax(dim=1) != late.target
    assert 0 < wrong.sum() < 300
    assert torch.equal(late.radius() < 0, wrong)


def test_a_modality_without_weight_has_no_say():
    late = Late()
    late.weights[:, 2] = 0
    before = late.radius()
    late.features[2] = late.features[2] + 5
    late.heads[2] = late.heads[2] * 3
    torch.testing.assert_close(late.radius(), before)


def test_no_division_by_zero():
    same = torch.ones(4, 3)
    target, rival = torch.tensor([0, 1]), torch.tensor([2, 3])
    tau = lipschitz([same], target, rival)
    assert not tau.any()
    assert robustness_radius(torch.zeros(1, 2), tau, torch.ones(2, 1)).tolist() == [0.0, 0.0]


def test_almost_equal_classes_keep_their_distance_in_single_precision():
    weight = torch.tensor([[1000.0, 1.0], [1000.0, 1.001]])
    target = torch.tensor([0])
    unimodal = torch.tensor([[[1.0, 0.0]]])
    radius = smallest_radius(unimodal, [weight], target, torch.ones(1, 1))
    assert radius.item() == pytest.approx(1000, rel=1e-3)


# The metric.


def expected(late: Late) -> dict[str, Tensor]:
    rival, every = late.rival(), torch.ones(len(late.target), dtype=torch.bool)
    margin = confidence_margin(late.unimodal(), late.target, rival)
    tau, radius = lipschitz(late.heads, late.target, rival), late.radius()
    smallest = smallest_radius(late.unimodal(), late.heads, late.target, late.weights)
    values = {
        "margin": (margin_of(late.fused(), late.target, rival), every),
        "radius": (radius, every),
        "radius_clipped": (radius.clamp(min=0), every),
        "radius_min": (smallest, every),
    }
    for m, name in enumerate(NAMES):
        has = late.present[:, m]
        values[f"ucom_{name}"] = (margin[m], has)
        values[f"ucom_positive_{name}"] = ((margin[m] > 0).double(), has)
        values[f"tau_{name}"] = (tau[m], has)
        values[f"radius_{name}"] = (margin[m] / tau[m], has)
    return {key: value[has].mean() for key, (value, has) in values.items() if has.any()}


def updated(late: Late, rows: slice, heads: bool = True) -> Margins:
    metric = Margins(NAMES, heads=heads).set_dtype(torch.float64)
    add(metric, late, rows)
    return metric


def add(metric: Margins, late: Late, rows: slice) -> None:
    metric.update(
        late.fused()[rows],
        late.unimodal()[:, rows],
        late.weights[rows],
        late.present[rows],
        late.target[rows],
        late.heads,
    )


def with_gaps() -> Late:
    late = Late()
    late.present[::3, 1] = False
    late.present[:, 2] = False
    late.weights = late.weights * late.present
    return late


def test_the_metric_averages_over_the_samples_that_have_a_modality():
    late = with_gaps()
    metric = updated(late, slice(0, 7))
    for rows in (slice(7, 8), slice(8, 50)):
        add(metric, late, rows)
    means = metric.compute()
    assert means.keys() == expected(late).keys()
    assert not any(name.endswith("touch") for name in means)
    for name, value in expected(late).items():
        torch.testing.assert_close(means[name], value, msg=name)
    metric.reset()
    add(metric, late, slice(0, 7))
    assert metric.compute()["margin"] != means["margin"]


def test_the_states_of_several_processes_add_up():
    late = with_gaps()
    whole = updated(late, slice(0, 50))
    parts = [updated(late, slice(0, 11)), updated(late, slice(11, 50)), Margins(NAMES, heads=True)]
    for state, reduction in whole._reductions.items():
        total = reduction(torch.stack([getattr(each, state) for each in parts]))
        torch.testing.assert_close(total, getattr(whole, state))


def test_without_linear_heads_there_are_margins_only():
    late = Late()
    metric = Margins(NAMES, heads=False)
    metric.update(late.fused(), late.unimodal(), late.weights, late.present, late.target)
    means = metric.compute()
    assert set(means) == {"margin"} | {f"{key}_{name}" for key in ("ucom", "ucom_positive") for name in NAMES}


def test_half_precision_is_raised():
    late = Late()
    half, single = Margins(NAMES, heads=True), Margins(NAMES, heads=True)
    heads, unimodal = [each.bfloat16() for each in late.heads], late.unimodal().bfloat16()
    fused, weights = fuse(unimodal, late.weights), late.weights.bfloat16()
    half.update(fused, unimodal, weights, late.present, late.target, heads)
    raised = [each.float() for each in heads]
    single.update(fused, unimodal.float(), weights.float(), late.present, late.target, raised)
    for name, value in single.compute().items():
        assert torch.equal(half.compute()[name], value)


# The local estimate.


def test_the_local_radius_of_a_linear_model_is_the_certified_one():
    late = Late()
    inputs = [feature.requires_grad_() for feature in late.features]
    margin = confidence_margin(late.unimodal(), late.target, late.rival())
    tau, radius = local_radius(margin, inputs, late.weights)
    torch.testing.assert_close(tau, lipschitz(late.heads, late.target, late.rival()))
    torch.testing.assert_close(radius, late.radius().detach())
    assert not radius.requires_grad


class Network(nn.Module):
    """Late fusion of smooth encoders; embeds what is whole numbers."""

    def __init__(self, text: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.text = text
        self.image = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4))
        self.other = nn.Embedding(9, 4) if text else nn.Linear(5, 4)

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        second = self.other(inputs["other"][:, 0]).mean(dim=1) if self.text else self.other(inputs["other"])
        unimodal = {"other": second, "image": self.image(inputs["image"])}
        weights = present / present.sum(dim=1, keepdim=True)
        return Prediction(fuse(torch.stack(list(unimodal.values())), weights), unimodal, weights)


def network(text: bool) -> tuple[Network, tuple[Modality, ...], Batch]:
    other = Modality("other", "text", (2, 5)) if text else Modality("other", "vector", (5,))
    image = torch.randn(20, 1, 3, 4)
    present = torch.ones(20, 2, dtype=torch.bool)
    present[:4, 1] = False
    image[:4] = 0
    values = torch.randint(0, 9, (20, 2, 5)) if text else torch.randn(20, 5)
    batch = Batch({"other": values, "image": image}, torch.arange(20) % 4, present, torch.arange(20))
    return Network(text).eval(), (other, Modality("image", "image", (1, 3, 4))), batch


@pytest.mark.parametrize("text", [False, True])
def test_local_slopes_equal_finite_differences_and_are_averaged_over_who_has_the_modality(text):
    torch.manual_seed(1)
    model, modalities, batch = network(text)
    metric = LocalMargins(modalities)
    before = {name: value.clone() for name, value in batch.inputs.items()}
    with torch.inference_mode():  # as an evaluation by the trainer runs
        batch = Batch({k: v.clone() for k, v in batch.inputs.items()}, batch.target, batch.present, batch.index)
        metric.update(model, batch)
        means = metric.compute()
    assert all(torch.equal(batch.inputs[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())
    names = {"tau_input_local_image"} | (set() if text else {"tau_input_local_other", "radius_input_local"})
    assert set(means) == names

    model.double()
    inputs = {name: value.double() if value.is_floating_point() else value for name, value in before.items()}
    with torch.no_grad():
        prediction = model(inputs, batch.present)
        rival = competitor(prediction.logits, batch.target)

        def margin(image: Tensor) -> Tensor:
            logits = model({**inputs, "image": image}, batch.present).unimodal["image"]
            return confidence_margin(logits[None], batch.target, rival)[0]

        slopes = []
        for pixel in range(12):
            step = torch.zeros(12, dtype=torch.float64)
            step[pixel] = 1e-5
            up, down = inputs["image"] + step.view(1, 3, 4), inputs["image"] - step.view(1, 3, 4)
            slopes.append((margin(up) - margin(down)) / 2e-5)
        slope = torch.stack(slopes).norm(dim=0)
    assert means["tau_input_local_image"].item() == pytest.approx(slope[4:].mean().item(), rel=1e-4)
    if not text:
        head = model.other.weight
        other = (head[batch.target] - head[rival]).norm(dim=1)
        unimodal = torch.stack([prediction.unimodal["other"], prediction.unimodal["image"]])
        xi = confidence_margin(unimodal, batch.target, rival)
        radius = robustness_radius(xi, torch.stack((other, slope)), prediction.weights.double())
        assert means["radius_input_local"].item() == pytest.approx(radius.mean().item(), rel=1e-4)
        assert means["tau_input_local_other"].item() == pytest.approx(other.mean().item(), rel=1e-4)
