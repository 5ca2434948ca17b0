import copy
import csv
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmlab.backbones.config import BackboneConfig, Backbones
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.methods.controlled_noise import draw_levels
from mmlab.methods.udml import FUSIONS, UDML
from mmlab.types import Classification, DataSpec, Modality, Regression
from tests.methods.toy import batch, check, spec

TINY = BackboneConfig(width=4)
NOW = {"noise_epoch": 0, "dynamic_epoch": 0}  # epochs are 0 where there is no run
LINE = "fit --model UDML --wandb.mode off --model.noise_epoch 1 --model.dynamic_epoch 2 --trainer.max_epochs 3 "


@pytest.fixture(autouse=True)
def _without_a_run(monkeypatch):
    """Everything is drawn by the run's seed and epoch; most tests have no run."""
    draws = UDML.draws

    def drawn(self, samples):
        if self._trainer is not None:
            return draws(self, samples)
        return Draws(7, self.current_epoch, samples.index)

    monkeypatch.setattr(UDML, "draws", drawn)


def build(data, seed=0, **options):
    torch.manual_seed(seed)
    method = UDML(data.to_dict(), backbone=TINY, **options).double()
    method.draw_levels(0)
    return method


def doubled(samples):
    samples.inputs = {name: tensor.double() for name, tensor in samples.inputs.items()}
    return samples


def at_epoch(method, monkeypatch, epoch):
    monkeypatch.setattr(UDML, "current_epoch", epoch)
    return method


def largest_gradient(loss, module):
    """Of a module's parameters; None where the loss doesn't depend on one of them."""
    found = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
    return None if None in found else max(float(gradient.abs().max()) for gradient in found)


@pytest.mark.parametrize(
    ("modalities", "options"),
    [
        *((2, NOW | {"fusion": fusion}) for fusion in FUSIONS),
        *((3, NOW | {"fusion": fusion, "reliance": "dropout"}) for fusion in ("concat", "sum")),
        (3, {}),
        (2, {"noise_epoch": 0}),
        (2, {"noise_epoch": 0, "estimator": False}),
        (2, NOW | {"reliance": "off"}),
        (3, NOW | {"gamma": 0.0, "beta": 0.0, "noise_weight": 0.0, "reliance_momentum": 0.9}),
    ],
)
@pytest.mark.parametrize("missing", [False, True])
def test_losses_and_prediction(modalities, options, missing):
    data = spec(modalities)
    torch.manual_seed(0)
    method = UDML(data.to_dict(), backbone=TINY, **options)
    method.draw_levels(0)
    samples = batch(data, missing=missing)
    prediction = check(method, samples)
    torch.testing.assert_close(prediction.weights.sum(dim=1), samples.present.sum(dim=1).float())
    assert (prediction.weights[~samples.present] == 0).all()
    assert list(prediction.unimodal) == list(data.names)
    assert (prediction.uncertainty is None) == (not options.get("estimator", True))
    assert all(feature.shape == (6, 32) for feature in prediction.features.values())


def test_the_loss_is_the_weighted_sum_of_its_parts():
    data = spec(2)
    parts = build(data, **NOW, gamma=2.5, beta=0.01, noise_weight=0.3).losses(doubled(batch(data)))
    assert list(parts) == [
        *("loss", "ce_fused", "ce_audio", "ce_visual", "kl_audio", "kl_visual", "level"),
        *("reliance_audio", "reliance_visual"),
    ]
    expected = parts["ce_fused"] + 2.5 * (parts["ce_audio"] + parts["ce_visual"])
    expected = expected + 0.01 * (parts["kl_audio"] + parts["kl_visual"]) + 0.3 * parts["level"]
    torch.testing.assert_close(parts["loss"], expected)


