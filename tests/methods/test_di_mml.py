import csv
import json
import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from torch import nn

from mmlab.backbones.config import BackboneConfig, Backbones
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.data.keypad import Keypad
from mmlab.errors import UserError
from mmlab.methods.di_mml import DIMML, FUSIONS, certainty_weights
from tests.methods.toy import batch, check, spec
from tests.runs.test_ddp import in_two_processes
from tests.runs.test_resume import in_a_process_of_its_own

TINY = BackboneConfig(width=4)
LINE = (
    "fit --model DIMML --model.duc_start_epoch 1 --model.duc_temperature 1 --model.fusion_epochs 3 --wandb.mode off "
    "--trainer.max_epochs 2 "
)


def made(data, stage=0, seed=0, **options):
    torch.manual_seed(seed)
    method = DIMML(data.to_dict(), backbone=TINY, **options)
    method.begin(method.stages()[stage])
    half = torch.arange(method.dims.shape[-1]) % 2 == 0
    for t, s in method._pairs:
        method.dims[t, s] = half == (t < s)
    return method


def state(run, stage, name="last"):
    return torch.load(Path(run) / "checkpoints" / stage / f"{name}.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("stage", [0, 1])
def test_losses_and_prediction(modalities, missing, stage):
    data = spec(modalities)
    samples = batch(data, samples=8, missing=missing)
    if missing:
        samples.present[-2:] = True
    method = made(data, stage, duc_start_epoch=0)
    prediction = check(method, samples)
    assert torch.equal(prediction.weights == 0, ~samples.present)
    rest = 1 - prediction.weights.sum(dim=1)
    if stage == 0 or missing:
        rows = slice(None) if stage == 0 else ~samples.present.all(dim=1)
        torch.testing.assert_close(rest[rows], torch.zeros_like(rest[rows]))
    if stage == 1:
        assert (rest[samples.present.all(dim=1)] > 0.1).all()


def test_the_first_stages_loss_is_the_sum_of_its_parts():
    data = spec(2)
    samples = batch(data)
    method = made(data, duc_start_epoch=0, duc_weight=0.3, shared_weight=0.5)
    losses = method.losses(samples)
    assert list(losses) == [
        *("loss", "ce_audio", "ce_visual", "ce_shared_audio", "ce_shared_visual"),
        *("duc_audio_to_visual", "duc_visual_to_audio"),
    ]
    own = losses["ce_audio"] + losses["ce_visual"]
    shared = losses["ce_shared_audio"] + losses["ce_shared_visual"]
    duc = losses["duc_audio_to_visual"] + losses["duc_visual_to_audio"]
    torch.testing.assert_close(losses["loss"], own + 0.5 * shared + 0.3 * duc)
    features = method.encode(samples.inputs)
    torch.testing.assert_close(
        losses["ce_audio"], F.cross_entropy(method.heads["audio"](features["audio"]), samples.target)
    )
    expected = F.cross_entropy(method.shared_head(features["visual"]), samples.target)
    torch.testing.assert_close(losses["ce_shared_visual"], expected)


@pytest.mark.parametrize(("seen", "changed"), [("audio", "visual"), ("visual", "audio"), ("depth", "audio")])
@pytest.mark.parametrize(("start", "independent"), [(1, True), (0, False)])
def test_no_modality_sees_another_before_duc_starts(start, independent, seen, changed):
    data = spec(3)
    samples = batch(data)
    gradients = []
    for change in (0.0, 1.0):
        method = made(data, duc_start_epoch=start)
        samples.inputs[changed] = samples.inputs[changed] + change
        method.losses(samples)["loss"].backward()
        gradients.append([parameter.grad for parameter in method.encoders[seen].parameters()])
    same = all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
    assert same == independent


def test_duc_reaches_the_students_encoder_alone():
    data = spec(3)
    method = made(data, duc_start_epoch=0)
    losses = method.losses(batch(data))
    for t, s in method._pairs:
        part = losses[f"duc_{data.names[t]}_to_{data.names[s]}"]
        parameters = {name: each for name, each in method.named_parameters() if each.requires_grad}
        found = torch.autograd.grad(part, list(parameters.values()), retain_graph=True, allow_unused=True)
        reached = {name for name, gradient in zip(parameters, found, strict=True) if gradient is not None}
        student = method.encoders[data.names[s]]
        assert reached == {f"encoders.{data.names[s]}.{name}" for name, _ in student.named_parameters()}


class EqualHeads(Callback):
    """Gives all linear layers outside of encoders the same weights at the start, whatever was drawn before them."""

    def on_fit_start(self, trainer, pl_module):
        heads = [each for name, each in pl_module.named_modules() if isinstance(each, nn.Linear) and "enc" not in name]
        for head in heads:
            values = torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0))
            head.weight.data.copy_(values / head.in_features**0.5)
            head.bias.data.zero_()


