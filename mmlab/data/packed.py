"""What data sets that are packed by ``mmlab prepare`` have in common: where the pack lies, and how it is opened."""

from __future__ import annotations

from abc import ABC
from functools import cached_property
from pathlib import Path

from mmlab.data.base import MultimodalDataset
from mmlab.data.packing import Packed, open_packed


class PackedDataset(MultimodalDataset, ABC):
    """A data set with raw files and their pack in one folder.

    Args:
        root: that folder.
    """

    def __init__(self, root: str) -> None:
        self.root = Path(root)

    @property
    def _folder(self) -> Path:
        """Of the pack."""
        return self.root / "packed"

    @property
    def _command(self) -> str:
        """What prepares it, for messages."""
        return f"mmlab prepare {type(self).__name__} --root {self.root}"

    @property
    def _synthetic(self) -> bool:
        return (self.root / "SYNTHETIC").exists()

    @cached_property
    def _packed(self) -> Packed:
        return open_packed(self._folder, type(self).__name__, self._command)

    def _forget(self) -> None:
        """What was read from a pack that is there no more."""
        vars(self).pop("_packed", None)
