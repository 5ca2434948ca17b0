import pytest
import torch
from torch import nn

from mmlab.availability import every_combination
from mmlab.networks.vector import VectorNetwork


class Line(nn.Linear):
    @property
    def width(self):
        return self.out_features


def network(modalities=3):
    encoders = {name: Line(2 + m, 3 + m) for m, name in enumerate("abc"[:modalities])}
    return VectorNetwork(nn.ModuleDict(encoders), outputs=4)


def inputs(modalities=3, samples=5):
    return {name: torch.randn(samples, 2 + m) for m, name in enumerate("abc"[:modalities])}


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_the_linear_layer_sees_what_is_available(modalities):
    net, x = network(modalities), inputs(modalities)
    for combination in every_combination(modalities):
        present = torch.tensor(combination).expand(5, -1)
        logits = net.head.classifier.bias.expand(5, -1)
        column = 0
        for (name, encoder), has in zip(net.encoders.items(), combination, strict=True):
            weight = net.head.classifier.weight[:, column : column + encoder.width]
            logits = logits + has * encoder(x[name]) @ weight.T
            column += encoder.width
        decision = net(x, present)
        torch.testing.assert_close(decision.logits, logits)
        assert decision.coarse == ()


def test_a_missing_modality_changes_nothing_and_learns_nothing():
    net, x = network(), inputs()
    present = torch.tensor([[True, False, True]]).expand(5, -1)
    expected = net(x, present).logits
    for nothing in (0.0, 1e30, torch.inf):
        torch.testing.assert_close(
            net(x | {"b": torch.full_like(x["b"], nothing)}, present).logits, expected, rtol=0, atol=0
        )
    expected.square().sum().backward()
    grads = {name: encoder.weight.grad for name, encoder in net.encoders.items()}
    assert grads["b"].abs().max() == 0
    assert grads["a"].abs().max() > 0
    assert grads["c"].abs().max() > 0


def test_a_second_head_shares_nothing():
    net, x = network(), inputs()
    second = net.second_head()
    present = torch.ones(5, 3, dtype=torch.bool)
    fused = net.fuse(net.encode(x), present)
    other = second(fused, net.trunk(fused)).logits
    assert other.shape == (5, 4)
    assert (other - net(x, present).logits).abs().max() > 1e-3
    assert not {id(p) for p in second.parameters()} & {id(p) for p in net.parameters()}
