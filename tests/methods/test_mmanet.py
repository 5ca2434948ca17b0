from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmlab.availability import Combination, every_combination, limited, named_combination
from mmlab.backbones.config import BackboneConfig
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.data.keypad import Keypad
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.losses.mad import dense_mad, entropy, mad, margin_weights
from mmlab.methods.base import Method
from mmlab.methods.mmanet import MMANet
from mmlab.methods.modality_dropout import ModalityDropout
from mmlab.networks.base import Features
from mmlab.types import Batch, Classification, DataSpec, Modality, Regression, Segmentation
from tests.methods.toy import batch, check, spec

TINY = BackboneConfig(width=4)
AFTER = 9
"""An epoch in which every part acts."""
SHORT = "--model.warmup_epochs 1 --model.teacher_epochs 1 --wandb.mode off --trainer.max_epochs 3 "
Task = Classification | Segmentation | Regression


@pytest.fixture(autouse=True)
def _without_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws go by the run's seed and epoch; most tests have no run."""
    draws = Method.draws

    def drawn(self: Method, samples: Batch) -> Draws:
        return draws(self, samples) if self._trainer is not None else Draws(7, 0, samples.index)

    monkeypatch.setattr(Method, "draws", drawn)


@pytest.fixture
def after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MMANet, "current_epoch", AFTER, raising=False)


def student(data: DataSpec, weak: list[str] | None = None, **options: Any) -> MMANet:
    torch.manual_seed(0)
    method = MMANet(data.to_dict(), weak=weak, backbone=TINY, **options)
    method.begin(method.stages()[1])
    return method


def scene(modalities: int = 2, task: Task | None = None) -> DataSpec:
    every = (
        Modality("rgb", "image", (3, 32, 64)),
        Modality("depth", "depth", (1, 32, 64)),
        Modality("ir", "image", (1, 32, 64)),
    )
    task = task or Segmentation(("floor", "wall", "lamp"), weights=(1.0, 0.5, 2.0))
    return DataSpec("Rooms", every[:modalities], task, train_size=20)


