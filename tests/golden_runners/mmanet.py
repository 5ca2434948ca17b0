"""What MMANet's reference numbers mean: distillation, regularisation and mining, and the metrics and data beside them.

What a case is about shows in its inputs; lists of rates have none and are told by their names and the file's settings.
In files, a label of 0 means that a pixel has none, and classes count from 1. Values that the released code gets by a
slip are reproduced by the option for them, and its nan, which no option gives, from the entropy as it takes it.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmlab.availability import combination_name
from mmlab.data.aligned import normalised_depth
from mmlab.data.cityscapes import FARTHEST, depth_from_disparity, without_far
from mmlab.data.class_weights import median_frequency_weights
from mmlab.losses.mad import dense_mad, entropy, mad, margin_weights, row_gaps, similarities
from mmlab.losses.pixel_cross_entropy import pixel_cross_entropy
from mmlab.losses.weak_combinations import class_counts, decision_distances, frequencies, overlap_distances, weak_set
from mmlab.methods.mmanet import MMANet
from mmlab.methods.schedules import WarmupSteps
from mmlab.metrics.antispoofing import LIVE
from mmlab.metrics.intersection_over_union import IntersectionOverUnion
from mmlab.networks.base import Decision, Features
from mmlab.types import AntiSpoofing, Classification, DataSpec, Modality, Segmentation

Tree = dict[str, Any]
VOID = 255


def run(document: Tree, case: str) -> Tree:
    inputs, hyper = document["inputs"].get(case), document["hyper"]
    if inputs is None:
        return {"": rates(case, len(document["outputs"][case]), hyper)}
    if "feat_student" in inputs:
        return distillation(inputs)
    if "aux_logits" in inputs:
        return regularisation(inputs)
    if "predicted_labels_by_epoch" in inputs:
        return mining(inputs)
    if "miou_by_epoch" in inputs:
        return ranking(inputs)
    if "prediction_0based" in inputs:
        return overlap(inputs)
    if "label_maps_with_void0" in inputs:
        return class_weights(inputs)
    if "logits_by_scale" in inputs:
        return weighted_cross_entropy(inputs)
    if "disparity_uint16" in inputs:
        return cityscapes_depth(inputs, hyper)
    if "depth_mm" in inputs:
        return nyuv2_depth(inputs, hyper)
    if "live_right" in inputs or "label" in inputs:
        return spoofing(inputs)
    raise ValueError(f"not a kind of case that is known: its inputs are {', '.join(inputs)}")


def distillation(inputs: Tree) -> Tree:
    student = torch.tensor(inputs["feat_student"]).requires_grad_()
    teacher, logits = torch.tensor(inputs["feat_teacher"]), torch.tensor(inputs["logits_teacher"])
    uncertainty = entropy(logits)
    weights = margin_weights(uncertainty)
    p = logits.softmax(dim=1)
    released = margin_weights(-(p * p.log()).sum(dim=1))
    column, row = mad(student, teacher, released, "column"), mad(student, teacher, weights, "row")
    rows, others, half = student.flatten(1), teacher.flatten(1), len(student) // 2
    first, second = (
        (weights * row_gaps(rows, others, columns)).sum() for columns in (slice(0, half), slice(half, len(rows)))
    )
    dense = dense_mad(rows, others, weights)
    of_column, of_row, of_dense = (
        torch.autograd.grad(loss, student, retain_graph=True)[0] for loss in (column, row, dense)
    )
    return {
        "gram_student_rownorm": similarities(student),
        "gram_teacher_rownorm": similarities(teacher),
        "entropy_teacher": uncertainty,
        "weights": weights,
        "loss_official_column_weighted": column,
        "grad_feat_student_official": of_column,
        "loss_row_weighted": row,
        "grad_feat_student_row": of_row,
        "loss_safe_column_weighted": mad(student, teacher, weights, "column"),
        "loss_official_two_chunks": dense,
        "loss_chunk_first": first,
        "loss_chunk_second": second,
        "grad_feat_student": of_dense,
        "loss_unsplit_row_weighted": dense_mad(rows, others, weights, blocks=1),
    }


class Given(nn.Module):
    """In place of the second head: what it decided."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, fused: Features, hidden: Features) -> Decision:
        return Decision(self.logits)


