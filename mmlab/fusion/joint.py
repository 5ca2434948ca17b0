"""Joint fusion: features of all modalities in, one vector of logits out.

Each head takes features (B, D_m) by modality in the data set's order and ``present`` (B, M); where a sample lacks a
modality, its feature counts as zero. The four are those that audio-visual work has compared since Peng et al.,
"Balanced Multimodal Learning via On-the-fly Gradient Modulation" (CVPR 2022), for two modalities of equal width.
Other widths and more modalities are this project's generalisation, as each class says.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmlab.fusion.several import require_several


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
        self.classifier = nn.Linear(sum(widths.values()), outputs)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Logits (B, C)."""
        return self.classifier(torch.cat(known_features(features, present), dim=1))


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
        known = known_features(features, present)
        each = [classifier(feature) for classifier, feature in zip(self.classifiers, known, strict=True)]
        return torch.stack(each).sum(dim=0)


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
