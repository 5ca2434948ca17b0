import csv
import json
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision

from mmlab.backbones.config import BackboneConfig, Backbones
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.losses.pareto import pareto_weight
from mmlab.methods.erl_mr import ERLMR, FUSIONS
from mmlab.methods.joint_training import JointTraining
from mmlab.types import Batch, Classification, DataSpec, Modality
from tests.methods.toy import batch, check, spec

TINY = BackboneConfig(width=4)


@pytest.fixture(autouse=True)
def _without_a_run(monkeypatch):
    """Dropout draws by the run's seed and epoch; here there is no run."""
    monkeypatch.setattr(ERLMR, "draws", lambda self, samples: Draws(7, 0, samples.index))


def build(data, seed=0, **options):
    torch.manual_seed(seed)
    return ERLMR(data.to_dict(), backbone=TINY, **options).double()


def doubled(samples):
    samples.inputs = {name: tensor.double() for name, tensor in samples.inputs.items()}
    return samples


def gradients(loss, module):
    found = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True, allow_unused=True)
    return [gradient for gradient in found if gradient is not None and gradient.abs().max() > 0]


@pytest.mark.parametrize(
    ("modalities", "options"),
    [
        *((2, {"fusion": fusion}) for fusion in FUSIONS),
        *((3, {"fusion": fusion}) for fusion in ("concat", "sum")),
        (2, {"mmc": "phase"}),
        (2, {"mmc": "unimodal", "weighting": "fixed"}),
        (2, {"mmc": "off", "weighting": "fixed"}),
        (2, {"mapping": False, "mmc": "unimodal", "weighting": "fixed"}),
        (3, {"phase_axis": "feature", "dropout": 0.0}),
        (3, {"weighting": "fixed", "lam": 0.3, "pre_norm": True}),
    ],
)
@pytest.mark.parametrize("missing", [False, True])
def test_losses_and_prediction(modalities, options, missing):
    data = spec(modalities)
    torch.manual_seed(0)
    method = ERLMR(data.to_dict(), backbone=TINY, **options)
    samples = batch(data, missing=missing)
    prediction = check(method, samples)
    assert list(prediction.unimodal) == list(data.names)
    assert all(feature.shape == (len(samples), 32) for feature in prediction.features.values())
    assert ("pareto_weight" in method.losses(samples)) == (options.get("weighting") != "fixed")


def test_the_loss_is_the_weighted_sum_of_its_parts():
    data = spec(2)
    samples = doubled(batch(data))
    parts = build(data).losses(samples)
    assert list(parts) == ["loss", "ce_fused", "ce_audio", "ce_visual", "phase", "pareto_weight"]
    mmc = parts["phase"] + parts["ce_audio"] + parts["ce_visual"]
    weight = parts["pareto_weight"]
    assert 0 < weight < 1
    assert not weight.requires_grad
    torch.testing.assert_close(parts["loss"], weight * parts["ce_fused"] + (1 - weight) * mmc)
    fixed = build(data, weighting="fixed", lam=0.3).losses(samples)
    torch.testing.assert_close(fixed["loss"], parts["ce_fused"] + 0.3 * mmc)
    for mmc, names in (("phase", ["phase"]), ("unimodal", ["ce_audio", "ce_visual"]), ("off", [])):
        some = build(data, weighting="fixed", mmc=mmc).losses(samples)["loss"]
        torch.testing.assert_close(some, parts["ce_fused"] + sum(parts[name] for name in names))


def test_the_weight_comes_from_the_gradients_of_fused_and_phase_loss():
    data = spec(2)
    method = build(data, dropout=0.0)
    parts = method.losses(doubled(batch(data)))
    shared = [*method.encoders.parameters(), *method.mapping.parameters()]
    tasks = torch.stack([parts["ce_fused"], 2 * parts["phase"]])
    rows = torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(t, shared, retain_graph=True)]) for t in tasks]
    )
    torch.testing.assert_close(parts["pareto_weight"], pareto_weight(rows @ rows.T, tasks.detach()))
    assert 0.002 < parts["pareto_weight"] < 0.998
    # A step with this weight as a plain number is the same step.
    number = float(parts["pareto_weight"])
    mmc = parts["phase"] + parts["ce_audio"] + parts["ce_visual"]
    by_hand = gradients(number * parts["ce_fused"] + (1 - number) * mmc, method)
    torch.testing.assert_close(gradients(parts["loss"], method), by_hand)


