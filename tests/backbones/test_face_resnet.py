import pytest
import torch

from mmlab.backbones.config import NO_OVERRIDES, BackboneConfig, build_encoders, widths
from mmlab.backbones.face_resnet import FaceResNet
from mmlab.errors import UserError
from mmlab.types import Classification, DataSpec, Modality

SPEC = DataSpec(
    "Toy",
    (Modality("rgb", "image", (3, 32, 32)), Modality("depth", "depth", (1, 32, 32))),
    Classification(("a", "b")),
    train_size=10,
)


def test_as_published():
    net = FaceResNet(3)
    assert sum(parameter.numel() for parameter in net.parameters()) == 677_576
    assert net.eval().picture_maps(torch.zeros(1, 3, 112, 112)).shape == (1, 128, 14, 14)
    # Kaiming-normal by fan-out: 64 kernels of 3 x 3 leave the first convolution.
    assert net.stem[0].weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


def test_the_gate_weighs_whole_channels():
    net = FaceResNet(1).eval()
    x = torch.randn(2, 1, 40, 24)
    maps = net.layer2(net.layer1(net.stem(x)))
    gate = net.gate(maps.mean(dim=(2, 3)))
    torch.testing.assert_close(net.picture_maps(x), torch.einsum("bchw,bc->bchw", maps, gate))
    assert 0 < gate.min() < gate.max() < 1


def test_an_ordinary_backbone_too():
    encoders = build_encoders(SPEC, "face_resnet18", NO_OVERRIDES)
    assert widths(encoders) == {"rgb": 128, "depth": 128}
    assert encoders["depth"](torch.randn(2, 1, 32, 32)).shape == (2, 128)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (BackboneConfig("face_resnet18", pretrained=True), "no pretrained weights"),
        (BackboneConfig("face_resnet18", width=8), "no width to choose"),
        (BackboneConfig("face_resnet18", grid=(1, 2)), "no grid to choose"),
        ("face_resnet81", "did you mean 'face_resnet18'"),
    ],
)
def test_what_it_does_not_have(config, sentence):
    with pytest.raises(UserError, match=sentence):
        build_encoders(SPEC, config, NO_OVERRIDES)
