"""What OMD's reference numbers mean: the joint adaptation loss, and the whole objective of the second stage.

Streams are the available modalities, then the restored ones; tensors of several modalities are stacked in this order.
A translator is a linear layer with a bias and a ReLU, without normalisation.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mmlab.losses.mmd import base_bandwidth, squared_distances
from mmlab.methods.omd import OMD
from mmlab.networks.base import Features
from mmlab.types import Batch, Classification, DataSpec, Modality

Tree = dict[str, Any]


def run(document: Tree, case: str) -> Tree:
    inputs, hyper = document["inputs"][case], document["hyper"]
    if "translator_w" in inputs:
        return objective(inputs, hyper.get(case, hyper))
    if "feat_restored" in inputs and "logits_restored" in inputs:
        return adaptation(inputs, hyper.get(case, hyper))
    raise ValueError(f"not a kind of case that is known: its inputs are {', '.join(inputs)}")


def build(available: int, privileged: int, width: int, classes: int, **options: Any) -> OMD:
    names = [f"a{m}" for m in range(available)] + [f"p{m}" for m in range(privileged)]
    modalities = tuple(Modality(name, "image", (width, 2, 2)) for name in names)
    spec = DataSpec("Golden", modalities, Classification(tuple(map(str, range(classes)))), train_size=1)
    method = OMD(spec.to_dict(), names[available:], backbone="backbones.identity.Identity", **options)
    method.begin(method.stages()[1])
    return method.double()


def adaptation(inputs: Tree, hyper: Tree) -> Tree:
    assert (hyper["kernel_num"], hyper["kernel_mul"]) == (5, 2.0)
    given = {key: torch.tensor(value) for key, value in inputs.items()}
    features = given["feat_restored"].requires_grad_()
    logits = given["logits_restored"].requires_grad_()
    samples, classes = logits.shape
    weights = {key: float(inputs.get(key, hyper.get(key))) for key in ("alpha", "beta")}
    method = build(1, 1, features.shape[1], classes, temperature=hyper["temperature"], **weights)
    every = torch.ones(samples, dtype=torch.bool)
    total, marginal, conditional = method.adaptation(
        features, logits, given["feat_privileged"], given["logits_privileged"], every, every.sum()
    )
    total.backward()
    rows = torch.cat((every, every))
    both = torch.cat((features, given["feat_privileged"])).flatten(1)
    return {
        "mmd": marginal,
        "kl": conditional,
        "total": total,
        "base_bandwidth": base_bandwidth(squared_distances(both, rows), rows),
        "grad_feat_restored": features.grad,
        "grad_logits_restored": logits.grad,
    }


class Unchanged(nn.Module):
    """In the place of a normalisation."""

    def forward(self, values: Tensor) -> Tensor:
        return values


def objective(inputs: Tree, hyper: Tree) -> Tree:
    given = {key: torch.tensor(value) for key, value in inputs.items()}
    label = given.pop("label")
    constants = {key: given.pop(key) for key in ("feat_privileged", "logits_privileged")}
    for leaf in given.values():
        leaf.requires_grad_()
    available, privileged = len(given["feat_available"]), len(given["feat_restored"])
    assert (available, privileged) == (hyper["n_available"], hyper["n_privileged"])
    translated, width = given["translator_w"].shape[1:]
    method = build(
        available,
        privileged,
        width,
        len(given["head_b"]),
        translated_width=translated,
        alpha=hyper["alpha"],
        beta=hyper["beta"],
        temperature=hyper["temperature"],
        consistency_weight=hyper["mu"],
        transfer_weight=hyper["lambda_transfer"],
        restored_weight=hyper["lambda_restored_ce"],
    )
    with torch.no_grad():
        for translator, weight, bias in zip(
            method.translation.translators, given["translator_w"], given["translator_b"], strict=True
        ):
            translator.layer, translator.norm = nn.Linear(width, translated), Unchanged()
            set_to(translator.layer, weight, bias)
        set_to(method.head.classifier, given["head_w"], given["head_b"])
        for name, weight, bias in zip(
            method.privileged, given["restored_head_w"], given["restored_head_b"], strict=True
        ):
            set_to(method.restorers[name].head.classifier, weight, bias)

    available_features = dict(zip(method.available, map(Features, given["feat_available"]), strict=True))
    restored = dict(zip(method.privileged, map(Features, given["feat_restored"]), strict=True))
    taught = dict(zip(method.privileged, map(Features, constants["feat_privileged"]), strict=True))
    taught_logits = dict(zip(method.privileged, constants["logits_privileged"], strict=True))
    present = torch.ones(len(label), available + privileged, dtype=torch.bool)
    batch = Batch({}, label, present, torch.arange(len(label)))
    losses = method.objective(available_features, restored, taught, taught_logits, batch)
    losses["loss"].backward()

    decision, alone = method.fused(available_features, restored, present)
    heads = [method.restorers[name].head for name in method.privileged]
    layers = [translator.layer for translator in method.translation.translators]
    gradients = {
        "feat_available": given["feat_available"].grad,
        "feat_restored": given["feat_restored"].grad,
        "translator_w": torch.stack([layer.weight.grad for layer in layers]),
        "translator_b": torch.stack([layer.bias.grad for layer in layers]),
        "head_w": method.head.classifier.weight.grad,
        "head_b": method.head.classifier.bias.grad,
        "restored_head_w": torch.stack([head.classifier.weight.grad for head in heads]),
        "restored_head_b": torch.stack([head.classifier.bias.grad for head in heads]),
    }
    return {
        "logits": decision.logits,
        "logits_from_each": torch.stack(alone),
        "logits_restored": torch.stack(
            [head(features).logits for head, features in zip(heads, restored.values(), strict=True)]
        ),
        "ce": losses["ce_fused"],
        "consistency": losses["consistency"],
        "mmd": torch.stack([losses[f"mmd_{name}"] for name in method.privileged]),
        "kl": torch.stack([losses[f"kl_{name}"] for name in method.privileged]),
        "ce_restored": losses["ce_restored"],
        "transfer": losses["transfer"],
        "total": losses["loss"],
        **{f"grad/{key}": value for key, value in gradients.items()},
    }


def set_to(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