def test_phases(monkeypatch):
    data = spec(2)
    samples = doubled(batch(data))
    method = build(data, noise_epoch=5)
    assert method.dynamic_epoch == 15
    seen = []
    decide = method.decide
    monkeypatch.setattr(method, "decide", lambda *given: seen.append(decide(*given)) or seen[-1])
    inputs = []
    represent = method.represent
    monkeypatch.setattr(method, "represent", lambda given, present: inputs.append(given) or represent(given, present))
    for epoch in (4, 5, 14, 15):
        at_epoch(method, monkeypatch, epoch)
        method.reliance.fill_(2.0)
        method.losses(samples)
        levels = method.levels_of(samples)
        assert bool((levels == 1).all()) == (epoch < 5)
        for m, name in enumerate(data.names):
            same = (inputs[-1][name] == samples.inputs[name]).flatten(1).all(dim=1)
            assert torch.equal(same, levels[:, m] == 1)
        one = torch.ones(6, 2, dtype=torch.float64)
        assert torch.equal(seen[-1].weights, one) == (epoch < 15)
    assert torch.equal(method.levels_of(samples), method.levels[samples.index])
    assert (method.levels[:6] > 1).any()


def test_without_levels_all_samples_have_the_weights_of_the_reliance(monkeypatch):
    data = spec(2)
    method = build(data, initial_reliance=[32.0, 10.0])
    seen = []
    decide = method.decide
    monkeypatch.setattr(method, "decide", lambda *given: seen.append(decide(*given)) or seen[-1])
    method.losses(doubled(batch(data)))
    expected = torch.tensor([20 / 42, 64 / 42], dtype=torch.float64)
    torch.testing.assert_close(seen[0].weights, expected.expand(6, 2))
    for name, weight in zip(data.names, expected, strict=True):
        torch.testing.assert_close(seen[0].weighted[name], (1 + weight) * seen[0].features[name])


def test_whom_gradients_reach(monkeypatch):
    data = spec(2)
    samples = doubled(batch(data))
    method = build(data, noise_epoch=0, dynamic_epoch=1)
    for epoch in (0, 1):
        parts = at_epoch(method, monkeypatch, epoch).losses(samples)
        assert largest_gradient(parts["level"], method.estimators) > 0
        for module in (method.encoders, method.gaussians, method.fusion):
            assert largest_gradient(parts["level"], module) is None
        task = parts["ce_fused"] + parts["ce_audio"]
        assert largest_gradient(task, method.encoders) > 0
        reached = largest_gradient(task, method.estimators)
        assert reached is None if epoch == 0 else reached > 0
        divergence = parts["kl_audio"] + parts["kl_visual"]
        assert largest_gradient(divergence, method.gaussians) > 0
        assert largest_gradient(divergence, method.fusion) is None
    assert not method.reliance.requires_grad


def test_weights_hand_no_gradient_to_what_they_are_made_from():
    data = spec(2)
    samples = doubled(batch(data))
    method = build(data, **NOW)
    means, stds = method.represent(samples.inputs, samples.present)
    weights = method.decide(means, stds, samples.present).weights
    assert largest_gradient(weights[:, 0].sum(), method.estimators) > 0
    for module in (method.encoders, method.gaussians):
        assert largest_gradient(weights[:, 0].sum(), module) is None


