"""Corruptions of the test inputs: batched, on the device that the batch is on, given in the raw units of each modality.

A draw is a function of the noise seed and of the sample, so one noise seed is one corrupted test set for every method,
batch size, order and number of devices (to the bit on one kind of device). Severities are nested: a sample keeps its
draws, a higher severity only makes more of them. Severity 0 changes nothing. All modalities are corrupted at the
same severity.

Sources: the test transforms that the released code of QMF (ICML 2023), PDF (ICML 2024) and MNL (NeurIPS 2025) share.
Theirs are the Gaussian and the salt-and-pepper noise of pictures and the blanking of words. This project's, as no
source states them, are: the noise of spectrograms, sequences and vectors, the missing modalities, blur, occlusion,
dropped frames and sound out of step, the same rules for optical flow and for each frame of a clip, and the nesting (the
released code draws anew at every severity).

Slips of the released code that are not repeated: noise in the text of the training and validation splits; one
noise field for all pictures, from a generator that is seeded again at each call; values below 0 that wrap around to
bright pixels; a salt-and-pepper probability that is halved twice or divided by 100.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab.data.distortion import blur, drop_steps, occlude, shift_sound
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.types import Batch, Modality

Name = Literal[
    "gaussian",
    "salt_and_pepper",
    "blank_words",
    "missing",
    "missing_unequal",
    "blur",
    "occlusion",
    "frame_drop",
    "desync",
]


@dataclass(frozen=True)
class Cell:
    """One corrupted test set: how strongly it is corrupted, and by which draws."""

    severity: float
    noise_seed: int


HIGHEST = 10.0
"""The severity at which a probability reaches its largest value."""
_COIN = 0.5  # the share of samples that a corruption reaches
_GREY_LEVELS = 10.0  # standard deviation for each unit of severity
_DENSITY = 0.05  # of pepper, and of salt
_NEEDS: dict[Name, str] = {
    "gaussian": "a modality that isn't text, or text with a blank token",
    "salt_and_pepper": "image, frames or depth with a lowest and a highest value, or text with a blank token",
    "blank_words": "text with a blank token",
    "missing": "two modalities or more",
    "missing_unequal": "two modalities or more",
    "blur": "image, frames or depth",
    "occlusion": "image, frames, depth or audio",
    "frame_drop": "frames, flow or a sequence of two steps or more",
    "desync": "audio beside frames or flow",
}
MISSING = ("missing", "missing_unequal")


def check_severity(name: Name, severity: float) -> None:
    """Refuses a severity that the corruption has no meaning for.

    Raises:
        UserError: if it is negative or not finite, or above 10 where it stands for a probability.
    """
    highest = math.inf if name == "gaussian" else HIGHEST
    if not (math.isfinite(severity) and 0 <= severity <= highest):
        choice = "0 or more" if name == "gaussian" else f"0 to {HIGHEST:g}"
        raise UserError(f"the severity of {name} is {severity:g}; choose {choice}.")


def add_gaussian(
    raw: Tensor, field: Tensor, std: float | Tensor, low: float | None, high: float | None, whole: bool
) -> Tensor:
    """Adds noise in raw units and clips at both ends.

    Args:
        raw: of any shape, in raw units.
        field: standard normal, of a shape that broadcasts against ``raw``.
        std: of the noise, in raw units.
        low: the smallest raw value there can be; None where there is no bound.
        high: the largest.
        whole: whether raw values are whole numbers; fractions are then cut off, as a cast to 8 bits does.

    Returns:
        Of the shape of ``raw``.
    """
    noisy = raw + std * field
    if low is not None or high is not None:
        noisy = noisy.clamp(low, high)
    return noisy.floor() if whole else noisy


def salt_and_pepper_mask(u: Tensor) -> Tensor:
    """What becomes of each pixel: 0 pepper, 1 salt, each with probability 0.05, 2 stays as it is.

    Args:
        u: of any shape, uniform in [0, 1).
    """
    return 2 - (u < 2 * _DENSITY).long() - (u < _DENSITY).long()


def salt_and_pepper(values: Tensor, mask: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Sets pixels to the smallest and the largest value.

    Args:
        values: of any shape.
        mask: as :func:`salt_and_pepper_mask` has it, of a shape that broadcasts against ``values``.
        low: what pepper is, in the unit of ``values``.
        high: what salt is.

    Returns:
        Of the shape of ``values``; pixels that stay are the same bits.
    """
    return torch.where(mask == 0, low, torch.where(mask == 1, high, values))


