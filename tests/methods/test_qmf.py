import pytest
import torch
import torch.nn.functional as F

from mmlab.backbones.config import BackboneConfig
from mmlab.errors import UserError
from mmlab.methods.qmf import QMF
from tests.methods.toy import batch, check, spec

TINY = BackboneConfig(width=4)


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("ranking", ["released", "corrected_margin"])
def test_losses_and_prediction(modalities, missing, ranking):
    data = spec(modalities)
    samples = batch(data, missing=missing)
    prediction = check(QMF(data.to_dict(), ranking=ranking, backbone=TINY), samples)
    assert torch.equal(prediction.weights == 0, ~samples.present)
    logits = torch.stack(list(prediction.unimodal.values()))
    energy = logits.logsumexp(dim=2).T / 10
    torch.testing.assert_close(prediction.weights, energy * samples.present)
    torch.testing.assert_close(prediction.uncertainty, 1 - energy)
    torch.testing.assert_close(prediction.logits, torch.einsum("bm,mbc->bc", prediction.weights, logits))


def test_the_loss_is_the_sum_of_its_parts():
    data = spec(2)
    samples = batch(data)
    method = QMF(data.to_dict(), 0.2, "corrected_margin", unimodal_weights=[2, 0.5], backbone=TINY)
    losses = method.losses(samples)
    assert list(losses) == ["loss", "ce_fused", "ce_audio", "ce_visual", "rank_audio", "rank_visual"]
    ranks = losses["rank_audio"] + losses["rank_visual"]
    assert ranks > 0
    sums = losses["ce_fused"] + 2 * losses["ce_audio"] + 0.5 * losses["ce_visual"] + ranks
    torch.testing.assert_close(losses["loss"], sums)
    prediction = method(samples.inputs, samples.present)
    torch.testing.assert_close(losses["ce_fused"], F.cross_entropy(prediction.logits, samples.target))
    torch.testing.assert_close(losses["ce_visual"], F.cross_entropy(prediction.unimodal["visual"], samples.target))


def test_the_ranking_is_as_strong_as_it_is_weighted():
    data = spec(2)
    ranks = []
    for weight in (0.0, 1.0, 3.0):
        torch.manual_seed(0)
        method = QMF(data.to_dict(), weight, "corrected_margin", backbone=TINY)
        ranks.append(method.losses(batch(data))["rank_audio"])
    assert ranks[0] == 0
    assert ranks[1] > 0
    torch.testing.assert_close(ranks[2], 3 * ranks[1])


def test_the_history_is_that_of_the_samples_in_the_batch():
    data = spec(2)
    samples = batch(data, missing=True)
    samples.index = torch.tensor([19, 3, 8, 0, 12, 5])
    method = QMF(data.to_dict(), backbone=TINY)
    losses = method.losses(samples)
    history = method.state_dict()["fusion.loss_sum"]
    assert history.shape == (2, data.train_size)
    for m, name in enumerate(data.names):
        seen = samples.index[samples.present[:, m]]
        assert set(history[m].nonzero().flatten().tolist()) == set(seen.tolist())
        torch.testing.assert_close(history[m, seen].mean(), losses[f"ce_{name}"].detach())


def test_evaluation_writes_no_history():
    data = spec(2)
    samples = batch(data)
    method = QMF(data.to_dict(), backbone=TINY).eval()
    method(samples.inputs, samples.present)
    assert not method.fusion.loss_sum.any()


def test_the_ranking_reaches_the_encoders():
    data = spec(2)
    method = QMF(data.to_dict(), ranking="corrected_margin", backbone=TINY)
    method.losses(batch(data))["rank_audio"].backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in method.fusion.heads[0].parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in method.encoders["audio"].parameters())


@pytest.mark.parametrize(
    ("modalities", "options", "sentence"),
    [
        (1, {}, "only audio"),
        (2, {"rank_weight": -1.0}, "rank_weight is -1.0"),
        (2, {"unimodal_weights": [1.0]}, "unimodal_weights"),
    ],
)
def test_what_cannot_be_is_refused(modalities, options, sentence):
    with pytest.raises(UserError, match=sentence):
        QMF(spec(modalities).to_dict(), backbone=TINY, **options)
