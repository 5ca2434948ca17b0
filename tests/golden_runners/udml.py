"""What UDML's reference numbers mean: noise, divergence, reliance, weights and fusion, training steps.

What a case is about shows in its inputs. Modalities are told by the names ``feat_<m>``, or of training steps
``eps_<m>``, in this order; the inputs of a step are called as the modality is, those of audio and visual ``spec`` and
``image``. Maps hold a clip's frames one after another along the batch. The layers of a sum come in the order of the
modalities, whatever their names. A number that is the same for all samples may stand alone.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mmlab.fusion.joint import ConcatFusion
from mmlab.fusion.residual import logits_alone, logits_without, residual_weights
from mmlab.losses.level_kl import level_kl
from mmlab.losses.reliance import dropout_change, logit_magnitude
from mmlab.methods.controlled_noise import CLEAN, noisy_picture, noisy_sound
from mmlab.methods.udml import UDML
from mmlab.types import Batch, Classification, DataSpec, Modality

Tree = dict[str, Any]
STREAMS = {"audio": "spec", "visual": "image"}
FUSED_LAYERS = {
    "concat": {"classifier": "fc_out"},
    "gated": {"gate": "fc_x", "projections.0": "fc_y", "classifier": "fc_out"},
}


def run(document: Tree, case: str) -> Tree:
    inputs, hyper = document["inputs"][case], document["hyper"]
    if "params" in inputs:
        return steps(inputs, hyper.get(case, hyper), document["outputs"][case])
    if any(key.startswith("est_") for key in inputs):
        return fusion(inputs, hyper)
    if "mu" in inputs:
        return divergence(inputs)
    if "unit_noise" in inputs:
        return {"out": noisy(inputs)}
    if "estimator_logit" in inputs:
        return weights(inputs)
    if "bias" in inputs:
        return reliance(inputs)
    raise ValueError(f"not a kind of case that is known: its inputs are {', '.join(inputs)}")


def divergence(inputs: Tree) -> Tree:
    mean = torch.tensor(inputs["mu"]).requires_grad_()
    std = torch.tensor(inputs["std"]).requires_grad_()
    loss = level_kl(mean, std, torch.tensor(inputs["target"])).mean()
    of_mean, of_std = torch.autograd.grad(loss, (mean, std))
    return {"loss": loss, "grad_mu": of_mean, "grad_std": of_std}


def noisy(inputs: Tree) -> Tensor:
    level, field = torch.tensor(float(inputs["level"])), torch.tensor(inputs["unit_noise"])
    if "spec" in inputs:
        raw = torch.tensor(inputs["spec"])
        return raw if level == CLEAN else noisy_sound(raw, field, level)
    raw = torch.tensor(inputs["image"])
    return raw if level == CLEAN else noisy_picture(raw.double(), field[..., None], level, 0, 255)


def weights(inputs: Tree) -> Tree:
    x = torch.tensor(inputs["estimator_logit"])
    present = torch.tensor(inputs["mask"]).bool() if "mask" in inputs else torch.ones_like(x, dtype=torch.bool)
    return {"level": (x / 2).exp(), "weight": residual_weights(x, torch.tensor(inputs["dep"]), present)}


def reliance(inputs: Tree) -> Tree:
    names = [key.removeprefix("feat_") for key in inputs if key.startswith("feat_")]
    features = {name: torch.tensor(inputs[f"feat_{name}"]) for name in names}
    bias = torch.tensor(inputs["bias"])
    head = ConcatFusion({name: feature.shape[1] for name, feature in features.items()}, len(bias))
    with torch.no_grad():
        head.classifier.weight.copy_(torch.cat([torch.tensor(inputs[f"W_{name}"]) for name in names], dim=1))
        head.classifier.bias.copy_(bias)
    present = torch.ones(len(features[names[0]]), len(names), dtype=torch.bool)
    code = logit_magnitude(logits_alone(head, features, present)).mean(dim=1)
    paper = dropout_change(head(features, present), logits_without(head, features, present)).mean(dim=1)
    found: Tree = {"paper_alpha": len(names) * paper / paper.sum()}
    for m, name in enumerate(names):
        found |= {f"code_dep_{name}": code[m], f"paper_dep_{name}": paper[m]}
    return found


class AtEpoch(UDML):
    """In an epoch without a Trainer, and on data that are noisy already."""

    epoch = 0
    eps: Tree = {}

    @property
    def current_epoch(self) -> int:
        return self.epoch

    def draws(self, batch: Batch) -> Any:
        return self

    def field(self, name: str, count: int) -> Tensor:
        recorded: Tensor = self.eps[name.removeprefix("sample_")]
        assert recorded.numel() % count == 0
        return recorded

    def uniform(self, name: str, count: int) -> Tensor:
        return torch.ones(1)  # an estimator without dropout keeps everything, however many there are


def build(names: list[str], samples: int, widths: list[int], classes: int, inputs: Tree, hyper: Tree) -> AtEpoch:
    modalities = tuple(Modality(name, "image", (width, 2, 2)) for name, width in zip(names, widths, strict=True))
    cycle = hyper.get("cycle_epoch", 50)
    spec = DataSpec("Golden", modalities, Classification(tuple(map(str, range(classes)))), train_size=samples)
    method = AtEpoch(
        spec.to_dict(),
        inputs.get("fusion", "concat"),
        initial_reliance=[inputs[f"dep_{name}"] for name in names],
        noise_epoch=cycle,
        dynamic_epoch=hyper.get("weights_start_epoch", cycle + 10),
        gamma=hyper.get("gamma", 0.0),
        beta=hyper.get("beta", 0.0),
        noise_weight=hyper.get("noise_weight", 0.1),
        backbone="backbones.identity.Identity",
    )
    method.epoch = inputs["epoch"]
    method.noise.forward = lambda inputs, levels, draws: inputs  # type: ignore[method-assign]
    for name, width in zip(names, widths, strict=True):
        estimator = method.estimators[name]
        estimator.dropout = 0.0
        hidden = len(inputs[f"est_{name}"]["b1"]) if f"est_{name}" in inputs else 0
        hidden = hidden or len(inputs["params"][f"est_{name}.0.bias"])
        estimator.hidden, estimator.output = nn.Linear(width, hidden), nn.Linear(hidden, 1)
    return method.double()


def set_to(method: nn.Module, values: dict[str, Any]) -> None:
    own = dict(method.named_parameters()) | dict(method.named_buffers())
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(torch.tensor(value).view_as(own[name]))


def fused_layers(fusion: str, parameters: Tree) -> dict[str, str]:
    """Each of our head's parameters as theirs, whose names ``parameters`` has."""
    if fusion == "sum":
        theirs = dict.fromkeys(name.rpartition(".")[0] for name in parameters)
        layers = {f"classifiers.{m}": layer for m, layer in enumerate(theirs)}
    else:
        layers = FUSED_LAYERS[fusion]
    return {f"{ours}.{part}": f"{layer}.{part}" for ours, layer in layers.items() for part in ("weight", "bias")}