def scenes(data: DataSpec, samples: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs = {each.name: torch.randn(samples, *each.shape, generator=generator) for each in data.modalities}
    target = torch.randint(3, (samples, 32, 64), generator=generator)
    target[:, :4] = 255
    present = torch.ones(samples, len(data.modalities), dtype=torch.bool)
    return Batch(inputs, target, present, torch.arange(samples))


@pytest.mark.usefixtures("after")
@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("probabilistic", [False, True])
def test_losses_and_prediction(modalities: int, missing: bool, probabilistic: bool) -> None:
    data = spec(modalities)
    method = student(data, ["audio", "visual"], mad_weight=3.0, mar_weight=2.0, probabilistic=probabilistic)
    samples = batch(data, samples=8, missing=missing)
    losses = method.losses(samples)
    expected = losses["ce"] + 3 * losses["mad"] + 2 * losses["mar"]
    torch.testing.assert_close(losses["loss"], expected + (1e-3 * losses["kl"] if probabilistic else 0))
    assert all(losses[part] > 0 for part in ("ce", "mad", "mar"))
    check(method, samples)


@pytest.mark.usefixtures("after")
@pytest.mark.parametrize(
    ("modalities", "weak", "probabilistic"), [(2, ["depth"], False), (3, ["rgb", "rgb+ir"], True), (2, [], False)]
)
def test_losses_and_prediction_for_every_pixel(modalities: int, weak: list[str], probabilistic: bool) -> None:
    data = scene(modalities)
    method = student(data, weak, probabilistic=probabilistic)
    samples = scenes(data, 6)
    losses = method.losses(samples)
    assert losses["mad"] > 0
    assert (losses["mar"] > 0) == bool(weak)
    losses["loss"].backward()
    # Distributed training asks a gradient of all that trains, be there weak samples or not.
    assert all(
        each.grad is not None and each.grad.isfinite().all() for each in method.parameters() if each.requires_grad
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert method.losses(samples)["loss"].isfinite()
    assert method.eval()(samples.inputs, samples.present).logits.shape == (6, 3, 32, 64)


@pytest.mark.usefixtures("after")
def test_distillation_is_mad_between_what_leaves_the_trunks() -> None:
    data = spec(2)
    samples = batch(data)
    method = student(data, [])
    hidden = method.network.fuse(method.network.encode(samples.inputs), method.available(samples)).deep
    teacher = method.teacher.fuse(method.teacher.encode(samples.inputs), samples.present)
    weights = margin_weights(entropy(method.teacher.head(teacher).logits))
    torch.testing.assert_close(method.losses(samples)["mad"], mad(hidden, teacher.deep, weights))
    other = student(data, [], mad_weight_axis="column").losses(samples)["mad"]
    torch.testing.assert_close(other, mad(hidden, teacher.deep, weights, "column"))
    assert not torch.isclose(other, mad(hidden, teacher.deep, weights))


def test_distillation_of_pixels_is_the_dense_form_on_the_three_coarsest_maps() -> None:
    def maps(seed: int) -> Features:
        generator = torch.Generator().manual_seed(seed)
        sizes = ((6, 4, 5), (3, 40, 50), (4, 32, 44), (5, 8, 11))
        deep, *skips = (torch.randn(2, *size, generator=generator, dtype=torch.double) for size in sizes)
        return Features(deep, tuple(skips))

    own, theirs, logits = maps(0), maps(1), torch.randn(2, 3, 64, 88, dtype=torch.double)
    expected = []
    for size, one, other in (
        ((4, 5), own.deep, theirs.deep),
        ((30, 40), own.skips[1], theirs.skips[1]),  # higher than 30
        ((8, 11), own.skips[2], theirs.skips[2]),
    ):
        pooled = (nn.functional.adaptive_avg_pool2d(each, size) for each in (one, other, logits))
        places = [each.permute(0, 2, 3, 1).flatten(0, 2) for each in pooled]
        expected.append(dense_mad(places[0], places[1], margin_weights(entropy(places[2]))))
    found = student(scene(), []).distillation(own, theirs, logits)
    torch.testing.assert_close(found, torch.stack(expected).sum())


@pytest.mark.usefixtures("after")
def test_numbers_weigh_all_samples_the_same() -> None:
    data = scene(2, Regression(-3.0, 3.0))
    samples = scenes(data)
    samples.target = torch.tensor([0.5, -1, 2, 3])
    method = student(data, ["rgb"])
    hidden = method.network.fuse(method.network.encode(samples.inputs), method.available(samples)).deep
    teacher = method.teacher.fuse(method.teacher.encode(samples.inputs), samples.present).deep
    torch.testing.assert_close(method.losses(samples)["mad"], mad(hidden, teacher, torch.full((4,), 0.25)))


def parts(method: MMANet, samples: Batch, available: Tensor) -> tuple[Tensor, list[Tensor]]:
    """MAR and its gradient of everything that trains."""
    fused = method.network.fuse(method.network.encode(samples.inputs), available)
    hidden = method.network.trunk(fused)
    loss = method.regularisation(fused, hidden, samples.target, method.is_weak(available))
    own = [each for each in method.parameters() if each.requires_grad]
    found = torch.autograd.grad(loss, own, allow_unused=True)
    return loss, [torch.zeros(()) if gradient is None else gradient for gradient in found]


@pytest.mark.parametrize("dense", [False, True])
def test_without_a_weak_sample_regularisation_and_its_gradient_are_exactly_zero(dense: bool) -> None:
    data = scene() if dense else spec(2)
    samples = scenes(data) if dense else batch(data)
    method = student(data, [data.names[1]])
    available = samples.present.clone()
    available[0, 1] = False  # the first one alone, which isn't weak
    loss, gradients = parts(method, samples, available)
    assert loss.item() == 0
    assert all((gradient == 0).all() for gradient in gradients)


@pytest.mark.parametrize("dense", [False, True])
def test_where_all_are_weak_regularisation_is_the_task_s_loss_of_the_second_head(dense: bool) -> None:
    data = scene() if dense else spec(2)
    samples = scenes(data) if dense else batch(data)
    method = student(data, [data.names[0]])
    available = limited(samples.present, (True, False))
    fused = method.network.fuse(method.network.encode(samples.inputs), available)
    decision = method.second(fused, method.network.trunk(fused))
    torch.testing.assert_close(parts(method, samples, available)[0], method.task_loss(decision, samples.target))
    if not dense:
        expected = nn.functional.cross_entropy(decision.logits, samples.target)
        torch.testing.assert_close(parts(method, samples, available)[0], expected)


@pytest.mark.parametrize("dense", [False, True])
def test_other_samples_have_no_part_in_regularisation(dense: bool) -> None:
    data = scene() if dense else spec(2)
    samples = scenes(data) if dense else batch(data)
    method = student(data, [data.names[0]])
    available = samples.present.clone()
    available[:2, 1] = False
    name = data.names[0]
    given = samples.inputs[name].requires_grad_()
    fused = method.network.fuse(method.network.encode(samples.inputs), available)
    loss = method.regularisation(fused, method.network.trunk(fused), samples.target, method.is_weak(available))
    (gradient,) = torch.autograd.grad(loss, given)
    reached = gradient.flatten(1).abs().amax(dim=1) > 0
    assert reached.tolist() == [True, True] + [False] * (len(samples) - 2)


def test_the_released_reduction_counts_weak_samples_and_singles_out_none() -> None:
    data = spec(2)
    samples = batch(data)
    method = student(data, ["audio"], mar_reduction="official_outer")
    available = samples.present.clone()
    available[:3, 1] = False
    fused = method.network.fuse(method.network.encode(samples.inputs), available)
    logits = method.second(fused, fused).logits
    expected = 3 * nn.functional.cross_entropy(logits, samples.target)
    torch.testing.assert_close(parts(method, samples, available)[0], expected)


@pytest.mark.parametrize("dense", [False, True])
def test_in_the_warm_up_the_gradient_is_the_task_s(dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = scene() if dense else spec(3)
    samples = scenes(data) if dense else batch(data)
    method = student(data, [data.names[0]], warmup_epochs=AFTER)
    monkeypatch.setattr(MMANet, "current_epoch", AFTER, raising=False)
    method.losses(samples)["loss"].backward()
    torch.manual_seed(0)
    plain = ModalityDropout(data.to_dict(), TINY)
    plain.losses(samples)["loss"].backward()
    for name, parameter in plain.network.named_parameters():
        assert torch.equal(method.network.get_parameter(name).grad, parameter.grad), name
    assert all((parameter.grad == 0).all() for parameter in method.second.parameters())
    method.warmup_epochs, method.distil_from = AFTER - 1, AFTER
    method.zero_grad()
    losses = method.losses(samples)
    losses["loss"].backward()
    assert losses["mad"] > 0
    assert losses["mar"] > 0


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("probabilistic", [False, True])
def test_what_is_missing_and_the_second_head_do_not_change_the_decision(dense: bool, probabilistic: bool) -> None:
    data = scene(3) if dense else spec(3)
    samples = scenes(data) if dense else batch(data)
    method = student(data, probabilistic=probabilistic).eval()
    with torch.no_grad():
        for combination in every_combination(3):
            present = limited(samples.present, combination)
            expected = method(samples.inputs, present).logits
            noisy = {
                name: samples.inputs[name] if has else torch.full_like(samples.inputs[name], float("inf"))
                for name, has in zip(data.names, combination, strict=True)
            }
            assert torch.equal(method(noisy, present).logits, expected)
        for parameter in method.second.parameters():
            parameter.fill_(7.0)
        assert torch.equal(method(samples.inputs, present).logits, expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"mad_weight": -1.0}, "mad_weight is -1.0"),
        ({"mar_weight": float("nan")}, "mar_weight is nan"),
        ({"warmup_epochs": 0}, "warmup_epochs is 0: give 1 or more, since"),
        ({"warmup_epochs": -1, "weak": []}, r"warmup_epochs is -1: give 0 or more\."),
        ({"distil_from": -1}, "distil_from is -1"),
        ({"weak": ["audio+vision"]}, r"'vision', which is no modality \(did you mean 'visual'\?\)"),
        ({"weak": ["audio+audio"]}, "names a modality twice"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        MMANet(spec(2).to_dict(), backbone=TINY, **options)


@pytest.mark.parametrize("options", [{"mad_weight_axis": "column"}, {"mar_reduction": "official_outer"}])
def test_the_released_forms_for_classes_are_not_for_pixels(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"leave .* out for segmentation"):
        MMANet(scene().to_dict(), backbone=TINY, **options)


def state(run: str, stage: str = "student") -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(f"{run}/checkpoints/{stage}/last.ckpt", weights_only=True)["state_dict"]
    return found


def test_without_weights_training_is_modality_dropout_to_the_bit(mmlab: Any, tiny: str) -> None:
    line = f"--wandb.mode off --trainer.max_epochs 3 --test false {tiny}"
    mmlab(f"fit --model ModalityDropout {line} --run_dir plain")
    off = "--model.mad_weight 0 --model.mar_weight 0 --model.warmup_epochs 0 --model.teacher_epochs 1"
    mmlab(f"fit --model MMANet {off} --model.weak [audio] {line} --run_dir taught")
    plain = torch.load("plain/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    found = state("taught")
    assert all(torch.equal(found[name], tensor) for name, tensor in plain.items())


def test_combinations_are_measured_on_the_training_split_in_evaluation_mode(mmlab: Any, tiny: str) -> None:
    resnet = tiny.replace("--model.backbone.width 4", "--model.backbone test_resnet")  # with batch normalisation
    mmlab(f"fit --model MMANet {resnet} {SHORT} --run_dir run --trainer.max_epochs 1 --test false")
    saved = state("run")
    data = MultimodalDataModule(Keypad(train_size=96, val_size=36, test_size=37), batch_size=96)
    method = MMANet(data.spec, backbone="test_resnet")
    method.load_state_dict(saved)
    (raw,) = data.whole("train")
    samples = data.transform(raw, None)
    with torch.no_grad():
        decided = [
            method.eval()(samples.inputs, limited(samples.present, combination)).logits.argmax(dim=1)
            for combination in [(False, True), (True, False), (True, True)]
        ]
    *each, full = [(labels.bincount(minlength=12) / 96).double().softmax(dim=0) for labels in decided]
    expected = torch.stack([(q * (q / full).log()).sum() for q in each])
    assert (expected > 1e-4).any()
    torch.testing.assert_close(saved["distances"], expected, rtol=1e-4, atol=1e-9)
    assert not saved["weak"].any()  # not decided yet


@pytest.mark.parametrize(
    ("data", "warmup", "measured"),
    [(spec(2), 5, [2, 3, 4]), (scene(), 10, [6, 7, 8, 9]), (spec(2), 2, [1]), (scene(), 3, [2])],
)
def test_the_epochs_that_are_measured_and_the_one_that_decides(
    data: DataSpec, warmup: int, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = student(data, warmup_epochs=warmup)
    monkeypatch.setattr(Method, "on_train_epoch_end", lambda self: None)
    monkeypatch.setattr(MMANet, "log_dict", lambda self, values: None)
    seen = []
    monkeypatch.setattr(
        MMANet, "_measured", lambda self, tested: seen.append(self.current_epoch) or torch.tensor([0.1, 0.2])
    )
    for epoch in range(warmup + 2):
        monkeypatch.setattr(MMANet, "current_epoch", epoch, raising=False)
        method.on_train_epoch_end()
        assert method.weak.any() == (epoch >= warmup)
    assert seen == measured
    torch.testing.assert_close(method.distances, len(measured) * torch.tensor([0.1, 0.2]).double())
    assert method.weak.tolist() == [True, False, False]  # what lacks the second


@pytest.mark.parametrize(
    ("dataset", "metric", "precision"),
    [
        ("own_datasets.Halves", "miou_average", "bf16-mixed"),
        ("own_datasets.Brightness", "mae_average", "bf16-mixed"),
    ],
)
def test_a_run_on_pixels_or_numbers(mmlab: Any, dataset: str, metric: str, precision: str) -> None:
    small = (
        "--data.batch_size 16 --model.backbone.width 4 --trainer.accelerator cpu --trainer.enable_progress_bar false"
    )
    mmlab(f"fit --model MMANet --data.dataset {dataset} {small} {SHORT} --run_dir run --trainer.precision {precision}")
    result = json.loads(Path("run/result.json").read_text())
    assert metric in result["test"]
    saved = state("run")
    assert saved["weak"].sum() == 1
    assert saved["distances"].isfinite().all()


def test_a_run_too_short_says_so(mmlab: Any, tiny: str) -> None:
    with pytest.warns(UserWarning, match="MAR starts after 6 epochs, but there are only 1"):
        mmlab(f"fit --model MMANet {tiny} --wandb.mode off --trainer.max_epochs 1 --run_dir run --test false")


@pytest.mark.parametrize("text", ["audio", "depth+audio", "audio+visual+depth"])
def test_a_combination_s_name(text: str) -> None:
    names = ("audio", "visual", "depth")
    expected: Combination = tuple(name in text.split("+") for name in names)
    assert named_combination(names, text) == expected
