import pytest
import torch
import torch.nn.functional as F

from mmlab.availability import every_combination
from mmlab.backbones.config import NO_OVERRIDES, BackboneConfig, Backbones, build_encoders
from mmlab.errors import UserError
from mmlab.networks.base import Features
from mmlab.networks.build import build_network
from mmlab.networks.context import PyramidPooling, context_bins
from mmlab.networks.decoder import Decoder, Enlarge
from mmlab.networks.segmentation import SegmentationNetwork
from mmlab.types import DataSpec, Modality, Segmentation

TINY = BackboneConfig(width=4)


def spec(modalities=2, size=(36, 60), classes=5):
    kinds = (("rgb", "image", 3), ("depth", "depth", 1), ("ir", "image", 1))
    described = tuple(Modality(name, kind, (channels, *size)) for name, kind, channels in kinds[:modalities])
    return DataSpec("Toy", described, Segmentation(tuple(map(str, range(classes)))), train_size=10)


def network(data, backbone=TINY):
    return build_network(data, build_encoders(data, backbone, NO_OVERRIDES, dense=True))


def inputs(data, samples=3):
    return {modality.name: torch.randn(samples, *modality.shape) for modality in data.modalities}


def present(combination, samples=3):
    return torch.tensor(combination).expand(samples, -1)


def parameters(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def test_as_published():
    net = network(spec(2, (480, 640), 40), "resnet50.tv_in1k")
    assert isinstance(net, SegmentationNetwork)
    assert net.encoders["rgb"].channels == (64, 256, 512, 1024, 2048)
    assert parameters(net) == 71_733_544
    assert parameters(net.head) == 16_335_296
    assert parameters(net, net.second_head()) == 88_068_840
    assert net.width == 512
    assert net.skips == (128, 256, 512)


def test_maps_are_gated_added_and_handed_on():
    data = spec(2)
    net, x = network(data).double(), {name: each.double() for name, each in inputs(data).items()}
    rgb, depth = (net.encoders[name].stages for name in ("rgb", "depth"))
    for has_rgb, has_depth in every_combination(2):
        colour, distance, sums = x["rgb"], x["depth"], []
        for level in range(5):
            colour, distance = has_rgb * rgb[level](colour), has_depth * depth[level](distance)
            gate_rgb, gate_depth = net.gates[level]
            colour = gate_rgb(colour) + gate_depth(distance)
            sums.append(colour)
        fused = net.fuse(net.encode(x), present((has_rgb, has_depth)))
        torch.testing.assert_close(fused.deep, sums[4])
        for ours, expected in zip(fused.skips, sums[1:4], strict=True):
            torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_a_missing_modality_changes_nothing(modalities):
    data = spec(modalities)
    net, x = network(data).eval(), inputs(data)
    for combination in every_combination(modalities):
        junk = {
            name: each if has else torch.full_like(each, 1e30)
            for (name, each), has in zip(x.items(), combination, strict=True)
        }
        with torch.no_grad():
            logits = net(x, present(combination)).logits
            assert logits.isfinite().all()
            torch.testing.assert_close(net(junk, present(combination)).logits, logits, rtol=0, atol=0)


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_gradients_reach_the_encoders_that_are_there(modalities):
    data = spec(modalities)
    for combination in every_combination(modalities):
        net = network(data)
        decision = net(inputs(data), present(combination))
        sum(each.square().mean() for each in (decision.logits, *decision.coarse)).backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())
        for encoder, has in zip(net.encoders.values(), combination, strict=True):
            # Of the first encoder, the first stage alone sees only its own modality.
            learns = max(parameter.grad.abs().max() for parameter in encoder.stages[0].parameters()) > 0
            assert learns == has


