import math

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from mmlab.backbones.config import NO_OVERRIDES, BackboneConfig, Backbones, build_encoders, widths
from mmlab.backbones.sequences import sinusoids, step_width, steps
from mmlab.errors import UserError
from mmlab.types import DataSpec, Modality, Regression

LENGTH, VALUES = 7, 3
RAGGED = Modality("audio", "sequence", (LENGTH, VALUES + 1), ragged=True)
PLAIN = Modality("audio", "sequence", (LENGTH, VALUES))
VECTOR = Modality("audio", "vector", (VALUES,))
IMAGE = Modality("audio", "image", (3, 8, 8))
STEPWISE = ("lstm", "sequence_transformer", "mlp", "first_step")
SIZED = ("lstm", "sequence_transformer", "mlp")


def build(config: str | BackboneConfig, modality: Modality) -> torch.nn.Module:
    torch.manual_seed(1)
    spec = DataSpec("Toy", (modality,), Regression(-3, 3), train_size=8)
    return build_encoders(spec, config, NO_OVERRIDES)["audio"]


def ragged(*lengths: int, longest: int = LENGTH) -> torch.Tensor:
    """As a data set gives it: the same values whatever the batch, then zeros, then whether a step is one."""
    torch.manual_seed(2)
    x = torch.zeros(len(lengths), longest, VALUES + 1)
    for row, length in zip(x, lengths, strict=True):
        row[:length, :-1] = torch.randn(LENGTH, VALUES)[:length]
        row[:length, -1] = 1
    return x


def test_steps_of_a_ragged_sequence() -> None:
    x = ragged(4, 1, 0, LENGTH)
    dirty = x.clone()
    dirty[..., :-1] += 9 * (1 - dirty[..., -1:])
    dirty[0, 5, 0] = torch.nan
    values, mask = steps(dirty, RAGGED)
    assert torch.equal(values, x[..., :-1])
    assert mask.dtype == torch.bool
    assert mask.sum(dim=1).tolist() == [4, 1, 1, LENGTH]  # one without any step is read as one of zeros
    assert mask[:, 0].all()
    assert step_width(RAGGED) == VALUES


def test_steps_of_what_is_not_ragged() -> None:
    x = torch.randn(2, LENGTH, VALUES)
    values, mask = steps(x, PLAIN)
    assert torch.equal(values, x)
    assert mask.shape == (2, LENGTH)
    assert mask.all()
    values, mask = steps(x[:, 0], VECTOR)
    assert torch.equal(values, x[:, :1])
    assert mask.tolist() == [[True], [True]]
    assert step_width(PLAIN) == step_width(VECTOR) == VALUES
    with pytest.raises(UserError, match=r"steps are read of sequences and vectors, but .*'audio' is of the kind image"):
        step_width(IMAGE)


@pytest.mark.parametrize("name", STEPWISE)
def test_neither_what_stands_behind_the_end_nor_the_rest_of_the_batch_counts(name: str) -> None:
    net = build(name, RAGGED).eval()
    x = ragged(4, 1, 0, LENGTH)
    features = net(x)
    assert features.shape == (4, net.width)
    dirty = x.clone()
    dirty[..., :-1] += 9 * (1 - dirty[..., -1:])
    torch.testing.assert_close(net(dirty), features)
    for row, length in enumerate((4, 1, 1, LENGTH)):  # alone, and as short as it is
        torch.testing.assert_close(net(x[row : row + 1, :length])[0], features[row])
    # What counts does change something.
    dirty[:, 0, 0] += 1
    assert (net(dirty) != features).any(dim=1)[[0, 1, 3]].all()


@pytest.mark.parametrize("name", STEPWISE)
def test_a_sequence_of_one_length_and_a_vector_are_read_alike(name: str) -> None:
    net, x = build(name, RAGGED).eval(), ragged(LENGTH, LENGTH)
    plain = build(name, PLAIN).eval()
    plain.load_state_dict(net.state_dict())
    torch.testing.assert_close(plain(x[..., :-1]), net(x))
    vector = build(name, VECTOR).eval()
    vector.load_state_dict(net.state_dict())
    torch.testing.assert_close(vector(x[:, 0, :-1]), net(x[:, :1]))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", SIZED)
def test_gradients_are_finite_and_reach_every_parameter(name: str, autocast: bool) -> None:
    net = build(name, RAGGED)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        features = net(ragged(0, 3, 0))
    features.float().square().sum().backward()
    # A parameter without a gradient would stop distributed training.
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", STEPWISE)
def test_a_step_never_waits_for_the_device(name: str, training: bool) -> None:
    # On the meta device there are no values: whatever asks for one fails.
    net = build(name, RAGGED).to("meta").train(training)
    with torch.set_grad_enabled(training):
        assert net(ragged(2, 5).to("meta")).shape == (2, net.width)


@pytest.mark.parametrize("name", STEPWISE)
def test_gradients_by_the_input_in_evaluation(name: str) -> None:
    x = ragged(3, 5).requires_grad_()
    build(name, RAGGED).eval()(x).square().sum().backward()
    assert x.grad is not None
    assert (x.grad[:, 0] != 0).any()
    assert not x.grad[:, 5:].any()