def test_training_is_random_and_evaluation_is_not(monkeypatch):
    data = spec(2)
    samples = doubled(batch(data))
    method = build(data, noise_epoch=50)
    first = method.losses(samples)["ce_fused"]
    method.reliance.fill_(1.0)
    torch.testing.assert_close(method.losses(samples)["ce_fused"], first)  # the same epoch, the same draws
    method.reliance.fill_(1.0)
    at_epoch(method, monkeypatch, 1)
    assert abs(method.losses(samples)["ce_fused"] - first) > 1e-4
    method.eval()
    seen = []
    for epoch in (1, 50, 60):
        at_epoch(method, monkeypatch, epoch)
        seen.append(method(samples.inputs, samples.present).logits)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_only_training_samples_from_the_gaussians(monkeypatch):
    data = spec(2)
    samples = doubled(batch(data))
    method = build(data)
    seen = []
    decide = method.decide
    monkeypatch.setattr(method, "decide", lambda maps, *given: seen.append(maps) or decide(maps, *given))
    means, stds = method.represent(samples.inputs, samples.present)
    method.losses(samples)
    for name in data.names:
        draw = ((seen[0][name] - means[name]) / stds[name]).detach()
        assert draw.mean().abs() < 0.1
        assert draw.std() == pytest.approx(1, abs=0.1)
    method(samples.inputs, samples.present)
    for name in data.names:
        torch.testing.assert_close(seen[1][name], means[name])


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_the_order_of_the_modalities_does_not_matter(fusion):
    data = spec(2)
    samples = doubled(batch(data))
    method = build(data, fusion=fusion, initial_reliance=[3.0, 0.5])
    method.eval()
    for buffer in ("running_mean", "running_var"):
        for head in method.gaussians.values():
            head.norm.get_buffer(buffer).uniform_(0.5, 1.5)
    swapped = build(DataSpec("Toy", data.modalities[::-1], data.task, data.train_size), fusion=fusion).eval()
    state = method.state_dict()
    state["reliance"], state["levels"] = state["reliance"].flip(0), state["levels"].flip(1)
    if fusion == "sum":
        for part in ("weight", "bias"):
            first, second = (f"fusion.classifiers.{m}.{part}" for m in range(2))
            state[first], state[second] = state[second], state[first]
    else:
        state["fusion.classifier.weight"] = state["fusion.classifier.weight"].roll(32, dims=1)
    swapped.load_state_dict(state)
    one, other = method(samples.inputs, samples.present), swapped(samples.inputs, samples.present)
    torch.testing.assert_close(one.logits, other.logits)
    torch.testing.assert_close(one.weights, other.weights.flip(1))
    assert (one.weights[:, 0] < one.weights[:, 1]).all()
    for name in data.names:
        torch.testing.assert_close(one.unimodal[name], other.unimodal[name])


def test_data_without_noise_have_level_1_throughout():
    data = spec(2)
    method = build(data, **NOW)
    method.levels.fill_(1)
    samples = doubled(batch(data))
    assert (method.levels_of(samples) == 1).all()
    noisy = method.noise(samples.inputs, method.levels_of(samples), method.draws(samples))
    assert all(torch.equal(noisy[name], samples.inputs[name]) for name in data.names)


def test_without_its_terms_it_is_a_probabilistic_network_on_rescaled_features():
    data = spec(2)
    samples = doubled(batch(data))
    method = build(data, gamma=0.0, beta=0.0, noise_weight=0.0, reliance="off")
    loss = method.losses(samples)["loss"]
    means, stds = method.represent(samples.inputs, samples.present)
    features = []
    for name, encoder in method.encoders.items():
        eps = method.draws(samples).field(f"sample_{name}", means[name][0].numel()).view_as(means[name])
        features.append(2 * encoder.pool(means[name] + eps * stds[name]))
    logits = method.fusion.classifier(torch.cat(features, dim=1))
    torch.testing.assert_close(loss, F.cross_entropy(logits, samples.target))


@pytest.mark.parametrize("saturated", [1000.0, -1000.0])
def test_saturated_levels_are_finite(saturated):
    data = spec(2)
    method = build(data, **NOW).float()
    with torch.no_grad():
        method.estimators["audio"].output.bias.fill_(saturated)
    check(method, batch(data))
    assert (method.train().losses(batch(data))["level"] == 0) == (saturated > 0)


def test_the_reliance_of_a_zero_head_is_finite():
    data = spec(2)
    samples = doubled(batch(data))
    method = build(data, **NOW)
    with torch.no_grad():
        for parameter in method.fusion.parameters():
            parameter.zero_()
    method.losses(samples)
    assert torch.equal(method.reliance, torch.zeros(2, dtype=torch.float64))
    assert method.losses(samples)["loss"].isfinite()


