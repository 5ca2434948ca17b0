"""A network for one combination of modalities: what a method that serves every combination is measured against.

Idea: nothing is dropped in training and nothing is missing in the evaluation; there are as many such networks as there
are combinations ("customized models" in Wei, Luo, Luo, "MMANet", CVPR 2023, table 1).

Loss:

    L = CE(network(f_m(x_m), m in the combination), y)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmlab.availability import Combination, combination_name
from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice
from mmlab.errors import UserError
from mmlab.methods.base import OptimizerFactory, SchedulerFactory
from mmlab.methods.incomplete import Incomplete
from mmlab.networks.build import build_network
from mmlab.types import Batch, Prediction


class Dedicated(Incomplete):
    """One combination of modalities, alone.

    Its metrics are called as that combination's are elsewhere: ``acc_audio``, ``acc_rgb+depth``, with all modalities
    ``acc``. Samples without any of its modalities don't count, neither in training nor in the metrics.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        modalities: the names of those that are used.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if no modality is named, or one that the data set lacks.
    """

    def __init__(
        self,
        spec: dict[str, Any],
        modalities: list[str],
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        names = self.spec.names
        if not modalities:
            raise UserError(f"Dedicated's modalities are empty: name some of {', '.join(names)}.")
        # In the data set's order, whatever that of the names.
        self.columns = sorted({self.spec.position(name) for name in modalities})
        own = replace(self.spec, modalities=tuple(self.spec.modalities[m] for m in self.columns))
        # Encoders without a gradient would stop distributed training.
        encoders = nn.ModuleDict({name: self.network.encoders[name] for name in own.names})
        self.network = build_network(own, encoders)

    @property
    def tested(self) -> list[Combination]:
        """The one combination."""
        return [tuple(m in self.columns for m in range(len(self.spec.names)))]

    @property
    def monitor(self) -> str:
        """The metric of the one combination."""
        (combination,) = self.tested
        whole = all(combination)
        return self.spec.task.monitor + ("" if whole else f"_{combination_name(self.spec.names, combination)}")

    def forward_each(self, inputs: dict[str, Tensor], presents: Sequence[Tensor]) -> Iterator[Prediction]:
        """Decides with its own modalities, as far as they are available."""
        return super().forward_each(inputs, [present[:, self.columns] for present in presents])

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The task's loss."""
        present = batch.present[:, self.columns]
        return {"loss": self.task_loss(self.network(batch.inputs, present), batch.target, present.any(dim=1))}