def test_the_lstm_is_the_packed_one() -> None:
    net = build(BackboneConfig("lstm", hidden=5, width=2), RAGGED).double()
    lengths = (4, 1, LENGTH, 2)
    x = ragged(*lengths).double()
    packed = pack_padded_sequence(x[..., :-1], torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    _, (state, _) = net.lstm(packed)
    torch.testing.assert_close(net(x), net.linear(state[0]))
    assert [tuple(each.shape) for each in net.parameters()] == [(20, VALUES), (20, 5), (20,), (20,), (2, 5), (2,)]


def test_the_dropout_of_the_lstm_is_of_its_last_state() -> None:
    net = build(BackboneConfig("lstm", dropout=0.5), RAGGED)
    seen = []
    net.linear.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    net(ragged(*[LENGTH] * 50))
    assert 0.4 < (seen[0] == 0).float().mean() < 0.6


def test_order_matters_to_a_transformer_and_not_to_a_mean() -> None:
    x = ragged(LENGTH, LENGTH)
    for name, same in (("sequence_transformer", False), ("mlp", True)):
        net = build(name, RAGGED).eval()
        assert torch.allclose(net(x), net(x.flip(1)), atol=1e-5) == same


def test_the_layers_of_a_transformer_start_differently() -> None:
    first, second = build("sequence_transformer", RAGGED).layers
    assert (first.linear1.weight != second.linear1.weight).any()


def test_a_transformer_evaluates_as_it_trains() -> None:
    net, x = build(BackboneConfig("sequence_transformer", dropout=0.0), RAGGED), ragged(3, 0, LENGTH)
    trained = net.train()(x)
    with torch.no_grad():  # torch then takes another way through the layers
        torch.testing.assert_close(net.eval()(x), trained, rtol=1e-4, atol=1e-6)


def test_positions() -> None:
    code = sinusoids(3, 4)
    assert code[0].tolist() == [0, 1, 0, 1]
    expected = [math.sin(2), math.cos(2), math.sin(2 / 100), math.cos(2 / 100)]
    torch.testing.assert_close(code[2], torch.tensor(expected))


def test_the_first_step_as_it_is() -> None:
    net = build("first_step", RAGGED)
    assert (net.width, list(net.parameters())) == (VALUES, [])
    x = ragged(4, 0)
    assert torch.equal(net(x), x[:, 0, :-1])


@pytest.mark.parametrize("name", SIZED)
def test_sizes_are_chosen(name: str) -> None:
    assert build(name, RAGGED).width == 32
    net = build(BackboneConfig(name, hidden=8, width=5, dropout=0.25), RAGGED)
    assert net.width == 5
    assert net(ragged(2)).shape == (1, 5)
    assert {part.p for part in net.modules() if isinstance(part, torch.nn.Dropout)} == {0.25}


@pytest.mark.parametrize(
    ("backbone", "modality", "sentence"),
    [
        ("small_conv", RAGGED, r"give it lstm, sequence_transformer, mlp, first_step or .*backbones.audio lstm\)"),
        ("small_conv", VECTOR, r"give it lstm, sequence_transformer, mlp, first_step or .*backbones.audio mlp\)"),
        ("resnet10t", VECTOR, r"resnet10t encodes pictures, .*backbones.audio mlp\)"),
        ("ltsm", RAGGED, "no backbone 'ltsm' .did you mean 'lstm'"),
        ("first_steps", RAGGED, "did you mean 'first_step'"),
        ("sensor_gru", RAGGED, "sensor_gru reads sequences of one length, but those of 'audio' differ: give it lstm,"),
        ("lstm", IMAGE, "'audio' is of the kind image: choose another backbone"),
        ("mlp", IMAGE, "'audio' is of the kind image"),
        ("first_step", IMAGE, "'audio' is of the kind image"),
        (BackboneConfig("sequence_transformer", hidden=6), RAGGED, "4 heads, which can't share a hidden of 6"),
        (BackboneConfig("lstm", hidden=0), RAGGED, "lstm can't take 0 as its hidden: give 1 or more"),
        (BackboneConfig("mlp", width=-1), RAGGED, "mlp can't take -1 as its width"),
        (BackboneConfig("mlp", dropout=1.0), RAGGED, "take 1.0 as its dropout: give less than 1"),
        (BackboneConfig("mlp", dropout=math.nan), RAGGED, "take nan as its dropout"),
        (BackboneConfig("lstm", lr=-1e-3), RAGGED, "lstm can't take -0.001 as its lr: give 0 or more"),
        (BackboneConfig("lstm", pretrained=True), RAGGED, "lstm has no pretrained weights"),
        (BackboneConfig("lstm", grid=(1, 1)), RAGGED, "lstm has no grid to choose"),
        (BackboneConfig("lstm", pooled=False), RAGGED, "lstm has no pooled output to choose: leave pooled out"),
        (BackboneConfig("first_step", width=4), RAGGED, "first_step has no width to choose"),
        (
            BackboneConfig("first_step", dropout=0.1),
            RAGGED,
            "no dropout to choose: .*lstm or sequence_transformer or mlp",
        ),
        (BackboneConfig("small_conv", hidden=4), IMAGE, "small_conv has no hidden to choose"),
        (BackboneConfig("resnet10t", hidden=4), IMAGE, "resnet10t has no hidden to choose"),
        (BackboneConfig("resnet10t", pooled=False), IMAGE, "resnet10t has no pooled output to choose"),
    ],
)
def test_what_cannot_be_built_is_told(backbone: str | BackboneConfig, modality: Modality, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build(backbone, modality)


def test_each_modality_its_own(mmlab) -> None:
    modalities = (
        Modality("text", "sequence", (5, 9), ragged=True),
        RAGGED,
        Modality("vision", "vector", (6,)),
    )
    spec = DataSpec("Toy", modalities, Regression(-3, 3), train_size=8)
    encoders = build_encoders(spec, "first_step", Backbones(audio=BackboneConfig("lstm", width=4), vision="mlp"))
    assert widths(encoders) == {"text": 8, "audio": 4, "vision": 32}
    listed = {line.split()[0] for line in mmlab("list backbones").splitlines()}
    assert {*STEPWISE, "word_embeddings"} <= listed
