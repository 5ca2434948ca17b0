"""What Self-MI's reference numbers mean: CPC, label generation step by step, the network, the composed objective, and
the metrics, which the runner of sentiment metrics knows.

What a case is about shows in its inputs. Modalities are told by the names ``feature_<m>`` or ``head_<m>_1_weight``, in
this order; the first letter of one stands for it, and M for all together. A modality without an LSTM comes encoded, as
``<m>_cls``. A composed objective without a network of its own is that of the case whose sizes are its own.
"""

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlab.backbones.sequences import LSTM, FirstStep
from mmlab.fusion.branches import Branch
from mmlab.losses.cpc import cpc
from mmlab.losses.unimodal_labels import label_weights
from mmlab.methods.generated_labels import GeneratedLabels
from mmlab.methods.self_labelled import Decision
from mmlab.methods.self_mi import FUSION, SelfMI
from mmlab.methods.self_mm import SelfMM
from mmlab.types import Batch, DataSpec, Modality, Sentiment
from tests.golden_runners import sentiment_metrics
from tests.golden_runners.sentiment_metrics import part

Tree = dict[str, Any]


def run(document: Tree, case: str) -> Tree:
    if sentiment_metrics.has_metrics(document, case):
        return sentiment_metrics.run(document, case)
    inputs, outputs, hyper = flat(document["inputs"], case), flat(document["outputs"], case), document["hyper"]
    hyper = hyper.get(case, hyper)
    if "step0/epoch" in inputs:
        return generation(case, inputs, hyper)
    if {"x", "y", "weight", "bias"} <= inputs.keys():
        return contrast(inputs)
    if "label_M" in inputs:
        return objective(inputs, outputs, hyper, [flat(document["inputs"], other) for other in cases(document)])
    if "head_fusion_1_weight" in inputs:
        return network(inputs, outputs)
    raise ValueError(f"not a kind of case that is known: its inputs are {', '.join(inputs)}")


def cases(document: Tree) -> list[str]:
    return list(dict.fromkeys(key.partition("/")[0] for key in document["inputs"]))


def flat(section: Tree, case: str) -> Tree:
    """A case's entries, those within entries under names that are joined by slashes."""

    def opened(name: str, value: Any) -> Tree:
        if not isinstance(value, dict):
            return {name: value}
        return {key: each for inner in value for key, each in opened(f"{name}/{inner}", value[inner]).items()}

    return {key: each for name, value in part(section, case).items() for key, each in opened(name, value).items()}


def contrast(inputs: Tree) -> Tree:
    x, y, weight, bias = leaves = [torch.tensor(inputs[name]).requires_grad_() for name in ("x", "y", "weight", "bias")]
    prediction = F.linear(y, weight, bias)
    loss = cpc(x, prediction)
    gradients = torch.autograd.grad(loss, leaves, retain_graph=True)
    log_batch = torch.tensor(len(x)).double().log()
    return {
        "nce": loss,
        "nce_normalised_over_x": cpc(x, prediction, "target"),
        "mi_lower_bound": log_batch - loss,
        "log_batch": log_batch,
        **{f"grad_{name}": each for name, each in zip(("x", "y", "weight", "bias"), gradients, strict=True)},
    }


def initials(given: list[str], names: list[str]) -> list[str]:
    """What each modality is called for short: by its first letters, or in the order given."""
    own = [letters for letters in given if letters != "M"]
    fitting = [[letters for letters in own if name.upper().startswith(letters.upper())] for name in names]
    if all(len(each) == 1 for each in fitting):
        return [each[0] for each in fitting]
    assert len(own) == len(names), f"{own} are not the short names of {names}"
    return own


def short_names(keys: Any, prefix: str, names: list[str]) -> list[str]:
    return initials([key.removeprefix(prefix) for key in keys if key.startswith(prefix)], names)


def spec_of(modalities: list[Modality], samples: int) -> Tree:
    return DataSpec("Golden", tuple(modalities), Sentiment(-3.0, 3.0), train_size=samples).to_dict()


class AtEpoch(SelfMM):
    """In an epoch, counted from 0, without a Trainer."""

    epoch = 0

    @property
    def current_epoch(self) -> int:
        return self.epoch