@pytest.mark.parametrize("size", [(36, 60), (64, 32), (144, 240)])
@pytest.mark.parametrize("backbone", [TINY, "mobilenetv3_small_050"])
def test_sizes(size, backbone):
    data = spec(2, size)
    net, x = network(data, backbone), inputs(data, 2)
    high, wide = size
    decision = net(x, present((True, True), 2))
    assert decision.logits.shape == (2, 5, high, wide)
    coarse = [tuple(each.shape[2:]) for each in decision.coarse]
    assert coarse == [(-(-high // stride), -(-wide // stride)) for stride in (8, 16, 32)]
    decision = net.eval()(x, present((True, True), 2))
    assert decision.logits.shape == (2, 5, high, wide)
    assert decision.coarse == ()


def test_other_sizes_than_in_training():
    data, larger = spec(2, (64, 64)), spec(2, (128, 192))
    logits = network(data).eval()(inputs(larger, 1), present((True, False), 1)).logits
    assert logits.shape == (1, 5, 128, 192)


def test_a_sample_does_not_depend_on_its_batch_in_training():
    data = spec(2)
    net, x = network(data).double(), {name: each.double() for name, each in inputs(data).items()}
    available = torch.tensor([[True, False], [True, True], [False, True]])
    whole = net(x, available)
    alone = [net({name: each[[b]] for name, each in x.items()}, available[[b]]) for b in range(3)]
    torch.testing.assert_close(torch.cat([each.logits for each in alone]), whole.logits)
    torch.testing.assert_close(torch.cat([each.coarse[0] for each in alone]), whole.coarse[0])


@pytest.mark.parametrize("backbone", [TINY, "mobilenetv3_small_050"])
def test_half_precision_and_channels_last(backbone):
    data = spec(2, (32, 64))
    net = network(data, backbone).to(memory_format=torch.channels_last)
    x = {name: each.to(memory_format=torch.channels_last) for name, each in inputs(data).items()}
    with torch.autocast("cpu", torch.bfloat16):
        decision = net(x, torch.tensor([[True, False], [True, True], [False, True]]))
    sum(each.float().square().mean() for each in (decision.logits, *decision.coarse)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())


def test_a_second_head_reads_what_leaves_the_trunk():
    data = spec(2)
    net, x = network(data), inputs(data)
    second = net.second_head()
    assert not {id(p) for p in second.parameters()} & {id(p) for p in net.parameters()}
    fused = net.fuse(net.encode(x), present((True, True)))
    hidden = net.trunk(fused)
    second.head.load_state_dict(net.head.state_dict())
    torch.testing.assert_close(second(fused, hidden).logits, net.head(hidden).logits)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(second(fused.of(rows), hidden.of(rows)).logits, net.head(hidden).logits[rows])


def test_bins_of_the_context():
    assert context_bins((15, 20)) == (1, 5)  # 480 x 640
    assert context_bins((16, 32)) == (1, 2, 4, 8)  # 512 x 1024
    context = PyramidPooling(16, 8, (2, 3), "group").double()
    x = torch.randn(2, 16, 4, 7, dtype=torch.float64)
    # Twice as high as in training, and 7 / 3 as wide.
    beside = [
        F.interpolate(branch(F.adaptive_avg_pool2d(x, (2 * bins, 2 * bins))), size=(4, 7), mode="nearest")
        for bins, branch in zip((1, 5), context.branches, strict=True)
    ]
    torch.testing.assert_close(context(x), context.joint(torch.cat([x, *beside], dim=1)))


def test_enlarging_starts_bilinear_inside():
    x = torch.randn(2, 3, 5, 6)
    enlarged = Enlarge(3)(x, (10, 12))
    expected = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged[:, :, 1:-1, 1:-1], expected[:, :, 1:-1, 1:-1])


def test_a_decoder_alone():
    decoder = Decoder(24, (8, 12, 16), classes=3, norm="group")
    skips = (torch.randn(2, 8, 15, 9), torch.randn(2, 12, 8, 5), torch.randn(2, 16, 4, 3))
    decision = decoder(Features(torch.randn(2, 24, 2, 2), skips))
    assert decision.logits.shape == (2, 3, 60, 36)
    assert [tuple(each.shape) for each in decision.coarse] == [(2, 3, 8, 5), (2, 3, 4, 3), (2, 3, 2, 2)]


def test_modalities_must_lie_upon_one_another():
    data = spec(1)
    data = DataSpec("Toy", (*data.modalities, Modality("depth", "depth", (1, 36, 64))), data.task, 10)
    with pytest.raises(UserError, match="'depth' of Toy is 36 x 64 and 'rgb' 36 x 60: give all the same size"):
        network(data)


@pytest.mark.parametrize("size", [(36, 58), (36, 16), (8, 36)])
def test_sides_that_cannot_be_halved_five_times_and_doubled_again(size):
    with pytest.raises(
        UserError, match=rf"pictures of Toy are {size[0]} x {size[1]}, .* multiples of 4 and at least 20"
    ):
        network(spec(2, size))


def test_maps_that_cannot_be_added():
    data = spec(2)
    encoders = build_encoders(data, TINY, Backbones(depth=BackboneConfig(width=8)), dense=True)
    with pytest.raises(UserError, match=r"those of 'depth' have .* give all the same backbone"):
        build_network(data, encoders)
