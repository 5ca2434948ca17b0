"""diagnosis.json: what each modality does in a finished run, and how far its probabilities can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from mmlab.availability import combination_name, every_combination
from mmlab.data.base import SplitName
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.errors import UserError
from mmlab.evaluation.logit_shares import logit_shares
from mmlab.evaluation.probe import Labelled, Probe, probe
from mmlab.evaluation.seen import Encoded, Seen, encode, score, see
from mmlab.evaluation.shapley import shapley_values
from mmlab.methods.base import Method
from mmlab.metrics.calibration import Reliability, calibration_error, reliability
from mmlab.metrics.margins import Margins
from mmlab.types import Classification, Segmentation

NONE = "none"
"""How the empty subset of modalities is called."""
FUSED = "fused"


@dataclass
class Diagnosis:
    """What there is to say of a run.

    Attributes:
        values: the content of diagnosis.json that is not about what was run.
        reliability: of the fused decision and of each modality's own head, by name; empty for numbers.
        confusion: (C, C) counts, the target's class down and the decided one across; None for numbers.
        seen: what the method said, for a feature map.
    """

    values: dict[str, Any]
    reliability: dict[str, Reliability]
    confusion: Tensor | None
    seen: Seen


def check_task(method: Method) -> None:
    """Refuses a class for every pixel.

    Raises:
        UserError: for segmentation.
    """
    if isinstance(method.spec.task, Segmentation):
        raise UserError(
            f"`mmlab diagnose` is for one decision a sample, but {method.spec.dataset} asks for a class of each pixel: "
            f"`mmlab test --combinations true` gives the metrics of each combination of modalities."
        )


def diagnose_method(method: Method, data: MultimodalDataModule, trainer: Trainer, split: SplitName) -> Diagnosis:
    """Passes over the split once, and once over those that probes are fitted and chosen on.

    In ``values``, all numbers are in the metric that they name: the accuracy of classes, the mean absolute error of
    numbers. The value of a subset of modalities, by which Shapley values are, is the accuracy, or minus the error.

    Args:
        method: with its weights loaded.
        data: of the run.
        trainer: says the device and the precision.
        split: ``train``, ``val`` or ``test``.

    Raises:
        UserError: for segmentation.
    """
    check_task(method)
    seen = see(method, data, trainer, split)
    task, names = method.spec.task, method.spec.names
    classes = isinstance(task, Classification)
    sign = 1.0 if classes else -1.0
    left_out: list[str] = []
    probes = _probes(method, data, trainer, split, seen, left_out)
    worth = seen.scores.double().mean(dim=0).tolist()
    subsets = [(False,) * len(names), *every_combination(len(names))]
    shapley = shapley_values(dict(zip(subsets, worth, strict=True)))
    values = {
        "metric": "acc" if classes else task.monitor,
        "value": "acc" if classes else f"-{task.monitor}",
        FUSED: sign * score(task, seen.prediction.logits, seen.encoded.target).double().mean().item(),
        "own_head": {name: sign * own for name, own in _own_heads(method, seen, left_out).items()},
        "probe": {name: sign * found.score for name, found in probes.items()},
        "probe_weight_decay": {name: found.weight_decay for name, found in probes.items()},
        "shapley": dict(zip(names, shapley, strict=True)),
        "subsets": {combination_name(names, subset) or NONE: v for subset, v in zip(subsets, worth, strict=True)},
        "logit_share": {},
        "margins": _margins(method, seen, left_out),
        "ece": {},
        "not_defined": left_out,
    }
    if not classes:
        left_out.append("share of logits, calibration, confusions: the task asks for a number, not for a class")
        return Diagnosis(values, {}, None, seen)
    shares = logit_shares(seen.prediction, names, seen.encoded.present)
    if shares is None:
        left_out.append("share of logits: the fused logits are no sum of parts of the modalities")
    values["logit_share"] = shares or {}
    bins = {name: reliability(*decision) for name, decision in _decisions(method, seen).items()}
    values["ece"] = {name: calibration_error(each) for name, each in bins.items()}
    confusion = _confusion(seen.prediction.logits, seen.encoded.target)
    return Diagnosis(values, bins, confusion, seen)


def _own_heads(method: Method, seen: Seen, left_out: list[str]) -> dict[str, float]:
    """The mean score of each modality's own decision, over the samples that have it."""
    if not seen.prediction.unimodal:
        left_out.append(f"own heads: {type(method).__name__} decides by all modalities together only")
    found = {}
    for name, logits in seen.prediction.unimodal.items():
        has = seen.encoded.present[:, method.spec.position(name)]
        if has.any():
            found[name] = score(method.spec.task, logits[has], seen.encoded.target[has]).double().mean().item()
    return found


