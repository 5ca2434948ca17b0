"""Multimodal Negative Learning: its loss, the dynamic fusions, the margins and radii, the corruptions.

What a case is about shows in its inputs. The loss takes its settings from them (``logits_k``, ``target``, ``present``,
``weights_k``), from ``hyper``, and in the files of the paper's equation from words in the case's name: ``official``,
``warm``, ``all``, ``conf``, ``prior_k``, ``off``. A step of QMF goes on from the steps before it: cases of one name but
for its last number, in ascending order.
"""

import re
from typing import Any

import torch
from torch import Tensor

from mmlab.data.corruption import add_gaussian, blank_words, blanked, salt_and_pepper
from mmlab.fusion.late import fuse
from mmlab.fusion.pdf import PDFFusion, holo_confidence
from mmlab.fusion.qmf import QMFFusion
from mmlab.fusion.static import present_weights, static_weights
from mmlab.losses.confidence_ranking import Ranking, ranking_losses, relative_history
from mmlab.losses.late_fusion import late_fusion_losses
from mmlab.losses.non_target_guidance import (
    NegativeLearning,
    Rule,
    at_class,
    competitor,
    confidence_margin,
    negative_learning,
)
from mmlab.metrics.margins import Margins, lipschitz, robustness_radius, smallest_radius

INPUT = re.compile(r"(logits|weights)_\d+|target|present")


def run(document: dict[str, Any], case: str) -> dict[str, Any]:
    inputs = inputs_of(document, case)
    if "sample_index" in inputs:
        return qmf(document, case)
    if "features_0" in inputs and "conf_net_0_layer0_weight" in inputs:
        return pdf(inputs)
    if "head_weight_0" in inputs:
        return robustness(inputs)
    if {"words", "image"} & inputs.keys():
        return corrupted(inputs)
    return loss(document, case)


def inputs_of(document: dict[str, Any], case: str) -> dict[str, Any]:
    own = {key: value for key, value in document["inputs"].items() if key.startswith(f"{case}/")}
    return {key.removeprefix(f"{case}/"): value for key, value in own.items()}


def numbered(inputs: dict[str, Any], name: str) -> list[Tensor]:
    count = sum(re.fullmatch(rf"{name}_\d+", key) is not None for key in inputs)
    return [torch.tensor(inputs[f"{name}_{m}"]) for m in range(count)]


def present_of(inputs: dict[str, Any], size: int, modalities: int) -> Tensor:
    return torch.tensor(inputs.get("present", [[True] * modalities] * size)).bool()


def alone(rows: Tensor, gradient: bool) -> Tensor:  # as Method.gathered with one process
    return rows if gradient else rows.detach()


def number_in(case: str) -> int:
    """The last number in a case's name; -1 for none."""
    return int((re.findall(r"\d+", case) or [-1])[-1])


def cases_like(document: dict[str, Any], case: str) -> set[str]:
    """The cases whose names differ from this one's in the last number only."""
    cases = {key.split("/")[0] for key in document["inputs"]}
    name = re.compile(r"\d+(?=\D*$)")
    return {other for other in cases if name.sub("", other) == name.sub("", case)} if number_in(case) >= 0 else {case}


def qmf(document: dict[str, Any], case: str) -> dict[str, Any]:
    steps = sorted((step for step in cases_like(document, case) if number_in(step) <= number_in(case)), key=number_in)

    size = document["hyper"]["history_size"]
    first = inputs_of(document, case)
    widths = {str(m): 1 for m in range(len(numbered(first, "logits")))}
    ranking: Ranking = "corrected_margin" if document["hyper"].get("ranking") == "corrected_margin" else "released"
    weight = document["hyper"].get("rank_weight", 1.0)
    fusion = QMFFusion(widths, len(first["logits_0"][0]), size, weight, ranking)
    for step in steps:
        inputs = inputs_of(document, step)
        logits = [each.requires_grad_() for each in numbered(inputs, "logits")]
        unimodal, target, index = (
            torch.stack(logits),
            torch.tensor(inputs["target"]),
            torch.tensor(inputs["sample_index"]),
        )
        present = present_of(inputs, len(target), len(logits))
        decision = fusion.decide(unimodal, [], present)
        own = fusion.objective(decision, target, index, present, alone)
    found = late_outputs(decision, target, present, own, logits, "_of_total")
    history = relative_history(fusion.loss_sum, index)
    for m in range(len(logits)):
        found[f"conf_{m}"] = decision.confidence[:, m : m + 1]
        found[f"history_loss_sum_{m}"] = fusion.loss_sum[m]
    for ranking, word in (("released", "code"), ("corrected_margin", "corrected_margin")):
        for m, rank in enumerate(ranking_losses(decision.confidence.T, history, present, ranking)):
            found[f"rank_loss_{word}_{m}"] = rank
    return found


