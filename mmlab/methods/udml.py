"""UDML, unbiased dynamic multimodal learning: fusion weights by noise level and by reliance.

Paper: Wei, Zhang, Chen, He, Duan, "Unbiased Dynamic Multimodal Fusion", CVPR 2026 Findings; its text was out of our
reach, this follows the released code. Idea: encoders put out Gaussians N(mu, s^2), place by place. From an epoch on,
training data carry noise of known levels l_m; from the detached mean of s, a regressor predicts 2 ln l_m as x_m. How
much the decision relies on a modality, d_m, is measured at each step. What is noisy or relied on anyway counts less:

    f_m = mean of mu_m + eps s_m      w = M softmax_m(-x_m - ln d_m)      logits y, y_m from (1 + w_m) f_m
    L = CE(y) + gamma sum_m CE(y_m) + beta sum_m KL(N(mu_m, s_m^2) || N(0, l_m)) + 0.1 sum_m (exp(x_m / 2) - l_m)^2

Until some epochs later, training weighs by reliance alone (x_m = 0). Left out are slips of the released code: one noise
field for all sounds, dark pixels that turn bright, selection and random choices on the test split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from mmlab.backbones.base import Backbone
from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice, widths
from mmlab.backbones.gaussian import GaussianHead
from mmlab.backbones.shared import once
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.fusion.joint import ConcatFusion, FiLMFusion, GatedFusion, SumFusion
from mmlab.fusion.residual import ResidualHead, logits_alone, logits_without, residual_weights, reweighted
from mmlab.losses.late_fusion import late_fusion_losses, mean_over
from mmlab.losses.level_kl import level_kl
from mmlab.losses.noise_level import noise_level_loss
from mmlab.losses.reliance import dropout_change, logit_magnitude
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory
from mmlab.methods.controlled_noise import CLEAN, ControlledNoise, draw_levels
from mmlab.types import Batch, Classification, Prediction, Regression

FUSIONS: dict[str, type[ResidualHead]] = {
    "concat": ConcatFusion,
    "sum": SumFusion,
    "gated": GatedFusion,
    "film": FiLMFusion,
}


class LevelEstimator(nn.Module):
    """``Linear(D, 256)``, dropout, ``Linear(256, 1)``, with nothing between them, as in the released code.

    Args:
        channels: D, of the maps.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, 256)
        self.output = nn.Linear(256, 1)
        self.dropout = 0.1
        for layer in (self.hidden, self.output):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, spread: Tensor, u: Tensor | None) -> Tensor:
        """The logarithm of the squared level, (B,).

        Args:
            spread: (B, D), mean standard deviations; no gradient goes back to them.
            u: (B, 256) uniform in [0, 1), what dropout draws from; None for no dropout.
        """
        hidden = self.hidden(spread.detach())
        if u is not None:
            hidden = hidden * (u >= self.dropout) / (1 - self.dropout)
        return self.output(hidden).squeeze(1)


@dataclass
class Decision:
    """What UDML says of a batch.

    Attributes:
        logits: (B, C), fused.
        unimodal: (M, B, C).
        weights: (B, M), w.
        log_uncertainty: (B, M), x.
        features: (B, D) by modality, before they are weighed.
        weighted: the same, times 1 + w.
    """

    logits: Tensor
    unimodal: Tensor
    weights: Tensor
    log_uncertainty: Tensor
    features: dict[str, Tensor]
    weighted: dict[str, Tensor]