def generation(case: str, inputs: Tree, hyper: Tree) -> Tree:
    start = "step0/feature_"
    names = [key.removeprefix(start) for key in inputs if key.startswith(start) and key != f"{start}{FUSION}"]
    targets = torch.tensor(inputs["labels"])
    width = {name: len(inputs[f"{start}{name}"][0]) for name in (FUSION, *names)}
    method = AtEpoch(
        spec_of([Modality(name, "vector", (1,)) for name in names], len(targets)),
        exclude_zero=case not in named_in(hyper["positive_class"], r">= ?0 in cases? ([\w, ]+)"),
        backbone="first_step",
    )
    bound = float(hyper["H"]) if not isinstance(hyper["H"], str) else bound_of(case, hyper["H"])
    method.labels = GeneratedLabels(len(targets), list(width.values()), bound, method.labels.exclude_zero)
    method.labels.begin(targets, torch.ones(len(targets), len(names), dtype=torch.bool))
    found: Tree = {}
    step = 0
    while f"step{step}/epoch" in inputs:
        prefix = f"step{step}/"
        own = {key.removeprefix(prefix): value for key, value in inputs.items() if key.startswith(prefix)}
        found |= {f"{prefix}{key}": value for key, value in one_step(method, targets, own, names, width).items()}
        step += 1
    return found


def named_in(text: str, pattern: str) -> list[str]:
    """The cases that a sentence names after what the pattern says."""
    return [word for match in re.findall(pattern, text) for word in re.findall(r"\w+", match)]


def bound_of(case: str, text: str) -> float:
    """From ``3.0 (cases a, b), 1.0 (c)``."""
    by_case = {
        name: float(number)
        for number, named in re.findall(r"([\d.]+) ?\(([^)]*)\)", text)
        for name in re.findall(r"\w+", named)
    }
    return by_case[case]


def one_step(method: AtEpoch, targets: Tensor, inputs: Tree, names: list[str], width: dict[str, int]) -> Tree:
    method.epoch = inputs["epoch"] - 1
    short = short_names(inputs, "pred_", names)
    index = torch.tensor(inputs["sample_index"])
    predictions = [torch.tensor(inputs[f"pred_{letter}"]).requires_grad_() for letter in ("M", *short)]
    representations = [torch.tensor(inputs[f"feature_{name}"]) for name in (FUSION, *names)]
    decision = Decision({}, representations, predictions[0], dict(zip(names, predictions[1:], strict=True)))
    present = torch.ones(len(index), len(names), dtype=torch.bool)
    batch = Batch({}, targets[index], present, index)
    weights = label_weights(method.labels.of(index), batch.target)
    losses = method.multitask(decision, batch)
    gradients = torch.autograd.grad(losses["loss"], predictions)
    method.relabel(decision, batch)
    found: Tree = {"loss_M": losses["l1"], "loss_sum": losses["loss"], "grad_pred_M": gradients[0]}
    for m, (name, letter) in enumerate(zip(names, short, strict=True)):
        found |= {
            f"loss_{letter}": losses[f"l1_{name}"],
            f"weight_{letter}": weights[m],
            f"grad_pred_{letter}": gradients[m + 1],
            f"labels_after_{name}": method.labels.unimodal[m].clone(),
        }
    for name, both in zip(width, method.labels.centres.clone().split(list(width.values()), dim=1), strict=True):
        found |= {f"center_after_{name}_pos": both[0], f"center_after_{name}_neg": both[1]}
    return found


def modalities_of(inputs: Tree) -> list[str]:
    keys = re.findall(r"head_(\w+)_1_weight", " ".join(inputs))
    return [name for name in keys if name != FUSION]


def layer(inputs: Tree, name: str) -> nn.Linear:
    weight, bias = torch.tensor(inputs[f"{name}_weight"]), torch.tensor(inputs[f"{name}_bias"])
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight, "bias": bias})
    return linear


def branch(inputs: Tree, name: str) -> Branch:
    first, second, third = (layer(inputs, f"head_{name}_{number}") for number in (1, 2, 3))
    own = Branch(first.in_features, first.out_features, 0.0)
    own.representation, own.hidden, own.output = first, second, third
    return own


def batch_of(inputs: Tree, names: list[str]) -> Batch:
    found = {}
    for name in names:
        if f"{name}_cls" in inputs:
            found[name] = torch.tensor(inputs[f"{name}_cls"])
            continue
        values, lengths = torch.tensor(inputs[name]), torch.tensor(inputs[f"{name}_lengths"])
        mask = torch.arange(values.shape[1]) < lengths.clamp(min=1)[:, None]  # as the data sets do
        found[name] = torch.cat([values * mask[..., None], mask[..., None].to(values.dtype)], dim=2)
    count = len(found[names[0]])
    present = torch.ones(count, len(names), dtype=torch.bool)
    return Batch(found, torch.zeros(count), present, torch.arange(count))


