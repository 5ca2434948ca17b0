import json
import sys
from pathlib import Path

import pytest
import torch

from mmlab.backbones.config import BackboneConfig, Backbones, build_encoders, own_options, widths
from mmlab.errors import UserError
from mmlab.types import Classification, DataSpec, Modality

transformers = pytest.importorskip("transformers")
LENGTH = 12
TEXT = Modality("text", "text", (2, LENGTH), low=0.0, high=29.0, blank=5)
IMAGE = Modality("image", "image", (3, 16, 16))
SPEC = DataSpec("Toy", (TEXT, IMAGE), Classification(("a", "b")), train_size=10)
SIZES = {"vocab_size": 30, "max_position_embeddings": LENGTH}
BERT = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, **SIZES}


def write_bert(folder: Path, **changes: object) -> Path:
    torch.manual_seed(3)
    transformers.BertModel(transformers.BertConfig(**(BERT | changes))).save_pretrained(folder)
    return folder


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return write_bert(tmp_path / "models" / "bert")


def build(folder: Path, pretrained: bool = True, pooled: bool = True) -> torch.nn.Module:
    config = BackboneConfig(str(folder), pretrained=pretrained, pooled=pooled)
    return build_encoders(SPEC, BackboneConfig(width=4), Backbones(text=config))["text"]


def texts(*rows: list[int]) -> torch.Tensor:
    x = torch.zeros(len(rows), 2, max(map(len, rows)), dtype=torch.int64)
    for number, row in enumerate(rows):
        x[number, 0, : len(row)] = torch.tensor(row)
    return x


def test_features_are_the_models_pooled_output(bert: Path) -> None:
    net = build(bert).eval()
    assert net.width == 8
    reference = transformers.BertModel.from_pretrained(bert).eval()
    x = texts([2, 7, 9, 11], [2, 8])
    features = net(x)
    for row, count in ((0, 4), (1, 2)):  # the model alone, without any padding
        expected = reference(input_ids=x[row : row + 1, 0, :count]).pooler_output[0]
        torch.testing.assert_close(features[row], expected)


def test_without_pooling_features_are_the_first_tokens_last_state(bert: Path) -> None:
    net = build(bert, pooled=False).eval()
    reference = transformers.BertModel.from_pretrained(bert).eval()
    features = net(texts([2, 7, 9, 11], [2, 8]))
    torch.testing.assert_close(features[1], reference(input_ids=torch.tensor([[2, 8]])).last_hidden_state[0, 0])
    features.square().sum().backward()
    # A parameter without a gradient would stop distributed training.
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert not [name for name in net.state_dict() if "pooler" in name]


def test_without_pooling_its_weights_need_not_be_there(bert: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = {name: weight for name, weight in load_file(bert / "model.safetensors").items() if "pooler" not in name}
    save_file(weights, bert / "model.safetensors", {"format": "pt"})
    assert build(bert, pooled=False).width == 8
    with pytest.raises(UserError, match=r"weights in .*bert lack pooler.dense.bias"):
        build(bert)


@pytest.mark.parametrize("write", ["distilbert", "electra"])
def test_a_model_that_has_no_pooler_needs_none(tmp_path: Path, write: str) -> None:
    {"distilbert": write_distilbert, "electra": write_electra}[write](tmp_path / "model")
    x = texts([2, 7, 9])
    pooled, plain = (build(tmp_path / "model", pooled=each).eval()(x) for each in (True, False))
    torch.testing.assert_close(plain, pooled)


def test_vectors_do_not_decay_where_the_model_has_a_decay_of_its_own(bert: Path) -> None:
    config = BackboneConfig(str(bert), lr=5e-5, weight_decay=0.001)
    net = build_encoders(SPEC, BackboneConfig(width=4, weight_decay=0.1), Backbones(text=config))
    own = dict(own_options(net))
    found = {name: own[parameter] for name, parameter in net.named_parameters()}
    assert found["text.model.pooler.dense.weight"] == {"lr": 5e-5, "weight_decay": 0.001}
    for spared in ("pooler.dense.bias", "embeddings.LayerNorm.weight", "encoder.layer.1.output.LayerNorm.bias"):
        assert found[f"text.model.{spared}"] == {"lr": 5e-5, "weight_decay": 0.0}
    assert all(options == {"weight_decay": 0.1} for name, options in found.items() if name.startswith("image"))
    only_rate = build_encoders(SPEC, BackboneConfig(width=4), Backbones(text=BackboneConfig(str(bert), lr=5e-5)))
    assert list(dict(own_options(only_rate)).values()) == [{"lr": 5e-5}] * len(list(only_rate["text"].parameters()))


def test_neither_padding_nor_word_numbers_change_features(bert: Path) -> None:
    net = build(bert).eval()
    short, long = texts([2, 7, 9]), texts([2, 7, 9], [2] * LENGTH)
    long[0, 1] = 5
    torch.testing.assert_close(net(long)[0], net(short)[0])


def test_a_sample_without_text_is_its_first_token(bert: Path) -> None:
    net = build(bert).eval()
    features = net(texts([0, 0, 0], [2, 7, 9]))
    features.sum().backward()
    assert features.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in net.parameters())
    torch.testing.assert_close(features[0], net(texts([0]))[0])


