from pathlib import Path

import pytest
import timm
import torch

from mmlab.backbones.config import NO_OVERRIDES, BackboneConfig, Backbones, build_encoders
from mmlab.backbones.pyramids import Pyramid, SmallPyramid
from mmlab.backbones.timm_pyramid import TimmPyramid
from mmlab.errors import UserError
from mmlab.types import DataSpec, Modality, Segmentation

SPEC = DataSpec(
    "Toy",
    (Modality("rgb", "image", (3, 48, 80)), Modality("depth", "depth", (1, 48, 80))),
    Segmentation(("a", "b", "c")),
    train_size=10,
)


def test_small_maps_halve_and_widen():
    net = SmallPyramid(2, width=4)
    maps = net(torch.randn(3, 2, 36, 60))
    assert [tuple(each.shape) for each in maps] == [
        (3, 4, 18, 30),
        (3, 8, 9, 15),
        (3, 16, 5, 8),
        (3, 32, 3, 4),
        (3, 32, 2, 2),
    ]
    assert net.channels == tuple(each.shape[1] for each in maps)


def test_a_sample_of_the_small_one_does_not_depend_on_its_batch():
    net = SmallPyramid(1, width=4).train()
    x = torch.randn(4, 1, 32, 32)
    torch.testing.assert_close(torch.cat([net(x[:1])[-1], net(x[1:])[-1]]), net(x)[-1])


# One of each way in which timm makes features: as a list of modules, and as a class of its own.
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050"])
def test_stages_of_timm_give_what_timm_gives(name):
    torch.manual_seed(3)
    net = TimmPyramid(name, 2)
    torch.manual_seed(3)
    model = timm.create_model(name, in_chans=2, features_only=True)
    assert net.training
    with torch.no_grad():  # what starts as an identity must not hide in the wrong stage
        for ours, theirs in zip(net.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
            ours.add_(0.01)
            theirs.add_(0.01)
    x = torch.randn(2, 2, 70, 90)
    maps, expected = net.eval()(x), model.eval()(x)
    assert net.channels == tuple(each.shape[1] for each in expected)
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_everything_trains_and_starts_fresh():
    net = TimmPyramid("mobilenetv3_small_050", 1)
    running = [value for key, value in net.state_dict().items() if key.endswith("running_mean")]
    assert running
    assert all(value.abs().max() == 0 for value in running)
    sum(each.square().mean() for each in net(torch.randn(2, 1, 64, 64))).backward()
    # A parameter without a gradient would stop distributed training.
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]


def test_pretrained_kernels_of_one_channel_are_the_sum_over_colours(monkeypatch):
    published = timm.create_model("resnet10t")
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *args, **rest: published.state_dict())
    depth, colour = TimmPyramid("resnet10t", 1, pretrained=True), TimmPyramid("resnet10t", 3, pretrained=True)
    kernels = published.state_dict()["conv1.0.weight"]
    first, same = (next(net.stages[0].parameters()) for net in (depth, colour))
    torch.testing.assert_close(same, kernels)
    torch.testing.assert_close(first, kernels.sum(dim=1, keepdim=True))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("convnext_atto", "can't serve dense tasks .*of a picture of 72 x 104 its maps are 18 x 26.*choose resnet18"),
        ("hrnet_w18_small", "hrnet_w18_small can't serve dense tasks"),
        ("resnet18.nonsense", "can't be built for dense tasks .*nonsense"),
        ("resnet81", "no backbone 'resnet81' .did you mean 'resnet"),
        ("sensor_gru", "sensor_gru can't serve a class of each pixel: give small_conv"),
        ("face_resnet18", "face_resnet18 can't serve a class of each pixel"),
        ("bert/large", "bert/large can't serve a class of each pixel"),
        ("own.WithoutWidth", "own.WithoutWidth can't serve a class of each pixel.*Pyramid"),
        (BackboneConfig("resnet10t", grid=(2, 2)), "no grid to choose"),
        (BackboneConfig(width=6), "multiple of 4"),
    ],
)
def test_what_is_no_pyramid_is_told(monkeypatch, name, sentence):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    with pytest.raises(UserError, match=sentence):
        build_encoders(SPEC, name, NO_OVERRIDES, dense=True)


def test_encoders_of_a_dense_task_are_pyramids(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    encoders = build_encoders(SPEC, BackboneConfig(width=4), Backbones(depth="own.Halves"), dense=True)
    assert all(isinstance(encoder, Pyramid) for encoder in encoders.values())
    assert [tuple(each.shape) for each in encoders["depth"](torch.zeros(2, 1, 64, 64))][-1] == (2, 1, 2, 2)


def test_sound_has_no_pixels():
    spec = DataSpec("Toy", (Modality("audio", "audio", (1, 16, 12)),), SPEC.task, train_size=10)
    with pytest.raises(UserError, match="'audio' is of the kind audio"):
        build_encoders(spec, "small_conv", NO_OVERRIDES, dense=True)
