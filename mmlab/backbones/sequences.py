"""Backbones of sequences: what happens step by step, in samples of different lengths or of one; and of vectors."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from mmlab.errors import UserError
from mmlab.types import Modality


def step_width(modality: Modality) -> int:
    """D, how many values a step has; without the one that says whether a step of a ragged sequence belongs to it.

    Raises:
        UserError: if the modality is neither a sequence nor a vector.
    """
    if modality.kind not in ("sequence", "vector"):
        raise UserError(
            f"steps are read of sequences and vectors, but the modality {modality.name!r} is of the kind "
            f"{modality.kind}: choose another backbone for it (mmlab list backbones), or another method or data set."
        )
    return modality.shape[-1] - modality.ragged


def steps(x: Tensor, modality: Modality) -> tuple[Tensor, Tensor]:
    """The steps of a batch, and which of them belong to their sample.

    A vector is one step. A sample without any step, such as one that lacks the modality, is one step of zeros, so that
    attention and means have something to look at. What stands behind a sample's end is set to 0.

    Args:
        x: of the modality: (B, T, D) for a sequence, (B, T, D + 1) for a ragged one, (B, D) for a vector. T is that of
            the longest sample of the batch.
        modality: of the kind sequence or vector.

    Returns:
        The values (B, T, D) and the mask (B, T), bool, True up to the sample's length, which is 1 at least.
    """
    if modality.kind == "vector":
        x = x.unsqueeze(1)
    if not modality.ragged:
        return x, torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    mask = x[..., -1] > 0
    values = x[..., :-1].masked_fill(~mask.unsqueeze(2), 0)
    return values, torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], dim=1)


class LSTM(nn.Module):
    """A long short-term memory of one layer that reads forwards, by the name ``lstm``.

    The state after a sample's own last step, dropout, a linear layer: the audio and vision encoders of Self-MM (Yu, Xu,
    Yuan, Wu, AAAI 2021; its released code). The default sizes are ours.

    Args:
        modality: a sequence, ragged or not, or a vector, which is one step.
        hidden: of the state.
        width: D, of the features.
        dropout: of the last state.
    """

    def __init__(self, modality: Modality, hidden: int = 32, width: int = 32, dropout: float = 0.0) -> None:
        super().__init__()
        self.modality = modality
        self.lstm = nn.LSTM(step_width(modality), hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, width)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) from the modality's (B, T, D), (B, T, D + 1) or (B, D)."""
        values, mask = steps(x, self.modality)
        # cuDNN has no backward of an LSTM in evaluation mode, which gradients by the input ask for.
        asked = torch.is_grad_enabled() and not self.training
        with torch.backends.cudnn.flags(enabled=False) if asked else nullcontext():
            states, _ = self.lstm(values)
        last = (mask.sum(dim=1) - 1).view(-1, 1, 1).expand(-1, 1, states.shape[2])
        return self.linear(self.dropout(states.gather(1, last).squeeze(1)))


class SequenceTransformer(nn.Module):
    """A transformer of two layers over the steps, by the name ``sequence_transformer``.

    Each step's values through a linear layer, sinusoidal positions (Vaswani et al., NeurIPS 2017), two layers of four
    heads that normalise first, the mean over the sample's steps, a linear layer. The sizes are ours.

    Args:
        modality: a sequence, ragged or not, or a vector, which is one step.
        hidden: of a step, a multiple of 4; the layers' inner width is four times as large.
        width: D, of the features.
        dropout: within the layers.

    Raises:
        UserError: if ``hidden`` is no multiple of 4.
    """

    positions: Tensor

    def __init__(self, modality: Modality, hidden: int = 32, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        if hidden % HEADS:
            raise UserError(
                f"sequence_transformer has {HEADS} heads, which can't share a hidden of {hidden}: give a multiple of "
                f"{HEADS}."
            )
        self.modality = modality
        self.embedding = nn.Linear(step_width(modality), hidden)
        self.register_buffer("positions", sinusoids(_longest(modality), hidden), persistent=False)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                hidden, HEADS, 4 * hidden, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(hidden)
        self.linear = nn.Linear(hidden, width)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) from the modality's (B, T, D), (B, T, D + 1) or (B, D)."""
        values, mask = steps(x, self.modality)
        states = self.embedding(values) + self.positions[: values.shape[1]]
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=~mask)
        return self.linear(mean_of_steps(self.norm(states), mask))


class FirstStep(nn.Module):
    """The first step's values as they are, by the name ``first_step``: nothing is learnt.

    For features of a text model that come with the data: those of BERT begin with the token that speaks for all. A
    vector is its own first step; a sample without any step gives zeros.

    Args:
        modality: a sequence, ragged or not, or a vector.

    Attributes:
        width: D, as many as a step has values.
    """

    def __init__(self, modality: Modality) -> None:
        super().__init__()
        self.modality = modality
        self.width = step_width(modality)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) from the modality's (B, T, D), (B, T, D + 1) or (B, D)."""
        values, _ = steps(x[:, :1] if self.modality.kind == "sequence" else x, self.modality)
        return values[:, 0]


def mean_of_steps(states: Tensor, mask: Tensor) -> Tensor:
    """The mean over each sample's own steps, (B, D).

    Args:
        states: (B, T, D).
        mask: (B, T) bool, True somewhere in each row.
    """
    return states.masked_fill(~mask.unsqueeze(2), 0).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def sinusoids(length: int, width: int) -> Tensor:
    """The positions' code of Vaswani et al. (NeurIPS 2017, section 3.5), (length, width) for an even width."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)


def _longest(modality: Modality) -> int:
    return modality.shape[0] if modality.kind == "sequence" else 1


HEADS = 4
