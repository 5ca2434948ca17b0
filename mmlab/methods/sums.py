"""The losses of an epoch, summed up on the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmlab.errors import UserError


class LossSums:
    """Running sums of the losses, and the first batch with a loss that isn't finite, all on the device.

    Nothing here waits for the device; whoever reads it does.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._total: Tensor | None = None
        self._count = 0
        self._bad_step: Tensor | None = None
        self._bad_index: Tensor | None = None

    def add(self, losses: dict[str, Tensor], index: Tensor, step: int) -> None:
        """Adds one step.

        Args:
            losses: scalars by name, ``loss`` among them.
            index: (B,), the step's samples.
            step: its number.

        Raises:
            UserError: if the names are not those of the steps before.
        """
        values = torch.stack([value.detach().float() for value in losses.values()])
        self._count += 1
        if self._total is None:
            self.names = list(losses)
            self._total = torch.zeros_like(values)
        if self.names != list(losses):
            raise UserError(
                f"losses() returned {', '.join(losses)} after {', '.join(self.names)}: it must return the same parts "
                f"at every step, zero where a part is not in use."
            )
        self._total = self._total.to(values.device) + values  # a checkpoint is read on the CPU
        if self._bad_step is None or self._bad_index is None:
            self._bad_step = torch.full((), -1, device=index.device)
            self._bad_index = torch.zeros_like(index)
        newly = ~losses["loss"].detach().isfinite() & (self._bad_step < 0)
        self._bad_step = torch.where(newly, step, self._bad_step)
        self._bad_index = torch.where(newly, index, self._bad_index)

    def first_bad(self) -> tuple[Tensor, Tensor] | None:
        """The first step whose loss wasn't finite, () and -1 for none, and its samples, (B,); None before any step."""
        if self._bad_step is None or self._bad_index is None:
            return None
        return self._bad_step, self._bad_index

    def means(self) -> Tensor:
        """The means so far, in the order of ``names``."""
        assert self._total is not None
        return self._total / self._count

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        return {"names": self.names, "total": self._total, "count": self._count}

    @staticmethod
    def from_state(state: dict[str, Any]) -> LossSums:
        """The reverse of :meth:`state`."""
        sums = LossSums()
        sums.names, sums._total, sums._count = state["names"], state["total"], state["count"]
        return sums
