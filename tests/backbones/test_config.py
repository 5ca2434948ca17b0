from dataclasses import fields
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

from mmlab.backbones.base import Backbone
from mmlab.backbones.config import NO_OVERRIDES, BackboneConfig, Backbones, build_encoders, widths
from mmlab.errors import UserError
from mmlab.types import Classification, DataSpec, Modality

SPEC = DataSpec(
    "Toy",
    (Modality("audio", "audio", (1, 16, 12)), Modality("video", "frames", (3, 2, 16, 16))),
    Classification(("a", "b", "c")),
    train_size=10,
)
VECTOR = DataSpec("Vectors", (Modality("text", "sequence", (5, 4)),), Classification(("a", "b")), train_size=10)


def test_one_encoder_for_each_modality_in_order():
    encoders = build_encoders(SPEC, "small_conv", NO_OVERRIDES)
    assert list(encoders) == ["audio", "video"]
    assert widths(encoders) == {"audio": 128, "video": 128}
    for modality in SPEC.modalities:
        assert encoders[modality.name](torch.randn(2, *modality.shape)).shape == (2, 128)


def test_overrides_replace_the_backbone_of_one_modality():
    encoders = build_encoders(SPEC, BackboneConfig(width=4), Backbones(audio="resnet10t"))
    assert widths(encoders) == {"audio": 512, "video": 32}
    assert all(isinstance(encoder, Backbone) for encoder in encoders.values())


def test_an_own_class_by_import_path(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    encoders = build_encoders(VECTOR, "own.MeanAndMax", NO_OVERRIDES)
    assert encoders["text"](torch.randn(2, 5, 4)).shape == (2, 8)


@pytest.mark.parametrize(
    ("backbone", "overrides", "sentence"),
    [
        ("small_conv", Backbones(depth="small_conv"), "Toy has no modality 'depth'.*audio, video"),
        ("resnet81", NO_OVERRIDES, "no backbone 'resnet81' .did you mean 'resnet"),
        ("smallconv", NO_OVERRIDES, "did you mean 'small_conv'"),
        ("resnet18.nonsense", NO_OVERRIDES, "resnet18.nonsense can't be built .*nonsense"),
        ("no.such.Class", NO_OVERRIDES, "no.such.Class can't be imported"),
        ("mmlab.types.Missing", NO_OVERRIDES, "mmlab.types.Missing can't be imported"),
        (BackboneConfig("small_conv", pretrained=True), NO_OVERRIDES, "no pretrained weights"),
        (BackboneConfig("resnet10t", width=8), NO_OVERRIDES, "no width to choose"),
    ],
)
def test_what_cannot_be_built_is_told(backbone, overrides, sentence):
    with pytest.raises(UserError, match=sentence):
        build_encoders(SPEC, backbone, overrides)


def test_an_own_class_must_tell_its_width(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent)
    with pytest.raises(UserError, match="attribute 'width'"):
        build_encoders(VECTOR, "own.WithoutWidth", NO_OVERRIDES)


@pytest.mark.parametrize("backbone", ["small_conv", "resnet10t"])
def test_pictures_only(backbone):
    with pytest.raises(UserError, match="'text' is of the kind sequence"):
        build_encoders(VECTOR, backbone, NO_OVERRIDES)


def test_settings_from_several_places_merge(tmp_path):
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_argument("--backbones", type=Backbones, default=NO_OVERRIDES)
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("backbones: {audio: resnet18, video: {name: resnet10t, pretrained: true}}")
    second.write_text("backbones: {audio: {name: small_conv, width: 8}, image: {name: resnet18, grid: [3, 1]}}")
    parsed = parser.parse_args([f"--config={first}", f"--config={second}", "--backbones.video.pretrained=false"])
    merged = parser.instantiate(parsed).backbones
    assert merged.audio == BackboneConfig("small_conv", width=8)
    assert merged.video == BackboneConfig("resnet10t", pretrained=False)
    assert merged.image == BackboneConfig("resnet18", grid=(3, 1))
    given = ("audio", "video", "image")
    assert all(getattr(merged, field.name) is None for field in fields(merged) if field.name not in given)