@pytest.mark.parametrize("scale", [1024.0, 2.0**40])
def test_a_gradient_scaler_changes_nothing(scale):
    data = spec(2)
    samples = doubled(batch(data))
    method = build(data)
    plain = method.losses(samples)["pareto_weight"]
    method._scale = lambda loss: torch.full_like(loss, scale)
    torch.testing.assert_close(method.losses(samples)["pareto_weight"], plain)


def test_the_gradients_are_scaled_as_the_trainer_scales_the_loss():
    method = build(spec(2))
    assert method._scale(torch.tensor(3.0)) == 1
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))
    method.trainer = Trainer(accelerator="cpu", plugins=[scaled], logger=False, enable_checkpointing=False)
    assert method._scale(torch.tensor(3.0)) == 1024


@pytest.mark.parametrize(("scale", "holds"), [(1024.0, True), (1e9, False), (1e-6, False)])
def test_gradients_out_of_half_precision_leave_the_loss_finite(scale, holds):
    data = spec(2)
    samples = batch(data)
    method = build(data).float()
    plain = method.losses(samples)["pareto_weight"]
    method._scale = lambda loss: torch.full_like(loss, scale)
    with torch.autocast("cpu", torch.float16):
        parts = method.losses(samples)
    assert parts["loss"].isfinite()
    assert (parts["pareto_weight"] - plain).abs().lt(1e-3) == holds


def test_only_one_linear_layer_maps_all_modalities():
    data = spec(3)
    method = build(data)
    linear = method.mapping.linear
    assert [name for name, module in method.mapping.named_modules() if isinstance(module, torch.nn.Linear)] == [
        "linear"
    ]
    assert linear.weight.shape == (16, 32)
    decision, _ = method.decide(doubled(batch(data)).inputs, torch.ones(6, 3, dtype=torch.bool))
    for feature in decision.features:
        assert gradients(feature.sum(), linear)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_whom_gradients_reach(fusion):
    data = spec(2)
    method = build(data, fusion=fusion)
    parts = method.losses(doubled(batch(data)))
    assert not gradients(parts["phase"], method.fusion)
    assert gradients(parts["phase"], method.encoders["audio"])
    assert gradients(parts["ce_audio"], method.encoders["audio"])
    assert bool(gradients(parts["ce_audio"], method.encoders["visual"])) == (fusion in ("film", "gated"))


def test_equal_features_have_no_phase_term_but_for_dead_columns():
    data = spec(2)
    method = build(data, dropout=0.0)
    feature = torch.randn(6, 32, dtype=torch.float64)
    _, phases = method.mapping({"audio": feature, "visual": feature}, None)
    assert torch.equal(phases[:, 0], phases[:, 1])
    assert (phases >= 0).all()
    assert (phases <= math.pi / 2).all()
    with torch.no_grad():
        method.mapping.linear.bias[:4] = -99.0  # four columns are 0 in all samples now
    method.encode = lambda inputs: {"audio": feature, "visual": feature}
    present = torch.ones(6, 2, dtype=torch.bool)
    _, phases = method.decide({}, present)
    dead = (phases[:, 0] == 0).all(dim=0).double().mean()
    assert dead >= 4 / 16
    parts = method.losses(Batch({}, torch.zeros(6, dtype=torch.long), present, torch.arange(6)))
    torch.testing.assert_close(parts["phase"], dead)
    assert parts["loss"].isfinite()


def test_before_the_linear_map_both_parts_lie_on_the_circle_of_the_amplitude():
    data = spec(2)
    method = build(data)
    seen = []
    method.mapping.linear.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for amplitude in method.mapping.amplitudes:
        torch.nn.init.normal_(amplitude)
    samples = doubled(batch(data))
    _, phases = method.decide(samples.inputs, samples.present)
    for parts, amplitude in zip(seen[0], method.mapping.amplitudes, strict=True):
        torch.testing.assert_close(parts.square().sum(dim=0), amplitude.square().T.expand(6, 32))
    assert (phases >= 0).all()
    assert (phases <= math.pi / 2).all()
    assert phases.std() > 0.1
    assert 0 <= method.losses(samples)["phase"] <= 1


def test_features_alias_every_two_pi():
    data = spec(2)
    samples = doubled(batch(data))
    method = build(data)
    plain = method(samples.inputs, samples.present).logits
    features = {name: feature + 4 * math.pi for name, feature in method.encode(samples.inputs).items()}
    method.encode = lambda inputs: features
    torch.testing.assert_close(method(samples.inputs, samples.present).logits, plain)


