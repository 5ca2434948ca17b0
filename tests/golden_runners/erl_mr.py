"""ERL-MR: the Euler mapping and the heads, the MMC loss, the Pareto weights, training steps.

What a case is about shows in its inputs; M is the number of ``x<m>`` or ``phase<m>`` there are. Heads are told by the
shapes of their weights ``fusion_<layer>_weight``: (C, M D) of concat, film and gated, M of (C, D) of sum. Of several
layers (2 D, D) of film, the last one counts: the released code doesn't use the first.
"""

import re
from typing import Any

import torch
from torch import Tensor

from mmlab.losses.euler import phase_loss
from mmlab.losses.late_fusion import late_fusion_losses
from mmlab.losses.pareto import min_norm_weight, normalisers, pareto_weight
from mmlab.methods.erl_mr import ERLMR
from mmlab.types import Batch, Classification, DataSpec, Modality


def run(document: dict[str, Any], case: str) -> dict[str, Any]:
    own = {key: value for key, value in document["inputs"].items() if key.startswith(f"{case}/")}
    inputs = {key.removeprefix(f"{case}/"): torch.tensor(value) for key, value in own.items()}
    hyper = document["hyper"].get(case, {})
    if "g0" in inputs:
        return weights(torch.stack([inputs["g0"], inputs["g1"]]), torch.stack([inputs["loss0"], inputs["loss1"]]))
    if "phase1" in inputs:
        return mmc(inputs, hyper)
    if "init_im_weight" in inputs:
        return steps(inputs, hyper)
    if "x1" in inputs:
        return forward(inputs, hyper)
    raise ValueError(f"no kind of case that is known: its inputs are {', '.join(inputs)}")


def numbered(inputs: dict[str, Tensor], name: str) -> list[Tensor]:
    count = sum(re.fullmatch(rf"{name}\d+", key) is not None for key in inputs)
    return [inputs[f"{name}{m}"] for m in range(1, count + 1)]


def weights(gradients: Tensor, losses: Tensor) -> dict[str, Any]:
    raw = gradients @ gradients.T
    n = normalisers(raw, losses)
    products = raw / torch.outer(n, n)
    a, b, c = products[0, 0], products[0, 1], products[1, 1]
    first = pareto_weight(raw, losses)
    return {
        "n0": n[0],
        "n1": n[1],
        "h0h0": a,
        "h0h1": b,
        "h1h1": c,
        "weight0": first,
        "weight1": 1 - first,
        # At the ends, the solver reports the cost there, not that of its clipped weights.
        "min_norm": a if b >= a else c if b >= c else c + first * (b - c),
    }


def mmc(inputs: dict[str, Tensor], hyper: dict[str, Any]) -> dict[str, Any]:
    phases = [each.requires_grad_() for each in numbered(inputs, "phase")]
    logits = [each.requires_grad_() for each in numbered(inputs, "logits")]
    unimodal = torch.stack(logits)
    present = torch.ones(len(inputs["y"]), len(phases), dtype=torch.bool)
    axis = "feature" if hyper.get("axis", 0) == 1 else "batch"
    phase = phase_loss(torch.stack(phases, dim=1), present, axis)
    criterion = Classification(()).criterion
    _, each = late_fusion_losses(unimodal.sum(dim=0), unimodal, inputs["y"], present, criterion)
    loss = phase + each.sum()
    found: dict[str, Any] = {"mmc": loss, "phase_loss": phase, "weighting_loss": 2 * phase}
    for name, tensors in (("phase", phases), ("logits", logits)):
        for m, gradient in enumerate(torch.autograd.grad(loss, tensors, retain_graph=True), start=1):
            found[f"grad_{name}{m}"] = gradient
    return found | {f"ce{m}": ce for m, ce in enumerate(each, start=1)}