def blanked(draws_by_word: Tensor, severity: float) -> Tensor:
    """Which words are blanked: each with probability severity / 10.

    Args:
        draws_by_word: of any shape, uniform in [0, 1).
        severity: 0 to 10.

    Returns:
        Bool, of the same shape.
    """
    return draws_by_word < severity / HIGHEST


def blank_words(tokens: Tensor, draws_by_word: Tensor, severity: float, blank: int) -> Tensor:
    """Puts a blank in place of words, as if the text had been tokenised with ``_`` there.

    Words that were cut off when the text was tokenised don't move up into the room that becomes free.

    Args:
        tokens: (B, 2, L) int64: tokens, 0 for padding, and the number of each token's word from 1, 0 for none.
        draws_by_word: (B, W) uniform in [0, 1), the first for word 1; words past the last share its draw.
        severity: 0 to 10.
        blank: the token that stands for a blanked word.

    Returns:
        (B, 2, L) int64: the tokens that are left moved to the front, then padding.
    """
    ids, words = tokens.unbind(dim=1)
    # A token can carry a number past W only if words before it have no token at all.
    draw = (words - 1).clamp(0, draws_by_word.shape[1] - 1)
    hit = (words > 0) & blanked(draws_by_word, severity).gather(1, draw)
    before = F.pad(words, (1, 0))[:, :-1]
    gone = (ids == 0) | (hit & (words == before))
    written = torch.stack((torch.where(hit, blank, ids), words), dim=1).masked_fill(gone[:, None], 0)
    order = gone.to(torch.uint8).argsort(dim=1, stable=True)
    return written.gather(2, order[:, None].expand_as(written))


def drop_modalities(present: Tensor, u: Tensor, severity: float) -> Tensor:
    """Drops each modality of each sample with probability severity / 10, all but one.

    The one that is never dropped is, of those that the sample has, the one with the largest draw.

    Args:
        present: (B, M) bool.
        u: (B, M) uniform in [0, 1); divided by a modality's share of that probability where it has one.
        severity: 0 to 10.

    Returns:
        (B, M) bool, what is left.
    """
    largest = u.masked_fill(~present, -1.0).argmax(dim=1, keepdim=True)
    safe = torch.zeros_like(present).scatter(1, largest, True)
    return present & (safe | (u >= severity / HIGHEST))


