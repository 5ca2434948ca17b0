"""DMRNet's reference numbers: the probabilistic block on vectors and on maps, divergence, hard samples, mining.

What a case is about shows in its inputs. Modalities are told by the names ``feat_<m>``, in this order, or come one
after another in ``features_by_modality``. Training comes first where there are outputs of it; evaluation then uses the
statistics that it left. A key that says ``do_not_reproduce`` holds what the option ``official_outer`` reproduces.
"""

from typing import Any

import torch
from torch import Tensor, nn

from mmlab.availability import every_combination, membership, subsets
from mmlab.losses.hard_combinations import hardest, variance_sums
from mmlab.losses.standard_normal_kl import standard_normal_kl
from mmlab.methods.dmrnet import DMRNet
from mmlab.networks.base import Decision, Features
from mmlab.networks.face import FaceNetwork
from mmlab.networks.probabilistic import ProbabilisticBlock, sample
from mmlab.networks.vector import LinearHead
from mmlab.types import Batch, Classification, DataSpec, Modality

Tree = dict[str, Any]


def run(document: Tree, case: str) -> Tree:
    inputs, hyper, outputs = document["inputs"][case], document["hyper"], document["outputs"][case]
    if "features_by_modality" in inputs or any(key.startswith("feat_") for key in inputs):
        return network(inputs, hyper, outputs)
    if "context_features" in inputs:
        return context(inputs)
    if "hard_combinations" in inputs:
        return hard_samples(inputs, outputs)
    if "candidates" in inputs:
        return mining(inputs)
    if "mu" in inputs:
        return divergence(inputs)
    raise ValueError(f"not a kind of case that is known: its inputs are {', '.join(inputs)}")


class Recorded(DMRNet):
    """With recorded draws and availability, in an epoch without a Trainer."""

    mask: Tensor
    eps: Tensor

    @property
    def current_epoch(self) -> int:
        return 0

    def draws(self, batch: Batch) -> Any:
        return self

    def field(self, name: str, count: int) -> Tensor:
        return self.eps.flatten(1)

    def available(self, batch: Batch) -> Tensor:
        return self.mask


def build(widths: dict[str, int], classes: int, **options: Any) -> Recorded:
    modalities = tuple(Modality(name, "image", (width, 1, 1)) for name, width in widths.items())
    spec = DataSpec("Golden", modalities, Classification(tuple(map(str, range(classes)))), train_size=1)
    return Recorded(spec.to_dict(), backbone="backbones.identity.Identity", **options).double()


def set_block(block: ProbabilisticBlock, parameters: Tree) -> None:
    for theirs, branch in {"mu": block.mean, "logvar": block.log_variance}.items():
        linear = parameters.get(f"{theirs}_conv") or parameters[f"{theirs}_linear"]
        set_to(branch.linear, linear)
        norm = parameters[f"{theirs}_bn"]
        assert (norm["eps"], norm["momentum"]) == (1e-5, 0.1)
        set_to(branch.norm, {key: value for key, value in norm.items() if key not in ("eps", "momentum")})


def set_to(module: nn.Module, values: Tree) -> None:
    own = dict(module.named_parameters()) | dict(module.named_buffers())
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(torch.tensor(value).view_as(own[name]))


def network(inputs: Tree, hyper: Tree, outputs: Tree) -> Tree:
    parameters = inputs["parameters"]
    if "features_by_modality" in inputs:
        given = {str(m): torch.tensor(maps) for m, maps in enumerate(inputs["features_by_modality"])}
    else:
        vectors = {key.removeprefix("feat_"): value for key, value in inputs.items() if key.startswith("feat_")}
        given = {name: torch.tensor(value)[:, :, None, None] for name, value in vectors.items()}
    given = {name: value.requires_grad_() for name, value in given.items()}
    dense = "features_by_modality" in inputs
    widths = {name: value.shape[1] for name, value in given.items()}
    classes = len(parameters["head"]["bias"])
    method = build(widths, classes, kl_weight=hyper.get("alpha_kl", 1e-3))
    if dense:
        width = method.network.width
        method.network = FaceNetwork(method.network.encoders, classes)
        # The maps as they are, in place of the second half of a ResNet.
        method.network.add_module("shared", nn.Identity())
        method.network.head = LinearHead(width, classes)
        method.double()
    set_block(method.block, parameters)
    head = method.network.head
    assert isinstance(head, LinearHead)
    set_to(head.classifier, parameters["head"])
    method.mask, method.eps = torch.tensor(inputs["mask"]).bool(), torch.tensor(inputs["epsilon"])
    target = torch.tensor(inputs["target"])
    batch = Batch(given, target, torch.ones_like(method.mask), torch.arange(len(target)))
    seen: Tree = {}
    method.network.head.register_forward_hook(lambda _, taken, given: seen.update(taken=taken[0], given=given))
    found: Tree = {}
    if "train" in outputs:
        method.block.register_forward_hook(lambda _, taken, given: seen.update(fused=taken[0], gaussian=given))
        losses = method.losses(batch)
        parts = (losses["ce"], losses["kl"], losses["loss"])
        mean, log_variance = seen["gaussian"]
        found["train"] = passed(seen["fused"], mean, log_variance, seen["taken"], seen["given"], parts, given)
        for theirs, branch in {"mu_bn": method.block.mean, "logvar_bn": method.block.log_variance}.items():
            found[f"running_after_train/{theirs}_mean"] = branch.norm.running_mean.clone()
            found[f"running_after_train/{theirs}_var"] = branch.norm.running_var.clone()
        total, count = method.variances
        for number, combination in enumerate(every_combination(len(given))):
            name = "".join(str(int(has)) for has in combination)
            found[f"mean_variance_by_combination/{name}"] = total[number] / count[number]
        found["eval_uses_running_stats_after_the_one_training_pass"] = 1
    method.eval()
    hidden = method.network.trunk(method.network.fuse(method.network.encode(given), method.mask))
    decision = method.decide(hidden)
    mean, log_variance = method.block(hidden.deep, method.gathered)
    ce, kl = method.task_loss(decision, target), standard_normal_kl(mean, log_variance).mean()
    parts = (ce, kl, ce + method.kl_weight * kl)
    found["eval"] = passed(hidden.deep, mean, log_variance, seen["taken"], decision, parts, given)
    flat = {f"{stage}/{key}": value for stage in ("train", "eval") for key, value in found.pop(stage, {}).items()}
    return found | flat


