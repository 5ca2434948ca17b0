from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from mmlab.backbones.config import BackboneConfig, Backbones
from mmlab.errors import UserError
from mmlab.methods.joint_training import JointTraining
from mmlab.methods.ogm_ge import OGMGE
from mmlab.types import Classification, DataSpec, Modality
from tests.methods.toy import batch, check, spec

TINY = BackboneConfig(width=4)
LINE = "fit --wandb.mode off --trainer.max_epochs 1 --test false "
SGD = "--model.optimizer SGD --model.optimizer.lr 0.01 "
WATCHED = "--trainer.callbacks+=test_ogm_ge.Watch "


class Watch(Callback):
    """Writes down each step's gradients, before the method changes them and as the optimiser gets them."""

    def __init__(self) -> None:
        self.steps = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        before = gradients_of(pl_module)
        self.steps.append({"epoch": pl_module.current_epoch, "before": before, "scores": pl_module._scores.clone()})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if self.steps:
            self.steps[-1].setdefault("after", gradients_of(pl_module))

    def on_train_end(self, trainer, pl_module) -> None:
        torch.save(self.steps, "steps.pt")


def gradients_of(method: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in method.named_parameters()}


class ScaledOnCpu(MixedPrecision):
    """fp16 with a gradient scaler, which Lightning leaves out on a CPU."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))


@pytest.fixture
def steps(mmlab, tiny, monkeypatch):
    """Fits OGMGE with some flags and returns what each optimiser step did."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def run(flags: str, folder: str = "run"):
        mmlab(f"{LINE} --model OGMGE {SGD} {tiny} {WATCHED} {flags} --run_dir {folder}")
        return torch.load("steps.pt", weights_only=True)

    return run


def factors(step, alpha: float) -> dict[str, float]:
    """The paper's coefficients of two modalities, from what the step's samples scored."""
    first, second = step["scores"][0].tolist()
    rho = first / second
    return {
        "audio": 1 - math.tanh(alpha * rho) if rho > 1 else 1.0,
        "image": 1 - math.tanh(alpha / rho) if rho < 1 else 1.0,
    }


def convolution_of(name: str, gradient: torch.Tensor) -> str | None:
    return name.split(".")[1] if name.startswith("encoders.") and gradient.dim() == 4 else None


def last_weights(run: str) -> dict[str, torch.Tensor]:
    return torch.load(Path(run, "checkpoints", "last.ckpt"), weights_only=True)["state_dict"]


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_losses_and_prediction(modalities, missing):
    data = spec(modalities)
    method = OGMGE(data.to_dict(), backbone=TINY)
    samples = batch(data, missing=missing)
    prediction = check(method, samples)
    assert set(prediction.unimodal) == set(data.names)
    assert torch.equal(prediction.weights, samples.present.float())
    parts = torch.stack(list(prediction.unimodal.values()))
    torch.testing.assert_close((parts * samples.present.T[..., None]).sum(dim=0), prediction.logits)
    for head, (name, feature) in zip(method.linear_heads, prediction.features.items(), strict=True):
        rows = samples.present[:, data.position(name)]
        n = samples.present.sum(dim=1, keepdim=True)
        expected = feature @ head.weight.T + method.fusion.classifier.bias / n
        torch.testing.assert_close(prediction.unimodal[name][rows], expected[rows])


def test_heads_share_the_classifiers_weights_and_draw_no_random_numbers():
    method = OGMGE(spec(2).to_dict(), backbone=TINY)
    before = torch.get_rng_state()
    heads = method.linear_heads
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        method.fusion.classifier.weight.zero_()
    assert all((head.weight == 0).all() for head in heads)


def test_scores_are_probabilities_of_the_true_class_over_the_samples_that_have_the_modality():
    data = spec(3)
    method = OGMGE(data.to_dict(), backbone=TINY)
    samples = batch(data, missing=True)
    losses = method.losses(samples)
    prediction = method(samples.inputs, samples.present)
    for m, name in enumerate(data.names):
        rows = [row for row in range(len(samples)) if samples.present[row, m]]
        by_hand = [prediction.unimodal[name][row].softmax(dim=0)[samples.target[row]].item() for row in rows]
        assert method._scores[:, m].tolist() == pytest.approx([sum(by_hand), len(rows)])
        assert losses[f"score_{name}"].item() == pytest.approx(sum(by_hand) / len(rows))


