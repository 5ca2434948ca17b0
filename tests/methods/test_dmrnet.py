import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmlab.availability import every_combination, limited
from mmlab.backbones.config import BackboneConfig
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.losses.standard_normal_kl import standard_normal_kl
from mmlab.methods.dmrnet import DMRNet
from mmlab.methods.modality_dropout import ModalityDropout
from mmlab.networks.base import Decision, Features
from mmlab.types import AntiSpoofing, Batch, Classification, DataSpec, Modality, Regression, Segmentation
from tests.methods.toy import batch, check, spec

TINY = BackboneConfig(width=4)
HARD = {"hard_epoch": 0, "hard": ["visual", "depth"]}


@pytest.fixture(autouse=True)
def _without_a_run(monkeypatch):
    """Draws go by the run's seed and epoch; most tests have no run, and are in epoch 0."""
    draws = DMRNet.draws

    def drawn(self, samples):
        if self._trainer is not None:
            return draws(self, samples)
        return Draws(7, self.current_epoch, samples.index)

    monkeypatch.setattr(DMRNet, "draws", drawn)
    monkeypatch.setattr(ModalityDropout, "draws", drawn)


def build(data, method=DMRNet, **options):
    torch.manual_seed(0)
    return method(data.to_dict(), backbone=TINY, **options).double()


def doubled(samples):
    samples.inputs = {name: tensor.double() for name, tensor in samples.inputs.items()}
    return samples


def pictures(modalities=2):
    every = (Modality("rgb", "image", (3, 32, 64)), Modality("depth", "depth", (1, 32, 64)))
    task = Segmentation(("floor", "wall", "lamp"), weights=(1.0, 0.5, 2.0))
    return DataSpec("Rooms", every[:modalities], task, train_size=20)


def rooms(data, samples=3):
    generator = torch.Generator().manual_seed(0)
    inputs = {each.name: torch.randn(samples, *each.shape, generator=generator) for each in data.modalities}
    target = torch.randint(3, (samples, 32, 64), generator=generator)
    target[:, :4] = data.task.ignore_index
    return Batch(inputs, target, torch.ones(samples, 2, dtype=torch.bool), torch.arange(samples))


def have(method, *rows):
    """Lets the samples have these combinations, in place of drawn ones."""
    available = torch.tensor(rows).bool()
    method.available = lambda samples: available
    return available


@pytest.mark.parametrize(("modalities", "options"), [(2, {}), (3, {}), (3, HARD), (3, HARD | {"kl_weight": 0.0})])
@pytest.mark.parametrize("missing", [False, True])
def test_losses_and_prediction(modalities, options, missing):
    data = spec(modalities)
    torch.manual_seed(0)
    prediction = check(DMRNet(data.to_dict(), backbone=TINY, **options), batch(data, missing=missing))
    assert prediction.uncertainty is None


@pytest.mark.parametrize("epoch", [0, 11])
def test_segmentation(monkeypatch, epoch):
    monkeypatch.setattr(DMRNet, "current_epoch", epoch)
    data = pictures()
    method = build(data).float()
    have(method, [1, 0], [0, 1], [1, 1])
    samples = rooms(data)
    for autocast in (False, True):
        method.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses = method.losses(samples)
        losses["loss"].backward()
        assert all(parameter.grad.isfinite().all() for parameter in method.parameters())
        reached = any(parameter.grad.any() for parameter in method.second.parameters())
        assert reached == (epoch >= 11)
        assert (losses["hard"] > 0) == (epoch >= 11)
        weights = (0.001, 0.5) if epoch >= 11 else (0.0, 0.0)
        expected = losses["ce"] + weights[0] * losses["kl"] + weights[1] * losses["hard"]
        torch.testing.assert_close(losses["loss"], expected)


def test_numbers():
    data = spec()
    numbers = DataSpec("Toy", data.modalities, Regression(-3.0, 3.0), data.train_size)
    samples = doubled(batch(data))
    samples.target = torch.randn(6, dtype=torch.float64)
    losses = build(numbers, hard_epoch=0, hard=["audio", "visual", "audio+visual"]).losses(samples)
    assert list(losses) == ["loss", "l1", "kl", "hard"]
    torch.testing.assert_close(losses["hard"], losses["l1"])


