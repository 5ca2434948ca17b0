"""The contract of a network that decides with any combination of modalities.

Encoders, then fusion of what is available, then a trunk, then a head. Methods for incomplete modalities drop modalities
between encoders and fusion, compare and disturb what leaves the trunk, and add second heads; where these places are is
the network's business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass
class Features:
    """What several modalities say together, between two parts of a network.

    Attributes:
        deep: (B, D), or (B, D, h, w) where it still knows the place.
        skips: finer maps of the same samples, the finest first, for segmentation; empty elsewhere.
    """

    deep: Tensor
    skips: tuple[Tensor, ...] = ()

    def of(self, rows: Tensor) -> Features:
        """Those of some samples, by their positions."""
        return Features(self.deep[rows], tuple(skip[rows] for skip in self.skips))


@dataclass
class Decision:
    """Logits.

    Attributes:
        logits: (B, C), or (B, C, H, W) for a class of each pixel.
        coarse: in training for segmentation, logits at smaller sizes, for the same labels; empty elsewhere.
    """

    logits: Tensor
    coarse: tuple[Tensor, ...] = ()


class Head(nn.Module, ABC):
    """From features to logits."""

    @abstractmethod
    def forward(self, features: Features) -> Decision:
        """Decides."""


class Network(nn.Module, ABC):
    """Encoders, fusion, trunk, head.

    ``head(trunk(fuse(encode(inputs), present)))`` is the decision. What a sample lacks must not change it, whatever
    stands in its place, in evaluation.

    Attributes:
        encoders: by modality, in the data set's order.
        head: decides from what leaves the trunk.
        width: D of what leaves the trunk.
    """

    encoders: nn.ModuleDict
    head: Head
    width: int

    @abstractmethod
    def encode(self, inputs: dict[str, Tensor]) -> Any:
        """What doesn't depend on which modalities are available; handed on to :meth:`fuse`."""

    @abstractmethod
    def fuse(self, encoded: Any, present: Tensor) -> Features:
        """Joins the available modalities; nothing is rescaled by their number.

        Args:
            encoded: from :meth:`encode`.
            present: (B, M) bool, in the data set's order.
        """

    @abstractmethod
    def trunk(self, fused: Features) -> Features:
        """What all modalities share, up to the head."""

    @abstractmethod
    def second_head(self) -> SecondHead:
        """A new head that decides beside the first one, from the same fused modalities."""

    def compilable(self) -> Iterable[nn.Module]:
        """The parts of the encoders that are called, and that ``--compile true`` compiles one by one."""
        return self.encoders.values()

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Decision:
        """The decision with the available modalities."""
        return self.head(self.trunk(self.fuse(self.encode(inputs), present)))


class SecondHead(nn.Module):
    """A head beside a network's own, with as much of a trunk of its own as the network gives it.

    Args:
        head: the head.
        trunk: from fused features to what the head takes; None to take what leaves the network's own trunk.
    """

    def __init__(self, head: Head, trunk: nn.Module | None = None) -> None:
        super().__init__()
        self.own_trunk = trunk
        self.head = head

    def forward(self, fused: Features, hidden: Features) -> Decision:
        """Decides.

        Args:
            fused: what the network's trunk takes.
            hidden: what leaves it.
        """
        return self.head(hidden if self.own_trunk is None else self.own_trunk(fused))
