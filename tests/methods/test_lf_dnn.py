import pytest
import torch

from mmlab.backbones.config import BackboneConfig, Backbones
from mmlab.errors import UserError
from mmlab.methods.lf_dnn import LFDNN
from mmlab.types import Classification
from tests.methods import toy
from tests.methods.sequences import CLASSES, SENTIMENT, batch, check_invariances, learns, spec

BACKBONES = Backbones(text=BackboneConfig("lstm", width=5), vision=BackboneConfig("mlp", width=6))


def method_of(data):
    backbones = BACKBONES if len(data.modalities) == 3 else Backbones()
    return LFDNN(data.to_dict(), backbone="lstm", backbones=backbones, hidden=8, dropout=0.0)


@pytest.mark.parametrize("task", [SENTIMENT, CLASSES])
@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_losses_and_prediction(task, modalities, missing):
    data = spec(task, modalities)
    prediction = toy.check(method_of(data), batch(data, missing=missing))
    assert not prediction.unimodal
    assert prediction.features.keys() == set(data.names)


def test_it_fuses_any_features():
    data = toy.spec(3)
    toy.check(LFDNN(data.to_dict(), backbone=BackboneConfig(width=4), hidden=6), toy.batch(data, missing=True))


def test_a_decision_is_the_sample_s_own():
    check_invariances(method_of(spec()), spec())


@pytest.mark.parametrize("task", [SENTIMENT, CLASSES])
def test_it_learns(task):
    first, last = learns(method_of(spec(task)), spec(task))
    assert last < first / 3


def test_the_loss_is_the_task_s():
    data = spec()
    method, samples = method_of(data).eval(), batch(data)
    logits = method(samples.inputs, samples.present).logits
    torch.testing.assert_close(method.losses(samples)["loss"], (logits[:, 0] - samples.target).abs().mean())
    classes = spec(CLASSES)
    method, samples = method_of(classes).eval(), batch(classes)
    logits = method(samples.inputs, samples.present).logits
    expected = -logits.log_softmax(dim=1)[torch.arange(6), samples.target].mean()
    torch.testing.assert_close(method.losses(samples)["loss"], expected)


def test_one_modality_is_refused():
    with pytest.raises(UserError, match="only text"):
        LFDNN(spec(Classification(("a", "b")), 1).to_dict(), backbone="lstm")