def test_alone_every_modality_learns_as_it_does_in_unimodal_training(mmlab, tiny, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    line = (
        "--model.optimizer SGD --model.optimizer.lr 0.1 --trainer.callbacks+=test_di_mml.EqualHeads --wandb.mode off "
        f"--trainer.max_epochs 2 --test false {tiny}"
    )
    off = "--model.duc_weight 0 --model.shared_weight 0 --model.fusion_epochs 1"
    mmlab(f"fit --model DIMML {off} {line} --run_dir joint")
    joint = state("joint", "isolated")
    for modality in ("audio", "image"):
        mmlab(f"fit --model Unimodal --model.modality {modality} {line} --run_dir {modality}")
        alone = state(modality, "")
        assert any(name.startswith("encoders.") for name in alone)
        for name, tensor in alone.items():
            own = name.replace("classifier.", f"heads.{modality}.")
            torch.testing.assert_close(joint[own], tensor, rtol=0, atol=1e-7)


def test_the_order_of_the_modalities_does_not_matter():
    data = spec(3)
    method = made(data, duc_start_epoch=0)
    samples = batch(data, missing=True)
    features = method.encode(samples.inputs)
    loss = method._isolated(features, samples)["loss"]
    order = [2, 0, 1]
    names = [data.names[m] for m in order]
    method.dims = method.dims[order][:, order]
    samples.present = samples.present[:, order]
    torch.testing.assert_close(method._isolated({name: features[name] for name in names}, samples)["loss"], loss)


def test_certainty_weights():
    logits = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    usable = torch.ones(5, 3, dtype=torch.bool)
    confidence, weights = certainty_weights(logits, usable, 1.0)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(5, dtype=torch.float64))
    assert (weights.amax(dim=1) / weights.amin(dim=1) < torch.e).all()
    assert torch.equal(weights.argmax(dim=1), confidence.argmax(dim=1))
    shifted = logits.clone()
    shifted[1] += torch.arange(5)[:, None]
    torch.testing.assert_close(certainty_weights(shifted, usable, 1.0)[1], weights)
    equal = certainty_weights(logits, usable, 1e9)[1]
    torch.testing.assert_close(equal, torch.full_like(equal, 1 / 3))
    same = certainty_weights(logits[:1].expand(3, 5, 4), usable, 0.1)[1]
    torch.testing.assert_close(same, torch.full_like(same, 1 / 3))
    hard = certainty_weights(logits, usable, 1e-6)[1]
    torch.testing.assert_close(hard, F.one_hot(confidence.argmax(dim=1), 3).double())


def test_a_shift_of_one_heads_logits_does_not_change_the_decision():
    data = spec(2)
    samples = batch(data)
    method = made(data, stage=1).eval()
    before = method(samples.inputs, samples.present)
    method.heads["audio"].bias.data += 7
    after = method(samples.inputs, samples.present)
    torch.testing.assert_close(after.weights, before.weights)
    torch.testing.assert_close(after.logits.softmax(dim=1), before.logits.softmax(dim=1))


def test_a_modality_that_is_alone_decides_alone():
    data = spec(3)
    samples = batch(data)
    method = made(data, stage=1).eval()
    alone = torch.zeros_like(samples.present)
    alone[:, 1] = True
    prediction = method(samples.inputs, alone)
    assert torch.equal(prediction.logits, prediction.unimodal["visual"])
    assert torch.equal(prediction.weights, alone.float())


def test_the_fused_head_is_no_part_of_the_first_stage():
    data = spec(2)
    samples = batch(data)
    method = made(data).eval()
    before = method(samples.inputs, samples.present).logits
    method.fused_head.classifier.bias.data += torch.arange(4)
    assert torch.equal(method(samples.inputs, samples.present).logits, before)
    method.begin(method.stages()[1])
    assert not torch.equal(method.eval()(samples.inputs, samples.present).logits, before)


def test_the_shared_head_has_no_part_in_inference():
    data = spec(2)
    samples = batch(data)
    for stage in (0, 1):
        method = made(data, stage).eval()
        before = method(samples.inputs, samples.present).logits
        nn.init.constant_(method.shared_head.bias, 7.0)
        assert torch.equal(method(samples.inputs, samples.present).logits, before)


def test_a_high_certainty_temperature_averages_logits_and_a_low_one_takes_the_most_certain_head():
    data = spec(2)
    samples = batch(data)
    method = made(data, stage=1, certainty_temperature=1e9).eval()
    for head in [*method.heads.values(), method.fused_head.classifier]:
        nn.init.normal_(head.weight)
    prediction = method(samples.inputs, samples.present)
    heads = [*prediction.unimodal.values(), method.fused_head(prediction.features, samples.present)]
    every = torch.stack(heads)
    torch.testing.assert_close(prediction.logits, every.mean(dim=0))
    method.certainty_temperature = 1e-7
    surest = every.softmax(dim=2).amax(dim=2).argmax(dim=0)
    assert len(surest.unique()) > 1
    chosen = every[surest, torch.arange(len(samples))]
    torch.testing.assert_close(method(samples.inputs, samples.present).logits, chosen)