@pytest.mark.parametrize(
    ("fusion", "measure"), [("concat", "magnitude"), ("sum", "magnitude"), ("concat", "dropout"), ("gated", None)]
)
@pytest.mark.parametrize("missing", [False, True])
def test_reliance_is_measured_on_weighted_features_and_counts_from_the_next_batch_on(
    monkeypatch, fusion, measure, missing
):
    data = spec(2)
    samples = doubled(batch(data, missing=missing))
    method = build(data, **NOW, fusion=fusion, reliance=measure, initial_reliance=[2.0, 5.0])
    seen = []
    decide = method.decide
    monkeypatch.setattr(method, "decide", lambda *given: seen.append(decide(*given)) or seen[-1])
    parts = method.losses(samples)
    assert [float(parts[f"reliance_{name}"]) for name in data.names] == [2.0, 5.0]
    for m, name in enumerate(data.names):
        has = samples.present[:, m]
        if measure == "magnitude":
            each = seen[0].unimodal[m].abs().sum(dim=1)
        else:
            others = samples.present & (torch.arange(2) != m)
            each = (seen[0].logits - method.fusion(seen[0].weighted, others)).abs().sum(dim=1)
        torch.testing.assert_close(method.reliance[m], each[has].mean().detach())
        torch.testing.assert_close(seen[0].weighted[name], (1 + seen[0].weights[:, [m]]) * seen[0].features[name])
    before = method.reliance.clone()
    parts = method.losses(samples)
    torch.testing.assert_close(torch.stack([parts[f"reliance_{name}"] for name in data.names]), before)
    after = method.reliance.clone()
    method.eval()(samples.inputs, samples.present)
    assert torch.equal(method.reliance, after)


def test_reliance_keeps_what_the_momentum_says_and_can_be_off():
    data = spec(2)
    samples = doubled(batch(data))
    plain, slow, off = (build(data, **options) for options in ({}, {"reliance_momentum": 0.75}, {"reliance": "off"}))
    for method in (plain, slow, off):
        method.losses(samples)
    torch.testing.assert_close(slow.reliance, 0.75 + 0.25 * plain.reliance)
    assert torch.equal(off.reliance, torch.ones(2, dtype=torch.float64))


def test_what_no_sample_has_keeps_its_reliance():
    data = spec(2)
    samples = doubled(batch(data))
    samples.present[:, 1] = False
    method = build(data, **NOW, initial_reliance=[2.0, 5.0])
    losses = method.losses(samples)
    assert losses["loss"].isfinite()
    assert losses["ce_visual"] == losses["kl_visual"] == 0
    assert method.reliance[1] == 5.0
    assert method.reliance[0] != 2.0


def test_a_missing_modality_is_no_feature_and_has_no_losses():
    data = spec(3)
    samples = doubled(batch(data, missing=True))
    states = []
    for filling in (0.0, 5.0):
        method = build(data, **NOW)
        given = copy.deepcopy(samples)
        given.inputs["audio"][~samples.present[:, 0]] = filling
        states.append((method.losses(given), dict(method.named_buffers()), method.levels_of(given)))
    (first, buffers, levels), (second, others, _) = states
    for name in first:
        torch.testing.assert_close(first[name], second[name])
    for name in buffers:
        torch.testing.assert_close(buffers[name], others[name])
    assert (levels[~samples.present] == 1).all()


def test_a_clip_has_one_divergence_however_many_frames(monkeypatch):
    method = build(spec(2))
    mean, std = torch.randn(3, 1, 4, 2, 2).double(), torch.rand(3, 1, 4, 2, 2).double()
    level = torch.tensor([1, 4, 11])
    once = method._divergence(mean, std, level)
    torch.testing.assert_close(method._divergence(mean.expand(3, 5, 4, 2, 2), std.expand(3, 5, 4, 2, 2), level), once)
    halves = method._divergence(torch.cat([mean, 0 * mean], dim=1), torch.cat([std, std], dim=1), level)
    torch.testing.assert_close(halves, (once + method._divergence(0 * mean, std, level)) / 2)


def test_a_linear_estimator_with_dropout_in_training_only(monkeypatch):
    data = spec(2)
    method = build(data)
    estimator = method.estimators["audio"]
    spread = torch.rand(5, 32, dtype=torch.float64)
    first, second = estimator(spread, None), estimator(2 * spread, None)
    bias = estimator(0 * spread, None)
    torch.testing.assert_close(second - bias, 2 * (first - bias))
    u = torch.linspace(0, 1, 256, dtype=torch.float64).expand(5, 256)
    hidden = estimator.hidden(spread) * (u >= 0.1) / 0.9
    torch.testing.assert_close(estimator(spread, u), estimator.output(hidden).squeeze(1))
    seen = []
    for each in method.estimators.values():
        each.register_forward_pre_hook(lambda module, given: seen.append(given[1]))
    samples = doubled(batch(data))
    method.losses(samples)
    method.eval()(samples.inputs, samples.present)
    assert all(u.shape == (6, 256) for u in seen[:2])
    assert not torch.equal(*seen[:2])
    assert seen[2:] == [None, None]


