import pytest
import torch
import torch.nn.functional as F

from mmlab.backbones.config import BackboneConfig
from mmlab.errors import UserError
from mmlab.methods.late_fusion import LateFusion
from tests.methods.toy import batch, check, spec

TINY = BackboneConfig(width=4)


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_losses_and_prediction(modalities, missing):
    data = spec(modalities)
    samples = batch(data, missing=missing)
    prediction = check(LateFusion(data.to_dict(), backbone=TINY), samples)
    torch.testing.assert_close(prediction.weights.sum(dim=1), torch.ones(6))
    assert torch.equal(prediction.weights > 0, samples.present)
    expected = sum(prediction.weights[:, m, None] * z for m, z in enumerate(prediction.unimodal.values()))
    torch.testing.assert_close(prediction.logits, expected)


def test_the_loss_is_the_sum_of_its_parts():
    data = spec(2)
    samples = batch(data)
    method = LateFusion(data.to_dict(), weights=[1, 3], unimodal_weights=[2, 0.5], backbone=TINY)
    losses = method.losses(samples)
    assert list(losses) == ["loss", "ce_fused", "ce_audio", "ce_visual"]
    torch.testing.assert_close(losses["loss"], losses["ce_fused"] + 2 * losses["ce_audio"] + 0.5 * losses["ce_visual"])
    prediction = method(samples.inputs, samples.present)
    audio, visual = prediction.unimodal.values()
    torch.testing.assert_close(losses["ce_visual"], F.cross_entropy(visual, samples.target))
    torch.testing.assert_close(losses["ce_fused"], F.cross_entropy(0.25 * audio + 0.75 * visual, samples.target))


def test_what_follows_from_the_arguments_is_not_in_the_checkpoint():
    saved = LateFusion(spec(2).to_dict(), weights=[1, 3], backbone=TINY).state_dict()
    assert not [name for name in saved if "weights" in name]


@pytest.mark.parametrize(
    ("modalities", "options", "sentence"),
    [
        (1, {}, "only audio"),
        (2, {"weights": [1.0]}, "one positive number for each of audio, visual"),
        (2, {"unimodal_weights": [1.0, -1.0]}, "unimodal_weights"),
    ],
)
def test_what_cannot_be_is_refused(modalities, options, sentence):
    with pytest.raises(UserError, match=sentence):
        LateFusion(spec(modalities).to_dict(), backbone=TINY, **options)