@pytest.mark.parametrize("fusion", ["concat", "sum", "film", "gated"])
def test_the_order_of_the_modalities_does_not_matter(fusion):
    data = spec(2)
    samples = doubled(batch(data))
    method = build(data, fusion=fusion, dropout=0.0)
    for amplitude in method.mapping.amplitudes:
        torch.nn.init.uniform_(amplitude, 0.5, 2.0)
    swapped = build(DataSpec("Toy", data.modalities[::-1], data.task, data.train_size), fusion=fusion, dropout=0.0)
    state = method.state_dict()
    for name in ("mapping.amplitudes", "fusion.classifiers"):
        for key in [key for key in state if key.startswith(f"{name}.0")]:
            other = key.replace(f"{name}.0", f"{name}.1")
            state[key], state[other] = state[other], state[key]
    if fusion != "sum":
        state["fusion.classifier.weight"] = state["fusion.classifier.weight"].roll(32, dims=1)
    swapped.load_state_dict(state)
    samples_swapped = Batch(samples.inputs, samples.target, samples.present.flip(1), samples.index)
    one, other = method.losses(samples), swapped.losses(samples_swapped)
    for name in one:
        torch.testing.assert_close(one[name], other[name])


@pytest.mark.parametrize("fusion", ["concat", "sum"])
@pytest.mark.parametrize("missing", [False, True])
def test_without_the_mapping_it_is_joint_training(fusion, missing):
    data = spec(3)
    samples = doubled(batch(data, missing=missing))
    method = build(data, fusion=fusion, mapping=False, mmc="off", weighting="fixed")
    plain = JointTraining(data.to_dict(), fusion, backbone=TINY).double()
    plain.load_state_dict(method.state_dict())
    torch.testing.assert_close(method.losses(samples)["loss"], plain.losses(samples)["loss"])
    torch.testing.assert_close(
        method(samples.inputs, samples.present).logits, plain(samples.inputs, samples.present).logits
    )


