"""Modality dropout alone: the baseline of every method for incomplete modalities.

Idea: one network is trained with a random combination of modalities for each sample, so that it has seen every
combination before one is missing (Neverova et al., "ModDrop", TPAMI 2016, in the form that MMANet and DMRNet start
from: on features, by sample, all combinations equally likely).

Loss, with c_i drawn uniformly from the non-empty subsets of what sample i has:

    L = CE(network(c_i * f(x_i)), y_i)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice
from mmlab.methods.base import OptimizerFactory, SchedulerFactory
from mmlab.methods.incomplete import Incomplete
from mmlab.types import Batch


class ModalityDropout(Incomplete):
    """The task's loss on randomly incomplete modalities.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The task's loss."""
        return {"loss": self.task_loss(self.network(batch.inputs, self.available(batch)), batch.target)}
