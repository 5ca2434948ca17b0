"""Which backbone encodes which modality, as plain data, and the encoders built from it."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from mmlab.backbones.pyramids import Pyramid, SmallPyramid
from mmlab.backbones.sensors import SensorConv, SensorGRU, SkeletonGRU
from mmlab.backbones.sequences import LSTM, FirstStep, SequenceTransformer
from mmlab.backbones.small_conv import SmallConvNet
from mmlab.backbones.vectors import MLP
from mmlab.backbones.words import WordEmbeddings
from mmlab.errors import UserError, did_you_mean
from mmlab.types import DataSpec, Modality, Segmentation

SMALL_CONV = "small_conv"
SMALL_CONV_WIDTH = 16
FACE_RESNET = "face_resnet18"
SENSORS = {"sensor_conv": SensorConv, "sensor_gru": SensorGRU, "skeleton_gru": SkeletonGRU}
SIZED = {"lstm": LSTM, "sequence_transformer": SequenceTransformer, "mlp": MLP, "word_embeddings": WordEmbeddings}
FIRST_STEP = "first_step"
OWN = (SMALL_CONV, FACE_RESNET, *SENSORS, *SIZED, FIRST_STEP)
STEPWISE = ("lstm", "sequence_transformer", "mlp", FIRST_STEP)
"""The backbones that read any sequence, and vectors as sequences of one step."""


@dataclass(frozen=True)
class BackboneConfig:
    """One backbone.

    Attributes:
        name: ``small_conv``, ``face_resnet18``, a timm model, for sequences ``lstm``, ``sequence_transformer``,
            ``sensor_conv``, ``sensor_gru`` or ``skeleton_gru``, for vectors and sequences ``mlp`` or ``first_step``,
            for text ``word_embeddings`` or a local folder with a model of transformers (``models/bert-base-uncased``),
            or the import path of a class of your own (``package.module.Class``), which is called with the Modality and
            has its features' width as the attribute ``width``; for a class of each pixel it must be a
            :class:`~mmlab.backbones.pyramids.Pyramid`.
        pretrained: starts from published weights (timm models) or the folder's (text models).
        width: of small_conv the channels of the first block (16 unless given); of lstm, sequence_transformer, mlp and
            word_embeddings the features' width (32 unless given).
        grid: rows and columns of cells to average the features over, in place of all at once; the features are the
            cells' one after another (timm models only).
        hidden: the inner width of lstm, sequence_transformer, mlp and word_embeddings (32 unless given).
        dropout: within lstm, sequence_transformer and mlp (0 unless given, 0.1 of sequence_transformer).
        pooled: of a text model, whether its pooled output is the features; the first token's last state otherwise.
        lr: the learning rate of this encoder in place of the optimiser's, for any backbone.
        weight_decay: its weight decay in place of the optimiser's, for any backbone. A text model's vectors, which are
            its biases and the weights of its normalisation, then don't decay.
    """

    name: str = SMALL_CONV
    pretrained: bool = False
    width: int | None = None
    grid: tuple[int, int] | None = None
    hidden: int | None = None
    dropout: float | None = None
    pooled: bool = True
    lr: float | None = None
    weight_decay: float | None = None


Choice = str | BackboneConfig
"""A backbone by its name alone or with its fields."""


@dataclass(frozen=True)
class Backbones:
    """Overrides for single modalities, by the modality's name; None keeps what all have.

    A dataclass with a field for each name rather than a dictionary: settings from several files then merge.
    """

    audio: Choice | None = None
    image: Choice | None = None
    visual: Choice | None = None
    video: Choice | None = None
    text: Choice | None = None
    vision: Choice | None = None
    rgb: Choice | None = None
    depth: Choice | None = None
    ir: Choice | None = None
    flow: Choice | None = None
    front: Choice | None = None
    rear: Choice | None = None
    accelerometer: Choice | None = None
    gyroscope: Choice | None = None
    skeleton: Choice | None = None


NO_OVERRIDES = Backbones()


def build_encoders(spec: DataSpec, backbone: Choice, backbones: Backbones, dense: bool = False) -> nn.ModuleDict:
    """One encoder for each modality, in the data set's order.

    Args:
        spec: the data set's modalities and task.
        backbone: for every modality that has no override.
        backbones: the overrides.
        dense: whether a task that asks for a class of each pixel gets pyramids.

    Returns:
        Modules by modality, each from (B, *shape) to (B, D) with D as its ``width``; or each a
        :class:`~mmlab.backbones.pyramids.Pyramid`.

    Raises:
        UserError: if an override names a modality that the data set lacks, or a backbone doesn't exist or can't
            encode its modality.
    """
    overrides = {field.name: getattr(backbones, field.name) for field in fields(backbones)}
    for name, choice in overrides.items():
        if choice is not None:
            spec.position(name)  # raises for a modality that the data set lacks
    build = _pyramid if dense and isinstance(spec.task, Segmentation) else _encoder
    encoders = {}
    for modality in spec.modalities:
        choice = overrides.get(modality.name) or backbone
        config = BackboneConfig(choice) if isinstance(choice, str) else choice
        _check(config)
        encoders[modality.name] = encoder = build(modality, config)
        setattr(encoder, _OPTIONS, _options(encoder, config))
    return nn.ModuleDict(encoders)


_OPTIONS = "optimizer_options"


def own_options(module: nn.Module) -> Iterator[tuple[nn.Parameter, dict[str, float]]]:
    """The parameters that train by a learning rate or a weight decay of their encoder, and by which.

    Args:
        module: that holds encoders of :func:`build_encoders`, at any depth.
    """
    for part in module.modules():
        for name, options in getattr(part, _OPTIONS, {}).items():
            yield part.get_parameter(name), options


def _options(encoder: nn.Module, config: BackboneConfig) -> dict[str, dict[str, float]]:
    """The optimiser's options of each parameter that has some of its own, by the parameter's name."""
    own = {name: value for name in ("lr", "weight_decay") if (value := getattr(config, name)) is not None}
    if not own:
        return {}
    spared = own | {"weight_decay": 0.0} if "weight_decay" in own and _is_folder(config.name) else own
    return {name: spared if each.dim() < 2 else own for name, each in encoder.named_parameters()}


def _check(config: BackboneConfig) -> None:
    """Refuses fields that the backbone doesn't have, and numbers that can't be."""
    for name in ("width", "hidden", "dropout"):
        if config.name not in _having(name):
            _refuse(config, name)
    if config.name in OWN:
        if config.pretrained:
            other = "the folder of a text model" if config.name == "word_embeddings" else "a timm model"
            raise UserError(f"{config.name} has no pretrained weights: set pretrained to false, or use {other}.")
        _refuse(config, "grid", "pooled")
    for name, least in (("width", 1), ("hidden", 1), ("dropout", 0), ("lr", 0), ("weight_decay", 0)):
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and value >= least):
            raise UserError(f"the backbone {config.name} can't take {value} as its {name}: give {least} or more.")
    if config.dropout is not None and config.dropout >= 1:
        raise UserError(f"the backbone {config.name} can't take {config.dropout} as its dropout: give less than 1.")


def _having(field: str) -> tuple[str, ...]:
    """The backbones that have a field of sizes."""
    return {
        "width": (SMALL_CONV, *SIZED),
        "hidden": tuple(SIZED),
        "dropout": tuple(name for name in SIZED if name != "word_embeddings"),
    }[field]


def _refuse(config: BackboneConfig, *names: str) -> None:
    """Refuses fields that have been given a value."""
    for name in names:
        if getattr(config, name) != getattr(BackboneConfig, name):  # the default
            what, who = {
                "grid": ("grid", "a timm model"),
                "pooled": ("pooled output", "the folder of a text model"),
            }.get(name) or (name, " or ".join(_having(name)))
            raise UserError(f"the backbone {config.name} has no {what} to choose: leave {name} out, or use {who}.")


def _is_folder(name: str) -> bool:
    """Whether a backbone's name is that of a text model's folder."""
    return name not in OWN and ("/" in name or (Path(name) / "config.json").is_file())


def _encoder(modality: Modality, config: BackboneConfig) -> nn.Module:
    if config.name in SENSORS:
        return SENSORS[config.name](_sequence(modality, config.name))
    if config.name == SMALL_CONV:
        _picture(modality, config.name)
        width = SMALL_CONV_WIDTH if config.width is None else config.width
        return SmallConvNet(modality.shape, width)
    if config.name == FACE_RESNET:
        from mmlab.backbones.face_resnet import FaceResNet

        return FaceResNet(_picture(modality, config.name)[0])
    if config.name in SIZED:
        sizes: dict[str, Any] = {name: getattr(config, name) for name in ("hidden", "width", "dropout")}
        return SIZED[config.name](modality, **{name: size for name, size in sizes.items() if size is not None})
    if config.name == FIRST_STEP:
        return FirstStep(modality)
    if _is_folder(config.name):
        return _text_model(modality, config)

    import timm  # costs seconds, and most quick runs use small_conv

    from mmlab.backbones.timm import TimmBackbone

    if timm.is_model(config.name):
        _refuse(config, "pooled")
        channels, size = _picture(modality, config.name)
        return TimmBackbone(config.name, channels, size, config.pretrained, config.grid)
    if "." not in config.name:
        if modality.kind == "text":
            guess = did_you_mean(config.name, ["word_embeddings"])
            if guess:
                raise UserError(f"there is no backbone {config.name!r}{guess}.")
            return _text_model(modality, config)  # raises, and says what a text needs
        known = [*OWN, *timm.list_models()]
        raise UserError(
            f"there is no backbone {config.name!r}{did_you_mean(config.name, known)}: give "
            f"{', '.join(OWN)}, the name of a timm model, the folder of a text model, or the import path of a class "
            f"(package.module.Class)."
        )
    encoder = _own_class(config, modality)
    if not isinstance(getattr(encoder, "width", None), int):
        raise UserError(
            f"the backbone {config.name} can't be used: it must be an nn.Module with its features' width in the "
            f"attribute 'width', a whole number."
        )
    return encoder


def _pyramid(modality: Modality, config: BackboneConfig) -> nn.Module:
    if modality.kind not in ("image", "depth"):
        raise UserError(
            f"a class of each pixel is decided from images and depth, but the modality {modality.name!r} is of the "
            f"kind {modality.kind}: choose a data set without it."
        )
    _refuse(config, "grid", "pooled")
    channels = modality.shape[0]
    if config.name == SMALL_CONV:
        return SmallPyramid(channels, SMALL_CONV_WIDTH if config.width is None else config.width)

    import timm  # costs seconds, and most quick runs use small_conv

    from mmlab.backbones.timm_pyramid import TimmPyramid

    if timm.is_model(config.name):
        return TimmPyramid(config.name, channels, config.pretrained)
    remedy = (
        f"give {SMALL_CONV}, the name of a convolutional timm model (resnet18, mobilenetv3_small_100), or the import "
        f"path of a class"
    )
    if config.name in OWN or "/" in config.name:
        raise UserError(f"the backbone {config.name} can't serve a class of each pixel: {remedy}.")
    if "." not in config.name:
        guess = did_you_mean(config.name, [SMALL_CONV, *timm.list_models()])
        raise UserError(f"there is no backbone {config.name!r}{guess}: {remedy}.")
    encoder = _own_class(config, modality)
    if not isinstance(encoder, Pyramid):
        raise UserError(
            f"the backbone {config.name} can't serve a class of each pixel: it must be a subclass of "
            f"mmlab.backbones.pyramids.Pyramid."
        )
    return encoder


def _text_model(modality: Modality, config: BackboneConfig) -> nn.Module:
    _refuse(config, "grid")
    if modality.kind != "text":
        raise UserError(
            f"{config.name} is a folder, which only the model of a text has, but the modality {modality.name!r} is of "
            f"the kind {modality.kind}: choose another backbone for it (mmlab list backbones)."
        )
    try:
        import transformers  # noqa: F401  # costs seconds, and only texts need it
    except ImportError as error:
        raise UserError(
            'Encoding texts needs transformers, which is not installed: run pip install "mmlab[text]".'
        ) from error
    from mmlab.backbones.transformers import TextBackbone

    return TextBackbone(Path(config.name), modality, config.pretrained, config.pooled)


def _picture(modality: Modality, backbone: str) -> tuple[int, tuple[int, int]]:
    """The channels and the size (H, W) of what the backbone sees at once."""
    if modality.kind not in ("audio", "image", "frames", "flow", "depth"):
        own, example = {
            "text": ("word_embeddings or the folder of a text model", "models/bert-base-uncased"),
            "sequence": (", ".join(STEPWISE if modality.ragged else (*STEPWISE, *SENSORS)), "lstm"),
            "vector": (", ".join(STEPWISE), "mlp"),
        }[modality.kind]
        raise UserError(
            f"{backbone} encodes pictures, but the modality {modality.name!r} is of the kind {modality.kind}: "
            f"give it {own} or a backbone of its own by import path (--model.backbones.{modality.name} {example})."
        )
    return modality.shape[0], (modality.shape[-2], modality.shape[-1])


def _sequence(modality: Modality, backbone: str) -> tuple[int, int]:
    """The shape (T, D) of what the backbone sees."""
    if modality.kind != "sequence":
        raise UserError(
            f"{backbone} encodes sequences, but the modality {modality.name!r} is of the kind {modality.kind}: choose "
            f"another backbone for it (mmlab list backbones)."
        )
    if modality.ragged:
        raise UserError(
            f"{backbone} reads sequences of one length, but those of {modality.name!r} differ: give it "
            f"{', '.join(STEPWISE)} (--model.backbones.{modality.name} lstm)."
        )
    length, values = modality.shape
    return length, values


def _own_class(config: BackboneConfig, modality: Modality) -> nn.Module:
    if config.pretrained:
        raise UserError(f"{config.name} is not from timm: leave pretrained out and load its weights in its class.")
    _refuse(config, "grid", "pooled")
    module, _, name = config.name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"the backbone {config.name} can't be imported ({error}): give the import path of a class that Python "
            f"finds, or the name of a timm model."
        ) from error
    encoder = found(modality)
    if not isinstance(encoder, nn.Module):
        raise UserError(
            f"the backbone {config.name} can't be used: it must be an nn.Module with its features' width in the "
            f"attribute 'width', a whole number."
        )
    return encoder


def widths(encoders: nn.ModuleDict) -> dict[str, int]:
    """The features' width D of each encoder, by modality."""
    return {name: int(encoder.width) for name, encoder in encoders.items()}  # type: ignore[arg-type]
