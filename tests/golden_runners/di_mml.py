"""What DI-MML's reference numbers mean: the DUC loss, the split of dimensions, the first stage's objective, inference.

Any number of modalities: features are z<m>, heads head<m>_W and head<m>_b. Dimensions on which t teaches s are
idx<t>_not<s>, or idx<t>_only where there are two.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from mmlab.fusion.late import fuse
from mmlab.losses.duc import class_means, class_sums, duc_loss, effective_dims, nearest_hits, one_sided_dims
from mmlab.methods.di_mml import DIMML, certainty_weights
from mmlab.types import Batch, Classification, DataSpec, Modality


def run(document: dict[str, Any], case: str) -> dict[str, Any]:
    own = {key: value for key, value in document["inputs"].items() if key.startswith(f"{case}/")}
    inputs = {key.removeprefix(f"{case}/"): torch.tensor(value) for key, value in own.items()}
    hyper = document["hyper"][case]
    if "logits0" in inputs:
        return weighted(numbered(inputs, "logits"), inputs, hyper["temperature"])
    features = numbered(inputs, "z")
    if not features:
        raise ValueError(f"not a case of DI-MML's loss, split or inference: its inputs are {', '.join(inputs)}")
    if "fused_W" in inputs:
        return inference(features, inputs, hyper)
    if "head0_W" in inputs:
        return stage1(features, inputs, hyper)
    if "n_classes" in hyper:
        return split(features, inputs["y"], hyper["n_classes"])
    return duc(features, inputs, hyper["temperature"])


def numbered(inputs: dict[str, Tensor], name: str) -> list[Tensor]:
    return [inputs[f"{name}{m}"] for m in itertools.takewhile(lambda m: f"{name}{m}" in inputs, itertools.count())]


def one_sided(features: list[Tensor], inputs: dict[str, Tensor]) -> Tensor:
    """(M, M, D) bool from the lists of dimensions, [teacher, student]."""
    modalities, width = len(features), features[0].shape[1]
    dims = torch.zeros(modalities, modalities, width, dtype=torch.bool)
    for t, s in itertools.permutations(range(modalities), 2):
        chosen = inputs[f"idx{t}_not{s}"] if f"idx{t}_not{s}" in inputs else inputs[f"idx{t}_only"]
        dims[t, s, chosen.long()] = True
    return dims


def duc(features: list[Tensor], inputs: dict[str, Tensor], temperature: float) -> dict[str, Any]:
    dims = one_sided(features, inputs)
    features = [each.requires_grad_() for each in features]
    both = torch.ones(len(features[0]), dtype=torch.bool)
    pairs = {
        (t, s): duc_loss(features[s], features[t], dims[t, s], temperature, both)
        for t, s in itertools.permutations(range(len(features)), 2)
    }
    found: dict[str, Any] = {f"loss_{t}_to_{s}": loss for (t, s), loss in pairs.items()}
    for m in range(len(features)):
        found[f"loss_student{m}"] = sum(loss for (_, s), loss in pairs.items() if s == m)
    found["loss"] = sum(pairs.values())
    gradients = torch.autograd.grad(found["loss"], features)
    return found | {f"grad_z{m}": gradient for m, gradient in enumerate(gradients)}


def split(features: list[Tensor], target: Tensor, classes: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    every = []
    for m, each in enumerate(features):
        sums, counts = class_sums(each, target, classes)
        means = class_means(sums, counts)
        every.append(nearest_hits(each, target, means, counts))
        accuracy = every[m] / len(target)
        found |= {f"centroid{m}": means, f"dim_accuracy{m}": accuracy, f"threshold{m}": accuracy.mean()}
    effective = effective_dims(torch.stack(every))
    dims = one_sided_dims(effective)
    for t in range(len(features)):
        found[f"effective{t}"] = effective[t].nonzero().flatten()
        others = [s for s in range(len(features)) if s != t]
        found[f"idx{t}_only"] = dims[t, others].all(dim=0).nonzero().flatten()
        found |= {f"idx{t}_not{s}": dims[t, s].nonzero().flatten() for s in others}
    return found


def method_of(features: list[Tensor], inputs: dict[str, Tensor], hyper: dict[str, Any]) -> DIMML:
    """The method itself with the heads of the case, and features in place of inputs."""
    classes, width = inputs["head0_W"].shape
    modalities = tuple(Modality(f"m{m}", "vector", (1, width)) for m in range(len(features)))
    names = tuple(str(c) for c in range(classes))
    method = DIMML(
        DataSpec("Golden", modalities, Classification(names), train_size=len(features[0])).to_dict(),
        duc_temperature=hyper["temperature"],
        duc_start_epoch=0 if hyper.get("use_duc") else 1,
        duc_weight=hyper.get("duc_weight", 1.0),
        shared_weight=hyper.get("weight", 1.0),
        certainty_temperature=hyper["temperature"],
        backbone="backbones.own.AsItIs",
    )
    heads: dict[str, Any] = {f"head{m}": head for m, head in enumerate(method.heads.values())}
    heads |= {"shared": method.shared_head, "fused": method.fused_head.classifier}
    for name, head in heads.items():
        if f"{name}_W" in inputs:
            head.weight.data, head.bias.data = inputs[f"{name}_W"], inputs[f"{name}_b"]
    return method


def batch_of(features: list[Tensor], inputs: dict[str, Tensor]) -> Batch:
    size = len(features[0])
    present = inputs.get("present", torch.ones(size, len(features))).bool()
    return Batch({f"m{m}": each for m, each in enumerate(features)}, inputs["y"], present, torch.arange(size))


def stage1(features: list[Tensor], inputs: dict[str, Tensor], hyper: dict[str, Any]) -> dict[str, Any]:
    method = method_of(features, inputs, hyper)
    method.begin(method.stages()[0])
    method.dims.copy_(one_sided(features, inputs))
    features = [each.requires_grad_() for each in features]
    losses = method.losses(batch_of(features, inputs))
    losses["loss"].backward()
    found: dict[str, Any] = {"total": losses["loss"]}
    found["duc"] = sum(value for name, value in losses.items() if name.startswith("duc_"))
    for m, feature in enumerate(features):
        found |= {f"ce{m}": losses[f"ce_m{m}"], f"ce_shared{m}": losses[f"ce_shared_m{m}"], f"grad_z{m}": feature.grad}
    linear: dict[str, nn.Linear] = {f"head{m}": head for m, head in enumerate(method.heads.values())}
    for name, head in (linear | {"shared": method.shared_head}).items():
        found |= {f"grad_{name}_W": head.weight.grad, f"grad_{name}_b": head.bias.grad}
    return found


def inference(features: list[Tensor], inputs: dict[str, Tensor], hyper: dict[str, Any]) -> dict[str, Any]:
    method = method_of(features, inputs, hyper)
    method.begin(method.stages()[1])
    batch = batch_of(features, inputs)
    prediction = method.eval()(batch.inputs, batch.present)
    logits = [*prediction.unimodal.values(), method.fused_head(batch.inputs, batch.present)]
    found = weighted(logits, inputs, hyper["temperature"])
    # What the method predicts must be what its parts say.
    torch.testing.assert_close(prediction.logits, found["out"])
    torch.testing.assert_close(prediction.weights.T, found["weight"][:-1])
    torch.testing.assert_close(1 - prediction.uncertainty.T, found["conf"][:-1])
    return found | {f"logits{k}": each for k, each in enumerate(logits)}


def weighted(logits: list[Tensor], inputs: dict[str, Tensor], temperature: float) -> dict[str, Any]:
    heads = torch.stack(logits)
    present = inputs.get("present", torch.ones(heads.shape[1], len(heads) - 1)).bool()
    usable = torch.cat((present, present.all(dim=1, keepdim=True)), dim=1)
    confidence, weights = certainty_weights(heads, usable, temperature)
    out = fuse(heads, weights)
    found = {"conf": confidence.T, "weight": weights.T, "out": out, "pred": out.argmax(dim=1)}
    if "y" in inputs:
        found["accuracy"] = (found["pred"] == inputs["y"]).double().mean()
    return found