def passed(
    fused: Tensor,
    mean: Tensor,
    log_variance: Tensor,
    taken: Features,
    decision: Decision,
    parts: tuple[Tensor, Tensor, Tensor],
    given: dict[str, Tensor],
) -> Tree:
    """What one pass gives, with the gradients of the whole loss."""
    ce, kl, total = parts
    gradients = torch.autograd.grad(total, list(given.values()))
    return {
        "fused_input": fused,
        "mu": mean,
        "std": (log_variance / 2).exp(),
        "logvar": log_variance,
        "features": taken.deep,
        "logits": decision.logits,
        "kl": kl,
        "kl_per_sample": standard_normal_kl(mean, log_variance),
        "kl_dense_form_mean_over_pixels": standard_normal_kl(mean, log_variance, by_place=True).mean(),
        "cross_entropy": ce,
        "total_ce_plus_0_001_kl": total,
        **{f"grad_{name}": gradient.flatten(1) for name, gradient in zip(given, gradients, strict=True)},
    }


def context(inputs: Tree) -> Tree:
    maps = torch.tensor(inputs["context_features"]).requires_grad_()
    method = build({"first": 1, "second": 1}, 2)
    method.eps = torch.tensor(inputs["epsilon"])
    block = ProbabilisticBlock(maps.shape[1]).double()
    set_block(block, inputs["parameters"])
    mean, log_variance = block(maps, method.gathered)
    kl = standard_normal_kl(mean, log_variance, by_place=True).mean()
    found = {
        "train/mu": mean,
        "train/std": (log_variance / 2).exp(),
        "train/features": sample(mean, log_variance, method),  # type: ignore[arg-type]
        "train/kl_mean_over_pixels": kl,
        "train/kl_classification_form": standard_normal_kl(mean, log_variance).mean(),
        "train/grad_input_of_kl": torch.autograd.grad(kl, maps)[0],
    }
    block.eval()
    mean, log_variance = block(maps, method.gathered)
    return found | {"eval/features": mean, "eval/mu": mean, "eval/std": (log_variance / 2).exp()}


def divergence(inputs: Tree) -> Tree:
    mean = torch.tensor(inputs["mu"]).requires_grad_()
    log_variance = torch.tensor(inputs["logvar"]).requires_grad_()
    each = standard_normal_kl(mean, log_variance)
    of_mean, of_log_variance = torch.autograd.grad(each.mean(), (mean, log_variance))
    return {"kl_per_sample": each, "kl": each.mean(), "grad_mu": of_mean, "grad_logvar": of_log_variance}


def hard_samples(inputs: Tree, outputs: Tree) -> Tree:
    logits = torch.tensor(inputs["logits"]).requires_grad_()
    target, mask = torch.tensor(inputs["target"]), torch.tensor(inputs["mask"]).bool()
    names = [f"m{m}" for m in range(mask.shape[1])]
    chosen = [
        "+".join(name for name, has in zip(names, combination, strict=True) if has)
        for combination in inputs["hard_combinations"]
    ]
    found: Tree = {}
    for reduction in ("intended", "official_outer"):
        method = build(dict.fromkeys(names, 1), logits.shape[1], hard=chosen, hcr_reduction=reduction)
        hard = (membership(mask, method.combinations) & method.hard).any(dim=1)
        loss = method.hard_loss(Features(logits), Decision(logits), target, hard)
        if reduction == "intended":
            found |= {"loss": loss, "grad_logits": torch.autograd.grad(loss, logits)[0], "n_hard": hard.sum()}
            found["ce_per_sample"] = method.spec.task.criterion(logits, target)
        else:
            found |= {key: loss for key in outputs if "do_not_reproduce" in key or "official_outer" in key}
    return found


def mining(inputs: Tree) -> Tree:
    candidates = torch.tensor(inputs["candidates"]).bool()
    sums = torch.zeros(2, len(candidates))
    for variance, mask in zip(inputs["variance_per_sample_by_batch"], inputs["mask_by_batch"], strict=True):
        members = membership(torch.tensor(mask).bool(), candidates)
        sums += variance_sums(torch.tensor(variance)[:, None].log(), members)
    found = hardest(sums, range(len(candidates)))
    assert found is not None
    return {
        "mean_variance": sums[0] / sums[1],
        "count": sums[1].long(),
        "hardest_index": found,
        "hard_combinations": torch.tensor(subsets(tuple(candidates[found].tolist()))).long(),
    }
