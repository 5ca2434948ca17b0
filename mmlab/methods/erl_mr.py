"""ERL-MR: features are read as angles, and their phases are kept together across modalities.

Paper: Han, Cai, Guo, Peng, ACM Multimedia 2024; its text was out of our reach, this follows the released code. Idea: a
feature x becomes mu cos x and mu sin x; one linear layer A, shared by all modalities and both parts, and ReLU give r, q
and the enhanced feature e = [r; q] of the same width. With phases theta = atan2(q, r), fused logits o and each
modality's share l^m of them:

    P = 1 - mean_h cos(theta^1_h, theta^2_h),   L_MMC = P + sum_m CE(l^m, y),   L = a CE(o, y) + (1 - a) L_MMC

a is the min-norm weight of CE(o, y) against 2 P, from their gradients in encoders, mu and A, at every step (pareto).
The released code takes it from three forward passes and loses the bias of A; here it is one pass and all of A.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice, widths
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.fusion.shares import ConcatShares, FiLMShares, GatedShares, SharedDecision, SumShares
from mmlab.losses.euler import PhaseAxis, euler, phase_loss
from mmlab.losses.late_fusion import late_fusion_losses
from mmlab.losses.pareto import pareto_weight
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory
from mmlab.types import Batch, Prediction

FUSIONS: dict[str, type[ConcatShares | SumShares]] = {
    "concat": ConcatShares,
    "sum": SumShares,
    "film": FiLMShares,
    "gated": GatedShares,
}


class EulerMapping(nn.Module):
    """Enhanced features and phases.

    Args:
        channels: how many amplitudes each modality has, by name.
        width: D of every modality, even and a multiple of its channels.
        dropout: the probability with which an entry of either part is left out in training.
    """

    def __init__(self, channels: Mapping[str, int], width: int, dropout: float) -> None:
        super().__init__()
        self.amplitudes = nn.ParameterList(torch.ones(count, 1) for count in channels.values())
        self.linear = nn.Linear(width, width // 2)
        self.dropout = dropout

    def forward(self, features: Mapping[str, Tensor], draws: Draws | None) -> tuple[dict[str, Tensor], Tensor]:
        """Maps every modality by the same layer.

        Args:
            features: (B, D) by modality.
            draws: what dropout draws from; None for no dropout.

        Returns:
            The enhanced features, (B, D) by modality, and the phases, (B, M, D / 2) in [0, pi / 2].
        """
        points = []
        for (name, feature), amplitude in zip(features.items(), self.amplitudes, strict=True):
            parts = euler(feature, amplitude)
            if draws is not None and self.dropout > 0:
                kept = draws.uniform(f"dropout_{name}", 2 * feature.shape[1]) >= self.dropout
                parts = parts * torch.stack(kept.chunk(2, dim=1)) / (1 - self.dropout)
            points.append(parts)
        real, imaginary = self.linear(torch.stack(points)).relu().unbind(dim=1)
        enhanced = torch.cat([real, imaginary], dim=2)
        return dict(zip(features, enhanced, strict=True)), torch.atan2(imaginary, real).transpose(0, 1)


class ERLMR(Method):
    """Euler representation learning for balanced multimodal learning.

    The released code covers two complete modalities of equal width, on sensor data. Ours: encoders of other widths
    (each then gets a linear layer to the largest width); more than two modalities (P is the mean over pairs, a bias is
    shared out evenly); a missing modality has the enhanced feature zero and takes no part in P and in its own
    cross-entropy; the weighting fixed; pre_norm. An encoder whose features are channels of a length says so by the
    attribute ``channels``, and has one amplitude a channel; any other has one a feature.

    The ablations: mmc off (mapping alone), phase, unimodal, full, each with weighting fixed. With mapping false and mmc
    off, the heads concat and sum are joint training.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        fusion: the head: concat, sum, or the mutual film and gated, which are for two modalities.
        mapping: whether features are mapped; without, there are no phases.
        mmc: which parts of L_MMC are trained: full, phase (P), unimodal (the cross-entropies of the shares) or off.
        weighting: pareto, or fixed: CE(o, y) + lam L_MMC.
        lam: weight of L_MMC under weighting fixed, 1 unless given.
        phase_axis: whether P compares phases feature by feature over the batch (the released code) or sample by sample
            over the features; which of them the paper means, we don't know.
        dropout: of the mapped features, before A.
        pre_norm: whether layer normalisation goes before the mapping, which repeats every 2 pi: for features of a
            large scale.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, the features' width is odd, or an option doesn't fit.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        fusion: Literal["concat", "sum", "film", "gated"] = "concat",
        mapping: bool = True,
        mmc: Literal["full", "phase", "unimodal", "off"] = "full",
        weighting: Literal["pareto", "fixed"] = "pareto",
        lam: float | None = None,
        phase_axis: PhaseAxis = "batch",
        dropout: float = 0.5,
        pre_norm: bool = False,
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        if not mapping and mmc in ("full", "phase"):
            raise UserError(
                f"ERLMR has no phases without the mapping, but mmc {mmc} trains them: set mmc to unimodal or off, and "
                f"weighting to fixed."
            )
        if weighting == "pareto" and mmc in ("unimodal", "off"):
            raise UserError(f"ERLMR's Pareto weights need the phase term, but mmc is {mmc}: set weighting to fixed.")
        if weighting == "pareto" and lam is not None:
            raise UserError(f"ERLMR uses lam {lam} only with weighting fixed: set weighting to fixed or leave lam out.")
        if mmc == "off" and lam is not None:
            raise UserError(f"ERLMR has no use for lam {lam} with mmc off: leave lam out, or set mmc to another.")
        if lam is not None and not (math.isfinite(lam) and lam >= 0):
            raise UserError(f"ERLMR can't have lam {lam}: it is the weight of the MMC loss, give 0 or more.")
        if not 0 <= dropout < 1:
            raise UserError(f"ERLMR can't have dropout {dropout}: it is a probability, give 0 or more and less than 1.")
        if not mapping and pre_norm:
            raise UserError("ERLMR uses pre_norm only before the mapping: set mapping to true or leave pre_norm out.")
        self.mmc = mmc
        self.weighting = weighting
        self.lam = 1.0 if lam is None else lam
        self.phase_axis: PhaseAxis = phase_axis

        own = widths(self.encoders)
        width = max(own.values())
        channels = {name: getattr(encoder, "channels", own[name]) for name, encoder in self.encoders.items()}
        self.projections = nn.ModuleDict()
        if len(set(own.values())) > 1:
            self.projections = nn.ModuleDict({name: nn.Linear(size, width) for name, size in own.items()})
            channels = dict.fromkeys(own, width)
        self.fusion = FUSIONS[fusion](self.spec.names, width, self.spec.task.outputs)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in own} if pre_norm else {})
        self.mapping: EulerMapping | None = None
        if mapping:
            if width % 2:
                raise UserError(
                    f"ERLMR halves the features' width, but the encoders' is {width}: choose a backbone of even width."
                )
            for name, count in channels.items():
                if count < 1 or width % count:
                    raise UserError(
                        f"the encoder of {name!r} says it has {count} channels, but its width {width} is no multiple "
                        f"of that: correct its attribute 'channels'."
                    )
            self.mapping = EulerMapping(channels, width, dropout)

    def decide(
        self, inputs: dict[str, Tensor], present: Tensor, draws: Draws | None = None
    ) -> tuple[SharedDecision, Tensor | None]:
        """The decision, and the phases (B, M, D / 2) where there is a mapping.

        Args:
            inputs: (B, *shape) by modality.
            present: (B, M) bool.
            draws: what dropout draws from; None for no dropout.
        """
        features = self.encode(inputs)
        # Beside the encoders this is little work, and half precision would blur angles and tie phases.
        with torch.autocast(present.device.type, enabled=False):
            precision = next(self.fusion.parameters()).dtype
            features = {name: feature.to(precision) for name, feature in features.items()}
            for layers in (self.projections, self.norms):
                features |= {name: layer(features[name]) for name, layer in layers.items()}
            if self.mapping is None:
                return self.fusion(features, present), None
            enhanced, phases = self.mapping(features, draws)
            return self.fusion(enhanced, present), phases

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """Decides; each modality's share of the logits is its own decision. Never drops out."""
        decision, _ = self.decide(inputs, present)
        shares = dict(zip(self.spec.names, decision.shares, strict=True))
        return Prediction(decision.logits, shares, features=dict(zip(self.spec.names, decision.features, strict=True)))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the fused logits against the MMC loss, weighed as the options say."""
        drops = self.training and self.mapping is not None and self.mapping.dropout > 0
        decision, phases = self.decide(batch.inputs, batch.present, self.draws(batch) if drops else None)
        fused, each = late_fusion_losses(
            decision.logits,
            decision.shares,
            batch.target,
            batch.present,
            self.spec.task.criterion,
            self.counts(batch.present),
        )
        losses = {"ce_fused": fused} | {f"ce_{name}": ce for name, ce in zip(self.spec.names, each, strict=True)}
        mmc = torch.zeros_like(fused)
        if self.mmc in ("full", "unimodal"):
            mmc = mmc + each.sum()
        if self.mmc in ("full", "phase"):
            assert phases is not None
            phase = phase_loss(self.gathered(phases, gradient=True), self.gathered(batch.present), self.phase_axis)
            losses["phase"] = phase
            mmc = mmc + phase
        if self.weighting == "fixed":
            return {"loss": fused + self.lam * mmc, **losses}
        weight = self._pareto_weight(fused, 2 * phase)
        return {"loss": weight * fused + (1 - weight) * mmc, **losses, "pareto_weight": weight}

    def _pareto_weight(self, fused: Tensor, phase: Tensor) -> Tensor:
        """The weight of the fused loss, the same on all processes, without gradient."""
        modules = (self.encoders, self.projections, self.norms, self.mapping)
        parameters = [p for module in modules if module for p in module.parameters() if p.requires_grad]
        # As large as the gradients of the step itself: unscaled ones would vanish in the half precision of encoders.
        scale = self._scale(fused)
        found = [
            torch.autograd.grad(scale * loss, parameters, retain_graph=True, allow_unused=True)
            for loss in (fused, phase)
        ]
        shared = [pair for pair in zip(*found, strict=True) if pair[0] is not None and pair[1] is not None]
        rows = [torch.cat([gradient.flatten() for gradient in each]) / scale for each in zip(*shared, strict=True)]
        losses = torch.stack([fused, phase]).detach()
        both = torch.cat([torch.stack(rows), losses[:, None]], dim=1)
        if self._trainer is not None:
            # The gradients were not taken by backward(): nobody else averages them over the processes.
            both = self.trainer.strategy.reduce(both, reduce_op="mean")
        (first, second), losses = both[:, :-1], both[:, -1]
        across = first.dot(second)
        products = torch.stack([first.dot(first), across, across, second.dot(second)]).view(2, 2)
        return pareto_weight(products, losses)

    def _scale(self, loss: Tensor) -> Tensor:
        """What the Trainer multiplies the loss by before it goes backward; 1 without a gradient scaler."""
        one = torch.ones_like(loss)
        scaler = None if self._trainer is None else getattr(self.trainer.precision_plugin, "scaler", None)
        return one if scaler is None else scaler.scale(one)
