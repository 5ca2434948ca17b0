import torch

from mmlab.backbones.config import NO_OVERRIDES, BackboneConfig, build_encoders
from mmlab.types import Classification, DataSpec, Modality


def build(modality: Modality) -> torch.nn.Module:
    spec = DataSpec("Toy", (modality,), Classification(("a", "b")), train_size=8)
    torch.manual_seed(0)
    return build_encoders(spec, BackboneConfig("mlp", hidden=6, width=5), NO_OVERRIDES)["text"].eval()


def test_two_layers_with_relu() -> None:
    net = build(Modality("text", "vector", (4,)))
    x = torch.randn(3, 4)
    (first, second), expected = (part for part in net.layers if isinstance(part, torch.nn.Linear)), x
    for layer in (first, second):
        expected = (expected @ layer.weight.T + layer.bias).clamp(min=0)
    torch.testing.assert_close(net(x), expected)
    assert expected.shape == (3, 5)
    assert (expected > 0).any()


def test_of_a_sequence_it_sees_the_mean_of_its_own_steps() -> None:
    net = build(Modality("text", "vector", (4,)))
    sequence = build(Modality("text", "sequence", (6, 5), ragged=True))
    x = torch.zeros(2, 6, 5)
    x[0, :3], x[1] = torch.randn(3, 5), torch.randn(6, 5)
    x[0, :3, -1] = x[1, :, -1] = 1
    means = torch.stack([x[0, :3, :-1].mean(dim=0), x[1, :, :-1].mean(dim=0)])
    torch.testing.assert_close(sequence(x), net(means))
