"""OGM-GE, on-the-fly gradient modulation with generalisation enhancement: who is ahead learns more slowly.

Paper: Peng, Wei, Deng, Wang, Hu, CVPR 2022. Idea: joint training on concatenated features, f = sum_m z^m with
z^m = W^m f_m + b / M. At each step, the probabilities that the modalities give to the true classes y of the batch tell
who is ahead (rho^m > 1); the gradient g^m of its encoder is damped, and noise makes up for the noise that is lost:

    s^m = sum_i softmax(z^m_i)[y_i]      rho^m = s^m / s^other      k^m = 1 - tanh(alpha rho^m) if rho^m > 1, else 1
    g^m <- k^m g^m + N(0, std(g^m) + 1e-8)

The official code changes convolution weights only, in the epochs 0 to 50 of 100; the paper states the equations for
whole encoders. At rho^m = 1 exactly, the code damps one modality, the paper and this project none.

Ours: more than two modalities (s^other is the mean of the others) and samples that lack some (a missing modality has
a zero feature and no score, scores are means over the samples that have the modality, b is shared among those).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice, widths
from mmlab.errors import UserError
from mmlab.fusion.joint import ConcatFusion
from mmlab.fusion.late import fuse
from mmlab.losses.gradient_modulation import (
    Modulation,
    discrepancy_ratios,
    generalisation_noise,
    modulation_coefficients,
)
from mmlab.losses.late_fusion import mean_over
from mmlab.losses.non_target_guidance import at_class
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory
from mmlab.types import Batch, Prediction


class OGMGE(Method):
    """Joint training by concatenation with modulated gradients.

    The gradients that are changed are those of a whole optimiser step: of all processes, of accumulated batches, and
    without the factor of fp16's scaling. Clipping comes afterwards and takes the noise for gradient.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        modulation: ogm_ge (damping and noise), ogm (damping), noise (noise), or acc (the rule of PMR's code: the
            encoder that is behind is sped up, without noise).
        alpha: strength of the modulation, 0 for none; the paper tunes it for each data set and the code has no default,
            0.5 is what later comparisons use.
        modulation_starts: the first epoch that is modulated, counted from 0.
        modulation_ends: the last one.
        modulates: convolutions (their weights, as the official code does) or encoders (every parameter of them, as the
            paper's equations have it). Of a vision transformer, the only convolution embeds the patches: take
            encoders.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if the data set has only one modality, an option doesn't fit, or an encoder has no convolutions.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        modulation: Modulation = "ogm_ge",
        alpha: float = 0.5,
        modulation_starts: int = 0,
        modulation_ends: int = 50,
        modulates: Literal["convolutions", "encoders"] = "convolutions",
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        if not (math.isfinite(alpha) and alpha >= 0):
            raise UserError(f"OGMGE can't have alpha {alpha}: it is the modulation's strength, give 0 or more.")
        if not 0 <= modulation_starts <= modulation_ends:
            raise UserError(
                f"OGMGE can't modulate from epoch {modulation_starts} to {modulation_ends}: give modulation_starts of "
                f"0 or more, and modulation_ends not before it."
            )
        self.modulation: Modulation = modulation
        self.alpha = alpha
        self.modulation_starts = modulation_starts
        self.modulation_ends = modulation_ends
        self.modulates = modulates
        for name, encoder in self.encoders.items():
            if not self.modulated(encoder):
                if modulates == "encoders":
                    raise UserError(
                        f"OGMGE modulates what encoders learn, but the encoder of {name} learns nothing: choose "
                        f"another backbone for it (--model.backbones.{name} mlp)."
                    )
                raise UserError(
                    f"OGMGE modulates convolutions, but the encoder of {name} has none: set modulates to encoders, or "
                    f"choose another backbone."
                )
        self.fusion = ConcatFusion(widths(self.encoders), self.spec.task.outputs)
        self._scores: Tensor | None = None

    @property
    def linear_heads(self) -> list[nn.Linear]:
        """The classifier's columns of each modality, as layers that share its weights."""
        heads = []
        for columns in self.fusion.columns():
            head = nn.Linear(columns.shape[1], columns.shape[0], bias=False, device="meta")
            head.weight = nn.Parameter(columns.detach())
            heads.append(head)
        return heads

    def modulated(self, encoder: nn.Module) -> list[Tensor]:
        """The parameters of an encoder whose gradients are modulated."""
        if self.modulates == "encoders":
            return list(encoder.parameters())
        convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        return [module.weight for module in encoder.modules() if isinstance(module, convolutions)]

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """Classifies by the sum of the modalities' parts of the logits, each of which is a decision too."""
        features = self.encode(inputs)
        parts = self.fusion.parts(features, present)
        unimodal = dict(zip(self.spec.names, parts, strict=True))
        weights = present.to(parts.dtype)
        return Prediction(fuse(parts, weights), unimodal, weights, features=features)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of the fused decision; beside it, the scores: the mean probabilities of the true class."""
        prediction = self(batch.inputs, batch.present)
        unimodal = torch.stack(list(prediction.unimodal.values())).detach()
        scores, has = at_class(unimodal.softmax(dim=2), batch.target), batch.present.T
        own = torch.stack([(scores * has).sum(dim=1), has.sum(dim=1)])
        # As the gradients of accumulated batches add up, so do their scores.
        self._scores = own if self._scores is None else self._scores + own
        means = mean_over(scores, has, self.counts(batch.present))
        return {
            "loss": self.spec.task.criterion(prediction.logits, batch.target).mean(),
            **{f"score_{name}": mean for name, mean in zip(self.spec.names, means, strict=True)},
        }

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Modulates the gradients, which only here are whole and unscaled."""
        assert self._scores is not None
        scores, self._scores = self._scores, None
        if not self.modulation_starts <= self.current_epoch <= self.modulation_ends:
            return
        sums, counts = self.gathered(scores[None]).sum(dim=0)
        factors = modulation_coefficients(discrepancy_ratios(sums, counts), self.alpha, self.modulation)
        generator = self.noise_generator(self._data.seed, self.global_step)
        for encoder, factor in zip(self.encoders.values(), factors, strict=True):
            for gradient in [parameter.grad for parameter in self.modulated(encoder) if parameter.grad is not None]:
                if self.modulation in ("ogm_ge", "noise"):
                    noise = generalisation_noise(gradient, generator)  # of the gradient as it was before the damping
                    gradient.mul_(factor).add_(noise)
                else:
                    gradient.mul_(factor)

    def noise_generator(self, seed: int, step: int) -> torch.Generator:
        """Draws that depend on the run's seed and the step alone: all processes agree, and resuming is exact."""
        # On a CPU, torch looks at 32 bits of a seed only: they must hold both numbers.
        mixed = np.random.SeedSequence((seed, step)).generate_state(1)
        return torch.Generator(self.device).manual_seed(int(mixed[0]))
