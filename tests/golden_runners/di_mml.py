"""What DI-MML's reference numbers mean: the DUC loss, the split of dimensions, the first stage's objective, inference,
and what becomes of raw data on the way to an encoder.

Any number of modalities: features are z<m>, heads head<m>_W and head<m>_b. Dimensions on which t teaches s are
idx<t>_not<s>, or idx<t>_only where there are two.

The released code seeds its generator anew at every access: a video always gives it the same frames and the same place
of a training clip. Ours are drawn afresh in every epoch, so these numbers can't be ours. Of them, only what they have
in common with ours is compared: how many frames, in order, none twice, all within the video; a place from which the
clip fits. Where that holds of both, the reference number itself is handed back.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

import torch
from torch import Tensor, nn

from mmlab.data.ave import RandomFrames
from mmlab.data.clips import repeated
from mmlab.data.image import Normalise, RandomResizedCropFlip
from mmlab.data.spectrogram import DensitySpectrogram, log_power_density, standardised, tukey
from mmlab.data.ucf101 import FLOW_MEAN, FLOW_STD, centre_offset, clip_places
from mmlab.draws import Draws
from mmlab.fusion.late import fuse
from mmlab.losses.duc import class_means, class_sums, duc_loss, effective_dims, nearest_hits, one_sided_dims
from mmlab.methods.di_mml import DIMML, certainty_weights
from mmlab.types import Batch, Classification, DataSpec, Modality


def run(document: dict[str, Any], case: str) -> dict[str, Any]:
    def part(section: str) -> dict[str, Tensor]:
        own = {key: value for key, value in document[section].items() if key.startswith(f"{case}/")}
        return {key.removeprefix(f"{case}/"): torch.tensor(value) for key, value in own.items()}

    inputs, hyper = part("inputs"), document["hyper"].get(case, {})
    if "wave" in inputs:
        return spectrogram(inputs, hyper)
    if "pixel" in inputs:
        return normalised(inputs["pixel"], hyper)
    if "source" in inputs:
        return {"result": repeated(inputs["source"].numpy(), hyper["target"])}
    if "picked" in hyper:
        return {"index": picks(hyper["available"], hyper["picked"], part("outputs")["index"])}
    if "clip_len" in hyper:
        return offsets(hyper["flow_frames"], hyper["clip_len"], part("outputs"))
    if not inputs and not hyper:
        return {name: spectrogram_shape(name) for name in part("outputs")}
    if "logits0" in inputs:
        return weighted(numbered(inputs, "logits"), inputs, hyper["temperature"])
    features = numbered(inputs, "z")
    if not features:
        raise ValueError(f"not a kind of case that is known: its inputs are {', '.join(inputs)}")
    if "fused_W" in inputs:
        return inference(features, inputs, hyper)
    if "head0_W" in inputs:
        return stage1(features, inputs, hyper)
    if "n_classes" in hyper:
        return split(features, inputs["y"], hyper["n_classes"])
    return duc(features, inputs, hyper["temperature"])


def spectrogram(inputs: dict[str, Tensor], hyper: dict[str, Any]) -> dict[str, Any]:
    frames = {"sample_rate": 16000, "window_length": 512, "overlap": 353, "log_floor": 1e-7}
    if any(hyper[name] != value for name, value in frames.items()):
        raise ValueError(f"the spectrogram that we have is made with {frames}, not with {hyper}")
    density = log_power_density(inputs["wave"][None], tukey(512, torch.float64))
    (density,) = standardised(density) if hyper["standardise"] else density
    return {
        "shape": torch.tensor(density.shape),
        "values_rows": density[inputs["rows_listed"].long()],
        "mean": density.mean(),
        "std_population": density.std(correction=0),
    }


def offsets(frames: int, length: int, reference: dict[str, Tensor], clips: int = 3) -> dict[str, Any]:
    """Training's own place is handed back once it and all of ours leave room for a clip."""
    places = torch.from_numpy(clip_places(frames, clips, length))
    assert places.shape == (clips, length)
    assert bool((places.diff(dim=1) == 1).all())
    for start in (reference["train_official"], *places[:, 0]):
        assert 0 <= start <= frames - length
    # What evaluation takes is the middle one of the clips that are stored.
    assert places[clips // 2, 0] == centre_offset(frames, length)
    return {"train_official": reference["train_official"], "test": centre_offset(frames, length)}


def spectrogram_shape(name: str) -> Tensor:
    """Of so many seconds at so many kilohertz, as ``<data set>_<seconds>s_<kilohertz>k`` says."""
    found = re.search(r"_(\d+)s_(\d+)k$", name)
    if found is None:
        raise ValueError(f"{name} says no length")
    return torch.tensor(DensitySpectrogram(int(found[1]) * int(found[2]) * 1000, False).shape[1:])


def normalised(pixel: Tensor, hyper: dict[str, Any]) -> dict[str, Tensor]:
    """Of every channel where the case has means of channels; else of optical flow, which is only centred."""
    if "mean" not in hyper:
        return {"value": Normalise(FLOW_MEAN, FLOW_STD)(pixel[None, None], None)[0, 0]}
    rgb = pixel.expand(1, len(hyper["mean"]), -1)
    return {"value_per_channel": Normalise(tuple(hyper["mean"]), tuple(hyper["std"]))(rgb, None)[0]}


def picks(stored: int, picked: int, reference: Tensor) -> Tensor:
    """The reference itself, once it and ours, drawn and in evaluation, are picks of the same kind."""
    samples = 200
    raw = torch.arange(stored, dtype=torch.uint8).view(1, stored, 1, 1, 1).expand(samples, stored, 3, 4, 4)
    segments = RandomResizedCropFlip(2, (0.0,), (1.0,), frames=picked)
    every = [reference[None]]
    for transform in (segments, RandomFrames(picked, segments)):
        drawn, fixed = (
            transform(raw, draws)[:, 0, :, 0, 0].round().long() for draws in (Draws(0, 0, torch.arange(samples)), None)
        )
        assert len(fixed.unique(dim=0)) == 1
        assert (len(drawn.unique(dim=0)) == 1) == (picked == stored)
        every += [drawn, fixed]
    for each in every:
        assert each.shape[1] == picked
        assert bool((each.diff(dim=1) > 0).all())
        assert bool(((each >= 0) & (each < stored)).all())
    return reference


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
