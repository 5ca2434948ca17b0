"""Joint fusion: features of all modalities in, one vector of logits out.

Each head takes features (B, D_m) by modality in the data set's order and ``present`` (B, M); where a sample lacks a
modality, its feature counts as zero. Concatenation, sum, FiLM and gate are those that audio-visual work has compared
since Peng et al., "Balanced Multimodal Learning via On-the-fly Gradient Modulation" (CVPR 2022), for two modalities of
equal width; MMCosine normalises the first of them. Other widths and more modalities are this project's
generalisation, as each class says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlab.errors import UserError
from mmlab.fusion.several import require_several
from mmlab.precision import precise


def known_features(features: Mapping[str, Tensor], present: Tensor) -> list[Tensor]:
    """The features in order, zero where a sample lacks the modality."""
    columns = present.unbind(dim=1)
    return [feature * has[:, None] for feature, has in zip(features.values(), columns, strict=True)]


class ConcatFusion(nn.Module):
    """Concatenation and one linear layer: ``W [f_1; ...; f_M] + b``, any number of modalities.

    Args:
        widths: each modality's feature width D_m, in the data set's order.
        outputs: C.

    Raises:
        UserError: if there is only one modality.
    """

    def __init__(self, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        require_several(widths)
        self.widths = tuple(widths.values())
        self.classifier = nn.Linear(sum(self.widths), outputs)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Logits (B, C)."""
        return self.classifier(torch.cat(known_features(features, present), dim=1))

    def columns(self) -> tuple[Tensor, ...]:
        """Each modality's weights W_m, (C, D_m), as views."""
        return self.classifier.weight.split(self.widths, dim=1)

    def parts(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """What each modality says: ``W_m f_m + b / n`` with the number n of modalities that the sample has.

        Summed over these, they are the logits. Source: Peng et al., CVPR 2022, for n = M = 2.

        Returns:
            (M, B, C), in the precision of the weights, under autocast too: rounded logits would tie.
        """
        with torch.autocast(present.device.type, enabled=False):
            known = [feature.to(self.classifier.weight.dtype) for feature in known_features(features, present)]
            each = [F.linear(feature, weight) for feature, weight in zip(known, self.columns(), strict=True)]
            return torch.stack(each) + self.classifier.bias / present.sum(dim=1, keepdim=True)


class SumFusion(nn.Module):
    """A linear layer for each modality, summed: ``sum_m (W_m f_m + b_m)``, any number of modalities.

    A missing modality still adds its bias: the sum is then what the others say from a constant.

    Args:
        widths: each modality's feature width D_m, in the data set's order.
        outputs: C.

    Raises:
        UserError: if there is only one modality.
    """

    def __init__(self, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        require_several(widths)
        self.classifiers = nn.ModuleList(nn.Linear(width, outputs) for width in widths.values())

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Logits (B, C)."""
        return self.parts(features, present).sum(dim=0)

    def parts(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """What each modality says, ``W_m f_m + b_m``, (M, B, C); summed, they are the logits."""
        known = known_features(features, present)
        return torch.stack([classifier(feature) for classifier, feature in zip(self.classifiers, known, strict=True)])


class FiLMFusion(nn.Module):
    """Feature-wise linear modulation: the first modality scales and shifts the others.

    ``[gamma_m; beta_m] = V_m f_1 + c_m`` and ``logits = W [gamma_m * f_m + beta_m]_{m > 1} + b``.
    Source: Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", AAAI 2018. With two modalities
    this is the head of the audio-visual comparison. With more (ours), the first one modulates each other by a layer
    of its own, and the results are concatenated.

    Args:
        widths: each modality's feature width D_m, in the data set's order.
        outputs: C.

    Raises:
        UserError: if there is only one modality.
    """

    def __init__(self, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        require_several(widths)
        first, *others = widths.values()
        self.modulations = nn.ModuleList(nn.Linear(first, 2 * width) for width in others)
        self.classifier = nn.Linear(sum(others), outputs)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Logits (B, C)."""
        first, *others = known_features(features, present)
        modulated = []
        for modulation, feature in zip(self.modulations, others, strict=True):
            gamma, beta = modulation(first).chunk(2, dim=1)
            modulated.append(gamma * feature + beta)
        return self.classifier(torch.cat(modulated, dim=1))


class GatedFusion(nn.Module):
    """A sigmoid gate made from the first modality lets the others through.

    ``g = sigmoid(V_1 f_1 + c_1)`` and ``logits = W [g * (V_m f_m + c_m)]_{m > 1} + b``.
    Source: Kiela et al., "Efficient Large-Scale Multi-Modal Classification", AAAI 2018. With two modalities this is
    the head of the audio-visual comparison. With more (ours), the one gate holds for each other modality, and the
    results are concatenated. The gate is as wide as the first modality's feature.

    Args:
        widths: each modality's feature width D_m, in the data set's order.
        outputs: C.

    Raises:
        UserError: if there is only one modality.
    """

    def __init__(self, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__()
        require_several(widths)
        first, *others = widths.values()
        self.gate = nn.Linear(first, first)
        self.projections = nn.ModuleList(nn.Linear(width, first) for width in others)
        self.classifier = nn.Linear(first * len(others), outputs)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Logits (B, C)."""
        first, *others = known_features(features, present)
        gate = self.gate(first).sigmoid()
        gated = [gate * projection(feature) for projection, feature in zip(self.projections, others, strict=True)]
        return self.classifier(torch.cat(gated, dim=1))


class MMCosineFusion(nn.Module):
    """Concatenation with features and weights of each modality normalised: ``s sum_m cos(W_m, f_m)``, without a bias.

    The norms of features and weights, by which one modality may drown the others, are gone: each adds between -s and s.
    Source: Xu et al., "MMCosine: Multi-Modal Cosine Loss Towards Balanced Audio-Visual Fine-Grained Learning",
    ICASSP 2023, for two modalities. A missing modality, and any number of modalities, are ours: it adds 0.

    Args:
        widths: each modality's feature width D_m, in the data set's order.
        outputs: C.
        scale: s; 10 is the released code's.

    Raises:
        UserError: if there is only one modality, or the scale is not above 0.
    """

    def __init__(self, widths: Mapping[str, int], outputs: int, scale: float = 10.0) -> None:
        super().__init__()
        require_several(widths)
        if not (math.isfinite(scale) and scale > 0):
            raise UserError(f"mmcosine can't have scale {scale}: give a number above 0.")
        self.widths = tuple(widths.values())
        self.scale = scale
        self.classifier = nn.Linear(sum(self.widths), outputs, bias=False)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Logits (B, C)."""
        return self.parts(features, present).sum(dim=0)

    def parts(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """What each modality says, ``s cos(W_m, f_m)``, (M, B, C); summed, they are the logits."""
        columns = self.classifier.weight.split(self.widths, dim=1)
        # What a sample lacks is taken away after the division by its norm, whose slope at zero overflows in fp16.
        with torch.autocast(present.device.type, enabled=False):
            units = known_features({name: _unit(feature) for name, feature in features.items()}, present)
            each = [F.linear(unit, _unit(weight)) for unit, weight in zip(units, columns, strict=True)]
            return self.scale * torch.stack(each)


def _unit(rows: Tensor) -> Tensor:
    return F.normalize(precise(rows), dim=1)