def test_the_loss_is_the_weighted_sum_of_its_parts():
    data = spec(3)
    losses = build(data, kl_weight=0.01, hard_weight=0.3, **HARD).losses(doubled(batch(data)))
    torch.testing.assert_close(losses["loss"], losses["ce"] + 0.01 * losses["kl"] + 0.3 * losses["hard"])


def test_training_decides_from_samples_and_evaluation_from_means(monkeypatch):
    data = spec()
    samples = doubled(batch(data))
    method = build(data)
    taken = []
    method.network.head.register_forward_hook(lambda _, given, decided: taken.append(given[0].deep))
    gaussians = []
    method.block.register_forward_hook(lambda _, given, found: gaussians.append(found))
    first = method.losses(samples)["ce"]
    torch.testing.assert_close(method.losses(samples)["ce"], first)  # the same epoch, the same draws
    have(method, *method.available(samples).tolist())
    monkeypatch.setattr(DMRNet, "current_epoch", 1)
    assert abs(method.losses(samples)["ce"] - first) > 1e-4
    mean, log_variance = gaussians[2]
    eps = Draws(7, 1, samples.index).field("probabilistic", mean.shape[1]).double()
    torch.testing.assert_close(taken[2], mean + eps * (log_variance / 2).exp())
    method.draws = lambda samples: Still()
    losses = method.losses(samples)
    torch.testing.assert_close(taken[3], gaussians[3][0])
    logits = method.network.head(Features(taken[3])).logits
    torch.testing.assert_close(losses["ce"], F.cross_entropy(logits, samples.target))
    method.eval()(samples.inputs, samples.present)
    hidden = method.network.fuse(method.network.encode(samples.inputs), samples.present)
    torch.testing.assert_close(taken[-1], method.block(hidden.deep, method.gathered)[0])


class Still:
    """No noise."""

    def field(self, name, count):
        return torch.zeros(6, count)


def test_means_over_many_draws_tend_to_the_decision_of_the_mean():
    data = spec()
    samples = doubled(batch(data))
    method = build(data)
    present = have(method, *samples.present.tolist())
    decided = []
    method.network.head.register_forward_hook(lambda _, given, found: decided.append(found.logits.detach()))
    hidden = method.network.fuse(method.network.encode(samples.inputs), present)
    for epoch in range(400):
        method.draws = lambda samples, epoch=epoch: Draws(1, epoch, samples.index)
        method.losses(samples)
    mean = method.block.mean(hidden.deep, method.gathered)
    expected = method.network.head(Features(mean)).logits
    assert (torch.stack(decided[:400]).mean(dim=0) - expected).abs().max() < 0.15
    assert (decided[0] - expected).abs().max() > 0.3


@pytest.mark.parametrize("data", [spec(3), pictures()])
def test_evaluation_does_not_depend_on_the_spread(data):
    method = build(data)
    samples = rooms(data) if data.dataset == "Rooms" else batch(data)
    doubled(samples)
    method.losses(samples)
    method.eval()
    before = method(samples.inputs, samples.present).logits
    with torch.no_grad():
        for parameter in method.block.log_variance.parameters():
            parameter.uniform_(-3, 3)
        for parameter in method.second.parameters() if method.second is not None else ():
            parameter.uniform_(-3, 3)
    assert torch.equal(method(samples.inputs, samples.present).logits, before)


@pytest.mark.parametrize("data", [spec(3), pictures()])
def test_a_missing_modality_changes_nothing(data):
    method = build(data).eval()
    given = doubled(rooms(data) if data.dataset == "Rooms" else batch(data))
    for combination in every_combination(len(data.names)):
        present = limited(given.present, combination)
        other = {
            name: given.inputs[name] if has else torch.full_like(given.inputs[name], float("inf"))
            for name, has in zip(data.names, combination, strict=True)
        }
        assert torch.equal(method(other, present).logits, method(given.inputs, present).logits)


def test_without_its_terms_and_spread_it_is_modality_dropout_with_one_more_layer():
    data = spec(3)
    samples = doubled(batch(data))
    method = build(data, kl_weight=0.0, hard_weight=0.0, **HARD)
    with torch.no_grad():
        method.block.log_variance.norm.weight.zero_()
        method.block.log_variance.norm.bias.fill_(-1e4)
    plain = build(data, ModalityDropout)
    plain.network.load_state_dict(method.network.state_dict())
    plain.network.trunk = lambda fused: Features(copy.deepcopy(method.block.mean)(fused.deep, plain.gathered))
    torch.testing.assert_close(method.losses(samples)["loss"], plain.losses(samples)["loss"])