def regularisation(inputs: Tree) -> Tree:
    logits = torch.tensor(inputs["aux_logits"]).requires_grad_()
    target, available = torch.tensor(inputs["target"]), torch.tensor(inputs["mask"]).bool()
    names = [f"m{m}" for m in range(available.shape[1])]
    classes = Classification(tuple(map(str, range(logits.shape[1]))))
    modalities = tuple(Modality(name, "image", (1, 2, 2)) for name in names)
    spec = DataSpec("Golden", modalities, classes, train_size=len(target)).to_dict()
    weak = [combination_name(names, each) for each in inputs["weak_combinations"]]
    unused = Features(torch.zeros(0))

    def loss(combinations: list[str], reduction: Any = "intended") -> tuple[Tensor, Tensor]:
        method = MMANet(spec, weak=combinations, mar_reduction=reduction, backbone="backbones.identity.Identity")
        method.second = Given(logits)
        members = method.is_weak(available)
        return method.regularisation(unused, unused, target, members), members.sum()

    each = [loss([name]) for name in weak]
    total, _ = loss(weak)
    return {
        "ce_per_sample": classes.criterion(logits, target),
        "per_combination": torch.stack([part for part, _ in each]),
        "loss": total,
        "grad_aux_logits": torch.autograd.grad(total, logits)[0],
        "matches": torch.stack([matches for _, matches in each]),
        "defective_official_outer_product_value_do_not_reproduce": loss(weak, "official_outer")[0],
    }


def chosen(distances: Tensor, candidates_then_full: list[list[int]]) -> Tree:
    """The weak combinations, the larger ones first."""
    candidates = [tuple(bool(has) for has in each) for each in candidates_then_full[:-1]]
    weak = sorted(weak_set(distances, candidates), key=sum, reverse=True)
    index = candidates.index(weak[0])
    return {"weakest_index": index, "weak_combinations": torch.tensor(weak).long()}


def mining(inputs: Tree) -> Tree:
    decided, classes = torch.tensor(inputs["predicted_labels_by_epoch"]), inputs["n_class"]
    counts = torch.stack([torch.stack([class_counts(each, classes) for each in epoch]) for epoch in decided])
    distances = torch.stack([decision_distances(epoch[:-1], epoch[-1]) for epoch in counts])
    total = distances.sum(dim=0)
    return {
        "histograms_by_epoch": frequencies(counts),
        "distance_by_epoch": distances,
        "accumulated_distance": total,
        **chosen(total, inputs["candidates_then_full"]),
    }


def ranking(inputs: Tree) -> Tree:
    epochs = torch.tensor(inputs["miou_by_epoch"])
    gaps = torch.stack([overlap_distances(epoch[:-1], epoch[-1]) for epoch in epochs])
    total = gaps.sum(dim=0)
    return {"gap_by_epoch": gaps, "accumulated": total, **chosen(total, inputs["candidates_then_full"])}


def spoofing(inputs: Tree) -> Tree:
    task = AntiSpoofing()
    if "label" in inputs:
        target = torch.tensor(inputs["label"])
        decided = task.decision(torch.tensor(inputs["logits"])) if "logits" in inputs else torch.tensor(inputs["pred"])
    else:
        kinds = {"live_right": (1, 1), "live_wrong": (1, 0), "spoof_right": (0, 0), "spoof_wrong": (0, 1)}
        pairs = torch.cat([torch.tensor([pair]).expand(inputs[kind], 2) for kind, pair in kinds.items()])
        target, decided = pairs.unbind(dim=1)
    metrics = task.metrics()
    metrics.update(decided, target)
    values = metrics.compute()
    errors = metrics["errors"]
    right = errors.total - errors.wrong
    return {
        "live_right": right[LIVE],
        "live_wrong": errors.wrong[LIVE],
        "spoof_right": right[1 - LIVE],
        "spoof_wrong": errors.wrong[1 - LIVE],
        "accuracy": values["acc"],
        **{key: values[key] for key in ("apcer", "bpcer", "acer")},
    }


def from_one(labels: list[Any]) -> Tensor:
    """Classes from 0, and our own label of pixels without one."""
    given = torch.tensor(labels).long()
    return torch.where(given == 0, VOID, given - 1)