def test_estimators_start_near_level_1_for_all_samples():
    for estimator in build(spec(2)).estimators.values():
        for layer in (estimator.hidden, estimator.output):
            fans = layer.in_features + layer.out_features
            assert layer.weight.std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.15)
            assert (layer.bias == 0).all()
        spread = torch.rand(50, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        assert (estimator(0 * spread, None) == 0).all()
        assert estimator(spread, None).abs().max() < 2


def test_the_uncertainty_is_the_squared_predicted_level():
    data = spec(2)
    method = build(data, **NOW)
    with torch.no_grad():
        for estimator, level in zip(method.estimators.values(), (3.0, 7.0), strict=True):
            estimator.output.weight.zero_()
            estimator.output.bias.fill_(2 * math.log(level))
    samples = doubled(batch(data))
    off = torch.tensor([3.0, 7.0]).double() - method.levels_of(samples)
    torch.testing.assert_close(method.losses(samples)["level"], off.square().mean(dim=0).sum())
    prediction = method.eval()(samples.inputs, samples.present)
    torch.testing.assert_close(prediction.uncertainty, torch.tensor([[9.0, 49.0]]).double().expand(6, 2))


def test_backbones_without_maps_and_with_a_grid():
    modalities = (Modality("motion", "sequence", (2, 5)), Modality("image", "image", (3, 32, 32)))
    data = DataSpec("Toy", modalities, Classification(("a", "b", "c")), train_size=20)
    torch.manual_seed(0)
    own = Backbones(image=BackboneConfig("resnet10t", grid=(1, 2)))
    method = UDML(data.to_dict(), **NOW, backbone="backbones.own.AsItIs", backbones=own)
    method.draw_levels(0)
    samples = batch(data)
    means, stds = method.represent(samples.inputs, samples.present)
    assert means["motion"].shape == stds["motion"].shape == (6, 1, 10, 1, 1)
    assert means["image"].shape == (6, 1, 512, 1, 1)
    prediction = check(method, samples)
    assert prediction.features["motion"].shape == (6, 10)
    assert prediction.features["image"].shape == (6, 1024)


def test_a_number_as_target():
    data = DataSpec("Toy", spec(2).modalities, Regression(-3.0, 3.0), train_size=20)
    samples = batch(data)
    samples.target = torch.randn(6)
    torch.manual_seed(0)
    method = UDML(data.to_dict(), **NOW, backbone=TINY)
    method.draw_levels(0)
    check(method, samples)
    assert {"l1_fused", "l1_audio", "l1_visual"} <= method.losses(samples).keys()


def test_text_has_level_1():
    text = Modality("text", "text", (2, 7), high=9.0, blank=1)
    data = DataSpec("Toy", (Modality("image", "image", (3, 8, 8)), text), Classification(("a", "b")), train_size=40)
    method = UDML(data.to_dict(), **NOW, backbone=TINY, backbones=Backbones(text="backbones.own.MeanAndMax"))
    method.draw_levels(0)
    assert (method.levels[:, 1] == 1).all()
    assert (method.levels[:, 0] > 1).any()


@pytest.mark.parametrize(
    ("modalities", "options", "sentence"),
    [
        (1, {}, "only audio"),
        (3, {"fusion": "film"}, "concat or sum"),
        (3, {"fusion": "gated"}, "concat or sum"),
        (2, {"fusion": "gated", "reliance": "magnitude"}, "dropout or off"),
        (2, {"gamma": -1.0}, "gamma is -1.0"),
        (2, {"beta": float("nan")}, "beta is nan"),
        (2, {"noise_weight": -0.1}, "noise_weight is -0.1"),
        (2, {"reliance_momentum": 1.0}, "reliance_momentum is 1.0"),
        (2, {"noise_epoch": -1}, "noise_epoch is -1"),
        (2, {"noise_epoch": 5, "dynamic_epoch": 4}, "give 5 or more"),
        (2, {"initial_reliance": [1.0]}, "each of audio, visual"),
        (2, {"initial_reliance": [1.0, 0.0]}, "each of audio, visual"),
        (2, {"initial_reliance": [1.0, 2.0], "reliance": "off"}, "leave initial_reliance out"),
        (2, {"reliance_momentum": 0.5, "reliance": "off"}, "leave reliance_momentum out"),
        (2, {"dynamic_epoch": 60, "estimator": False}, "leave dynamic_epoch out"),
    ],
)
def test_what_cannot_be_is_refused(modalities, options, sentence):
    with pytest.raises(UserError, match=sentence):
        build(spec(modalities), **options)


def rows_of(run):
    with open(f"{run}/metrics.csv", newline="") as text:
        return list(csv.DictReader(text))


def test_it_fits_keeps_its_state_and_is_tested(mmlab, tiny):
    mmlab(f"{LINE} {tiny} --run_dir run --model.initial_reliance [32,10]")
    result = json.loads(Path("run/result.json").read_text())
    assert {"acc", "acc_audio", "acc_image"} <= result["test"].keys()
    state = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert state["levels"].shape == (96, 2)
    assert 48 <= (state["levels"] == 1).all(dim=1).sum() <= 52
    first = torch.load("run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(first["levels"], state["levels"])  # drawn once
    assert (state["reliance"] != torch.tensor([32.0, 10.0])).all()
    rows = rows_of("run")
    assert float(rows[0]["train/level"]) < 1 < 10 < float(rows[1]["train/level"])  # clean, then noisy


def test_levels_are_those_of_the_run_s_seed(mmlab, tiny):
    short = f"fit --model UDML --wandb.mode off {tiny} --trainer.max_epochs 1 --trainer.limit_train_batches 1 "
    levels = []
    for run, seed in (("a", 3), ("b", 3), ("c", 4)):
        mmlab(f"{short} --test false --seed {seed} --run_dir {run}")
        levels.append(torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"]["levels"])
    assert torch.equal(levels[0], levels[1])
    assert not torch.equal(levels[0], levels[2])
    assert torch.equal(levels[0], draw_levels(96, 2, seed=3))


def test_a_run_that_is_too_short_says_so(mmlab, tiny, recwarn):
    short = f"fit --model UDML --wandb.mode off {tiny} --trainer.max_epochs 1 --trainer.limit_train_batches 1"
    for run, flags, words in (
        ("a", "", "noise starts after 50 epochs"),
        ("b", "--model.noise_epoch 0 --model.dynamic_epoch 1", "dynamic weights start after 1 epochs"),
        ("c", "--model.noise_epoch 0 --model.dynamic_epoch 0", None),
    ):
        recwarn.clear()
        mmlab(f"{short} {flags} --test false --run_dir {run}")
        told = [str(warning.message) for warning in recwarn if "UDML" in str(warning.message)]
        assert len(told) == (words is not None)
        assert words is None or words in told[0]


def test_half_precision_stays_near_full_precision(mmlab, tiny, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "runs"))
    line = f"{LINE} {tiny} --test false --trainer.gradient_clip_val 40"
    mmlab(f"{line} --run_dir full")
    mmlab(f"{line} --run_dir bf16 --trainer.precision bf16-mixed")
    mmlab(f"{line} --run_dir fp16 --trainer.plugins+=test_precision.ScaledOnCpu")
    read = {}
    for run in ("full", "bf16", "fp16"):
        read[run] = [
            [float(row[f"train/{key}"]) for key in ("loss", "level", "reliance_audio", "reliance_image")]
            for row in rows_of(run)
        ]
    assert read["fp16"] == [pytest.approx(row, rel=0.02) for row in read["full"]]
    assert read["bf16"] == [pytest.approx(row, rel=0.1) for row in read["full"]]
    assert read["fp16"] != read["full"] != read["bf16"]