def test_a_step_never_waits_for_the_device(bert: Path) -> None:
    # On the meta device there are no values: whatever asks for one fails.
    assert build(bert).to("meta")(texts([2, 7, 9], [2, 8]).to("meta")).shape == (2, 8)


def write_distilbert(folder: Path) -> None:
    config = transformers.DistilBertConfig(dim=8, n_layers=1, n_heads=2, hidden_dim=16, **SIZES)
    transformers.DistilBertModel(config).save_pretrained(folder)


def write_electra(folder: Path) -> None:
    transformers.ElectraModel(transformers.ElectraConfig(embedding_size=4, **BERT)).save_pretrained(folder)


@pytest.mark.parametrize("write", [write_bert, write_distilbert, write_electra])
def test_every_parameter_gets_a_gradient(tmp_path: Path, write) -> None:
    write(tmp_path / "model")
    net = build(tmp_path / "model")
    assert net.training
    features = net(texts([2, 7, 9], [2, 8, 0]))
    assert features.shape == (2, net.width)
    features.square().sum().backward()
    # A parameter without a gradient would stop distributed training.
    assert not [name for name, parameter in net.named_parameters() if parameter.grad is None]


def test_without_a_pooler_the_first_token_speaks(tmp_path: Path) -> None:
    write_distilbert(tmp_path / "model")
    net = build(tmp_path / "model").eval()
    x = texts([2, 7, 9])
    reference = transformers.DistilBertModel.from_pretrained(tmp_path / "model").eval()
    torch.testing.assert_close(net(x), reference(input_ids=x[:, 0]).last_hidden_state[:, 0])


def test_weights_come_from_the_folder_only_if_wanted(bert: Path) -> None:
    weight = build(bert).model.embeddings.word_embeddings.weight
    torch.testing.assert_close(weight, build(bert).model.embeddings.word_embeddings.weight)
    assert (weight != build(bert, pretrained=False).model.embeddings.word_embeddings.weight).any()
    (bert / "model.safetensors").unlink()
    assert build(bert, pretrained=False).width == 8
    with pytest.raises(UserError, match=r"bert can't be built .*: put its weights there or set pretrained to false"):
        build(bert)


def test_weights_in_half_precision_are_trained_in_full(bert: Path) -> None:
    transformers.BertModel.from_pretrained(bert).half().save_pretrained(bert)
    assert {parameter.dtype for parameter in build(bert).parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in build(bert, pretrained=False).parameters()} == {torch.float32}


def test_weights_of_pytorch_are_read_but_no_code_among_them(bert: Path, tmp_path: Path) -> None:
    expected = build(bert).model.state_dict()
    (bert / "model.safetensors").unlink()
    torch.save(expected, bert / "pytorch_model.bin")
    torch.testing.assert_close(dict(build(bert).model.state_dict()), dict(expected))

    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harmed",))

    torch.save({"a": Harm()}, bert / "pytorch_model.bin")
    with pytest.raises(UserError, match="bert hold more than tensors and are not loaded"):
        build(bert)
    assert not (tmp_path / "harmed").exists()