@pytest.mark.parametrize("fusion", ["concat", "sum"])
def test_without_the_mapping_it_learns_as_joint_training_does(mmlab, tiny, fusion):
    # Not Adam, to which a loss of another size is the same loss.
    sgd = "--model.optimizer SGD --model.optimizer.lr 0.1"
    line = f"--model.fusion {fusion} {sgd} --trainer.max_epochs 2 --test false --wandb.mode off {tiny}"
    mmlab(f"fit --model ERLMR --model.mapping false --model.mmc off --model.weighting fixed {line} --run_dir plain")
    mmlab(f"fit --model JointTraining {line} --run_dir joint")
    plain, joint = (
        torch.load(Path(run) / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("plain", "joint")
    )
    assert plain.keys() == joint.keys()
    for name, tensor in joint.items():
        torch.testing.assert_close(plain[name], tensor, rtol=0, atol=1e-6)


def test_dropout_is_independent_off_in_evaluation_and_a_function_of_the_sample():
    data = spec(2)
    samples = doubled(batch(data))
    method = build(data, dropout=0.5)
    feature = torch.ones(4000, 32, dtype=torch.float64)
    seen = []
    method.mapping.linear.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    method.mapping({"audio": feature, "visual": feature}, Draws(0, 0, torch.arange(4000)))
    kept = (seen[0] != 0).double()
    torch.testing.assert_close(seen[0][0, 0].max(), 2 * torch.ones((), dtype=torch.float64).cos())
    assert kept.mean() == pytest.approx(0.5, abs=0.005)
    for pair in ((kept[0, 0], kept[0, 1]), (kept[0, 0], kept[1, 0])):
        assert (pair[0] * pair[1]).mean() == pytest.approx(0.25, abs=0.005)

    whole = method.losses(samples)["ce_fused"]
    assert method.eval().losses(samples)["ce_fused"] != whole
    assert torch.equal(method(samples.inputs, samples.present).logits, method(samples.inputs, samples.present).logits)
    assert torch.equal(method.train().losses(samples)["ce_fused"], whole)


def test_a_missing_modality_is_no_feature():
    data = spec(2)
    samples = doubled(batch(data, missing=True))
    method = build(data)
    before = method.losses(samples)
    samples.inputs["audio"][~samples.present[:, 0]] = 5.0
    after = method.losses(samples)
    for name in ("loss", "ce_fused", "ce_audio", "ce_visual", "phase", "pareto_weight"):
        torch.testing.assert_close(after[name], before[name])
    prediction = method(samples.inputs, samples.present)
    assert (prediction.features["audio"][~samples.present[:, 0]] == 0).all()
    assert before["phase"] == 0  # no sample of this batch has both


def test_other_widths_are_brought_to_one():
    data = spec(2)
    torch.manual_seed(0)
    method = ERLMR(data.to_dict(), backbone=TINY, backbones=Backbones(visual=BackboneConfig(width=8)))
    prediction = check(method, batch(data))
    assert {feature.shape[1] for feature in prediction.features.values()} == {64}
    assert method.mapping.linear.weight.shape == (32, 64)


@pytest.mark.parametrize(
    ("modalities", "options", "sentence"),
    [
        (1, {}, "only audio"),
        (3, {"fusion": "film"}, "concat or sum"),
        (3, {"fusion": "gated"}, "concat or sum"),
        (2, {"mapping": False}, "set mmc to unimodal"),
        (2, {"mmc": "off"}, "set weighting to fixed"),
        (2, {"mmc": "unimodal"}, "set weighting to fixed"),
        (2, {"lam": 1.0}, "leave lam out"),
        (2, {"lam": -1.0, "weighting": "fixed"}, "give 0 or more"),
        (2, {"lam": 1.0, "weighting": "fixed", "mmc": "off"}, "leave lam out"),
        (2, {"dropout": 1.0}, "dropout 1.0"),
        (2, {"mapping": False, "mmc": "off", "weighting": "fixed", "pre_norm": True}, "pre_norm"),
    ],
)
def test_what_cannot_be_is_refused(modalities, options, sentence):
    with pytest.raises(UserError, match=sentence):
        build(spec(modalities), **options)


def computed(shape):
    modalities = tuple(Modality(name, "sequence", shape) for name in ("accelerometer", "gyroscope"))
    return DataSpec("Toy", modalities, Classification(("a", "b")), train_size=6).to_dict()


def test_an_encoder_with_channels_has_an_amplitude_for_each():
    method = ERLMR(computed((2, 3)), backbone="backbones.own.AsItIs")
    assert [amplitude.shape for amplitude in method.mapping.amplitudes] == [(2, 1), (2, 1)]
    assert ERLMR(spec(2).to_dict(), backbone=TINY).mapping.amplitudes[0].shape == (32, 1)
    with pytest.raises(UserError, match="the encoders' is 5"):
        ERLMR(computed((5, 1)), backbone="backbones.own.AsItIs")
    with pytest.raises(UserError, match="has 3 channels, but its width 8"):
        ERLMR(computed((2, 4)), backbone="backbones.own.WrongChannels")


def test_it_fits_and_is_tested(mmlab, tiny):
    mmlab(f"fit --model ERLMR --wandb.mode off --trainer.max_epochs 2 {tiny} --run_dir run")
    result = json.loads(Path("run/result.json").read_text())
    assert result["method"] == "ERLMR"
    assert {"acc", "acc_audio", "acc_image"} <= result["test"].keys()
    with open("run/metrics.csv", newline="") as text:
        rows = list(csv.DictReader(text))
    assert all(0 < float(row["train/pareto_weight"]) < 1 for row in rows)


def test_half_precision_with_a_gradient_scaler_has_the_same_weights(mmlab, tiny, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "runs"))
    line = f"fit --model ERLMR --wandb.mode off --trainer.max_epochs 2 --test false {tiny}"
    mmlab(f"{line} --run_dir full")
    mmlab(f"{line} --run_dir bf16 --trainer.precision bf16-mixed")
    mmlab(f"{line} --run_dir fp16 --trainer.plugins+=test_precision.ScaledOnCpu")
    read = {}
    for run in ("full", "bf16", "fp16"):
        with open(f"{run}/metrics.csv", newline="") as text:
            read[run] = [
                [float(row[f"train/{key}"]) for key in ("pareto_weight", "loss")] for row in csv.DictReader(text)
            ]
    assert read["fp16"] == [pytest.approx(row, rel=0.01) for row in read["full"]]
    assert read["bf16"] == [pytest.approx(row, rel=0.05) for row in read["full"]]
    assert read["fp16"] != read["full"] != read["bf16"]
