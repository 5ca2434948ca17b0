import pytest
import torch

from mmlab.backbones.config import NO_OVERRIDES, BackboneConfig, Backbones, build_encoders, widths
from mmlab.errors import UserError
from mmlab.methods.erl_mr import ERLMR
from mmlab.types import Classification, DataSpec, Modality

ENCODERS = ("sensor_conv", "sensor_gru", "skeleton_gru")


def spec(*shapes: tuple[int, ...]) -> DataSpec:
    names = ("accelerometer", "gyroscope", "skeleton")
    modalities = tuple(Modality(name, "sequence", shape) for name, shape in zip(names, shapes, strict=False))
    return DataSpec("Toy", modalities, Classification(("a", "b", "c")), train_size=8)


def build(name: str, shape: tuple[int, int]) -> torch.nn.Module:
    return build_encoders(spec(shape), name, NO_OVERRIDES)["accelerometer"]


def gru(inputs: int, hidden: int = 16) -> int:
    """Parameters of a GRU layer: three gates, each with weights of its input and its state and two biases."""
    return 3 * (inputs * hidden + hidden * hidden + 2 * hidden)


@pytest.mark.parametrize(
    ("name", "shape", "width", "parameters"),
    [
        (
            "sensor_conv",
            (200, 3),
            3168,
            (1 * 4 + 1) * 64 + (64 * 4 + 1) * 64 + (64 + 1) * 32 + (32 + 1) * 16 + 2 * (64 + 64 + 32 + 16),
        ),
        (
            "sensor_gru",
            (60, 9),
            256,
            (1 * 4 + 1) * 32 + (32 * 4 + 1) * 64 + (64 * 4 + 1) * 64 + 2 * (32 + 64 + 64) + gru(64) + gru(16),
        ),
        (
            "skeleton_gru",
            (60, 105),
            256,
            (1 * 18 + 1) * 32
            + (32 * 8 + 1) * 64
            + (64 * 8 + 1) * 128
            + (128 * 8 + 1) * 256
            + 2 * (32 + 64 + 128 + 256)
            + gru(192)
            + gru(16),
        ),
    ],
)
def test_the_published_sizes(name: str, shape: tuple[int, int], width: int, parameters: int) -> None:
    net = build(name, shape)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters
    assert (net.width, net.channels) == (width, 16)
    assert net(torch.randn(2, *shape)).shape == (2, width)


@pytest.mark.parametrize(
    ("name", "shape", "width"),
    [
        ("sensor_conv", (50, 3), 16 * 48),
        ("sensor_conv", (7, 6), 16 * 5 * 4),
        ("sensor_conv", (3, 3), 16),
        ("sensor_gru", (1, 1), 256),
        ("sensor_gru", (33, 4), 256),
        ("skeleton_gru", (2, 6), 256),
        ("skeleton_gru", (47, 60), 256),
    ],
)
def test_other_sizes(name: str, shape: tuple[int, int], width: int) -> None:
    net = build(name, shape)
    features = net(torch.randn(4, *shape))
    assert features.shape == (4, width)
    assert net.width == width
    features.square().sum().backward()
    # A parameter without a gradient would stop distributed training.
    assert not [parameter for parameter in net.parameters() if parameter.grad is None]


def test_channels_come_one_after_another() -> None:
    net = build("sensor_conv", (20, 3)).eval()
    x = torch.randn(2, 20, 3)
    maps = net.layers(x.transpose(1, 2)[:, None])
    assert maps.shape == (2, 16, 1, 18)
    features = net(x).unflatten(1, (16, 18))
    torch.testing.assert_close(features, maps[:, :, 0])
    # A late change moves late values only: the length is time.
    x[:, 19] += 10
    changed = net(x).unflatten(1, (16, 18))
    torch.testing.assert_close(changed[:, :, :17], features[:, :, :17])
    assert not torch.equal(changed[:, :, 17], features[:, :, 17])


