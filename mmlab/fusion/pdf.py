"""Late fusion weighted by predicted confidence (PDF).

Source: Cao, Xia, Ding, Zhang, Hu, "Predictive Dynamic Fusion", ICML 2024, and its released code. Both cover two
complete modalities; more of them and missing ones are ours, made so that two complete ones give the code's values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mmlab.fusion.late import Gathered, LateDecision, WeightedFusion, fuse
from mmlab.losses.late_fusion import mean_counts, mean_over
from mmlab.losses.non_target_guidance import at_class


def holo_confidence(confidence: Tensor, present: Tensor) -> Tensor:
    """How little the other modalities are to be trusted: ``sum_{k != m} log r^k / ((M - 1) sum_k log r^k + 1e-8)``.

    Args:
        confidence: (B, M) in (0, 1), r.
        present: (B, M) bool; sums and M go over the modalities that a sample has.

    Returns:
        (B, M), summing to about 1 over two modalities and more; 0 for a modality that is alone.
    """
    logs = confidence.log() * present
    total = logs.sum(dim=1, keepdim=True)
    others = (present.sum(dim=1, keepdim=True) - 1).clamp(min=1)
    return (total - logs) / (others * total + 1e-8)


def relative_calibration(unimodal: Tensor, present: Tensor) -> Tensor:
    """How far each modality's distribution is from the uniform one, relative to that of the most certain modality.

    Args:
        unimodal: (M, B, C) logits.
        present: (B, M) bool.

    Returns:
        (B, M) in [0, 1]; 1 where all distributions are uniform (0/0 in the released code).
    """
    distance = (unimodal.softmax(dim=2) - 1 / unimodal.shape[2]).abs().mean(dim=2).T * present
    largest = distance.amax(dim=1, keepdim=True)
    return torch.where(largest > 0, distance / torch.where(largest > 0, largest, 1.0), 1.0)


class PDFFusion(WeightedFusion):
    """Weights from small nets that predict each modality's probability of the true class.

    ``r^m`` (mono-confidence) is predicted from the modality's features; with ``o^m`` of :func:`holo_confidence`, the
    weights are ``softmax_m(r^m + o^m)``, at test time ``softmax_m(factor^m (r^m + o^m))`` with the factors of
    :func:`relative_calibration`. No gradient reaches the encoders through weights or nets.

    Args:
        widths: each modality's feature width, in the data set's order.
        outputs: C.

    Raises:
        UserError: if there is only one modality.
    """

    def __init__(self, widths: Mapping[str, int], outputs: int) -> None:
        super().__init__(widths, outputs)
        # Nothing lies between the linear layers in the released code either.
        self.confidence_nets = nn.ModuleList(
            nn.Sequential(nn.Linear(d, 2 * d), nn.Linear(2 * d, d), nn.Linear(d, 1), nn.Sigmoid())
            for d in widths.values()
        )

    def decide(
        self, unimodal: Tensor, features: Sequence[Tensor], present: Tensor, calibrate: bool = False
    ) -> LateDecision:
        """Weighs each modality by what its net predicts, and by what the others' nets do."""
        nets = zip(self.confidence_nets, features, strict=True)
        confidence = torch.cat([net(feature.detach()) for net, feature in nets], dim=1)
        known = confidence.detach().clamp(1e-6, 1 - 1e-6)
        belief = known + holo_confidence(known, present)
        if calibrate:
            belief = belief * relative_calibration(unimodal.detach(), present)
        weights = belief.masked_fill(~present, float("-inf")).softmax(dim=1)
        return LateDecision(fuse(unimodal, weights), unimodal, weights, confidence)

    def objective(
        self, decision: LateDecision, target: Tensor, index: Tensor, present: Tensor, gathered: Gathered
    ) -> dict[str, Tensor]:
        """How far each net is from the true class's probability: ``mean |r^m - sg(p^m_y)|``."""
        assert decision.confidence is not None
        probability = at_class(decision.unimodal.detach().softmax(dim=2), target)
        counts = mean_counts(present, gathered(present, False))
        errors = mean_over((decision.confidence.T - probability).abs(), present.T, counts)
        return {f"confidence_{name}": error for name, error in zip(self.names, errors, strict=True)}

    def decays(self) -> list[tuple[nn.Parameter, float]]:
        """The first layer of each net, by 1."""
        return [(parameter, 1.0) for net in self.confidence_nets for parameter in net[0].parameters()]  # type: ignore[index]