def test_what_stands_in_for_a_missing_modality_does_not_matter():
    data = spec(2)
    method = OGMGE(data.to_dict(), backbone=TINY)
    samples = batch(data, missing=True)
    before = method(samples.inputs, samples.present).logits
    samples.inputs["audio"][~samples.present[:, 0]] = 5.0
    torch.testing.assert_close(method(samples.inputs, samples.present).logits, before)


def test_it_starts_where_joint_training_does():
    data = spec(3)
    samples = batch(data, missing=True)
    logits = []
    for kind in (OGMGE, JointTraining):
        torch.manual_seed(0)
        logits.append(kind(data.to_dict(), backbone=TINY)(samples.inputs, samples.present).logits)
    torch.testing.assert_close(*logits)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"alpha": -0.1}, "alpha -0.1"),
        ({"alpha": math.nan}, "alpha nan"),
        ({"modulation_starts": 3, "modulation_ends": 2}, "from epoch 3 to 2"),
        ({"modulation_starts": -1}, "modulation_starts"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, words):
    with pytest.raises(UserError, match=words):
        OGMGE(spec(2).to_dict(), backbone=TINY, **options)


class Flat(nn.Module):
    """A backbone without convolutions."""

    def __init__(self, modality) -> None:
        super().__init__()
        self.width = 4
        self.layer = nn.Linear(math.prod(modality.shape), self.width)

    def forward(self, inputs):
        return self.layer(inputs.flatten(1))


def test_encoders_without_convolutions_are_refused_unless_all_their_parameters_are_meant():
    flat = "tests.methods.test_ogm_ge.Flat"
    with pytest.raises(UserError, match="encoder of audio has none: set modulates to encoders"):
        OGMGE(spec(2).to_dict(), backbone=flat)
    method = OGMGE(spec(2).to_dict(), modulates="encoders", backbone=flat)
    assert [len(method.modulated(encoder)) for encoder in method.encoders.values()] == [2, 2]


def test_encoders_without_parameters_are_refused():
    modalities = tuple(Modality(name, "vector", (4,)) for name in ("text", "audio"))
    data = DataSpec("Toy", modalities, Classification(("a", "b")), train_size=20)
    with pytest.raises(UserError, match="encoder of audio learns nothing: choose another backbone for it"):
        OGMGE(data.to_dict(), modulates="encoders", backbone="mlp", backbones=Backbones(audio="first_step"))


def test_one_modality_is_refused():
    with pytest.raises(UserError, match="only audio"):
        OGMGE(spec(1).to_dict(), backbone=TINY)


def test_only_convolutions_are_damped_by_the_papers_coefficient_and_only_in_the_window(steps):
    flags = "--model.modulation ogm --model.alpha 0.3 --trainer.max_epochs 3"
    damped = 0
    for step in steps(f"{flags} --model.modulation_starts 1 --model.modulation_ends 1"):
        k = factors(step, 0.3) if step["epoch"] == 1 else {"audio": 1.0, "image": 1.0}
        for name, gradient in step["before"].items():
            modality = convolution_of(name, gradient)
            expected = gradient * k[modality] if modality else gradient
            torch.testing.assert_close(step["after"][name], expected)
            damped += modality is not None and k[modality] < 0.9
    assert damped >= 4 * 6  # four convolutions of one encoder, in each step of an epoch


def test_whole_encoders_are_damped(steps):
    for step in steps("--model.modulation ogm --model.modulates encoders"):
        k = factors(step, 0.5)
        for name, gradient in step["before"].items():
            expected = gradient * k[name.split(".")[1]] if name.startswith("encoders.") else gradient
            torch.testing.assert_close(step["after"][name], expected)


