import pytest
import torch

from mmlab.backbones.config import BackboneConfig, Backbones
from mmlab.errors import UserError
from mmlab.methods.joint_training import FUSIONS, JointTraining
from mmlab.types import DataSpec, Regression
from tests.methods.toy import batch, check, spec

TINY = BackboneConfig(width=4)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_losses_and_prediction(fusion, modalities, missing):
    data = spec(modalities)
    method = JointTraining(data.to_dict(), fusion, backbone=TINY, backbones=Backbones(visual=BackboneConfig(width=8)))
    prediction = check(method, batch(data, missing=missing))
    assert {name: feature.shape[1] for name, feature in prediction.features.items()} == {
        name: 64 if name == "visual" else 32 for name in data.names
    }


def test_what_stands_in_for_a_missing_modality_does_not_matter():
    data = spec(2)
    method = JointTraining(data.to_dict(), backbone=TINY)
    samples = batch(data, missing=True)
    before = method(samples.inputs, samples.present).logits
    samples.inputs["audio"][~samples.present[:, 0]] = 5.0
    torch.testing.assert_close(method(samples.inputs, samples.present).logits, before)


def test_one_modality_is_refused():
    with pytest.raises(UserError, match="only audio"):
        JointTraining(spec(1).to_dict(), backbone=TINY)


def test_the_scale_of_mmcosine():
    data = spec(2)
    samples = batch(data)
    methods = []
    for scale in (None, 10.0, 20.0):
        torch.manual_seed(0)
        methods.append(JointTraining(data.to_dict(), "mmcosine", scale, TINY))
    usual, ten, twenty = (method(samples.inputs, samples.present).logits for method in methods)
    torch.testing.assert_close(usual, ten)
    torch.testing.assert_close(2 * ten, twenty)


@pytest.mark.parametrize(
    ("fusion", "scale", "words"), [("sum", 5.0, "not with sum"), ("mmcosine", 0.0, "scale 0"), ("film", 10.0, "film")]
)
def test_a_scale_that_does_not_fit_is_refused(fusion, scale, words):
    with pytest.raises(UserError, match=words):
        JointTraining(spec(2).to_dict(), fusion, scale, TINY)


def test_cosines_are_no_numbers_to_regress():
    data = DataSpec("Toy", spec(2).modalities, Regression(-3.0, 3.0), train_size=20)
    JointTraining(data.to_dict(), backbone=TINY)
    with pytest.raises(UserError, match="mmcosine"):
        JointTraining(data.to_dict(), "mmcosine", backbone=TINY)


@pytest.mark.parametrize(
    ("fusion", "names"), [("sum", {"audio", "visual"}), ("concat", {"audio", "visual"}), ("film", set())]
)
def test_each_modality_decides_by_its_part_of_a_sum(fusion, names):
    data = spec(2)
    samples = batch(data)
    prediction = JointTraining(data.to_dict(), fusion, backbone=TINY)(samples.inputs, samples.present)
    assert prediction.unimodal.keys() == names
    if names:
        torch.testing.assert_close(torch.stack(list(prediction.unimodal.values())).sum(dim=0), prediction.logits)


def test_a_part_of_a_number_is_no_decision():
    data = DataSpec("Toy", spec(2).modalities, Regression(-3.0, 3.0), train_size=20)
    samples = batch(spec(2))
    assert not JointTraining(data.to_dict(), backbone=TINY)(samples.inputs, samples.present).unimodal
