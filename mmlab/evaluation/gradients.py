"""A callback that shows over the training how strongly each modality's encoder is pulled, and whether two pull alike.

Off by default: ``--trainer.callbacks mmlab.evaluation.gradients.GradientBalance``.
"""

from __future__ import annotations

from itertools import combinations
from math import isfinite
from statistics import fmean
from typing import cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from mmlab.errors import UserError
from mmlab.evaluation.encoders import encoders_of
from mmlab.methods.base import Method
from mmlab.runs.metrics_file import MetricsFile


class GradientBalance(Callback):
    """Norms of the gradients of the modalities' encoders, and cosines between them.

    Every so many steps ``gradient/norm_<modality>`` and ``gradient/cosine_<a>_<b>`` go to W&B, and the mean of an
    epoch's into metrics.csv. They are of the gradient that a step begins with: of whole batches, unscaled, averaged
    over the processes, before a method modulates it (OGM-GE) and before it is clipped. The norm is l2, over all
    parameters of the encoder. A step whose gradient overflowed in half precision, which is not taken, is left out.

    The cosine of two encoders is over the parameters of equal name and shape in both, as one vector; encoders without
    any in common have none. Only encoders that began with the same weights (pretrained ones, say) have coordinates that
    mean the same: between others, values near 0 are to be expected whatever is learnt. Which parameters are compared is
    this project's choice. An encoder that a stage doesn't train has neither.

    Args:
        every: steps from one measurement to the next; the first step is measured.

    Raises:
        UserError: if it is below 1.
    """

    def __init__(self, every: int = 50) -> None:
        if every < 1:
            raise UserError(f"GradientBalance's every is {every}; it must be 1 or more.")
        self.every = every
        self._measured: list[dict[str, float]] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measures; the device is asked for all numbers at once."""
        if trainer.global_step % self.every or not trainer.is_global_zero:
            return
        values = gradient_balance(_gradients(cast(Method, pl_module)))
        if not values:
            return
        numbers = torch.stack(list(values.values())).tolist()
        measured = {name: number for name, number in zip(values, numbers, strict=True) if isfinite(number)}
        self._measured.append(measured)
        for logger in trainer.loggers:
            logger.log_metrics(measured, step=trainer.global_step)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the means of the epoch's measurements into metrics.csv."""
        measured, self._measured = self._measured, []
        names = dict.fromkeys(name for each in measured for name in each)
        means = {name: fmean(each[name] for each in measured if name in each) for name in names}
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.log_metrics(means | {"epoch": trainer.current_epoch}, step=trainer.global_step)


def gradient_balance(gradients: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Norms and cosines, scalars by name; see :class:`GradientBalance`.

    Args:
        gradients: by modality, then by the parameter's name within the encoder.
    """
    trained = {name: list(own.values()) for name, own in gradients.items() if own}
    found = {f"gradient/norm_{name}": get_total_norm(own) for name, own in trained.items()}
    for a, b in combinations(trained, 2):
        first, second = gradients[a], gradients[b]
        common = [key for key, value in first.items() if key in second and second[key].shape == value.shape]
        if common:
            x, y = (torch.cat([own[key].flatten().float() for key in common]) for own in (first, second))
            found[f"gradient/cosine_{a}_{b}"] = torch.cosine_similarity(x, y, dim=0)
    return found


def _gradients(method: Method) -> dict[str, dict[str, Tensor]]:
    return {
        name: {key: parameter.grad for key, parameter in encoder.named_parameters() if parameter.grad is not None}
        for name, encoder in encoders_of(method).items()
    }
