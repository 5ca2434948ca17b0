"""Crossmodal transformers: each modality's sequence is adapted by attention to those of the others.

Source: Tsai, Bai, Liang, Kolter, Morency, Salakhutdinov, "Multimodal Transformer for Unaligned Multimodal Language
Sequences", ACL 2019, section 3, for three modalities; any other number is the same equation.

What is ours: convolutions keep the length (zeros at both ends), so that a step of the output belongs to a sample where
that of the input does; the self-attention adds no positions of its own, since the sequences carry them; all
about missing modalities. No attention is causal: the paper's equations have no mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from mmlab.backbones.sequences import sinusoids
from mmlab.errors import UserError
from mmlab.fusion.several import require_several
from mmlab.fusion.sizes import check_sizes

Steps = tuple[Tensor, Tensor]
"""A sequence (B, T, D), and which of its steps belong to the sample, (B, T) bool."""


class CrossmodalBlock(nn.Module):
    """One layer of a crossmodal transformer, from a source b to a target a (section 3.2 of the paper).

        Y  = attention(LN(Z_ba), LN(Z_b)) + LN(Z_ba)
        Z' = f(LN(Y)) + LN(Y)

    with queries from the first and keys and values from the second, and f a hidden layer of ReLU, four times as wide,
    for each step. A sample without a step of the source is left to its target: attention adds 0.

    Args:
        width: D.
        heads: of the attention; must divide D.
        dropout: of the attention's weights and of what both layers add.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm_target = nn.LayerNorm(width)
        self.norm_source = nn.LayerNorm(width)
        self.norm_hidden = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, target: Tensor, source: Tensor, belongs: Tensor) -> Tensor:
        """The target's next state.

        Args:
            target: (B, T, D).
            source: (B, S, D).
            belongs: (B, S) bool, which steps of the source belong to the sample.
        """
        target, source = self.norm_target(target), self.norm_source(source)
        some = belongs.any(dim=1, keepdim=True)
        # A softmax over no key would be nan: attend to anything, and throw it away.
        ignored = ~belongs & some
        attended, _ = self.attention(target, source, source, key_padding_mask=ignored, need_weights=False)
        hidden = self.norm_hidden(target + self.dropout(attended) * some[..., None])
        return hidden + self.dropout(self.feed_forward(hidden))


class Adapted(nn.Module):
    """A target's sequence, adapted to by a crossmodal transformer from each other modality, then by self-attention.

    Args:
        target: its name.
        names: of all modalities, in the data set's order.
        width: d, of every sequence.
        heads: of every attention.
        layers: of every transformer.
        dropout: of every block.
    """

    def __init__(self, target: str, names: Sequence[str], width: int, heads: int, layers: int, dropout: float) -> None:
        super().__init__()

        def transformer(size: int) -> nn.ModuleList:
            return nn.ModuleList(CrossmodalBlock(size, heads, dropout) for _ in range(layers))

        self.target = target
        self.sources = nn.ModuleDict({source: transformer(width) for source in names if source != target})
        self.temporal = transformer(width * len(self.sources))

    def forward(self, sequences: Mapping[str, Tensor], belongs: Mapping[str, Tensor]) -> Tensor:
        """The state at each sample's last step, (B, (M - 1) d); 0 for a sample without any.

        Args:
            sequences: (B, T_m, d) by modality.
            belongs: (B, T_m) bool by modality, which steps belong to the sample.
        """
        adapted = []
        for source, blocks in self.sources.items():
            state = sequences[self.target]
            for block in cast(nn.ModuleList, blocks):
                state = block(state, sequences[source], belongs[source])
            adapted.append(state)
        own = belongs[self.target]
        state = torch.cat(adapted, dim=2)
        for block in self.temporal:
            state = block(state, state, own)
        last = (own * torch.arange(own.shape[1], device=own.device)).amax(dim=1)
        return state[torch.arange(len(state), device=own.device), last] * own.any(dim=1, keepdim=True)


class CrossmodalFusion(nn.Module):
    """All pairs of crossmodal transformers, a self-attention transformer for each target, and a residual head.

    Each sequence is convolved over time to a common width d and gets positions (sines and cosines). For each target,
    the M - 1 sequences that the others adapt it to are concatenated and go through the self-attention transformer; its
    state at the sample's last step stands for the target, 0 where the sample lacks that modality. The states of all
    targets, h, are decided on by ``W (h + V ReLU(U h))``, biases left out here; the residual part is that of the
    released code.

    Args:
        widths: values of a step by modality, in the data set's order.
        longest: steps that a sequence can have.
        outputs: C.
        width: d, even.
        heads: of every attention; must divide d.
        layers: of every transformer.
        kernel: steps that a convolution sees, odd.
        dropout: of attention, blocks and head.

    Raises:
        UserError: if there is only one modality, a size can't be, heads don't divide the width, or the kernel is even.
    """

    positions: Tensor

    def __init__(
        self,
        widths: Mapping[str, int],
        longest: int,
        outputs: int,
        width: int,
        heads: int,
        layers: int,
        kernel: int,
        dropout: float,
    ) -> None:
        super().__init__()
        require_several(widths)
        check_sizes("MulT", {"width": width, "heads": heads, "layers": layers, "kernel": kernel}, dropout)
        if width % heads or width % 2:
            raise UserError(f"MulT can't have width {width} with {heads} heads: give an even width that they divide.")
        if kernel % 2 == 0:
            raise UserError(f"MulT can't have kernel {kernel}, which has no middle: give an odd number, such as 3.")
        self.register_buffer("positions", sinusoids(longest, width), persistent=False)
        self.convolutions = nn.ModuleDict(
            {name: nn.Conv1d(values, width, kernel, padding=kernel // 2) for name, values in widths.items()}
        )
        self.targets = nn.ModuleList(Adapted(name, list(widths), width, heads, layers, dropout) for name in widths)
        joint = width * (len(widths) - 1) * len(widths)
        self.residual = nn.Sequential(nn.Linear(joint, joint), nn.ReLU(), nn.Dropout(dropout), nn.Linear(joint, joint))
        self.classifier = nn.Linear(joint, outputs)

    def forward(self, sequences: Mapping[str, Steps]) -> Tensor:
        """Logits (B, C).

        Args:
            sequences: by modality, each of its own length; a sample without a step lacks the modality. What stands in
                steps that don't belong to a sample doesn't matter.
        """
        belongs = {name: mask for name, (_, mask) in sequences.items()}
        convolved = {
            name: self._convolved(name, steps.masked_fill(~mask[..., None], 0.0))
            for name, (steps, mask) in sequences.items()
        }
        states = [adapt(convolved, belongs) for adapt in self.targets]
        joint = torch.cat(states, dim=1)
        return self.classifier(joint + self.residual(joint))

    def _convolved(self, name: str, steps: Tensor) -> Tensor:
        convolved = self.convolutions[name](steps.transpose(1, 2)).transpose(1, 2)
        return convolved + self.positions[: convolved.shape[1]]
