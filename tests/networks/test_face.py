import pytest
import torch

from mmlab.availability import every_combination
from mmlab.backbones.config import NO_OVERRIDES, Backbones, build_encoders
from mmlab.errors import UserError
from mmlab.networks.build import build_network
from mmlab.networks.face import FaceNetwork
from mmlab.types import AntiSpoofing, DataSpec, Modality

THREE = (
    Modality("rgb", "image", (3, 32, 32)),
    Modality("depth", "depth", (3, 32, 32)),
    Modality("ir", "image", (3, 32, 32)),
)


def spec(modalities=THREE):
    return DataSpec("Faces", tuple(modalities), AntiSpoofing(), train_size=10)


def network(modalities=THREE):
    data = spec(modalities)
    return build_network(data, build_encoders(data, "face_resnet18", NO_OVERRIDES, dense=True))


def inputs(samples=4, modalities=THREE):
    return {modality.name: torch.randn(samples, *modality.shape) for modality in modalities}


def parameters(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_as_published():
    net = network()
    assert isinstance(net, FaceNetwork)
    assert parameters(net) == 13_182_554
    assert parameters(net.shared, net.head) == 11_149_826
    assert parameters(net, net.second_head()) == 24_332_380
    with torch.no_grad():
        encoded = net.eval().encode({name: torch.zeros(1, 3, 112, 112) for name in net.encoders})
        fused = net.fuse(encoded, torch.ones(1, 3, dtype=torch.bool))
        assert fused.deep.shape == (1, 384, 14, 14)
        assert net.trunk(fused).deep.shape == (1, net.width, 4, 4)


@pytest.mark.parametrize("modalities", [THREE[:1], THREE[1:], THREE])
def test_a_missing_modality_changes_nothing(modalities):
    net, x = network(modalities).eval(), inputs(2, modalities)
    with torch.no_grad():
        encoded = net.encode(x)
        for combination in every_combination(len(modalities)):
            present = torch.tensor(combination).expand(2, -1)
            junk = {
                modality.name: x[modality.name] if has else torch.full_like(x[modality.name], 1e30)
                for modality, has in zip(modalities, combination, strict=True)
            }
            logits = net.head(net.trunk(net.fuse(encoded, present))).logits
            assert logits.shape == (2, 2)
            torch.testing.assert_close(net(junk, present).logits, logits, rtol=0, atol=0)


def test_gradients_reach_the_encoders_that_are_there():
    net, x = network(), inputs()
    present = torch.tensor([[True, False, True]]).expand(4, -1)
    net(x, present).logits.square().sum().backward()
    for name, encoder in net.encoders.items():
        grads = [parameter.grad for parameter in encoder.parameters()]
        assert all(grad is not None and grad.isfinite().all() for grad in grads)
        assert (max(grad.abs().max() for grad in grads) > 0) == (name != "depth")


def test_a_second_head_starts_from_the_same_fused_maps():
    net, x = network(), inputs()
    second = net.second_head()
    assert not {id(p) for p in second.parameters()} & {id(p) for p in net.parameters()}
    fused = net.fuse(net.encode(x), torch.ones(4, 3, dtype=torch.bool))
    second.load_state_dict(
        {
            **{f"own_trunk.{key}": value for key, value in net.shared.state_dict().items()},
            **{f"head.{key}": value for key, value in net.head.state_dict().items()},
        }
    )
    hidden = net.trunk(fused)
    torch.testing.assert_close(second(fused, hidden).logits, net.head(hidden).logits)


def test_half_precision_and_channels_last():
    net = network().to(memory_format=torch.channels_last)
    x = {name: each.to(memory_format=torch.channels_last) for name, each in inputs().items()}
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(x, torch.tensor([[True, True, False]]).expand(4, -1)).logits
    assert logits.dtype == torch.bfloat16
    logits.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_other_backbones_beside_it_are_refused():
    data = spec()
    with pytest.raises(UserError, match="'depth' has another backbone: give it face_resnet18 too"):
        build_network(data, build_encoders(data, "face_resnet18", Backbones(depth="small_conv"), dense=True))


def test_pictures_of_several_sizes_are_refused():
    with pytest.raises(UserError, match="'ir' of Faces is 32 x 40 and 'rgb' 32 x 32: choose another backbone"):
        network((*THREE[:2], Modality("ir", "image", (3, 32, 40))))
