"""Joint fusion whose logits are told apart by modality: what each one contributes to them.

The four heads are those of ERL-MR's released code (Han et al., ACM Multimedia 2024), for two modalities of equal
width. Its FiLM and its gate are mutual, unlike those of :mod:`mmlab.fusion.joint`. More modalities are this project's:
a bias is shared out evenly, and the mutual heads stay with two. A missing modality's feature counts as zero, and its
share is its part of the bias. Unlike the parts of the heads there, shares need not sum to the logits: of a sum, the
released code counts b_m / M only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmlab.errors import UserError
from mmlab.fusion.joint import known_features
from mmlab.fusion.several import require_several


@dataclass
class SharedDecision:
    """What a head says of a batch.

    Attributes:
        logits: (B, C), fused.
        shares: (M, B, C), each modality's own part of them.
        features: (B, D) of each modality, as the last layer takes them.
    """

    logits: Tensor
    shares: Tensor
    features: list[Tensor]


class ConcatShares(nn.Module):
    """``o = W [f_1; ...; f_M] + b``; the share of m is its columns' part and ``b / M``: shares sum to o.

    Args:
        names: the modalities, in the data set's order.
        width: D, of every modality's feature.
        outputs: C.

    Raises:
        UserError: if there is only one modality.
    """

    def __init__(self, names: Sequence[str], width: int, outputs: int) -> None:
        super().__init__()
        require_several(names)
        self.classifier = nn.Linear(len(names) * width, outputs)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> SharedDecision:
        """Decides from the features as they are.

        Args:
            features: (B, D) by modality, in order.
            present: (B, M) bool.
        """
        return self.classify(known_features(features, present))

    def classify(self, features: list[Tensor]) -> SharedDecision:
        """The last layer, with its columns told apart by modality."""
        columns = self.classifier.weight.chunk(len(features), dim=1)
        parts = zip(features, columns, strict=True)
        shares = torch.stack([F.linear(feature, column) for feature, column in parts])
        shares = shares + self.classifier.bias / len(features)
        return SharedDecision(shares.sum(dim=0), shares, features)


class SumShares(nn.Module):
    """``o = sum_m (W_m f_m + b_m)``; the share of m is ``W_m f_m + b_m / M``: shares sum to o less the rest of b.

    Args:
        names: the modalities, in the data set's order.
        width: D, of every modality's feature.
        outputs: C.

    Raises:
        UserError: if there is only one modality.
    """

    def __init__(self, names: Sequence[str], width: int, outputs: int) -> None:
        super().__init__()
        require_several(names)
        self.classifiers = nn.ModuleList(nn.Linear(width, outputs) for _ in names)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> SharedDecision:
        """Decides by a linear layer of each modality.

        Args:
            features: (B, D) by modality, in order.
            present: (B, M) bool.
        """
        known = known_features(features, present)
        layers = cast(list[nn.Linear], list(self.classifiers))
        parts = torch.stack([F.linear(feature, layer.weight) for feature, layer in zip(known, layers, strict=True)])
        biases = torch.stack([layer.bias for layer in layers])[:, None]
        return SharedDecision((parts + biases).sum(dim=0), parts + biases / len(known), known)


class FiLMShares(ConcatShares):
    """Each of two modalities scales and shifts the other: ``f_1' = gamma(f_2) * f_1 + beta(f_2)``, and the reverse.

    One linear layer makes both modulations: the released code has a second one, which it doesn't use. The last layer
    and the shares are those of :class:`ConcatShares`, on f'.

    Args:
        names: the modalities, in the data set's order.
        width: D.
        outputs: C.

    Raises:
        UserError: if there are not two modalities.
    """

    def __init__(self, names: Sequence[str], width: int, outputs: int) -> None:
        super().__init__(names, width, outputs)
        _require_two(names, "film")
        self.modulation = nn.Linear(width, 2 * width)

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> SharedDecision:
        """Decides from the modulated features."""
        first, second = known_features(features, present)
        gamma_1, beta_1 = self.modulation(first).chunk(2, dim=1)
        gamma_2, beta_2 = self.modulation(second).chunk(2, dim=1)
        return self.classify([gamma_2 * first + beta_2, gamma_1 * second + beta_1])


class GatedShares(ConcatShares):
    """Each of two modalities gates the other: ``f_1' = sigmoid(f_2) * f_1``, and the reverse.

    The last layer and the shares are those of :class:`ConcatShares`, on f'.

    Args:
        names: the modalities, in the data set's order.
        width: D.
        outputs: C.

    Raises:
        UserError: if there are not two modalities.
    """

    def __init__(self, names: Sequence[str], width: int, outputs: int) -> None:
        super().__init__(names, width, outputs)
        _require_two(names, "gated")

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> SharedDecision:
        """Decides from the gated features."""
        first, second = known_features(features, present)
        return self.classify([second.sigmoid() * first, first.sigmoid() * second])


def _require_two(names: Sequence[str], fusion: str) -> None:
    if len(names) > 2:
        raise UserError(
            f"the fusion {fusion} is defined for two modalities that condition each other, but this data set has "
            f"{', '.join(names)}: set fusion to concat or sum."
        )