class UDML(Method):
    """Unbiased Dynamic Multimodal Learning.

    The levels of noise are drawn once a run, for each modality of each training sample, from 1 (clean) to 11 (noise
    alone); half of the samples stay clean. What a level means for sound and pictures is the released code's, on the
    raw scale: a standard deviation of l in a log-spectrogram, of l^2 grey levels in a picture. Ours: optical flow as a
    picture, 255 grey levels spanning its range; sequences and vectors with 0.3 (l - 1) of their standard deviation;
    text stays clean. The noise itself is drawn afresh in every epoch. Levels and reliance are part of the checkpoint.

    Evaluation takes the mean instead of a sample, and always weighs dynamically, in early epochs too. Features are
    pooled as the backbone does it (small_conv projects a coarse grid), standard deviations by their plain mean. For a
    backbone without maps (text, your own), the Gaussian is that of its feature vector.

    Ours, since the released code has two complete modalities: with more, the same formulas. A missing modality counts
    as a zero feature with weight 0, has no losses, and isn't measured.

    The ablations: estimator false (weights by reliance alone), reliance off (by the level alone), both (all weights 1).

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        fusion: the head: concat, sum, or gated and film, which are for two modalities. The film is that of
            JointTraining; the released code's is an outer product.
        estimator: whether weights depend on the predicted level.
        reliance: how it is measured: magnitude (size of a modality's own logits, as the released code does), dropout
            (change of the logits without the modality, the paper's form as third-party notes give it), or off. By
            default magnitude for concat and sum, dropout for gated and film.
        reliance_momentum: how much of its old value the reliance keeps at each step; 0, as in the released code, makes
            it the last batch's.
        initial_reliance: one positive number for each modality, for the first step; all 1 unless given.
        noise_epoch: the epoch, counted from 0, from which training data are noisy; 50 of the published runs' 100.
        dynamic_epoch: the epoch from which training weighs by level too; noise_epoch + 10 unless given.
        gamma: weight of the unimodal cross-entropies: 4 for CREMA-D, 2.5 for Kinetics-Sounds in the released runs.
        beta: weight of the divergences, which are sums over whole maps: 1e-5 for CREMA-D, 0 for Kinetics-Sounds.
        noise_weight: of the level regression.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, or an option doesn't fit.
    """

    tasks = (Classification, Regression)
    reliance: Tensor
    levels: Tensor

    def __init__(
        self,
        spec: dict[str, Any],
        fusion: Literal["concat", "sum", "gated", "film"] = "concat",
        estimator: bool = True,
        reliance: Literal["magnitude", "dropout", "off"] | None = None,
        reliance_momentum: float = 0.0,
        initial_reliance: list[float] | None = None,
        noise_epoch: int = 50,
        dynamic_epoch: int | None = None,
        gamma: float = 4.0,
        beta: float = 1e-5,
        noise_weight: float = 0.1,
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        for option, weight in {"gamma": gamma, "beta": beta, "noise_weight": noise_weight}.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(f"UDML's {option} is {weight}: give a number of 0 or more.")
        if not 0 <= reliance_momentum < 1:
            raise UserError(f"UDML's reliance_momentum is {reliance_momentum}: give 0 or more and less than 1.")
        if noise_epoch < 0:
            raise UserError(f"UDML's noise_epoch is {noise_epoch}: give 0 or more.")
        if not estimator and dynamic_epoch is not None:
            raise UserError("UDML has no use for dynamic_epoch with estimator false: leave dynamic_epoch out.")
        self.dynamic_epoch = noise_epoch + 10 if dynamic_epoch is None else dynamic_epoch
        if self.dynamic_epoch < noise_epoch:
            raise UserError(
                f"UDML's dynamic_epoch is {dynamic_epoch}, but before noise_epoch, which is {noise_epoch}, all levels "
                f"are the same: give {noise_epoch} or more."
            )
        names, sizes = self.spec.names, widths(self.encoders)
        mutual = fusion in ("gated", "film")
        if mutual and len(names) > 2:
            raise UserError(
                f"UDML's fusion {fusion} is defined for two modalities, but this data set has {', '.join(names)}: set "
                f"fusion to concat or sum."
            )
        self.measure = reliance or ("dropout" if mutual else "magnitude")
        if mutual and self.measure == "magnitude":
            raise UserError(
                f"UDML's own logits of a modality don't add up to the fused ones with fusion {fusion}, so their "
                f"magnitude is no reliance: set reliance to dropout or off."
            )
        if self.measure == "off" and initial_reliance is not None:
            raise UserError("UDML has no use for initial_reliance with reliance off: leave initial_reliance out.")
        if self.measure == "off" and reliance_momentum > 0:
            raise UserError("UDML has no use for reliance_momentum with reliance off: leave reliance_momentum out.")
        initial = [1.0] * len(names) if initial_reliance is None else initial_reliance
        if len(initial) != len(names) or not all(math.isfinite(d) and d > 0 for d in initial):
            raise UserError(
                f"UDML's initial_reliance {initial} doesn't fit the data set: give one number above 0 for each of "
                f"{', '.join(names)}."
            )
        self.reliance_momentum = reliance_momentum
        self.noise_epoch = noise_epoch
        self.gamma, self.beta, self.noise_weight = gamma, beta, noise_weight
        self.fusion = FUSIONS[fusion](sizes, self.spec.task.outputs)
        for layer in self.fusion.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        channels = {
            modality.name: _map_channels(self.encoders[modality.name], modality.shape)
            for modality in self.spec.modalities
        }
        self.gaussians = nn.ModuleDict({name: GaussianHead(count) for name, count in channels.items()})
        self.estimators = nn.ModuleDict(
            {name: LevelEstimator(count) for name, count in channels.items()} if estimator else {}
        )
        self.noise = ControlledNoise(self.spec.modalities)
        self.register_buffer("reliance", torch.tensor(initial, dtype=torch.float32))
        # Zeros until they are drawn.
        self.register_buffer("levels", torch.zeros(self.spec.train_size, len(names), dtype=torch.uint8))

    def represent(self, inputs: dict[str, Tensor], present: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Means and standard deviations, (B, T, D, h, w) by modality; (B, 1, D, 1, 1) of encoders without maps."""
        means, stds = {}, {}
        for (name, encoder), has in zip(self.encoders.items(), present.unbind(dim=1), strict=True):
            if isinstance(encoder, Backbone):
                maps = once(encoder.maps, inputs[name])
            else:
                maps = once(encoder, inputs[name])[:, None, :, None, None]
            means[name], stds[name] = self.gaussians[name](maps, has, self.gathered)
        return means, stds

    def decide(
        self,
        maps: dict[str, Tensor],
        stds: dict[str, Tensor],
        present: Tensor,
        dynamic: bool = True,
        draws: Draws | None = None,
    ) -> Decision:
        """Weighs and fuses.

        Args:
            maps: (B, T, D, h, w) by modality, a sample of the Gaussians or their means.
            stds: likewise, their standard deviations.
            present: (B, M) bool.
            dynamic: whether weights depend on the predicted levels.
            draws: what the estimators' dropout draws from; None for no dropout.
        """
        # Beside the encoders this is little work, and half precision would blur weights and tie logits.
        with torch.autocast(present.device.type, enabled=False):
            precision = next(self.fusion.parameters()).dtype
            features, levels = {}, [] if self.estimators else [torch.zeros_like(present, dtype=precision)]
            for name, encoder in self.encoders.items():
                own = maps[name].to(precision)
                features[name] = encoder.pool(own) if isinstance(encoder, Backbone) else own.flatten(1)
                if self.estimators:
                    spread = stds[name].to(precision).mean(dim=(1, 3, 4))
                    u = None if draws is None else draws.uniform(f"dropout_{name}", 256)
                    levels.append(self.estimators[name](spread, u)[:, None])
            log_uncertainty = torch.cat(levels, dim=1)
            score = log_uncertainty if dynamic else torch.zeros_like(log_uncertainty)
            weights = residual_weights(score, self.reliance.to(precision), present)
            weighted = reweighted(features, weights)
            unimodal = logits_alone(self.fusion, weighted, present)
            logits = self.fusion(weighted, present)
        return Decision(logits, unimodal, weights, log_uncertainty, features, weighted)

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """Decides from the Gaussians' means, with dynamic weights. The uncertainty is the squared predicted level."""
        means, stds = self.represent(inputs, present)
        decision = self.decide(means, stds, present)
        unimodal = dict(zip(self.spec.names, decision.unimodal, strict=True))
        uncertainty = decision.log_uncertainty.exp() if self.estimators else None
        return Prediction(decision.logits, unimodal, decision.weights, uncertainty, decision.features)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The objective on noisy inputs; then measures the reliance, which counts from the next batch on."""
        draws, present = self.draws(batch), batch.present
        levels = self.levels_of(batch)
        inputs = batch.inputs
        if self.current_epoch >= self.noise_epoch:
            inputs = self.noise(inputs, levels, draws)
        means, stds = self.represent(inputs, present)
        sampled = {
            name: mean + stds[name] * draws.field(f"sample_{name}", mean[0].numel()).view_as(mean).to(mean.dtype)
            for name, mean in means.items()
        }
        decision = self.decide(sampled, stds, present, self.current_epoch >= self.dynamic_epoch, draws)
        counts = self.counts(present)
        fused, each = late_fusion_losses(
            decision.logits, decision.unimodal, batch.target, present, self.spec.task.criterion, counts
        )
        divergences = [
            self._divergence(means[name], stds[name], levels[:, m]) for m, name in enumerate(self.spec.names)
        ]
        divergence = mean_over(torch.stack(divergences), present.T, counts)
        regression = torch.zeros_like(fused)
        if self.estimators:
            regression = noise_level_loss(decision.log_uncertainty, levels, present, counts)
        reliance = self.reliance.clone()
        self._measure_reliance(decision, present)
        names, task = self.spec.names, self.spec.task.loss
        return {
            "loss": fused + self.gamma * each.sum() + self.beta * divergence.sum() + self.noise_weight * regression,
            f"{task}_fused": fused,
            **{f"{task}_{name}": part for name, part in zip(names, each, strict=True)},
            **{f"kl_{name}": part for name, part in zip(names, divergence, strict=True)},
            "level": regression,
            **{f"reliance_{name}": part for name, part in zip(names, reliance, strict=True)},
        }

    def levels_of(self, batch: Batch) -> Tensor:
        """The levels of noise of a batch in this epoch, (B, M); 1 where a modality is missing or gets no noise."""
        if self.current_epoch < self.noise_epoch:
            return torch.full_like(batch.present, CLEAN, dtype=torch.uint8)
        return self.levels[batch.index].masked_fill(~batch.present, CLEAN)

    def draw_levels(self, seed: int) -> None:
        """Draws the levels of all training samples, the same on all processes."""
        samples, modalities = self.levels.shape
        levels = draw_levels(samples, modalities, seed)
        for m, modality in enumerate(self.spec.modalities):
            if not self.noise.reaches(modality):
                levels[:, m] = CLEAN
        self.levels.copy_(levels)

    def on_train_start(self) -> None:
        """Draws the levels unless a checkpoint brought them, and says so if the run is too short for them to act."""
        super().on_train_start()
        if not self.levels.any():
            self.draw_levels(self._data.seed)
        epochs = self.trainer.max_epochs or 0
        if 0 < epochs <= self.noise_epoch:
            rank_zero_warn(
                f"UDML's noise starts after {self.noise_epoch} epochs, but there are only {epochs}: nothing tells "
                f"levels apart; lower noise_epoch and dynamic_epoch."
            )
        elif self.estimators and 0 < epochs <= self.dynamic_epoch:
            rank_zero_warn(
                f"UDML's dynamic weights start after {self.dynamic_epoch} epochs, but there are only {epochs}: nothing "
                f"is trained with them; lower dynamic_epoch."
            )

    def _divergence(self, mean: Tensor, std: Tensor, level: Tensor) -> Tensor:
        """Of each sample, (B,), averaged over its frames."""
        frames = mean.shape[1]
        rows = level_kl(mean.flatten(0, 1), std.flatten(0, 1), level.repeat_interleave(frames))
        return rows.view(-1, frames).mean(dim=1)

    @torch.no_grad()
    def _measure_reliance(self, decision: Decision, present: Tensor) -> None:
        if self.measure == "off":
            return
        with torch.autocast(present.device.type, enabled=False):
            if self.measure == "magnitude":
                each = logit_magnitude(decision.unimodal)
            else:
                each = dropout_change(decision.logits, logits_without(self.fusion, decision.weighted, present))
        has = present.T
        own = torch.stack([(each * has).sum(dim=1), has.sum(dim=1)])
        sums, counts = self.gathered(own[None]).sum(dim=0)
        # What no sample of the batch has keeps its value.
        now = torch.where(counts > 0, sums / counts.clamp(min=1), self.reliance).to(self.reliance.dtype)
        self.reliance.lerp_(now, 1 - self.reliance_momentum)


def _map_channels(encoder: nn.Module, shape: tuple[int, ...]) -> int:
    """D of an encoder's maps, which its pooled features may differ from in width."""
    if not isinstance(encoder, Backbone):
        return int(encoder.width)  # type: ignore[arg-type]
    training = encoder.training
    with torch.no_grad():
        channels = encoder.eval().maps(torch.zeros(1, *shape)).shape[2]
    encoder.train(training)
    return channels