def class_count(fusion: str, parameters: Tree) -> int:
    """How many there are: as many as the head's last layer has biases."""
    return len(parameters[list(fused_layers(fusion, parameters).values())[-1]])


def fusion(inputs: Tree, hyper: Tree) -> Tree:
    names = [key.removeprefix("feat_") for key in inputs if key.startswith("feat_")]
    label = torch.tensor(inputs["label"])
    flat = {
        f"{what}_{name}": torch.tensor(inputs[f"{what}_{name}"]).requires_grad_()
        for what in ("feat", "std")
        for name in names
    }
    maps, stds = (
        {name: flat[f"{what}_{name}"].unflatten(0, (len(label), -1)) for name in names} for what in ("feat", "std")
    )
    kind = inputs["fusion"]
    parameters = inputs["fusion_params"]
    widths = [maps[name].shape[2] for name in names]
    method = build(names, len(label), widths, class_count(kind, parameters), inputs, hyper)
    set_to(method.fusion, {ours: parameters[theirs] for ours, theirs in fused_layers(kind, parameters).items()})
    estimated = {
        "w1": "hidden.weight",
        "b1": "hidden.bias",
        "w2": "output.weight",
        "b2": "output.bias",
    }
    for name in names:
        set_to(method.estimators[name], {ours: inputs[f"est_{name}"][key] for key, ours in estimated.items()})
    method.train(inputs["training"])
    dynamic = not method.training or method.epoch >= method.dynamic_epoch
    present = torch.ones(len(label), len(names), dtype=torch.bool)
    decision = method.decide(maps, stds, present, dynamic)
    ce = method.spec.task.criterion(decision.logits, label).mean()
    found: Tree = {"logits": decision.logits, "ce_fused": ce}
    leaves = flat | {
        f"est_{name}/{key}": dict(method.estimators[name].named_parameters())[ours]
        for name in names
        for key, ours in estimated.items()
    }
    gradients = torch.autograd.grad(ce, list(leaves.values()), allow_unused=True)
    for (key, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        found[f"grad_{key}"] = torch.zeros_like(leaf) if gradient is None else gradient
    for m, name in enumerate(names):
        found[f"pooled_{name}"] = decision.features[name]
        found[f"level_{name}"] = (decision.log_uncertainty[:, [m]] / 2).exp()
        found[f"weight_{name}"] = decision.weights[:, [m]]
        found[f"logits_{name}_only"] = decision.unimodal[m]
    return found


def layout(method: AtEpoch, fused: dict[str, str]) -> dict[str, tuple[str, slice | None]]:
    """Each of their parameters as ours, or as a part of ours along the first axis."""
    every: dict[str, tuple[str, slice | None]] = {
        f"fusion.{theirs}": (f"fusion.{ours}", None) for ours, theirs in fused.items()
    }
    for name in method.spec.names:
        for theirs, ours in (("0", "hidden"), ("2", "output")):
            for part in ("weight", "bias"):
                every[f"est_{name}.{theirs}.{part}"] = (f"estimators.{name}.{ours}.{part}", None)
        width = method.gaussians[name].convolution.out_channels // 2
        for half, where in (("mu", slice(width)), ("logvar", slice(width, None))):
            for part in ("weight", "bias"):
                every[f"{name}.{half}.0.{part}"] = (f"gaussians.{name}.convolution.{part}", where)
            for part in ("weight", "bias", "running_mean", "running_var"):
                every[f"{name}.{half}.1.{part}"] = (f"gaussians.{name}.norm.{part}", where)
    return every


def steps(inputs: Tree, hyper: Tree, outputs: Tree) -> Tree:
    names = [key.removeprefix("eps_") for key in inputs if key.startswith("eps_")]
    parameters = inputs["params"]
    label = torch.tensor(inputs["label"])
    widths = [len(parameters[f"{name}.mu.0.bias"]) for name in names]
    kind = inputs.get("fusion", "concat")
    head = {key.removeprefix("fusion."): value for key, value in parameters.items() if key.startswith("fusion.")}
    method = build(names, label.numel(), widths, class_count(kind, head), inputs, hyper)
    for name, width in zip(names, widths, strict=True):
        _, channels, *_ = torch.tensor(parameters[f"{name}.mu.0.weight"]).shape
        method.gaussians[name].convolution = nn.Conv2d(channels, 2 * width, kernel_size=1, dtype=torch.float64)
    places = layout(method, fused_layers(kind, head))
    own = dict(method.named_parameters()) | dict(method.named_buffers())
    with torch.no_grad():
        for theirs, (ours, where) in places.items():
            target = own[ours] if where is None else own[ours][where]
            target.copy_(torch.tensor(parameters[theirs]).view_as(target))
    levels = torch.stack([torch.tensor(inputs[f"noise_{name}"]).flatten() for name in names], dim=1)
    method.levels.copy_(levels)
    if method.epoch < method.noise_epoch:
        assert (levels == CLEAN).all()
    optimizer = torch.optim.SGD(
        method.parameters(), hyper["lr"], momentum=hyper["momentum"], weight_decay=hyper["weight_decay"]
    )
    seen: list[Tree] = []
    size = label.shape[1]
    decide = method.decide
    decisions = []
    method.decide = lambda *given: decisions.append(decide(*given)) or decisions[-1]  # type: ignore[method-assign]
    means, stds = {}, {}
    for step, target in enumerate(label):
        streams = {name: torch.tensor(inputs[STREAMS.get(name, name)][step]) for name in names}
        streams = {name: each[:, None] if each.dim() == 3 else each for name, each in streams.items()}
        present = torch.ones(size, len(names), dtype=torch.bool)
        index = torch.arange(step * size, (step + 1) * size)
        batch = Batch(streams, target, present, index)
        method.eps = {name: torch.tensor(inputs[f"eps_{name}"][step]) for name in names}
        running = {name: buffer.clone() for name, buffer in method.named_buffers() if "running" in name}
        means, stds = method.represent(batch.inputs, present)
        for name, before in running.items():  # that look was no step
            own[name].copy_(before)
        losses = method.losses(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        raw = {name: parameter.grad.clone() for name, parameter in method.named_parameters()}
        norm = nn.utils.clip_grad_norm_(method.parameters(), hyper["clip_norm"])
        optimizer.step()
        found = losses | {f"mu_{n}": means[n] for n in names} | {f"std_{n}": stds[n] for n in names}
        seen.append(found | {"norm": norm, "raw": raw, "decision": decisions[-1], "reliance": method.reliance.clone()})
        seen[-1]["eps"] = method.eps
    first, decision = seen[0], seen[0]["decision"]
    found = {
        "first_batch/logits": decision.logits,
        "first_batch/ce_fused": first["ce_fused"],
        "first_batch/noise_mse": first["level"],
        "first_batch/total": first["loss"],
        "first_batch/grad_norm_before_clip": first["norm"],
        "after_loop/mean_total_loss": mean_of(seen, "loss"),
        "after_loop/mean_ce_fused": mean_of(seen, "ce_fused"),
        "after_loop/mean_noise_mse": mean_of(seen, "level"),
    }
    expected = outputs.get("first_batch", {})
    for m, name in enumerate(names):
        alone = not isinstance(expected.get(f"weight_{name}"), list)
        mean, std = first[f"mu_{name}"], first[f"std_{name}"]
        found |= {
            f"first_batch/logits_{name}_only": decision.unimodal[m],
            f"first_batch/level_{name}": (decision.log_uncertainty[:, [m]] / 2).exp(),
            f"first_batch/weight_{name}": decision.weights[0, m] if alone else decision.weights[:, [m]],
            f"first_batch/mu_{name}": mean.flatten(0, 1),
            f"first_batch/std_{name}": std.flatten(0, 1),
            f"first_batch/sampled_{name}": (mean + std * first["eps"][name].view_as(mean)).flatten(0, 1),
            f"first_batch/ce_{name}": first[f"ce_{name}"],
            f"first_batch/kl_{name}": first[f"kl_{name}"],
            f"first_batch/new_dep_{name}": first["reliance"][m],
            f"after_loop/dep_{name}": method.reliance[m],
            f"after_loop/mean_ce_{name}": mean_of(seen, f"ce_{name}"),
            f"after_loop/mean_kl_{name}": mean_of(seen, f"kl_{name}"),
        }
    for theirs, (ours, where) in places.items():
        shape = torch.tensor(parameters[theirs]).shape
        now = own[ours] if where is None else own[ours][where]
        found[f"after_loop/params/{theirs}"] = now.detach().view(shape)
        if ours in first["raw"]:
            gradient = first["raw"][ours] if where is None else first["raw"][ours][where]
            found[f"first_batch/grad_raw/{theirs}"] = gradient.view(shape)
    return found


def mean_of(seen: list[Tree], key: str) -> Tensor:
    return torch.stack([each[key].detach() for each in seen]).mean()