class Corruption:
    """One way of spoiling the encoder inputs of a test split.

    - ``gaussian``: each modality of each sample with probability 1/2. Pictures (image, frames, depth, flow): one normal
      field for all channels, one for each frame, with a standard deviation of 10 grey levels (or the modality's
      own ``noise``) for each unit of severity, clipped to the raw range and, where that is 0 to 255, cut to whole
      levels (not flow: half a level less everywhere would be a motion). Audio, sequences and vectors (this project's
      rule): a field over all values, with a standard deviation of severity / 10 in normalised units (or ``noise`` raw
      units for each unit of severity), clipped to the raw range. Text: blanked words.
    - ``salt_and_pepper``: pictures but flow, each with probability severity / 20: a pixel becomes the smallest value
      with probability 0.05 and the largest with 0.05, in all channels alike. Text: blanked words.
    - ``blank_words``: each text with probability 1/2: every word becomes a blank with probability severity / 10.

    The others are this project's rules:

    - ``missing``: each modality of each sample is dropped with probability severity / 10, but one is always left.
    - ``missing_unequal``: the same with the probability severity / 10 * m / M for the m-th of M modalities, in the data
      set's order: the last is dropped most often. The one that is left is that with the largest draw over m / M.
    - ``blur``: pictures but flow, each with probability 1/2, see :func:`~mmlab.data.distortion.blur`.
    - ``occlusion``: pictures but flow, and spectrograms, each with probability 1/2, see
      :func:`~mmlab.data.distortion.occlude`; one rectangle for all frames of a clip.
    - ``frame_drop``: frames, flow and sequences, each with probability 1/2, see
      :func:`~mmlab.data.distortion.drop_steps`: each modality loses steps of its own.
    - ``desync``: sound beside frames or flow, each with probability 1/2, see
      :func:`~mmlab.data.distortion.shift_sound`: the pictures stay as they are.

    What a sample lacks stays zero. Noise is added at the size that the encoder sees, not before the final crop, which
    for noise that is independent from pixel to pixel is the same.

    Args:
        name: which of these.
        modalities: the data set's, in the order of ``Batch.present``.

    Raises:
        UserError: if it would change none of them.
    """

    touched: tuple[str, ...]
    """The names of the modalities that can change."""

    def __init__(self, name: Name, modalities: tuple[Modality, ...]) -> None:
        self.name = name
        self.touched = tuple(modality.name for modality in modalities if _changes(name, modality, modalities))
        if not self.touched:
            given = ", ".join(f"{modality.name} ({modality.kind})" for modality in modalities)
            raise UserError(
                f"the corruption {name} needs {_NEEDS[name]}, but the data set has {given}: choose another corruption."
            )
        self._modalities = modalities
        self._scales = {modality.name: _scale(modality) for modality in modalities}

    def __call__(self, batch: Batch, severity: float, noise_seed: int) -> Batch:
        """Corrupts encoder inputs.

        Args:
            batch: normalised inputs, on any device.
            severity: see :func:`check_severity`.
            noise_seed: which corrupted test set.

        Returns:
            A new batch; inputs that don't change are the same tensors.
        """
        return next(self.each(batch, [Cell(severity, noise_seed)]))

    def each(self, batch: Batch, cells: Sequence[Cell]) -> Iterator[Batch]:
        """Corrupts encoder inputs in several ways; all severities share the draws of one noise seed.

        Args:
            batch: normalised inputs, on any device.
            cells: see :meth:`__call__`.

        Yields:
            A new batch for each cell, made when it is asked for.
        """
        drawn: dict[int, dict[str, Tensor]] = {}
        for cell in cells:
            if cell.severity == 0:
                # Noise of no width would still cut pictures that were resized to whole grey levels.
                yield replace(batch, inputs=dict(batch.inputs))
                continue
            if cell.noise_seed not in drawn:
                drawn[cell.noise_seed] = self._draw(batch, Draws(cell.noise_seed, 0, batch.index))
            if self.name in MISSING:
                yield self._without(batch, cell.severity, drawn[cell.noise_seed]["missing"])
            else:
                yield self._distorted(batch, cell.severity, drawn[cell.noise_seed])

    def _draw(self, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """All that is random: for each touched modality its noise, and under ``<modality>/coin`` whether it has any."""
        if self.name in MISSING:
            u = draws.uniform("corruption/missing", len(self._modalities))
            if self.name == "missing_unequal":
                u = u / torch.arange(1, len(self._modalities) + 1, device=u.device).mul(1 / len(self._modalities))
            return {"missing": u}
        drawn = {}
        for modality in self._modalities:
            if modality.name in self.touched:
                drawn[modality.name] = self._noise(batch.inputs[modality.name], modality, draws)
                drawn[f"{modality.name}/coin"] = draws.uniform(f"corruption/{modality.name}/coin")[:, 0]
        return drawn

    def _noise(self, clean: Tensor, modality: Modality, draws: Draws) -> Tensor:
        """What a modality's values are changed by, for every severity."""
        where = f"corruption/{modality.name}"
        if modality.kind == "text":
            return draws.uniform(f"{where}/words", modality.shape[-1])
        if self.name == "occlusion":
            return draws.uniform(f"{where}/place", 2)
        if self.name == "frame_drop":
            return draws.uniform(f"{where}/steps", clean.shape[_step_axis(modality)])
        if self.name == "desync":
            return draws.uniform(f"{where}/shift")[:, 0]
        if self.name == "blur":
            return clean.new_empty(0)  # nothing about it is random but whom it hits
        picture = _is_picture(modality)
        shape = (1, *modality.shape[1:]) if picture else modality.shape
        if self.name == "salt_and_pepper":
            u = draws.uniform(f"{where}/specks", math.prod(shape)).view(-1, *shape)
            return salt_and_pepper_mask(u)
        field = draws.normal(f"{where}/field", math.prod(shape)).view(-1, *shape)
        if modality.ragged:  # what says how long a sample is stays as it is, and so does what fills it up
            steps = clean[..., -1:]
            field = field[:, : clean.shape[1]] * torch.cat([steps.expand_as(clean[..., 1:]), 0 * steps], dim=-1)
        return field

    def _without(self, batch: Batch, severity: float, u: Tensor) -> Batch:
        present = drop_modalities(batch.present, u, severity)
        inputs = {}
        for position, modality in enumerate(self._modalities):
            clean = batch.inputs[modality.name]
            gone = batch.present[:, position] & ~present[:, position]
            inputs[modality.name] = torch.where(_over(gone, clean), torch.zeros_like(clean), clean)
        return Batch(inputs, batch.target, present, batch.index)

    def _distorted(self, batch: Batch, severity: float, drawn: dict[str, Tensor]) -> Batch:
        inputs = dict(batch.inputs)
        for position, modality in enumerate(self._modalities):
            if modality.name not in self.touched:
                continue
            clean = inputs[modality.name]
            reached = _COIN
            if self.name == "salt_and_pepper" and modality.kind != "text":
                reached = _COIN * severity / HIGHEST
            chosen = (drawn[f"{modality.name}/coin"] < reached) & batch.present[:, position]
            changed = self._changed(clean, modality, severity, drawn[modality.name])
            inputs[modality.name] = torch.where(_over(chosen, clean), changed, clean)
        return replace(batch, inputs=inputs)

    def _changed(self, clean: Tensor, modality: Modality, severity: float, noise: Tensor) -> Tensor:
        if modality.kind == "text":
            assert modality.blank is not None
            return blank_words(clean, noise, severity, modality.blank)
        if self.name == "blur":
            return blur(clean, severity / HIGHEST)
        if self.name == "occlusion":
            return occlude(clean, noise, severity / HIGHEST)
        if self.name == "frame_drop":
            has = clean[..., -1] != 0 if modality.ragged else None
            return drop_steps(clean, noise, severity / HIGHEST, _step_axis(modality), has)
        if self.name == "desync":
            return shift_sound(clean, noise, severity / HIGHEST)
        mean, std = self._scale_on(clean.device, modality)
        if self.name == "salt_and_pepper":
            assert modality.low is not None
            assert modality.high is not None
            return salt_and_pepper(clean, noise, (modality.low - mean) / std, (modality.high - mean) / std)
        picture = _is_picture(modality)
        width: float | Tensor
        if modality.noise is not None:
            width = modality.noise * severity
        else:
            width = _GREY_LEVELS * severity if picture else std * (severity / HIGHEST)
        whole = picture and modality.kind != "flow" and (modality.low, modality.high) == (0, 255)
        noisy = add_gaussian(clean * std + mean, noise, width, modality.low, modality.high, whole)
        return (noisy - mean) / std

    def _scale_on(self, device: torch.device, modality: Modality) -> tuple[Tensor, Tensor]:
        mean, std = self._scales[modality.name]
        self._scales[modality.name] = (mean.to(device), std.to(device))
        return self._scales[modality.name]


def possible_corruptions(
    names: Sequence[Name], modalities: tuple[Modality, ...]
) -> tuple[list[Corruption], dict[Name, UserError]]:
    """Those of some corruptions that a data set can have, and of the others why it can't.

    Args:
        names: of the corruptions.
        modalities: the data set's.
    """
    possible, impossible = [], {}
    for name in names:
        try:
            possible.append(Corruption(name, modalities))
        except UserError as error:
            impossible[name] = error
    return possible, impossible


def _is_picture(modality: Modality) -> bool:
    return modality.kind in ("image", "frames", "depth", "flow")


def _step_axis(modality: Modality) -> int:
    """Where a batch of it has its steps in time: (B, T, D) or (B, channels, T, H, W)."""
    return 1 if modality.kind == "sequence" else 2


def _changes(name: Name, modality: Modality, modalities: tuple[Modality, ...]) -> bool:
    kind = modality.kind
    if name in MISSING:
        return len(modalities) > 1
    if name == "blur":
        return kind in ("image", "frames", "depth")
    if name == "occlusion":
        return kind in ("image", "frames", "depth", "audio")
    if name == "frame_drop":
        return kind in ("frames", "flow", "sequence") and modality.shape[_step_axis(modality) - 1] > 1
    if name == "desync":
        return kind == "audio" and any(other.kind in ("frames", "flow") for other in modalities)
    if kind == "text":
        return modality.blank is not None
    if name == "salt_and_pepper":
        bounded = modality.low is not None and modality.high is not None
        return bounded and kind in ("image", "frames", "depth")
    return name == "gaussian"


def _over(rows: Tensor, values: Tensor) -> Tensor:
    """(B,) in a shape that broadcasts against (B, ...)."""
    return rows.view(-1, *[1] * (values.dim() - 1))


def _scale(modality: Modality) -> tuple[Tensor, Tensor]:
    """Mean and std in a shape that broadcasts against one sample; sequences and vectors have their channels last."""
    behind = 0 if modality.kind in ("sequence", "vector", "text") else len(modality.shape) - 1
    channels = (-1, *(1,) * behind)
    return torch.tensor(modality.mean).view(channels), torch.tensor(modality.std).view(channels)
