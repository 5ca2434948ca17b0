"""Low-rank fusion: a linear layer on the outer product of all features, without ever making the product.

Source: Liu, Shen, Lakshminarasimhan, Liang, Zadeh, Morency, "Efficient Low-rank Multimodal Fusion With
Modality-Specific Factors", ACL 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmlab.fusion.several import require_several
from mmlab.fusion.sizes import check_sizes
from mmlab.fusion.tensor_fusion import with_one


class LowRankFusion(nn.Module):
    """``sum_i prod_m W_m^(i) [h_m; 1] + b``, the product taken number by number.

    This is ``W Z + b`` of the outer product Z with a weight of rank r, ``W = sum_i w_1^(i) (x) ... (x) w_M^(i)``, at a
    cost that grows with the sum of the widths in place of their product. The fused vector is the decision itself;
    all ranks count alike, as in the paper's equation. The initialisation is ours: with features of unit
    variance, so are the logits.

    Args:
        widths: each modality's feature width D_m, in the data set's order.
        outputs: C.
        rank: r.

    Raises:
        UserError: if there is only one modality, or the rank is below 1.
    """

    def __init__(self, widths: Mapping[str, int], outputs: int, rank: int) -> None:
        super().__init__()
        require_several(widths)
        check_sizes("LMF", {"rank": rank})
        share = rank ** (-0.5 / len(widths))
        self.factors = nn.ParameterList(
            torch.randn(rank, width + 1, outputs) * share / math.sqrt(width + 1) for width in widths.values()
        )
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, features: Mapping[str, Tensor], present: Tensor) -> Tensor:
        """Logits (B, C) from features (B, D_m) by modality; ``[0; 1]`` in place of a missing one (ours)."""
        # A product of several features overflows in half precision.
        with torch.autocast(present.device.type, enabled=False):
            own = {name: feature.to(self.bias.dtype) for name, feature in features.items()}
            each = [
                torch.einsum("bd,rdc->brc", vector, factor)
                for vector, factor in zip(with_one(own, present), self.factors, strict=True)
            ]
            return torch.stack(each).prod(dim=0).sum(dim=1) + self.bias
