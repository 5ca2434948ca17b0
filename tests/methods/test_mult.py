import pytest
import torch

from mmlab.errors import UserError
from mmlab.methods.mult import MulT
from tests.methods import toy
from tests.methods.sequences import CLASSES, SENTIMENT, batch, check_invariances, learns, spec


def method_of(data):
    return MulT(data.to_dict(), width=4, heads=2, layers=2, dropout=0.0)


@pytest.mark.parametrize("task", [SENTIMENT, CLASSES])
@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_losses_and_prediction(task, modalities, missing):
    data = spec(task, modalities)
    assert not toy.check(method_of(data), batch(data, missing=missing)).unimodal


def test_a_decision_is_the_sample_s_own():
    check_invariances(method_of(spec()), spec())


@pytest.mark.parametrize("task", [SENTIMENT, CLASSES])
def test_it_learns(task):
    first, last = learns(method_of(spec(task)), spec(task))
    assert last < first / 3


def test_a_missing_sequence_of_one_length_is_not_attended_to():
    data = spec()
    method, samples = method_of(data).eval(), batch(data)
    samples.present[:, 2] = False
    before = method(samples.inputs, samples.present).logits
    samples.inputs["vision"] = samples.inputs["vision"] + 5
    torch.testing.assert_close(method(samples.inputs, samples.present).logits, before, rtol=0, atol=0)


def test_what_it_has_no_steps_of_is_refused():
    with pytest.raises(UserError, match="'audio' of Toy is of the kind audio"):
        MulT(toy.spec(2).to_dict())
    with pytest.raises(UserError, match="only text"):
        MulT(spec(modalities=1).to_dict())


def test_the_command_says_that_there_is_no_backbone_to_choose(mmlab):
    error = mmlab("fit --model MulT --model.backbone small_conv --data.dataset Keypad", code=2)
    assert error.startswith("mmlab: error: MulT has no option 'backbone'")
