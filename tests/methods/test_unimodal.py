import pytest
import torch

from mmlab.backbones.config import BackboneConfig
from mmlab.errors import UserError
from mmlab.methods.unimodal import Unimodal
from tests.methods.toy import batch, check, spec

TINY = BackboneConfig(width=4)


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_losses_and_prediction(modalities, missing):
    data = spec(modalities)
    samples = batch(data, missing=missing)
    name = data.names[-1]
    prediction = check(Unimodal(data.to_dict(), name, TINY), samples)
    assert list(prediction.unimodal) == [name]


def test_the_other_modalities_have_no_part_in_it():
    data = spec(2)
    method = Unimodal(data.to_dict(), "visual", TINY)
    assert list(method.encoders) == ["visual"]
    samples = batch(data)
    before = method.losses(samples)["loss"]
    samples.inputs["audio"] += 1
    torch.testing.assert_close(method.losses(samples)["loss"], before)


def test_samples_without_the_modality_do_not_train():
    data = spec(2)
    method = Unimodal(data.to_dict(), "visual", TINY)
    samples = batch(data, missing=True)
    before = method.losses(samples)["loss"]
    without = ~samples.present[:, 1]
    samples.target[without] = (samples.target[without] + 1) % 4
    torch.testing.assert_close(method.losses(samples)["loss"], before)
    samples.present[:] = torch.tensor([True, False])
    assert method.losses(samples)["loss"] == 0


def test_an_unknown_modality():
    with pytest.raises(UserError, match=r"no modality 'vision'.*did you mean 'visual'"):
        Unimodal(spec(2).to_dict(), "vision", TINY)
