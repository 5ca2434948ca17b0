"""Margins of late fusion: how far a decision is from another one, in logits and in the space of features or inputs.

With logits z^m of each modality, fusion weights w^m, fused logits f = sum_m w^m z^m, target y and competitor j, the
strongest other class in f:

    UCoM     xi^m = z^m_y - z^m_j
    radius   R = sum_m w^m xi^m / sqrt(sum_m (w^m tau^m)^2)

R bounds from below the l2 perturbation of all modalities together that makes the fused decision j instead of y, where
tau^m is the Lipschitz constant of xi^m. It is negative where the sample is taken for j already. Weights count as
constants, also where a method makes them from the sample.

Source: Gong, Gao, Zhu, Hu, Cao, "Multimodal Negative Learning", NeurIPS 2025, Theorem 3.1 for two modalities; no
released code computes it. This project's, as no source states them, are: the sum over more modalities, the two
ways of getting tau^m, and the averages. With linear heads, tau^m = ||W^m_y - W^m_j|| in the space of features is exact,
and so is R. The gradient of xi^m in the space of inputs is a local estimate and certifies nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from mmlab.losses.non_target_guidance import at_class, competitor, confidence_margin
from mmlab.precision import precise
from mmlab.types import Batch, Modality, Prediction

_LEAST = 1e-12  # a denominator is never smaller


def lipschitz(head_weights: Sequence[Tensor], target: Tensor, rival: Tensor) -> Tensor:
    """The Lipschitz constants of the margins of linear heads, in the space of features: ||W^m_y - W^m_j||.

    Args:
        head_weights: (C, D_m) by modality.
        target: (B,) class indices.
        rival: (B,) class indices.

    Returns:
        (M, B), in logits for each unit of the features.
    """
    return torch.stack([(weight[target] - weight[rival]).norm(dim=1) for weight in head_weights])


def robustness_radius(margin: Tensor, tau: Tensor, weights: Tensor) -> Tensor:
    """The bound R of Theorem 3.1: sum_m w^m xi^m / sqrt(sum_m (w^m tau^m)^2), the root 1e-12 at least.

    Args:
        margin: (M, B) or (M, B, C), xi^m.
        tau: of the same shape, Lipschitz constants of the margins.
        weights: (B, M) fusion weights.

    Returns:
        (B,) or (B, C), signed, in the unit of what ``tau`` refers to.
    """
    weights = weights.T.reshape(*weights.T.shape, *[1] * (margin.dim() - 2))
    root = (weights * tau).square().sum(dim=0).sqrt()
    return (weights * margin).sum(dim=0) / root.clamp(min=_LEAST)


def smallest_radius(unimodal: Tensor, head_weights: Sequence[Tensor], target: Tensor, weights: Tensor) -> Tensor:
    """The radius of linear heads, minimised over all classes besides the target.

    For a sample that is classified right, this is the exact l2 distance from its features to the nearest that aren't.

    Args:
        unimodal: (M, B, C) logits.
        head_weights: (C, D_m) by modality.
        target: (B,) class indices.
        weights: (B, M) fusion weights.

    Returns:
        (B,), signed, in units of the features.
    """
    margin = at_class(unimodal, target)[:, :, None] - unimodal
    # Differences, not products: two classes may have almost the same weights.
    tau = torch.stack(
        [torch.cdist(weight[target], weight, compute_mode="donot_use_mm_for_euclid_dist") for weight in head_weights]
    )
    radius = robustness_radius(margin, tau, weights)
    return radius.scatter(1, target[:, None], float("inf")).amin(dim=1)


def local_radius(margin: Tensor, inputs: Sequence[Tensor], weights: Tensor) -> tuple[Tensor, Tensor]:
    """The radius with the slope of each margin at the sample in place of a Lipschitz constant. Not a certificate.

    Args:
        margin: (M, B), xi^m, with a graph to the inputs; each sample depends on its own input only (evaluation mode).
        inputs: (B, ...) by modality, requiring gradients.
        weights: (B, M) fusion weights.

    Returns:
        tau (M, B), the norms of d xi^m / d x_m, and the radius (B,), signed, in units of the inputs.
    """
    tau = torch.stack([_slope(margin[m], each) for m, each in enumerate(inputs)])
    return tau, robustness_radius(margin.detach(), tau, weights.detach())


def _slope(margin: Tensor, inputs: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(margin.sum(), inputs, retain_graph=True)
    return gradient.flatten(1).norm(dim=1)


class _Means(Metric):
    """Means over samples, each over those that it is defined for; summed over all processes.

    Args:
        keys: the means' names.
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    def __init__(self, keys: Sequence[str]) -> None:
        super().__init__()
        self._keys = tuple(keys)
        self.add_state("sums", torch.zeros(len(keys)), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(len(keys), dtype=torch.long), dist_reduce_fx="sum")

    def _add(self, values: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Adds (B,) values and, for each, the (B,) samples that count."""
        value = torch.stack([values[key][0].to(self.sums.dtype) for key in self._keys])
        counted = torch.stack([values[key][1] for key in self._keys])
        self.sums = self.sums + torch.where(counted, value, 0.0).sum(dim=1)
        self.counts = self.counts + counted.sum(dim=1)

    def compute(self) -> dict[str, Tensor]:
        """The means by name; one that no sample counts for is left out."""
        means = self.sums / self.counts
        counts = self.counts.tolist()
        return {key: mean for key, mean, count in zip(self._keys, means, counts, strict=True) if count}


class Margins(_Means):
    """Means of the margins of late fusion and, with linear heads, of the radius in the space of features.

    - ``margin``: f_y - f_j, the fused margin.
    - ``ucom_<modality>``, ``ucom_positive_<modality>``: mean of xi^m, and share of samples where it is above 0.
    - with linear heads ``tau_<modality>``, ``radius_<modality>``: tau^m, and xi^m / tau^m, the bound of m alone;
    - ``radius``, ``radius_clipped``, ``radius_min``: R, max(0, R), and R minimised over all classes besides the target.

    What is of a modality is averaged over the samples that have it.

    Args:
        names: the modalities, in the order of the weights.
        heads: whether each modality's logits are a linear function of its features.
    """

    def __init__(self, names: tuple[str, ...], heads: bool) -> None:
        of_each = ("ucom", "ucom_positive", "tau", "radius") if heads else ("ucom", "ucom_positive")
        of_all = ("margin", "radius", "radius_clipped", "radius_min") if heads else ("margin",)
        super().__init__([*of_all, *(f"{key}_{name}" for key in of_each for name in names)])
        self._names = names
        self._heads = heads

    def update(
        self,
        fused: Tensor,
        unimodal: Tensor,
        weights: Tensor,
        present: Tensor,
        target: Tensor,
        head_weights: Sequence[Tensor] = (),
    ) -> None:
        """Adds a batch, in float32 at least.

        Args:
            fused: (B, C) logits.
            unimodal: (M, B, C) logits.
            weights: (B, M) fusion weights, 0 where a modality is missing.
            present: (B, M) bool.
            target: (B,) class indices.
            head_weights: (C, D_m) by modality, if ``heads``.
        """
        precision = torch.promote_types(unimodal.dtype, torch.float32)
        fused, unimodal, weights = fused.to(precision), unimodal.to(precision), weights.to(precision)
        rival = competitor(fused, target)
        every = torch.ones_like(target, dtype=torch.bool)
        margin = confidence_margin(unimodal, target, rival)
        values = {"margin": (confidence_margin(fused[None], target, rival)[0], every)}
        for m, name in enumerate(self._names):
            values[f"ucom_{name}"] = (margin[m], present[:, m])
            values[f"ucom_positive_{name}"] = (margin[m] > 0, present[:, m])
        if self._heads:
            heads = [weight.to(precision) for weight in head_weights]
            tau = lipschitz(heads, target, rival)
            radius = robustness_radius(margin, tau, weights)
            values["radius"] = (radius, every)
            values["radius_clipped"] = (radius.clamp(min=0), every)
            values["radius_min"] = (smallest_radius(unimodal, heads, target, weights), every)
            for m, name in enumerate(self._names):
                values[f"tau_{name}"] = (tau[m], present[:, m])
                values[f"radius_{name}"] = (margin[m] / tau[m].clamp(min=_LEAST), present[:, m])
        self._add(values)


class LocalMargins(_Means):
    """Means of the slopes of the margins in the space of inputs, and of the radius that they give: an estimate.

    - ``tau_input_local_<modality>``: norm of d xi^m / d x_m at the sample, over the samples that have the modality.
    - ``radius_input_local``: R with these in place of Lipschitz constants; only if every modality has a slope.

    Text is whole numbers and has none.

    Args:
        modalities: the data set's, in the order of the weights.
    """

    def __init__(self, modalities: tuple[Modality, ...]) -> None:
        places = {modality.name: m for m, modality in enumerate(modalities) if modality.kind != "text"}
        fused = len(places) == len(modalities)
        super().__init__([*(["radius_input_local"] if fused else []), *(f"tau_input_local_{name}" for name in places)])
        self._places = places
        self._fused = fused

    def update(self, predict: Callable[[dict[str, Tensor], Tensor], Prediction], batch: Batch) -> None:
        """Adds a batch: one forward pass, and one backward pass for each modality.

        Args:
            predict: a method's ``forward`` in evaluation mode, with ``unimodal`` logits and fusion ``weights``.
            batch: encoder inputs.
        """
        # Evaluation may run in inference mode, whose tensors no gradient can be taken of.
        with torch.inference_mode(False), torch.enable_grad():
            inputs = {name: each.detach().clone() for name, each in batch.inputs.items()}
            sloped = [inputs[name].requires_grad_() for name in self._places]
            present, target = batch.present.clone(), batch.target.clone()
            prediction = predict(inputs, present)
            assert prediction.weights is not None
            unimodal = torch.stack([prediction.unimodal[name] for name in self._places])
            unimodal = precise(unimodal)
            margin = confidence_margin(unimodal, target, competitor(prediction.logits.detach(), target))
            tau, radius = local_radius(margin, sloped, prediction.weights[:, list(self._places.values())])
        values = {
            f"tau_input_local_{name}": (tau[row], present[:, place])
            for row, (name, place) in enumerate(self._places.items())
        }
        if self._fused:
            values["radius_input_local"] = (radius, torch.ones_like(target, dtype=torch.bool))
        self._add(values)