def test_the_second_stage_learns_from_complete_samples():
    data = spec(2)
    samples = batch(data)
    samples.present[1:3, 0] = False
    method = made(data, stage=1)
    scores = method.fused_head(method.encode(samples.inputs), samples.present)
    complete = samples.present.all(dim=1)
    expected = F.cross_entropy(scores[complete], samples.target[complete])
    torch.testing.assert_close(method.losses(samples)["loss"], expected)


@pytest.mark.parametrize("stage", [0, 1])
def test_other_widths_are_brought_to_one_in_the_first_stage(stage):
    data = spec(3)
    samples = batch(data, samples=8)
    method = made(data, stage, duc_start_epoch=0, backbones=Backbones(visual=BackboneConfig(width=8)))
    prediction = check(method, samples)
    assert {feature.shape[1] for feature in prediction.features.values()} == {64}
    assert all(parameter.requires_grad == (stage == 0) for parameter in method.projections.parameters())
    assert not made(data).projections


@pytest.mark.parametrize("fusion", FUSIONS)
def test_every_head_of_the_second_stage(fusion):
    data = spec(2)
    method = made(data, 1, fusion=fusion)
    check(method, batch(data, samples=8))
    layers = [layer for layer in method.fused_head.modules() if isinstance(layer, nn.Linear)]
    assert layers
    assert all((layer.bias == 0).all() for layer in layers)


@pytest.mark.parametrize(
    ("modalities", "options", "sentence"),
    [
        (1, {}, "only audio"),
        (2, {"duc_temperature": 0.0}, "duc_temperature, which is 0.0"),
        (2, {"certainty_temperature": float("nan")}, "certainty_temperature, which is nan"),
        (2, {"duc_weight": -1.0}, "duc_weight is -1.0"),
        (2, {"shared_weight": float("inf")}, "shared_weight is inf"),
        (2, {"duc_start_epoch": -1}, "duc_start_epoch is -1"),
        (2, {"fusion_epochs": 0}, "fusion_epochs is 0"),
    ],
)
def test_what_cannot_be_is_refused(modalities, options, sentence):
    with pytest.raises(UserError, match=sentence):
        DIMML(spec(modalities).to_dict(), backbone=TINY, **options)


@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_a_run_of_both_stages(mmlab, tiny, precision):
    mmlab(f"{LINE} {tiny} --run_dir run --trainer.precision {precision}")
    first, second = state("run", "isolated"), state("run", "fusion")
    frozen = [name for name in first if not name.startswith("fused_head.")]
    assert len(frozen) == len(first) - 2
    assert all(torch.equal(first[name], second[name]) for name in frozen)
    assert not torch.equal(first["fused_head.classifier.weight"], second["fused_head.classifier.weight"])
    assert first["split_done"]
    assert first["dims"].any()
    result = json.loads(Path("run/result.json").read_text())
    assert result["epochs"] == 5
    assert {"acc", "acc_audio", "acc_image", "ucom_audio", "margin"} <= result["test"].keys()
    assert "radius" not in result["test"]  # the fused head has no part in its formula
    with open("run/metrics.csv", newline="") as text:
        rows = [row for row in csv.DictReader(text) if row["stage"] == "isolated"]
    assert [float(row["train/duc_audio_to_image"]) > 0 for row in rows] == [False, True]
    taught = [int(float(row["train/dims_audio_to_image"])) for row in rows]
    assert taught == [0, first["dims"][0, 1].sum()]
    assert "fuses no logits" in mmlab("test --run run --input_radius true", code=2)
    mmlab("test --run run --corruption missing --severity 0,10 --noise_seeds 1")
    cells = json.loads(Path("run/corruption_missing.json").read_text())["cells"]
    assert cells[0]["test"]["acc"] == pytest.approx(result["test"]["acc"], abs=1e-6)


def test_the_second_stage_leaves_batch_statistics_alone(mmlab, tiny):
    resnet = tiny.replace("--model.backbone.width 4", "--model.backbone test_resnet")
    short = "--trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1"
    mmlab(f"{LINE} {resnet} --run_dir run {short} --model.duc_weight 0 --test false")
    first, second = state("run", "isolated"), state("run", "fusion")
    # As many batches as one epoch has: the second stage, of three, has added none.
    assert {int(second[name]) for name in first if "num_batches_tracked" in name} == {2}
    assert all(torch.equal(first[name], second[name]) for name in first if not name.startswith("fused_head."))


