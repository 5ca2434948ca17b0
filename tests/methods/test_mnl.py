import warnings

import pytest
import torch
from lightning.pytorch import Trainer

from mmlab.backbones.config import BackboneConfig
from mmlab.errors import UserError
from mmlab.losses.non_target_guidance import at_class
from mmlab.methods.late_fusion import LateFusion
from mmlab.methods.mnl import MNL
from mmlab.methods.pdf import PDF
from mmlab.methods.qmf import QMF
from tests.methods.toy import batch, check, spec

TINY = BackboneConfig(width=4)


def same_weights(method, data):
    plain = LateFusion(data.to_dict(), backbone=TINY)
    plain.load_state_dict(method.state_dict())
    return plain


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("rule", ["dynamic", "prior"])
@pytest.mark.parametrize("fusion", ["static", "qmf", "pdf"])
def test_losses_and_prediction(modalities, missing, rule, fusion):
    data = spec(modalities)
    samples = batch(data, missing=missing)
    method = MNL(data.to_dict(), guidance_rule=rule, fusion=fusion, backbone=TINY)
    prediction = check(method, samples)
    assert torch.equal(prediction.weights != 0, samples.present)
    assert list(prediction.unimodal) == list(data.names)


@pytest.mark.parametrize("variant", ["official", "paper"])
def test_the_loss_is_the_sum_of_its_parts(variant):
    data = spec(2)
    losses = MNL(data.to_dict(), variant, lam=0.3, backbone=TINY).losses(batch(data))
    assert list(losses) == ["loss", "ce_fused", "ce_audio", "ce_visual", "guidance", "extra_target_ce"]
    assert losses["guidance"] > 0
    assert (losses["extra_target_ce"] > 0) == (variant == "official")
    sums = losses["ce_fused"] + losses["ce_audio"] + losses["ce_visual"] + losses["extra_target_ce"]
    torch.testing.assert_close(losses["loss"], sums + 0.3 * losses["guidance"])


def test_with_the_rule_off_it_is_late_fusion():
    data = spec(3)
    method = MNL(data.to_dict(), guidance_rule="off", backbone=TINY)
    samples = batch(data, missing=True)
    torch.testing.assert_close(method.losses(samples)["loss"], same_weights(method, data).losses(samples)["loss"])


DYNAMIC = [
    ("qmf", QMF, {"rank_weight": 0.3, "ranking": "corrected_margin"}),
    ("qmf", QMF, {"rank_weight": 0.0, "ranking": "corrected_margin"}),
    ("qmf", QMF, {}),
    ("pdf", PDF, {}),
]


@pytest.mark.parametrize(("fusion", "dynamic", "options"), DYNAMIC)
@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_with_the_rule_off_it_is_the_dynamic_fusion(fusion, dynamic, options, modalities, missing):
    data = spec(modalities)
    options = {**options, "unimodal_weights": [2.0, *[0.5] * (modalities - 1)], "backbone": TINY}
    torch.manual_seed(0)
    method = MNL(data.to_dict(), guidance_rule="off", fusion=fusion, **options)
    torch.manual_seed(0)
    alone = dynamic(data.to_dict(), **options)
    optimizers = [each.configure_optimizers() for each in (method, alone)]
    for step in range(3):
        samples = batch(data, missing=missing)
        samples.index = samples.index + 3 * step  # half of them are seen again
        losses = [each.losses(samples) for each in (method, alone)]
        assert losses[0].keys() - losses[1].keys() == {"guidance", "extra_target_ce"}
        assert losses[0]["guidance"] == losses[0]["extra_target_ce"] == 0
        assert all(torch.equal(losses[0][name], value) for name, value in losses[1].items())
        for each, optimizer in zip(losses, optimizers, strict=True):
            optimizer.zero_grad()
            each["loss"].backward()
            optimizer.step()
    ours, theirs = method.state_dict(), alone.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("fusion", "dynamic", "options"), DYNAMIC)
def test_guidance_is_added_to_what_the_dynamic_fusion_trains_by(fusion, dynamic, options):
    data = spec(2)
    samples = batch(data)
    method = MNL(data.to_dict(), lam=0.3, fusion=fusion, backbone=TINY, **options)
    alone = dynamic(data.to_dict(), backbone=TINY, **options)
    alone.load_state_dict(method.state_dict())
    losses, plain = method.losses(samples), alone.losses(samples)
    assert losses["guidance"] > 0
    torch.testing.assert_close(losses["loss"], plain["loss"] + 0.3 * losses["guidance"] + losses["extra_target_ce"])
    for name in plain.keys() - {"loss"}:
        torch.testing.assert_close(losses[name], plain[name])


def test_guidance_starts_after_the_warm_up():
    data = spec(2)
    method = MNL(data.to_dict(), warmup_epochs=1, backbone=TINY)
    samples = batch(data)
    plain = same_weights(method, data).losses(samples)["loss"]
    torch.testing.assert_close(method.losses(samples)["loss"], plain)
    method.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    method.trainer.fit_loop.epoch_progress.current.completed = 1
    assert method.current_epoch == 1
    assert method.losses(samples)["loss"] > plain + 1e-3


def test_the_prior_guide_is_named():
    data = spec(2)
    samples = batch(data)
    method = MNL(data.to_dict(), "paper", guidance_rule="prior", prior_guide="visual", backbone=TINY)
    audio, visual = method(samples.inputs, samples.present).unimodal.values()
    both = torch.stack([visual.softmax(dim=1), audio.log_softmax(dim=1)])
    every = -(both[0] * both[1]).sum(dim=1)
    target = at_class(both, samples.target)
    torch.testing.assert_close(method.losses(samples)["guidance"], (every + target[0] * target[1]).mean())


def test_two_classes_are_warned_about():
    with pytest.warns(UserWarning, match="two classes"):
        MNL(spec(2, classes=2).to_dict(), backbone=TINY)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MNL(spec(2, classes=2).to_dict(), guidance_rule="off", backbone=TINY)


@pytest.mark.parametrize(
    ("modalities", "options", "sentence"),
    [
        (1, {}, "only audio"),
        (2, {"lam": -1.0}, "lam -1.0"),
        (2, {"warmup_epochs": -1}, "warmup_epochs"),
        (2, {"prior_guide": "audio"}, "guidance_rule to prior"),
        (2, {"prior_guide": "adio", "guidance_rule": "prior"}, "did you mean 'audio'"),
        (2, {"weights": [1.0, 1.0, 1.0]}, "one positive number"),
        (2, {"unimodal_weights": [1.0]}, "unimodal_weights"),
        (1, {"fusion": "qmf"}, "only audio"),
        (1, {"fusion": "pdf"}, "only audio"),
        (2, {"fusion": "qmf", "weights": [1.0, 1.0]}, "weights only with fusion static"),
        (2, {"fusion": "pdf", "weights": [1.0, 1.0]}, "weights only with fusion static"),
        (2, {"ranking": "released"}, "ranking only with fusion qmf"),
        (2, {"fusion": "pdf", "rank_weight": 1.0}, "rank_weight only with fusion qmf"),
        (2, {"fusion": "qmf", "rank_weight": -1.0}, "rank_weight is -1.0"),
    ],
)
def test_what_cannot_be_is_refused(modalities, options, sentence):
    with pytest.raises(UserError, match=sentence):
        MNL(spec(modalities).to_dict(), backbone=TINY, **options)