def model(inputs: dict[str, Tensor], hyper: dict[str, Any]) -> tuple[ERLMR, Batch, dict[str, Tensor]]:
    """The method with a case's parameters, its batch, and the parameters by the case's names."""
    x = numbered(inputs, "x")
    size, channels, length = x[0].shape
    width = channels * length
    heads = {key: tensor for key, tensor in inputs.items() if key.startswith("fusion_") and tensor.dim() == 2}
    modulations = [key for key, tensor in heads.items() if tensor.shape == (2 * width, width) and "out" not in key]
    joint = [key for key, tensor in heads.items() if tensor.shape[1] == len(x) * width]
    fusion = str(hyper.get("fusion") or ("film" if modulations else "concat" if joint else "sum")).lower()
    if fusion == "sum":
        of_head = {f"fusion.classifiers.{m}": key for m, key in enumerate(heads)}
    else:
        of_head = {"fusion.classifier": joint[0]}
    if fusion == "film":
        of_head["fusion.modulation"] = modulations[-1]

    names = {f"mapping.amplitudes.{m}": f"mu{m + 1}" for m in range(len(x))}
    for ours, theirs in {"mapping.linear": "im_weight", **of_head}.items():
        names |= {f"{ours}.weight": theirs, f"{ours}.bias": theirs.removesuffix("weight") + "bias"}
    outputs = len(heads[next(iter(of_head.values()))])
    modalities = tuple(Modality(f"x{m}", "sequence", (channels, length)) for m in range(1, len(x) + 1))
    spec = DataSpec("Golden", modalities, Classification(tuple(map(str, range(outputs)))), train_size=size)
    method = ERLMR(spec.to_dict(), fusion, dropout=0.0, backbone="backbones.own.AsItIs")  # type: ignore[arg-type]
    own = dict(method.named_parameters())
    assert own.keys() == names.keys()
    with torch.no_grad():
        for ours, theirs in names.items():
            own[ours].copy_(inputs[theirs].view_as(own[ours]))
    present = torch.ones(size, len(x), dtype=torch.bool)
    target = inputs.get("y", torch.zeros(size, dtype=torch.long))
    batch = Batch(dict(zip(spec.names, x, strict=True)), target, present, torch.arange(size))
    return method, batch, {theirs: own[ours] for ours, theirs in names.items()}


def forward(inputs: dict[str, Tensor], hyper: dict[str, Any]) -> dict[str, Any]:
    method, batch, _ = model(inputs, hyper)
    decision, phases = method.decide(batch.inputs, batch.present)
    assert method.mapping is not None
    assert phases is not None
    enhanced, _ = method.mapping(method.encode(batch.inputs), None)
    found: dict[str, Any] = {
        "fused_logits": decision.logits,
        "phase_loss_batch": phase_loss(phases, batch.present, "batch"),
        "phase_loss_feature": phase_loss(phases, batch.present, "feature"),
    }
    for m, name in enumerate(batch.inputs):
        found[f"enhanced{m + 1}"] = enhanced[name]
        found[f"feat{m + 1}"] = decision.features[m]
        found[f"phase{m + 1}"] = phases[:, m]
        found[f"unimodal_logits{m + 1}"] = decision.shares[m]
    return found


def steps(inputs: dict[str, Tensor], hyper: dict[str, Any]) -> dict[str, Any]:
    method, batch, parameters = model({key.removeprefix("init_"): value for key, value in inputs.items()}, hyper)
    optimizer = torch.optim.SGD(
        method.parameters(), hyper["lr"], momentum=hyper.get("momentum", 0), weight_decay=hyper.get("weight_decay", 0)
    )
    losses = method.losses(batch)
    found: dict[str, Any] = {
        "weight0": losses["pareto_weight"],
        "weight1": 1 - losses["pareto_weight"],
        "loss": losses["loss"],
        "fused_ce": losses["ce_fused"],
        "phase_loss": losses["phase"],
        "mmc": losses["phase"] + sum(losses[f"ce_{name}"] for name in batch.inputs),
        "alpha_official_slice": without_bias(method, losses),
    }
    unused = {key: value for key, value in inputs.items() if key.startswith("init_fusion_")}
    for step in range(1, 6):
        if step > 1:
            losses = method.losses(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        for key, value in unused.items():  # a layer that the released code doesn't use stays as it was
            found[key.replace("init_", f"step{step}_")] = value
        for key, value in parameters.items():
            found[f"step{step}_{key}"] = value.detach().clone().view_as(inputs[f"init_{key}"])
    return found


def without_bias(method: ERLMR, losses: dict[str, Tensor]) -> Tensor:
    """The weight where the bias of A is lost from all but the second normaliser, as in the released code."""
    assert method.mapping is not None
    parameters = list(method.mapping.parameters())
    tasks = (losses["ce_fused"], 2 * losses["phase"])
    found = [torch.autograd.grad(task, parameters, retain_graph=True) for task in tasks]
    whole = torch.stack([torch.cat([gradient.flatten() for gradient in each]) for each in found])
    bias = len(method.mapping.linear.bias)
    assert parameters[-1] is method.mapping.linear.bias
    cut = whole[:, :-bias]
    values = torch.stack(tasks).detach()
    n = torch.stack([normalisers(cut @ cut.T, values)[0], normalisers(whole @ whole.T, values)[1]])
    return min_norm_weight(cut @ cut.T / torch.outer(n, n))