def _probes(
    method: Method, data: MultimodalDataModule, trainer: Trainer, split: SplitName, seen: Seen, left_out: list[str]
) -> dict[str, Probe]:
    if not seen.encoded.features:
        left_out.append(f"linear probes: {type(method).__name__} has no encoder of one modality")
        return {}
    needed: tuple[SplitName, ...] = ("train", "val", split)
    passes = {name: seen.encoded if name == split else encode(method, data, trainer, name) for name in needed}
    found = {}
    for name in seen.encoded.features:
        parts = {part: _having(encoded, name, method) for part, encoded in passes.items()}
        without = [part for part, labelled in parts.items() if not len(labelled.target)]
        if without:
            left_out.append(f"linear probe of {name}: no sample of the {without[0]} split has it")
            continue
        with torch.enable_grad():
            found[name] = probe(method.spec.task, parts["train"], parts["val"], parts[split])
    if lacking := [name for name in method.spec.names if name not in seen.encoded.features]:
        left_out.append(f"linear probe of {', '.join(lacking)}: {type(method).__name__} doesn't look at it")
    return found


def _having(encoded: Encoded, name: str, method: Method) -> Labelled:
    has = encoded.present[:, method.spec.position(name)]
    return Labelled(encoded.features[name][has], encoded.target[has])


def _margins(method: Method, seen: Seen, left_out: list[str]) -> dict[str, float]:
    """Those of late fusion, see :mod:`mmlab.metrics.margins`; the radius where heads are linear."""
    names, prediction = method.spec.names, seen.prediction
    late = prediction.weights is not None and prediction.unimodal.keys() == set(names)
    if not (late and isinstance(method.spec.task, Classification)):
        left_out.append("UCoM and robustness radius: there are no classes' logits of each modality with fusion weights")
        return {}
    assert prediction.weights is not None
    weights = [head.weight for head in method.linear_heads]
    if not weights:
        left_out.append("robustness radius: the decision is no weighted sum of linear heads, one of each modality")
    margins = Margins(names, bool(weights)).to(prediction.logits.device)
    unimodal = torch.stack([prediction.unimodal[name] for name in names])
    encoded = seen.encoded
    margins.update(prediction.logits, unimodal, prediction.weights, encoded.present, encoded.target, weights)
    return {name: value.item() for name, value in margins.compute().items()}


def _decisions(method: Method, seen: Seen) -> dict[str, tuple[Tensor, Tensor]]:
    """Probabilities and targets, fused and of each own head over the samples that have the modality."""
    assert isinstance(method.spec.task, Classification)
    target = seen.encoded.target
    found = {FUSED: (method.spec.task.probabilities(seen.prediction.logits), target)}
    for name, logits in seen.prediction.unimodal.items():
        has = seen.encoded.present[:, method.spec.position(name)]
        if has.any():
            found[name] = (method.spec.task.probabilities(logits[has]), target[has])
    return found


def _confusion(logits: Tensor, target: Tensor) -> Tensor:
    classes = logits.shape[1]
    return torch.bincount(target * classes + logits.argmax(dim=1), minlength=classes**2).view(classes, classes).cpu()