def test_dimensions_are_judged_once(mmlab, tiny, monkeypatch):
    judged, judge = [], DIMML._split_dimensions

    def remembered(method):
        judge(method)
        judged.append((method.stage, method.current_epoch, method.dims.clone()))

    monkeypatch.setattr(DIMML, "_split_dimensions", remembered)
    mmlab(f"{LINE} {tiny} --run_dir run --trainer.max_epochs 4 --model.optimizer.lr 0.01 --test false")
    assert [when for *when, _ in judged] == [["isolated", 1]]
    assert torch.equal(state("run", "fusion")["dims"], judged[0][2])


def test_the_best_encoders_can_be_handed_on(mmlab, tiny):
    mmlab(f"{LINE} {tiny} --run_dir run --model.encoders_from best --trainer.max_epochs 4 --model.optimizer.lr 0.01")
    best, second = state("run", "isolated", "best"), state("run", "fusion")
    assert all(torch.equal(best[name], second[name]) for name in best if name.startswith("encoders."))


@pytest.mark.parametrize("backbone", [TINY, "test_resnet"], ids=["small_conv", "batch normalisation"])
def test_dimensions_are_judged_on_the_training_split_in_evaluation_mode(mmlab, tiny, backbone):
    # Without a learning rate, the weights of the end are those that the pass saw.
    options = "--model.duc_start_epoch 0 --model.optimizer.lr 0 --model.split_on_eval_transform true"
    if backbone != TINY:
        tiny = tiny.replace("--model.backbone.width 4", f"--model.backbone {backbone}")
    mmlab(f"{LINE} {tiny} --run_dir run {options} --trainer.max_epochs 1 --test false")
    saved = state("run", "isolated")
    data = MultimodalDataModule(Keypad(train_size=96, val_size=36, test_size=37), batch_size=96)
    method = DIMML(data.spec, backbone=backbone)
    method.load_state_dict(saved)
    for module in method.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()  # as they were before the first step
    method.eval()
    (raw,) = data.whole("train")
    samples = data.transform(raw, None)
    with torch.no_grad():
        features = method.encode(samples.inputs)
    effective = []
    for values in features.values():
        means = torch.stack([values[samples.target == c].double().mean(dim=0) for c in range(12)])
        nearest = (values[:, None] - means).abs().argmin(dim=1)
        share = (nearest == samples.target[:, None]).double().mean(dim=0)
        effective.append(share > share.mean() + 1e-12)
    assert torch.equal(saved["dims"][0, 1], effective[0] & ~effective[1])
    assert torch.equal(saved["dims"][1, 0], effective[1] & ~effective[0])


def test_training_that_ends_before_duc_starts_says_so(mmlab, tiny):
    with pytest.warns(UserWarning, match="starts after 1 epochs, but there are only 1"):
        mmlab(f"{LINE} {tiny} --run_dir run --trainer.max_epochs 1 --test false")
    assert not state("run", "isolated")["split_done"]


@pytest.mark.parametrize(
    ("every", "step"),
    [
        pytest.param(2, 3, id="before the split"),
        pytest.param(2, 9, id="after the split"),
        pytest.param(0, 9, id="since the split"),
        pytest.param(2, 15, id="second stage"),
    ],
)
def test_a_killed_run_resumes_to_the_same_bits(mmlab, tiny, every, step):
    mmlab(f"{LINE} {tiny} --run_dir whole")
    # The first stage has 12 steps, so that a later one is the second stage's.
    kill = f"--checkpoint_every {every} --trainer.callbacks+=own_methods.KillAt --trainer.callbacks.step {step}"
    assert in_a_process_of_its_own(lambda: mmlab(f"{LINE} {tiny} {kill} --run_dir killed")) == signal.SIGKILL
    assert Path("killed/checkpoints/isolated/finished.json").exists() == (step > 12)
    mmlab("fit --resume killed --trainer.callbacks null")
    for stage in ("isolated", "fusion"):
        one, other = state("whole", stage), state("killed", stage)
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert one["dims"].any()
    assert Path("whole/metrics.csv").read_text() == Path("killed/metrics.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["Keypad", "own_datasets.Gaps"])
def test_two_processes_equal_one(mmlab, tiny, dataset):
    # Adam makes steps of full size from gradients that are rounding errors, and hits are counted on such features.
    line = f"{LINE} {tiny.replace('Keypad', dataset)} --model.optimizer SGD --model.optimizer.lr 0.05"
    mmlab(f"{line} --run_dir one")
    done = in_two_processes(f"{line} --run_dir two")
    assert done.returncode == 0, done.stderr
    for stage in ("isolated", "fusion"):
        one, two = state("one", stage), state("two", stage)
        assert torch.equal(one["dims"], two["dims"])
        assert one["dims"].any()
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)