@pytest.mark.parametrize(("modulation", "alpha"), [("ogm_ge", 0.5), ("noise", 0.0)])
def test_noise_has_the_deviation_of_the_gradient_before_it_is_damped(steps, modulation, alpha):
    relative = []
    for step in steps(f"--model.modulation {modulation}"):
        k = factors(step, alpha)
        for name, gradient in step["before"].items():
            modality = convolution_of(name, gradient)
            if modality is None:
                assert torch.equal(step["after"][name], gradient)
            else:
                noise = step["after"][name] - gradient * k[modality]
                relative.append((noise / gradient.std()).flatten())
    drawn = torch.cat(relative)
    assert drawn.mean().abs() < 4 / math.sqrt(len(drawn))
    assert drawn.std().item() == pytest.approx(1, abs=0.02)
    assert len(drawn.unique()) > 0.9 * len(drawn)  # no parameter and no step has another's noise


def test_noise_depends_on_the_runs_seed_and_on_the_step_alone():
    method = OGMGE(spec(2).to_dict(), backbone=TINY)

    def draw(seed: int, step: int) -> torch.Tensor:
        return torch.randn(1000, generator=method.noise_generator(seed, step))

    assert torch.equal(draw(1, 5), draw(1, 5))
    others = torch.stack([draw(1, 5), draw(5, 1), draw(2, 5), draw(1, 6), draw(1 + 2**32, 5)])
    assert (torch.corrcoef(others) - torch.eye(5)).abs().max() < 0.15


def test_clipping_comes_after_the_noise(steps):
    for step in steps("--trainer.gradient_clip_val 0.01"):
        norms = [gradient.norm() for gradient in step["after"].values()]
        assert torch.stack(norms).norm().item() == pytest.approx(0.01, rel=1e-3)


def test_fp16_with_a_gradient_scaler_modulates_unscaled_gradients(steps):
    full = steps("", "full")[0]
    half = steps("--trainer.plugins+=test_ogm_ge.ScaledOnCpu", "half")[0]
    assert not torch.equal(full["before"]["fusion.classifier.weight"], half["before"]["fusion.classifier.weight"])
    for when in ("before", "after"):
        one, other = (torch.cat([gradient.flatten() for gradient in step[when].values()]) for step in (full, half))
        assert (other - one).norm() < 0.02 * one.norm()


def test_accumulated_batches_are_one_batch(steps):
    whole = steps("--data.batch_size 48", "whole")
    parts = steps("--trainer.accumulate_grad_batches 3", "parts")
    assert len(whole) == len(parts) == 2
    torch.testing.assert_close(parts[0]["scores"], whole[0]["scores"])
    for name, tensor in last_weights("whole").items():
        torch.testing.assert_close(last_weights("parts")[name], tensor, rtol=0, atol=1e-5)


def test_without_strength_and_noise_it_is_joint_training(monkeypatch):
    monkeypatch.setattr(OGMGE, "_data", SimpleNamespace(seed=0))
    data = spec(3)
    samples = batch(data, missing=True)
    samples.inputs = {name: values.double() for name, values in samples.inputs.items()}
    trained = []
    for kind, options in ((OGMGE, {"modulation": "ogm", "alpha": 0.0}), (JointTraining, {})):
        torch.manual_seed(0)
        method = kind(data.to_dict(), backbone=TINY, **options).double()
        optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
        for _ in range(6):
            optimizer.zero_grad()
            method.losses(samples)["loss"].backward()
            method.on_before_optimizer_step(optimizer)
            optimizer.step()
        trained.append(method.state_dict())
    assert trained[0].keys() == trained[1].keys()
    for name, tensor in trained[1].items():
        torch.testing.assert_close(trained[0][name], tensor, rtol=0, atol=1e-12)


def test_each_modality_has_an_accuracy_and_the_decision_a_radius(mmlab, tiny):
    mmlab(f"fit --model OGMGE --wandb.mode off --trainer.max_epochs 1 {tiny} --run_dir run")
    result = json.loads(Path("run/result.json").read_text())
    assert {"acc", "acc_audio", "acc_image"} <= result["test"].keys()
    assert any(key.startswith("radius") for key in result["test"])
