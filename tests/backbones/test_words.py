import pytest
import torch

from mmlab.backbones.config import NO_OVERRIDES, BackboneConfig, build_encoders
from mmlab.errors import UserError
from mmlab.types import Classification, DataSpec, Modality

TEXT = Modality("text", "text", (2, 6), low=0.0, high=11.0, blank=5)


def build(config: str | BackboneConfig, modality: Modality = TEXT) -> torch.nn.Module:
    spec = DataSpec("Toy", (modality,), Classification(("a", "b")), train_size=8)
    return build_encoders(spec, config, NO_OVERRIDES)["text"]


def texts(*rows: list[int]) -> torch.Tensor:
    x = torch.zeros(len(rows), 2, max(map(len, rows)), dtype=torch.int64)
    for number, row in enumerate(rows):
        x[number, 0, : len(row)] = torch.tensor(row)
        x[number, 1, : len(row)] = torch.arange(len(row))
    return x


def test_features_are_of_the_tokens_mean_without_padding() -> None:
    net = build(BackboneConfig("word_embeddings", hidden=4, width=3))
    features = net(texts([2, 11, 11], [7], []))
    table = net.embedding.weight
    assert table.shape == (12, 4)
    torch.testing.assert_close(features[0], net.linear((table[2] + 2 * table[11]) / 3))
    torch.testing.assert_close(features[1], net.linear(table[7]))
    torch.testing.assert_close(features[2], net.linear.bias)
    features.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())
    assert table.grad.any(dim=1).tolist() == [number in (2, 7, 11) for number in range(12)]


def test_a_step_never_waits_for_the_device() -> None:
    # On the meta device there are no values: whatever asks for one fails.
    assert build("word_embeddings").to("meta")(texts([2, 7, 9], [2, 8]).to("meta")).shape == (2, 32)


@pytest.mark.parametrize(
    ("backbone", "modality", "sentence"),
    [
        ("word_embeddings", Modality("text", "sequence", (3, 4)), "tokens of texts, but .*'text' is of the kind seq"),
        ("word_embeddings", Modality("text", "text", (2, 6)), "'text' is without a largest token"),
        ("word_embedings", TEXT, "no backbone 'word_embedings' .did you mean 'word_embeddings'"),
        ("lstm", TEXT, "'text' is of the kind text"),
        ("small_conv", TEXT, "give it word_embeddings or the folder of a text model"),
        (BackboneConfig("word_embeddings", dropout=0.1), TEXT, "word_embeddings has no dropout to choose"),
        (BackboneConfig("word_embeddings", pretrained=True), TEXT, "no pretrained weights: .*folder of a text model"),
        (BackboneConfig("word_embeddings", grid=(1, 1)), TEXT, "word_embeddings has no grid to choose"),
    ],
)
def test_what_cannot_be_built_is_told(backbone: str | BackboneConfig, modality: Modality, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build(backbone, modality)