def pdf(inputs: dict[str, Any]) -> dict[str, Any]:
    logits = [each.requires_grad_() for each in numbered(inputs, "logits")]
    features = [each.requires_grad_() for each in numbered(inputs, "features")]
    target = torch.tensor(inputs["target"])
    present = present_of(inputs, len(target), len(logits))
    fusion = PDFFusion({str(m): feature.shape[1] for m, feature in enumerate(features)}, logits[0].shape[1])
    for m, net in enumerate(fusion.confidence_nets):
        for layer in range(3):
            net[layer].weight.data = torch.tensor(inputs[f"conf_net_{m}_layer{layer}_weight"])
            net[layer].bias.data = torch.tensor(inputs[f"conf_net_{m}_layer{layer}_bias"])
    unimodal = torch.stack(logits)
    decision = fusion.decide(unimodal, features, present)
    own = fusion.objective(decision, target, torch.arange(len(target)), present, alone)
    found = late_outputs(decision, target, present, own, logits, "", features)
    tested = fusion.decide(unimodal, features, present, calibrate=True)
    holo = holo_confidence(decision.confidence.clamp(1e-6, 1 - 1e-6), present)
    probability = at_class(unimodal.softmax(dim=2), target)
    for m in range(len(logits)):
        found[f"mono_conf_{m}"] = decision.confidence[:, m : m + 1]
        found[f"holo_conf_{m}"] = holo[:, m : m + 1]
        found[f"true_class_prob_{m}"] = probability[m][:, None]
        found[f"weight_{m}_train"] = decision.weights[:, m : m + 1]
        found[f"weight_{m}_test"] = tested.weights[:, m : m + 1]
    found |= {"fused_logits_train": decision.logits, "fused_logits_test": tested.logits}
    return found | {"tcp_l1_loss": sum(own.values())}


def late_outputs(
    decision: Any,
    target: Tensor,
    present: Tensor,
    own: dict[str, Tensor],
    logits: list[Tensor],
    suffix: str,
    features: list[Tensor] | None = None,
) -> dict[str, Any]:
    fused, each = late_fusion_losses(
        decision.logits,
        decision.unimodal,
        target,
        present,
        lambda scores, classes: torch.nn.functional.cross_entropy(scores, classes, reduction="none"),
    )
    total = fused + each.sum() + sum(own.values())
    gradients = torch.autograd.grad(total, [*logits, *(features or [])], allow_unused=True)
    found = {"fused_logits": decision.logits, "ce_fused": fused, "loss_total": total}
    for m in range(len(logits)):
        found |= {f"ce_{m}": each[m], f"grad_logits_{m}{suffix}": gradients[m]}
        if features:
            reaching = gradients[len(logits) + m]
            found[f"grad_features_{m}_is_none_or_zero"] = reaching is None or not reaching.any()
    return found


def robustness(inputs: dict[str, Any]) -> dict[str, Any]:
    features, heads, biases = (numbered(inputs, name) for name in ("features", "head_weight", "head_bias"))
    weights, target = torch.tensor(inputs["fusion_weights"]), torch.tensor(inputs["target"])
    layers = zip(features, heads, biases, strict=True)
    unimodal = torch.stack([feature @ weight.T + bias for feature, weight, bias in layers])
    fused = fuse(unimodal, weights)
    rival = competitor(fused, target)
    margin = confidence_margin(unimodal, target, rival)
    tau = lipschitz(heads, target, rival)
    radius = robustness_radius(margin, tau, weights)
    found = {
        "fused_logits": fused,
        "competitor_j": rival,
        "ucom": margin.T,
        "tau": tau.T,
        "robust_bound": radius,
        "robust_bound_clipped": radius.clamp(min=0),
        "robust_bound_min_over_classes": smallest_radius(unimodal, heads, target, weights),
        "mean_bound": radius.mean(),
        "mean_ucom": margin.mean(dim=1),
        "fused_correct": fused.argmax(dim=1) == target,
    }
    # What a test logs must be the same means.
    names = tuple(str(m) for m in range(len(heads)))
    logged = Margins(names, heads=True).set_dtype(torch.float64)
    logged.update(fused, unimodal, weights, torch.ones_like(weights, dtype=torch.bool), target, heads)
    means = logged.compute()
    torch.testing.assert_close(means["radius"], found["mean_bound"])
    torch.testing.assert_close(torch.stack([means[f"ucom_{name}"] for name in names]), found["mean_ucom"])
    return found | {f"logits_{m}": logits for m, logits in enumerate(unimodal)}


def corrupted(inputs: dict[str, Any]) -> dict[str, Any]:
    severity = inputs.get("severity")
    if "words" in inputs:
        hit = blanked(torch.tensor(inputs["uniform_draws"]), severity).tolist()
        words = ["_" if gone else word for word, gone in zip(inputs["words"], hit, strict=True)]
        # As tokens, one for each word: the compacted text must say the same.
        tokens = torch.stack((torch.arange(len(words)) + 2, torch.arange(len(words)) + 1))[None]
        left = blank_words(tokens, torch.tensor([inputs["uniform_draws"]]), severity, blank=1)[0, 0].tolist()
        assert ["_" if token == 1 else inputs["words"][token - 2] for token in left] == words
        return {"words_noisy": words, "text_noisy": " ".join(words)}
    image = torch.tensor(inputs["image"]).double()
    if "standard_normal_field" in inputs:
        exact = image + 10 * severity * torch.tensor(inputs["standard_normal_field"])
        noisy = add_gaussian(image, torch.tensor(inputs["standard_normal_field"]), 10 * severity, 0, 255, whole=True)
        wrapped = (exact.trunc() < 0).any(dim=-1).sum()
        return {"image_noisy": noisy.long(), "n_pixels_where_released_code_wraps": wrapped}
    return {"image_noisy": salt_and_pepper(image, torch.tensor(inputs["mask_0pepper_1salt_2keep"]), 0.0, 255.0).long()}


def loss(document: dict[str, Any], case: str) -> dict[str, Any]:
    inputs = {name: torch.tensor(value) for name, value in inputs_of(document, case).items()}
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
