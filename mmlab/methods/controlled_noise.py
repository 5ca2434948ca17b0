"""Noise of a known level, from 1 (none) to 11 (nothing else), on the training inputs of UDML.

Source: Wei, Zhang, Chen, He, Duan, "Unbiased Dynamic Multimodal Fusion", CVPR 2026 Findings, as its released code has
it for log-spectrograms and 8-bit images. Its slips are left out: one noise field for all sounds, and values below 0
that wrap around to bright pixels. The rules for all other kinds of modality are this project's.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from mmlab.draws import Draws
from mmlab.types import Modality

CLEAN, PURE = 1, 11
_PURE_FACTOR = 25.5  # by which the noise that replaces a signal is wider than its level says
_CEILING = 255.0  # above which sound is cut
_SHARE = 0.3  # of the standard deviation, for each level above 1


def draw_levels(samples: int, modalities: int, seed: int) -> Tensor:
    """A level for each modality of each training sample: uniform from 1 to 11, but 1 throughout in half of the samples.

    Args:
        samples: N; floor(N / 2) of them are clean in all modalities.
        modalities: M.
        seed: of the draw.

    Returns:
        (N, M) uint8.
    """
    rng = np.random.default_rng(seed)
    levels = rng.integers(CLEAN, PURE + 1, (samples, modalities), dtype=np.uint8)
    levels[rng.permutation(samples)[: samples // 2]] = CLEAN
    return torch.from_numpy(levels)


def noisy_sound(raw: Tensor, field: Tensor, level: Tensor) -> Tensor:
    """Noise of standard deviation l in a log-spectrogram; what is above 255 is cut.

    Args:
        raw: of any shape.
        field: standard normal, of a shape that broadcasts against ``raw``, as the next.
        level: 2 to 11; at 11, ``25.5 l n`` takes the place of the sound.
    """
    noise = level * field
    return torch.where(level == PURE, _PURE_FACTOR * noise, raw + noise).clamp(max=_CEILING)


def noisy_picture(raw: Tensor, field: Tensor, level: Tensor, low: float, high: float) -> Tensor:
    """Noise of standard deviation l^2 grey levels, 255 of which are the range; cut at both ends.

    Args:
        raw: of any shape.
        field: standard normal, of a shape that broadcasts against ``raw``, as the next.
        level: 2 to 11; at 11, ``25.5 l^2 n`` takes the place of the picture.
        low: the smallest raw value there can be.
        high: the largest. Values from 0 to 255 are cut off to whole ones, as a cast to 8 bits does.
    """
    noise = level.square() * field * ((high - low) / 255)
    noisy = torch.where(level == PURE, _PURE_FACTOR * noise, raw + noise).clamp(low, high)
    return noisy.floor() if (low, high) == (0, 255) else noisy


def noisy_values(raw: Tensor, field: Tensor, level: Tensor, std: Tensor) -> Tensor:
    """Noise of standard deviation 0.3 (l - 1) times that of the values.

    Args:
        raw: of any shape.
        field: standard normal, of a shape that broadcasts against ``raw``, as the next two.
        level: 2 to 11; at 11, noise of that size takes the place of the values.
        std: of the raw values.
    """
    noise = _SHARE * std * (level - 1) * field
    return torch.where(level == PURE, noise, raw + noise)


class ControlledNoise(nn.Module):
    """Adds noise at the raw scale of each modality, on the device that the inputs are on.

    Audio: :func:`noisy_sound`. Image, frames, depth and flow: :func:`noisy_picture`, with one field for all channels
    and each frame its own. Sequences, vectors, and pictures whose raw range isn't known: :func:`noisy_values`. Text is
    left as it is.

    Args:
        modalities: the data set's, in order.
    """

    def __init__(self, modalities: tuple[Modality, ...]) -> None:
        super().__init__()
        self._modalities = modalities
        for modality in modalities:
            behind = 0 if modality.kind in ("sequence", "vector", "text") else len(modality.shape) - 1
            for what, values in (("mean", modality.mean), ("std", modality.std)):
                scale = torch.tensor(values).view(-1, *[1] * behind)
                self.register_buffer(f"{what}_{modality.name}", scale, persistent=False)

    def reaches(self, modality: Modality) -> bool:
        """Whether a modality gets noise at all."""
        return modality.kind != "text"

    def forward(self, inputs: dict[str, Tensor], levels: Tensor, draws: Draws) -> dict[str, Tensor]:
        """Noisy encoder inputs; those of level 1 are the same bits.

        Args:
            inputs: (B, *shape) by modality, normalised.
            levels: (B, M), 1 to 11.
            draws: the batch's.
        """
        return {
            modality.name: self._noisy(inputs[modality.name], levels[:, m], modality, draws)
            if self.reaches(modality)
            else inputs[modality.name]
            for m, modality in enumerate(self._modalities)
        }

    def _noisy(self, clean: Tensor, levels: Tensor, modality: Modality, draws: Draws) -> Tensor:
        mean, std = (getattr(self, f"{what}_{modality.name}").to(clean.dtype) for what in ("mean", "std"))
        level = levels.view(-1, *[1] * (clean.dim() - 1)).to(clean.dtype)
        picture = modality.kind in ("image", "frames", "depth", "flow")
        shape = (1, *clean.shape[2:]) if picture else clean.shape[1:]
        field = draws.field(f"noise_{modality.name}", math.prod(shape)).view(-1, *shape).to(clean.dtype)
        raw = clean * std + mean
        if modality.kind == "audio":
            noisy = noisy_sound(raw, field, level)
        elif picture and modality.low is not None and modality.high is not None:
            noisy = noisy_picture(raw, field, level, modality.low, modality.high)
        else:
            noisy = noisy_values(raw, field, level, std)
        return torch.where(level == CLEAN, clean, (noisy - mean) / std)