def build(inputs: Tree, **options: Any) -> SelfMI:
    names = modalities_of(inputs)
    batch = batch_of(inputs, names)
    modalities = [
        Modality(name, "sequence" if tensor.dim() == 3 else "vector", tuple(tensor.shape[1:]), ragged=tensor.dim() == 3)
        for name, tensor in batch.inputs.items()
    ]
    method = SelfMI(spec_of(modalities, len(batch)), backbone="first_step", **options)
    for modality in modalities:
        name = modality.name
        if modality.ragged:
            hidden, out = len(inputs[f"{name}_lstm_weight_hh"][0]), layer(inputs, f"{name}_out")
            encoder = LSTM(modality, hidden, out.out_features)
            encoder.linear = out
            encoder.lstm.load_state_dict(
                {
                    f"{part}_l0": torch.tensor(inputs[f"{name}_lstm_{part}"])
                    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
                }
            )
        else:
            encoder = FirstStep(modality)
        method.encoders[name] = encoder
        method.branches[name] = branch(inputs, name)
    method.fused = branch(inputs, FUSION)
    sizes = [method.fused.width, *(own.width for own in method.branches.values())]
    method.labels = GeneratedLabels(len(batch), sizes, 3.0, True)
    return method.eval()


def network(inputs: Tree, outputs: Tree) -> Tree:
    method = build(inputs)
    names = modalities_of(inputs)
    batch = batch_of(inputs, names)
    decision = method.decide(batch.inputs, batch.present)
    prediction = method(batch.inputs, batch.present)
    torch.testing.assert_close(prediction.logits, decision.logits, rtol=0, atol=0)
    found: Tree = {"pred_M": prediction.logits, f"feature_{FUSION}": decision.representations[0]}
    for name, representation in zip(names, decision.representations[1:], strict=True):
        found |= {f"encoder_{name}": prediction.features[name], f"feature_{name}": representation}
    for name, letter in zip(names, short_names(outputs, "pred_", names), strict=True):
        found[f"pred_{letter}"] = prediction.unimodal[name]
    return found


def objective(inputs: Tree, outputs: Tree, hyper: Tree, others: list[Tree]) -> Tree:
    target = torch.tensor(inputs["label_M"])
    fitting = [other for other in (inputs, *others) if fits(other, inputs)]
    assert fitting, "no case has a network of these sizes"
    inputs = fitting[0] | inputs
    names = modalities_of(inputs)
    short = dict(zip(names, short_names(inputs, "label_", names), strict=True))
    batch = batch_of(inputs, names)
    batch.target = target
    found: Tree = {}
    for key in ("loss_total_without_mi", *(key for key in outputs if key.startswith("loss_total_pairs_"))):
        wanted = key.removeprefix("loss_total_pairs_").split("_") if "pairs" in key else None
        options: Tree = {"use_mi": wanted is not None, "pairs": "default"}
        method = build(inputs, alpha=hyper["alpha_fusion_cpc"], beta=hyper["beta_pair_cpc"], **options)
        if wanted is not None and {short[a] + short[b] for a, b in method.terms if a != FUSION} != set(wanted):
            options["pairs"] = "all"
            method = build(inputs, alpha=hyper["alpha_fusion_cpc"], beta=hyper["beta_pair_cpc"], **options)
            assert {short[a] + short[b] for a, b in method.terms if a != FUSION} == set(wanted)
        method.labels.multimodal.copy_(target)
        for m, letter in enumerate(short.values()):
            method.labels.unimodal[m] = torch.tensor(inputs[f"label_{letter}"])
        theirs = {}
        for given, predicted in method.terms:
            of = f"fusion_{short[predicted]}" if given == FUSION else f"pair_{short[given]}{short[predicted]}"
            theirs[f"cpc_{given}_{predicted}"] = f"nce_{of}"
            method.predictors[f"{given}_{predicted}"] = layer(inputs, f"cpc_{of}")
        losses = method.losses(batch)
        found |= {key: losses["loss"], "loss_M": losses["l1"]}
        found |= {f"loss_{letter}": losses[f"l1_{name}"] for name, letter in short.items()}
        found |= {name: losses[ours] for ours, name in theirs.items()}
    return found


def fits(network: Tree, inputs: Tree) -> bool:
    """Whether a case has a network, for as many samples, whose encoders are as wide as what CPC predicts."""
    if "head_fusion_1_weight" not in network:
        return False
    names = modalities_of(network)
    batch = batch_of(network, names)
    if len(batch) != len(inputs["label_M"]):
        return False
    letters = short_names(inputs, "label_", names)
    return all(
        len(network[f"head_{name}_1_weight"][0]) == len(inputs[f"cpc_fusion_{letter}_weight"])
        for name, letter in zip(names, letters, strict=True)
    )