def test_incomplete_weights_are_refused(bert: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(bert / "model.safetensors")
    del weights["pooler.dense.weight"]
    save_file(weights, bert / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"weights in .*bert lack pooler.dense.weight"):
        build(bert)


def test_code_in_the_folder_is_not_run(bert: Path, tmp_path: Path) -> None:
    config = json.loads((bert / "config.json").read_text())
    config |= {"model_type": "unheard", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (bert / "config.json").write_text(json.dumps(config))
    (bert / "code.py").write_text(f"open({str(tmp_path / 'harmed')!r}, 'w')")
    for pretrained in (True, False):
        with pytest.raises(UserError, match=r"bert needs the code that comes with it, .*: choose another model"):
            build(bert, pretrained)
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vocab_size": 29}, "knows 29 tokens, but 'text' holds tokens up to 29: prepare the data with this model's"),
        ({"max_position_embeddings": 11}, "reads 11 tokens, but 'text' has up to 12"),
    ],
)
def test_a_model_too_small_for_the_tokens(tmp_path: Path, changes: dict, sentence: str) -> None:
    write_bert(tmp_path / "bert", **changes)
    with pytest.raises(UserError, match=sentence):
        build(tmp_path / "bert")


def test_what_is_no_text_encoder_is_told(tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=30, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    transformers.T5Model(config).save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match=r"can't encode a text by its tokens alone .*choose an encoder such as BERT"):
        build(tmp_path / "t5")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (Backbones(), r"small_conv encodes pictures, .*--model.backbones.text models/bert-base-uncased"),
        (Backbones(text="resnet10t"), r"resnet10t encodes pictures, .*the folder of a text model"),
        (Backbones(text="models/none"), "models/none of 'text' doesn't exist: nothing is downloaded by name"),
        (Backbones(text="models"), "models of 'text' holds no config.json"),
        (Backbones(text="./models"), "models of 'text' holds no config.json"),
        (Backbones(text="models/bert/config.json"), "bert/config.json of 'text' is no folder"),
        (
            Backbones(text="bert-base-uncased"),
            r"bert-base-uncased of 'text' doesn't exist: nothing is downloaded by name, so .*`hf download "
            r"bert-base-uncased --local-dir models/bert-base-uncased`.*--model.backbones.text models/bert-base-uncased",
        ),
        (Backbones(text="small_conf"), "small_conf of 'text' doesn't exist"),
        (Backbones(text=BackboneConfig("bert-base-uncased", grid=(1, 1))), "bert-base-uncased has no grid to choose"),
        (Backbones(text="models/bert", image="bert-base-uncased"), "there is no backbone 'bert-base-uncased'"),
        (Backbones(text="models/bert", image="models/bert"), "'image' is of the kind image"),
        (Backbones(text=BackboneConfig("models/bert", width=8)), "no width to choose"),
        (Backbones(text=BackboneConfig("models/bert", grid=(1, 1))), "models/bert has no grid to choose"),
    ],
)
def test_what_cannot_be_built_is_told(bert: Path, monkeypatch, overrides: Backbones, sentence: str) -> None:
    monkeypatch.chdir(bert.parents[1])
    with pytest.raises(UserError, match=sentence):
        build_encoders(SPEC, BackboneConfig(width=4), overrides)


def test_a_folder_by_its_bare_name(bert: Path, monkeypatch) -> None:
    monkeypatch.chdir(bert.parent)
    assert widths(build_encoders(SPEC, BackboneConfig(width=4), Backbones(text="bert"))) == {"text": 8, "image": 32}


def test_a_missing_extra_is_told(bert: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r'not installed: run pip install "mmlab\[text\]"'):
        build(bert)


def test_pictures_and_their_grid_beside_a_text(bert: Path) -> None:
    image = BackboneConfig("resnet10t", grid=(3, 1))
    assert widths(build_encoders(SPEC, str(bert), Backbones(image=image))) == {"text": 8, "image": 3 * 512}
    with pytest.raises(UserError, match="small_conv has no grid to choose"):
        build_encoders(SPEC, BackboneConfig(grid=(3, 1)), Backbones(text=str(bert)))
    with pytest.raises(UserError, match="grid of resnet10t can't be 0 x 1"):
        build_encoders(SPEC, str(bert), Backbones(image=BackboneConfig("resnet10t", grid=(0, 1))))