def test_a_skeleton_is_read_axis_by_axis() -> None:
    net = build("skeleton_gru", (8, 15)).eval()
    seen = []
    net.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    positions = torch.randn(2, 8, 3, 5)
    net(positions.flatten(2))
    torch.testing.assert_close(seen[0], positions[:, None])


@pytest.mark.parametrize("name", ENCODERS)
def test_a_batch_counts_in_training_only(name: str) -> None:
    net = build(name, (12, 6))
    x = torch.randn(4, 12, 6)
    net.eval()
    torch.testing.assert_close(net(x)[:2], net(x[:2]))
    before = {key: value.clone() for key, value in net.state_dict().items() if "running" in key}
    net.train()
    net(x)
    assert before
    assert all((net.state_dict()[key] != value).any() for key, value in before.items())


def test_gradients_by_the_input_in_evaluation() -> None:
    net = build("sensor_gru", (12, 6)).eval()
    x = torch.randn(3, 12, 6, requires_grad=True)
    net(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(("name", "shape"), [("sensor_conv", (20, 3)), ("sensor_gru", (20, 3))])
def test_erl_mr_has_one_amplitude_a_channel(name: str, shape: tuple[int, int]) -> None:
    method = ERLMR(spec(shape, shape).to_dict(), backbone=name)
    assert method.mapping is not None
    assert [amplitude.shape for amplitude in method.mapping.amplitudes] == [(16, 1), (16, 1)]
    assert not method.projections
    assert method.mapping.linear.out_features == widths(method.encoders)["gyroscope"] // 2


def test_the_encoders_of_mhad_are_equally_wide() -> None:
    data = DataSpec(
        "Toy",
        (Modality("accelerometer", "sequence", (60, 9)), Modality("skeleton", "sequence", (60, 105))),
        Classification(("a", "b")),
        train_size=8,
    )
    choice = Backbones(accelerometer="sensor_gru", skeleton="skeleton_gru")
    assert widths(build_encoders(data, "small_conv", choice)) == {"accelerometer": 256, "skeleton": 256}


@pytest.mark.parametrize(
    ("backbone", "shape", "sentence"),
    [
        ("sensor_conv", (200, 2), "sensor_conv needs 3 steps of 3 axes or more, but the input has 200 of 2"),
        ("sensor_conv", (2, 3), "needs 3 steps"),
        ("skeleton_gru", (60, 9 * 3 + 1), "skeleton_gru reads x, y and z .* 28 values at each of 60 steps"),
        ("skeleton_gru", (1, 9), "skeleton_gru reads"),
        ("skeleton_gru", (60, 3), "skeleton_gru reads"),
        ("sensor_cnn", (60, 3), "no backbone 'sensor_cnn' .did you mean 'sensor_conv'"),
        ("small_conv", (60, 3), "small_conv encodes pictures, .* give it lstm, .*sensor_gru, skeleton_gru or"),
        (BackboneConfig("sensor_gru", pretrained=True), (60, 3), "sensor_gru has no pretrained weights"),
        (BackboneConfig("sensor_gru", width=8), (60, 3), "sensor_gru has no width to choose"),
        (BackboneConfig("sensor_gru", grid=(1, 1)), (60, 3), "sensor_gru has no grid to choose"),
    ],
)
def test_what_cannot_be_built_is_told(backbone: str | BackboneConfig, shape: tuple[int, int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build_encoders(spec(shape), backbone, NO_OVERRIDES)


@pytest.mark.parametrize("name", ENCODERS)
def test_sequences_only(name: str) -> None:
    data = DataSpec("Toy", (Modality("image", "image", (3, 8, 8)),), Classification(("a", "b")), train_size=8)
    with pytest.raises(UserError, match=f"{name} encodes sequences, but the modality 'image' is of the kind image"):
        build_encoders(data, name, NO_OVERRIDES)


def test_they_are_listed(mmlab) -> None:
    listed = {line.split()[0] for line in mmlab("list backbones").splitlines()}
    assert set(ENCODERS) <= listed
