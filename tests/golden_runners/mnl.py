"""Multimodal Negative Learning: the loss as the official code has it, and the paper's with its ablations.

Settings come from a case's inputs (``logits_k``, ``target``, ``present``, ``weights_k``), from ``hyper``, and in the
files of the paper's equation from words in the case's name: ``official``, ``warm``, ``all``, ``conf``, ``prior_k``,
``off``.
"""

import re
from typing import Any

import torch
from torch import Tensor

from mmlab.fusion.static import fuse, present_weights, static_weights
from mmlab.losses.non_target_guidance import NegativeLearning, Rule, negative_learning

INPUT = re.compile(r"(logits|weights)_\d+|target|present")


def run(document: dict[str, Any], case: str) -> dict[str, Any]:
    inputs = {
        key.removeprefix(f"{case}/"): torch.tensor(value)
        for key, value in document["inputs"].items()
        if key.startswith(f"{case}/")
    }
    unknown = [name for name in inputs if not INPUT.fullmatch(name)]
    if unknown or not {"logits_0", "logits_1", "target"} <= inputs.keys():
        raise ValueError(f"not a case of the loss: its inputs are {', '.join(inputs)}")
    # Only the files made with the official code list its extra term.
    official_file = any(key.endswith("/extra_target_ce") for key in document["outputs"])
    terms, fused, logits = compute(inputs, document["hyper"], case, official_file)
    gradients = torch.autograd.grad(terms.loss, logits)
    return outputs(terms, fused) | {f"grad_logits_{m}": gradient for m, gradient in enumerate(gradients)}


def compute(
    inputs: dict[str, Tensor], hyper: dict[str, Any], case: str, official_file: bool
) -> tuple[NegativeLearning, Tensor, list[Tensor]]:
    modalities = sum(name.startswith("logits_") for name in inputs)
    logits = [inputs[f"logits_{m}"].requires_grad_() for m in range(modalities)]
    unimodal = torch.stack(logits)
    size = len(inputs["target"])

    weights = static_weights(None, [str(m) for m in range(modalities)])
    if isinstance(hyper.get("fusion_weights"), list):
        weights = torch.tensor(hyper["fusion_weights"])
    if "weights_0" in inputs:
        each = [inputs[f"weights_{m}"].double().reshape(-1).expand(size) for m in range(modalities)]
        weights = torch.stack(each, dim=1)
    weights = weights.expand(size, modalities)
    present = inputs.get("present", torch.ones(size, modalities, dtype=torch.bool)).bool()
    if "present" in inputs:
        weights = present_weights(weights, present)

    # The files made with the official code have one setting, whatever their cases are called.
    words = "official" if official_file else case
    prior = re.search(r"prior_?(\d+)", words)
    rule: Rule = "dynamic"
    if prior:
        rule = "prior"
    elif "conf" in words:
        rule = "confidence"
    elif re.search(r"(^|_)off($|_)", words):
        rule = "off"
    fused = fuse(unimodal, weights)
    terms = negative_learning(
        fused,
        unimodal,
        inputs["target"],
        present,
        lam=hyper["lambda"],
        variant="official" if "official" in words else "paper",
        rule=rule,
        scope="all" if re.search(r"(^|_)all($|_|class)", words) else "non_target",
        prior=int(prior[1]) if prior else 0,
        unimodal_weights=torch.ones(modalities),
        warming_up="warm" in words,
    )
    return terms, fused, logits


def outputs(terms: NegativeLearning, fused: Tensor) -> dict[str, Any]:
    found = {
        "fused_logits": fused,
        "competitor_j": terms.competitor,
        "ucom": terms.margin.T,
        "p_target": terms.target_probability.T,
        "guide_index": terms.guide,
        "ce_fused": terms.ce_fused,
        "ce_unimodal": terms.ce_unimodal,
        "guidance_per_sample": terms.guidance_per_sample,
        "guidance": terms.guidance,
        "nontarget_guidance": terms.guidance,
        "extra_target_ce": terms.extra_target_ce,
        "loss_total": terms.loss,
    }
    for m in range(len(terms.margin)):
        found |= {f"ucom_{m}": terms.margin[m], f"p_target_{m}": terms.target_probability[m]}
        found[f"ce_{m}"] = terms.ce_unimodal[m]
        for k in range(len(terms.margin)):
            found[f"mask_{m}_guides_{k}"] = terms.guide[:, k] == m
    return found