def overlap(inputs: Tree) -> Tree:
    names = [f"c{c}" for c in range(inputs["n_classes"])]
    metric = IntersectionOverUnion(names, VOID)
    metric.update(torch.tensor(inputs["prediction_0based"])[None], from_one(inputs["label_with_void0"])[None])
    values = metric.compute()
    return {
        "confusion_rows_gt": metric.confusion,
        # What has no pixel has no IoU; the file counts it as 0.
        "iou": torch.stack([values[f"iou_{name}"] for name in names]).nan_to_num(0.0),
        "miou_official_absent_as_zero": values["miou_all"],
        "miou_over_present_classes": values["miou"],
        "pixel_acc": values["acc"],
    }


def class_weights(inputs: Tree) -> Tree:
    maps, classes = [from_one(labels) for labels in inputs["label_maps_with_void0"]], inputs["n_classes"]
    pixels = [sum(int((labels == c).sum()) for labels in maps) for c in range(classes)]
    around = [sum(labels.numel() for labels in maps if (labels == c).any()) for c in range(classes)]
    frequency, share = torch.tensor(pixels) / torch.tensor(around), torch.tensor(pixels) / sum(pixels)
    return {
        "frequency": frequency,
        "median_frequency_weights": median_frequency_weights([labels.numpy() for labels in maps], classes, VOID),
        "logarithmic_c1_02": 1 / (1.02 + share).log(),  # of no use here, and so by its formula
    }


def weighted_cross_entropy(inputs: Tree) -> Tree:
    weights = tuple(inputs["class_weights"])
    task = Segmentation(tuple(map(str, range(len(weights)))), VOID, weights)
    scales = [torch.tensor(logits).requires_grad_() for logits in inputs["logits_by_scale"]]
    targets = [from_one(labels) for labels in inputs["targets_with_void0_by_scale"]]
    losses = torch.stack(
        [pixel_cross_entropy(logits, target, task) for logits, target in zip(scales, targets, strict=True)]
    )
    gradients = torch.autograd.grad(losses.sum(), scales)
    found = {f"grad_logits_scale{scale}": gradient for scale, gradient in enumerate(gradients)}
    return {"loss_by_scale": losses, "total": losses.sum(), **found}


def cityscapes_depth(inputs: Tree, hyper: Tree) -> Tree:
    assert hyper["cityscapes_depth_cap"] == FARTHEST
    stored = depth_from_disparity(np.array(inputs["disparity_uint16"], np.uint16), inputs["baseline"], inputs["fx"])
    loaded = torch.from_numpy(without_far(stored)).double()
    scale = hyper["cityscapes_depth_mean"], hyper["cityscapes_depth_std"]
    return {
        "depth_float16": torch.from_numpy(stored),
        "depth_loaded": loaded,
        "depth_normalised_raw_mode": normalised_depth(loaded, *scale, keep_invalid=True),
    }


def nyuv2_depth(inputs: Tree, hyper: Tree) -> Tree:
    depth, scale = torch.tensor(inputs["depth_mm"]).double(), (hyper["nyuv2_depth_mean"], hyper["nyuv2_depth_std"])
    return {
        "refined_mode": normalised_depth(depth, *scale, keep_invalid=False),
        "raw_mode": normalised_depth(depth, *scale, keep_invalid=True),
    }


def rates(name: str, epochs: int, hyper: Tree) -> Tensor:
    weight = [nn.Parameter(torch.zeros(1))]
    key = "momentum" if "momentum" in name else "lr"
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    if name.startswith("face"):
        optimizer = torch.optim.SGD(weight, lr=hyper["face_base_lr"], momentum=0.9)
        schedule = WarmupSteps(optimizer, hyper["face_epochs"], official=True)
    elif name.startswith("onecycle"):
        optimizer = torch.optim.SGD(weight, lr=hyper["onecycle_max_lr"], momentum=0.9)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            hyper["onecycle_max_lr"],
            total_steps=hyper["onecycle_epochs"],
            div_factor=hyper["onecycle_div"],
            final_div_factor=hyper["onecycle_final_div"],
            pct_start=hyper["onecycle_pct"],
        )
    else:
        raise ValueError(f"not a list of rates that is known: {name}")
    seen = []
    for epoch in range(epochs):
        if epoch:
            optimizer.step()
            schedule.step()
        seen.append(optimizer.param_groups[0][key])
    return torch.tensor(seen)
