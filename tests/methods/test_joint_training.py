import pytest
import torch

from mmlab.backbones.config import BackboneConfig, Backbones
from mmlab.errors import UserError
from mmlab.methods.joint_training import FUSIONS, JointTraining
from tests.methods.toy import batch, check, spec

TINY = BackboneConfig(width=4)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_losses_and_prediction(fusion, modalities, missing):
    data = spec(modalities)
    method = JointTraining(data.to_dict(), fusion, TINY, Backbones(visual=BackboneConfig(width=8)))
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