def test_only_hard_samples_count_more_and_only_after_the_warm_up(monkeypatch):
    data = spec()
    method = build(data, hard=["visual"])
    logits = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2, 3])
    decision = Decision(logits)
    for hard in ([0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]):
        loss = method.hard_loss(Features(logits), decision, target, torch.tensor(hard).bool())
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        each = F.cross_entropy(logits, target, reduction="none")
        torch.testing.assert_close(loss, (each * torch.tensor(hard)).sum() / 4)
        assert gradient.any(dim=1).tolist() == [bool(each) for each in hard]
    torch.testing.assert_close(loss, method.task_loss(decision, target))
    have(method, [0, 1], [1, 0], [1, 1], [0, 1], [1, 1], [1, 0])
    samples = doubled(batch(data))
    for epoch in (0, 5, 6):
        monkeypatch.setattr(DMRNet, "current_epoch", epoch)
        assert (method.losses(samples)["hard"] > 0) == (epoch == 6)
    have(method, *[[1, 1]] * 6)
    assert method.losses(samples)["hard"] == 0


def test_the_released_code_rescales_the_loss_by_the_number_of_hard_samples():
    data = spec()
    method = build(data, hard_epoch=0, hard=["visual"], hcr_reduction="official_outer")
    have(method, [0, 1], [1, 0], [1, 1], [0, 1], [1, 1], [0, 1])
    losses = method.losses(doubled(batch(data)))
    torch.testing.assert_close(losses["hard"], 3 * losses["ce"])


