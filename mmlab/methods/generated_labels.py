"""What Self-MM remembers of the training samples, and the labels of single modalities that it makes from that."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from mmlab.losses.unimodal_labels import centres, closeness, mixed_labels, moved_labels

FIRST_EPOCH = 2
"""The first, counted from 1, in which labels move."""


class GeneratedLabels(nn.Module):
    """A label of each modality for each training sample, and each sample's last representations.

    A branch is that of all modalities, which comes first and whose labels are the true ones, or that of one modality.
    Of a sample that lacks a modality, neither label nor representation counts (our choice). A sample that was in no
    batch yet counts with zeros: in the released code so in the first epoch alone; here an epoch leaves out its
    incomplete last batch, so that a few samples may wait for a later one.

    A rule of one's own is a subclass with another :meth:`new_labels`, as the attribute ``generator`` of a subclass of
    the method.

    Args:
        samples: N, of the training split.
        widths: of each branch's representation, that of all modalities first.
        bound: labels are clamped to [-bound, bound].
        exclude_zero: whether a label of 0 belongs neither to the positive nor to the negative centre.
    """

    multimodal: Tensor
    unimodal: Tensor
    available: Tensor
    bank: Tensor
    centres: Tensor
    found: Tensor

    def __init__(self, samples: int, widths: Sequence[int], bound: float, exclude_zero: bool) -> None:
        super().__init__()
        self.bound, self.exclude_zero = bound, exclude_zero
        ends = list(accumulate(widths))
        self.parts = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
        branches = len(widths)
        self.register_buffer("multimodal", torch.zeros(samples))
        self.register_buffer("unimodal", torch.zeros(branches - 1, samples))
        self.register_buffer("available", torch.ones(branches, samples, dtype=torch.bool))
        self.register_buffer("bank", torch.zeros(samples, ends[-1]))
        self.register_buffer("centres", torch.zeros(2, ends[-1]))
        self.register_buffer("found", torch.zeros(2, branches, dtype=torch.bool))

    def begin(self, targets: Tensor, present: Tensor) -> None:
        """Before the first epoch: each modality's labels are the true ones.

        Args:
            targets: (N,), of the training split.
            present: (N, M) bool, of the training split.
        """
        self.multimodal.copy_(targets)
        self.unimodal.copy_(targets.expand_as(self.unimodal))
        self.available[1:].copy_(present.T)

    def of(self, index: Tensor) -> Tensor:
        """Each modality's labels of some samples, (M, B).

        Args:
            index: (B,), positions in the training split.
        """
        return self.unimodal[:, index]

    def learn(self, index: Tensor, representations: Tensor, epoch: int) -> Tensor:
        """Moves the labels of a batch, then remembers its representations, then finds all centres anew.

        Labels move by the centres that the batch before left, which hold the samples as they were seen last. Where
        the positive or the negative side is empty, the centre stays what it was; a modality's labels wait until it
        and the branch of all modalities have both.

        Args:
            index: (B,), positions in the training split; of all processes.
            representations: (B, sum of widths), one branch after another, without gradient.
            epoch: counted from 1.

        Returns:
            The share of new labels that were clamped, a scalar; 0 where none was made.
        """
        representations = representations.to(self.bank.dtype)
        clamped = self._relabel(index, representations, epoch) if epoch >= FIRST_EPOCH else self.bank.new_zeros(())
        self.bank[index] = representations
        for branch, (part, labels) in enumerate(zip(self.parts, (self.multimodal, *self.unimodal), strict=True)):
            now, found = centres(self.bank[:, part], labels, self.available[branch], self.exclude_zero)
            self.centres[:, part] = torch.where(found[:, None], now, self.centres[:, part])
            self.found[:, branch] |= found
        return clamped

    def new_labels(self, multimodal: Tensor, representations: Sequence[Tensor]) -> Tensor:
        """What a batch's labels would be by its places between the centres alone, (M, B), not clamped.

        Args:
            multimodal: (B,), the true labels.
            representations: (B, D_k) of each branch.
        """
        fused, *own = (
            closeness(rows, self.centres[:, part]) for rows, part in zip(representations, self.parts, strict=True)
        )
        return moved_labels(multimodal, torch.stack(own), fused)

    def _relabel(self, index: Tensor, representations: Tensor, epoch: int) -> Tensor:
        new = self.new_labels(self.multimodal[index], [representations[:, part] for part in self.parts])
        ready = self.found.all(dim=0)
        moves = (ready[1:] & ready[0])[:, None] & self.available[1:, index]
        old = self.of(index)
        mixed = mixed_labels(old, new.clamp(-self.bound, self.bound), epoch)
        self.unimodal[:, index] = torch.where(moves, mixed, old)
        return ((new.abs() > self.bound) & moves).sum() / moves.sum().clamp(min=1)
