import pytest
import torch

from mmlab.errors import UserError
from mmlab.fusion.deep import DeepFusion

WIDTHS = {"text": 3, "audio": 5, "vision": 4}


def test_three_layers_on_all_features():
    fusion = DeepFusion(WIDTHS, outputs=2, hidden=6, dropout=0.0).double()
    features = {name: torch.randn(4, width, dtype=torch.float64) for name, width in WIDTHS.items()}
    first, second, last = (layer for layer in fusion.layers if isinstance(layer, torch.nn.Linear))
    hidden = torch.cat(list(features.values()), dim=1) @ first.weight.T + first.bias
    hidden = hidden.clamp(min=0) @ second.weight.T + second.bias
    expected = hidden.clamp(min=0) @ last.weight.T + last.bias
    torch.testing.assert_close(fusion(features, torch.ones(4, 3, dtype=torch.bool)), expected)
    assert sum(parameter.numel() for parameter in fusion.parameters()) == 13 * 6 + 7 * 6 + 7 * 2


def test_a_missing_modality_does_not_matter():
    fusion = DeepFusion(WIDTHS, outputs=2, hidden=6, dropout=0.0)
    features = {name: torch.randn(4, width) for name, width in WIDTHS.items()}
    present = torch.tensor([[True, False, True]] * 4)
    before = fusion(features, present)
    features["audio"] = features["audio"] + 9
    torch.testing.assert_close(fusion(features, present), before, rtol=0, atol=0)
    assert not torch.allclose(fusion(features, torch.ones_like(present)), before)


@pytest.mark.parametrize(("widths", "hidden", "words"), [({"text": 3}, 6, "only text"), (WIDTHS, 0, "hidden 0")])
def test_what_can_not_be_is_refused(widths, hidden, words):
    with pytest.raises(UserError, match=words):
        DeepFusion(widths, outputs=2, hidden=hidden, dropout=0.0)
