"""LF-DNN, TFN and LMF: methods that decide once, on the features of all modalities."""

import pytest
import torch

from mmlab.backbones.config import BackboneConfig, Backbones
from mmlab.errors import UserError
from mmlab.methods.lf_dnn import LFDNN
from mmlab.methods.lmf import LMF
from mmlab.methods.tfn import TFN
from tests.methods import toy
from tests.methods.sequences import CLASSES, SENTIMENT, batch, check_invariances, learns, spec

BACKBONES = Backbones(text=BackboneConfig("lstm", width=5), vision=BackboneConfig("mlp", width=6))
METHODS = {
    LFDNN: {"hidden": 8, "dropout": 0.0},
    TFN: {"width": 8, "hidden": 16, "dropout": 0.0},
    LMF: {"rank": 2},
}
of_each_kind = pytest.mark.parametrize("kind", METHODS)


def method_of(kind, data):
    backbones = BACKBONES if len(data.modalities) == 3 else Backbones()
    return kind(data.to_dict(), backbone="lstm", backbones=backbones, **METHODS[kind])


@of_each_kind
@pytest.mark.parametrize("task", [SENTIMENT, CLASSES])
@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_losses_and_prediction(kind, task, modalities, missing):
    data = spec(task, modalities)
    prediction = toy.check(method_of(kind, data), batch(data, missing=missing))
    assert not prediction.unimodal
    assert prediction.features.keys() == set(data.names)


@of_each_kind
def test_it_fuses_any_features(kind):
    data = toy.spec(3)
    method = kind(data.to_dict(), backbone=BackboneConfig(width=4), **METHODS[kind])
    toy.check(method, toy.batch(data, missing=True))


@of_each_kind
def test_a_decision_is_the_sample_s_own(kind):
    check_invariances(method_of(kind, spec()), spec())


@of_each_kind
@pytest.mark.parametrize("task", [SENTIMENT, CLASSES])
def test_it_learns(kind, task):
    first, last = learns(method_of(kind, spec(task)), spec(task))
    assert last < first / 3


@of_each_kind
def test_the_loss_is_the_task_s(kind):
    data = spec()
    method, samples = method_of(kind, data).eval(), batch(data)
    logits = method(samples.inputs, samples.present).logits
    torch.testing.assert_close(method.losses(samples)["loss"], (logits[:, 0] - samples.target).abs().mean())
    classes = spec(CLASSES)
    method, samples = method_of(kind, classes).eval(), batch(classes)
    logits = method(samples.inputs, samples.present).logits
    expected = -logits.log_softmax(dim=1)[torch.arange(6), samples.target].mean()
    torch.testing.assert_close(method.losses(samples)["loss"], expected)


@of_each_kind
def test_one_modality_is_refused(kind):
    with pytest.raises(UserError, match="only text"):
        method_of(kind, spec(modalities=1))