def test_the_second_decoder_sees_hard_samples_alone():
    data = pictures()
    method = build(data, hard_epoch=0)
    samples = doubled(rooms(data))
    seen = []
    method.second.register_forward_hook(lambda _, given, found: seen.append((given[0], found)))
    have(method, [1, 0], [1, 1], [0, 1])
    losses = method.losses(samples)
    (features, decision) = seen[0]
    assert len(features.deep) == 2
    assert all(len(skip) == 2 for skip in features.skips)
    torch.testing.assert_close(losses["hard"], method.task_loss(decision, samples.target[[0, 2]]))
    assert losses["hard"] != losses["ce"]
    have(method, [1, 1], [1, 1], [1, 1])
    method.zero_grad()
    hard = method.losses(samples)["hard"]
    hard.backward()
    assert hard == 0
    assert not any(parameter.grad.any() for parameter in method.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("data", [spec(), pictures()])
def test_the_divergence_reaches_the_encoders_of_what_is_there_alone(data):
    method = build(data, hard_epoch=0, hard=["depth" if data.dataset == "Rooms" else "visual"])
    samples = rooms(data, samples=2) if data.dataset == "Rooms" else batch(data, samples=2)
    doubled(samples)
    have(method, [1, 0], [0, 1])
    kept = {}
    encode = method.network.encode

    def encoded(inputs):
        found = encode(inputs)
        if data.dataset == "Toy":  # what the encoders of vectors put out; pyramids don't normalise over samples
            kept.update(zip(data.names, found, strict=True))
        return found

    method.network.encode = encoded
    kept |= {name: samples.inputs[name].requires_grad_() for name in data.names}
    kl = method.losses(samples)["kl"]
    first, second = torch.autograd.grad(kl, list(kept.values()))
    assert first[0].any()
    assert second[1].any()
    assert not first[1].any()
    assert not second[0].any()


def test_maps_are_averaged_over_places_for_pixels():
    data = pictures()
    method = build(data)
    found = []
    method.block.register_forward_hook(lambda _, given, gaussian: found.append(gaussian))
    losses = method.losses(doubled(rooms(data)))
    assert found[0][0].shape[2:] == (1, 2)
    torch.testing.assert_close(losses["kl"], standard_normal_kl(*found[0]).mean() / 2)


def test_hard_combinations_are_mined_from_the_warm_up(monkeypatch):
    data = spec(3)
    method = build(data, hard_epoch=1)
    every = every_combination(3)
    rows = [list(combination) for combination in every[:6]]
    samples = doubled(batch(data))
    have(method, *rows)
    spreads = []
    method.block.register_forward_hook(lambda _, given, found: spreads.append(found[1].exp().mean(dim=1).detach()))
    method.losses(samples)
    have(method, *rows[::-1])
    method.losses(samples)
    expected = torch.zeros(7, dtype=torch.float64)
    expected[:6] = spreads[0] + spreads[1].flip(0)
    torch.testing.assert_close(method.variances, torch.stack([expected, torch.tensor([2.0] * 6 + [0.0]).double()]))
    assert not method.hard.any()
    method.choose_hard()
    hardest = max(every[3:6], key=lambda combination: expected[every.index(combination)])
    chosen = {every[number] for number in method.hard.nonzero().flatten().tolist()}
    assert chosen == {each for each in every if all(has <= inside for has, inside in zip(each, hardest, strict=True))}
    monkeypatch.setattr(DMRNet, "current_epoch", 1)
    before = method.variances.clone()
    losses = method.losses(samples)
    assert torch.equal(method.variances, before)
    assert losses["hard"] > 0


def test_for_pixels_all_that_lack_a_modality_are_hard():
    assert build(pictures()).hard.tolist() == [True, True, False]
    assert build(pictures(), hard=["depth"]).hard.tolist() == [False, True, False]
    assert not build(spec()).hard.any()


FACES = DataSpec(
    "Faces",
    tuple(Modality(name, "image", (3, 112, 112)) for name in ("rgb", "depth", "ir")),
    AntiSpoofing(),
    train_size=20,
)
SPEAKERS = DataSpec(
    "Speakers",
    (Modality("audio", "audio", (1, 257, 188)), Modality("visual", "image", (3, 224, 224))),
    Classification(tuple("abcdef")),
    train_size=20,
)
INDOORS = DataSpec(
    "Indoors",
    (Modality("rgb", "image", (3, 480, 640)), Modality("depth", "depth", (1, 480, 640))),
    Segmentation(tuple(str(number) for number in range(40))),
    train_size=20,
)


@pytest.mark.parametrize(
    ("data", "backbone", "total", "decoder"),
    [
        (FACES, "face_resnet18", 13_709_914, 0),
        (SPEAKERS, "resnet34", 44_672_518, 0),
        (INDOORS, "resnet50", 88_596_200, 16_335_296),
    ],
)
def test_parameters(data, backbone, total, decoder):
    method = DMRNet(data.to_dict(), backbone=backbone)
    assert sum(parameter.numel() for parameter in method.parameters()) == total
    second = () if method.second is None else method.second.parameters()
    assert sum(parameter.numel() for parameter in second) == decoder


@pytest.mark.parametrize(
    ("data", "options", "says"),
    [
        (spec(1), {}, "Toy has only audio: choose another method"),
        (spec(), {"kl_weight": -1.0}, "kl_weight is -1.0: give a number of 0 or more"),
        (spec(), {"hard_weight": float("nan")}, "hard_weight is nan"),
        (spec(), {"hard_epoch": 0}, "give 1 or more, since hard combinations are found in the epochs before it"),
        (spec(), {"hard_epoch": -1, "hard": ["audio"]}, "give 0 or more."),
        (spec(), {"hard": ["audio+visuel"]}, r"did you mean 'visual'"),
        (pictures(), {"hcr_reduction": "official_outer"}, "leave hcr_reduction out for segmentation"),
    ],
)
def test_what_does_not_fit_is_refused(data, options, says):
    with pytest.raises(UserError, match=says):
        DMRNet(data.to_dict(), backbone=TINY, **options)


def test_a_batch_of_one_can_not_be_trained():
    data = spec()
    method = build(data)
    with pytest.raises(UserError, match=r"give --data.batch_size 2 or more"):
        method.losses(doubled(batch(data, samples=1)))
    assert method.eval()(doubled(batch(data, samples=1)).inputs, batch(data, samples=1).present).logits.isfinite().all()


def test_a_run(mmlab, tiny):
    line = f"fit --model DMRNet --wandb.mode off {tiny} --trainer.max_epochs 2 --model.hard_epoch 1 --run_dir run"
    mmlab(line)
    result = json.loads(Path("run/result.json").read_text())
    assert result["combinations"] == ["audio", "image", "audio+image"]
    state = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    sums, counts = state["variances"]
    assert counts.sum() == 96
    alone = (sums / counts)[:2]
    assert state["hard"].tolist() == [bool(alone[0] >= alone[1]), bool(alone[0] < alone[1]), False]
    header, first, second = (row.split(",") for row in Path("run/metrics.csv").read_text().splitlines())
    hard = [float(dict(zip(header, row, strict=True))["train/hard"]) for row in (first, second)]
    assert hard[0] == 0 < hard[1]
