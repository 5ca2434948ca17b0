"""From raw uint8 images and frames to what an encoder sees: batched, on the device that the images are on.

Every class here is a transform: it takes raw values and the batch's draws (None in evaluation). Means and standard
deviations are in raw units (0 to 255), one number or one for each channel. Aligned modalities share their geometry
by sharing ``draw``, the prefix of the names under which the draws are made.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from mmlab.draws import Draws

# Of ImageNet's photographs, in grey levels.
IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)


class Normalise:
    """(raw - mean) / std, channel by channel.

    Args:
        mean: of the raw values, one number or one for each channel.
        std: likewise.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self._mean, self._std = torch.tensor(mean), torch.tensor(std)

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, C, ...) to float32 of the same shape; the channels are the second axis."""
        self._mean, self._std = self._mean.to(raw.device), self._std.to(raw.device)
        channels = (-1, *(1,) * (raw.ndim - 2))
        return (raw.to(torch.float32) - self._mean.view(channels)) / self._std.view(channels)


class RandomShift:
    """Training moves each sample by a few whole pixels, repeating its edge; then the values are normalised.

    Args:
        pixels: the largest move in each direction.
        mean: of the raw values, one number or one for each channel.
        std: likewise.
        draw: prefix of the draws' names.
    """

    def __init__(self, pixels: int, mean: tuple[float, ...], std: tuple[float, ...], draw: str = "image") -> None:
        self._pixels = pixels
        self._normalise = Normalise(mean, std)
        self._draw = draw

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, C, H, W) or (B, C, T, H, W) to float32 of the same shape; the frames of a sample move together."""
        return self._normalise(raw if draws is None else self._moved(raw, draws), draws)

    def _moved(self, raw: Tensor, draws: Draws) -> Tensor:
        height, width = raw.shape[-2:]
        moves = (draws.uniform(f"{self._draw}/shift", 2) * (2 * self._pixels + 1)).long() - self._pixels
        rows = (torch.arange(height, device=raw.device) + moves[:, :1]).clamp(0, height - 1)
        columns = (torch.arange(width, device=raw.device) + moves[:, 1:]).clamp(0, width - 1)
        return _gathered(raw, rows, columns)


class RandomShiftFlip:
    """Training moves each sample by a few whole pixels and mirrors it left to right with probability 1/2.

    The edge is repeated where a sample moves inwards; then the values are normalised. Two streams that show one scene
    at different resolutions share their geometry by sharing ``draw`` and ``moves``: the finer one has the larger
    ``step``.

    Args:
        moves: the largest number of steps in each direction.
        step: what one step is, in pixels.
        mean: of the raw values, one number or one for each channel.
        std: likewise.
        turned: the channel whose raw values change their sign in the mirror, the horizontal component of optical flow;
            None where there is none.
        draw: prefix of the draws' names.
    """

    def __init__(
        self,
        moves: int,
        step: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        turned: int | None = None,
        draw: str = "image",
    ) -> None:
        self._moves = moves
        self._step = step
        self._normalise = Normalise(mean, std)
        self._turned = turned
        self._draw = draw

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, C, H, W) or (B, C, T, H, W) to float32 of the same shape; the frames of a sample share their draws."""
        return self._normalise(raw if draws is None else self._changed(raw, draws), draws)

    def _changed(self, raw: Tensor, draws: Draws) -> Tensor:
        height, width = raw.shape[-2:]
        moves = (draws.uniform(f"{self._draw}/shift", 2) * (2 * self._moves + 1)).long() - self._moves
        down, right = (moves * self._step).split(1, dim=1)
        flips = draws.uniform(f"{self._draw}/flip") < 0.5
        columns = torch.arange(width, device=raw.device)
        columns = torch.where(flips, columns.flip(0), columns) + right
        rows = torch.arange(height, device=raw.device) + down
        changed = _gathered(raw, rows.clamp(0, height - 1), columns.clamp(0, width - 1))
        if self._turned is None:
            return changed
        # As numbers with room: the lowest 8-bit value has no counterpart.
        return _turned(changed.to(torch.float32), flips, self._turned)


class RandomCropFlip:
    """Square crops for training, the whole image in evaluation; then the values are normalised.

    Training cuts a square out of the image at a random place, without resizing it, and mirrors it left to right with
    probability 1/2. Evaluation resizes the whole image to the same square (bilinear, antialiased).

    Args:
        size: side of the result, in pixels.
        mean: of the raw values, one number or one for each channel.
        std: likewise.
        draw: prefix of the draws' names.
    """

    def __init__(self, size: int, mean: tuple[float, ...], std: tuple[float, ...], draw: str = "image") -> None:
        self._size = size
        self._normalise = Normalise(mean, std)
        self._draw = draw

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, C, H, W), H and W no smaller than ``size``, to float32 (B, C, size, size)."""
        if draws is None:
            sides = (self._size, self._size)
            whole = F.interpolate(raw.float(), sides, mode="bilinear", antialias=True, align_corners=False)
            return self._normalise(whole, draws)
        return self._normalise(_random_square(raw, self._size, draws, self._draw)[0], draws)


class RandomClipCropFlip:
    """One of several stored clips, cut to a square without resizing it; then the values are normalised.

    Training draws the clip, a square at a random place, and whether it is mirrored left to right (probability 1/2);
    evaluation takes the middle clip and its centre square. All frames of a clip share the draws, and so do the streams
    that share ``draw``.

    Args:
        size: side of the result, in pixels.
        mean: of the raw values, one number or one for each channel.
        std: likewise.
        turned: the channel that changes its sign in the mirror, the horizontal component of optical flow, whose
            ``mean`` must stand for no motion; None where there is none.
        evaluation: mean and std in evaluation; None for those of training.
        draw: prefix of the draws' names.
    """

    def __init__(
        self,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        turned: int | None = None,
        evaluation: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        draw: str = "clip",
    ) -> None:
        self._size = size
        self._normalise = Normalise(mean, std)
        self._turned = turned
        self._evaluation = self._normalise if evaluation is None else Normalise(*evaluation)
        self._draw = draw

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, clips, C, H, W) or (B, clips, C, T, H, W), H and W no smaller than ``size``, to float32 without clips."""
        clips = raw.shape[1]
        if draws is None:
            top, left = ((side - self._size) // 2 for side in raw.shape[-2:])
            centre = raw[:, clips // 2, ..., top : top + self._size, left : left + self._size]
            return self._evaluation(centre, draws)
        which = (draws.uniform(f"{self._draw}/which")[:, 0] * clips).long()
        drawn = raw[torch.arange(len(raw), device=raw.device), which]
        cropped, flips = _random_square(drawn, self._size, draws, self._draw)
        normal = self._normalise(cropped, draws)
        if self._turned is None:
            return normal
        return _turned(normal, flips, self._turned)


class RandomResizedCropFlip:
    """Square crops for training, the whole image in evaluation, both resized and normalised.

    Training cuts a box of 8 to 100 % of the area and an aspect ratio of 3/4 to 4/3 (the first of ten tries that fits,
    else the last one cut to the image) and mirrors it left to right with probability 1/2; every frame has a draw
    of its own. Of the stored frames, ``frames`` are picked in order, one from each of as many equal segments: at
    random in training, the middle one in evaluation.

    Args:
        size: side of the result, in pixels.
        mean: of the raw values, one number or one for each channel.
        std: likewise.
        frames: how many frames are picked; None where a sample is one image.
        draw: prefix of the draws' names.
    """

    def __init__(
        self,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        frames: int | None = None,
        draw: str = "image",
    ) -> None:
        self._size = size
        self._normalise = Normalise(mean, std)
        self._frames = frames
        self._draw = draw

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, C, H, W) to (B, C, size, size); with frames, (B, stored, C, H, W) to (B, C, frames, size, size)."""
        picked = raw[:, None] if self._frames is None else self._picked(raw, self._frames, draws)
        flat = picked.flatten(0, 1).to(torch.float32)
        if draws is None:
            sides = (self._size, self._size)
            resized = F.interpolate(flat, sides, mode="bilinear", antialias=True, align_corners=False)
        else:
            resized = self._cropped(flat, picked.shape[1], draws)
        normal = self._normalise(resized, draws)
        clips = normal.view(*picked.shape[:2], *normal.shape[1:]).transpose(1, 2)
        return clips[:, :, 0] if self._frames is None else clips

    def _picked(self, raw: Tensor, frames: int, draws: Draws | None) -> Tensor:
        stored = raw.shape[1]
        within = 0.5 if draws is None else draws.uniform(f"{self._draw}/frame", frames)
        edges = torch.arange(frames + 1, device=raw.device) * stored // frames  # whole frames: none is picked twice
        places = edges[:-1] + (within * edges.diff()).long()
        places = places.clamp(max=stored - 1).expand(len(raw), frames)
        return raw[torch.arange(len(raw), device=raw.device)[:, None], places]

    def _cropped(self, images: Tensor, frames: int, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        boxes = self._boxes(height, width, frames, draws)
        which = torch.arange(len(images), device=images.device, dtype=torch.float32)
        crops = roi_align(images, torch.cat((which[:, None], boxes), dim=1), self._size, aligned=True)
        flips = draws.uniform(f"{self._draw}/flip", frames).view(-1, 1, 1, 1) < 0.5
        return torch.where(flips, crops.flip(-1), crops)

    def _boxes(self, height: int, width: int, frames: int, draws: Draws) -> Tensor:
        def tries(what: str) -> Tensor:
            return draws.uniform(f"{self._draw}/{what}", frames * 10).view(-1, 10)

        area = (0.08 + 0.92 * tries("area")) * (height * width)
        ratio = torch.exp((2 * tries("ratio") - 1) * math.log(4 / 3))
        widths, heights = torch.sqrt(area * ratio), torch.sqrt(area / ratio)
        fits = (widths <= width) & (heights <= height)
        first = torch.where(fits.any(dim=1), fits.int().argmax(dim=1), 9)[:, None]
        wide = widths.gather(1, first).clamp(max=width)
        high = heights.gather(1, first).clamp(max=height)
        left, top = draws.uniform(f"{self._draw}/place", frames * 2).view(-1, 2).split(1, dim=1)
        left, top = left * (width - wide), top * (height - high)
        return torch.cat((left, top, left + wide, top + high), dim=1)


def _random_square(raw: Tensor, size: int, draws: Draws, draw: str) -> tuple[Tensor, Tensor]:
    """A square of each sample from a random place, (B, ..., size, size), and whether it is mirrored, (B, 1) bool."""
    height, width = raw.shape[-2:]
    top, left = draws.uniform(f"{draw}/place", 2).split(1, dim=1)
    steps = torch.arange(size, device=raw.device)
    flips = draws.uniform(f"{draw}/flip") < 0.5
    rows = (top * (height - size + 1)).long() + steps
    columns = (left * (width - size + 1)).long() + torch.where(flips, steps.flip(0), steps)
    return _gathered(raw, rows, columns), flips


def _turned(values: Tensor, flips: Tensor, channel: int) -> Tensor:
    """(B, C, ...) with the sign of one channel changed where a sample is mirrored, (B, 1) bool."""
    mirrored = flips & (torch.arange(values.shape[1], device=values.device) == channel)
    return torch.where(mirrored.view(*mirrored.shape, *(1,) * (values.ndim - 2)), -values, values)


def _gathered(raw: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, ..., H, W) at each sample's own rows (B, h) and columns (B, w): (B, ..., h, w)."""
    planes = raw.flatten(1, -3)
    sample = torch.arange(len(raw), device=raw.device)[:, None, None, None]
    plane = torch.arange(planes.shape[1], device=raw.device)[None, :, None, None]
    picked = planes[sample, plane, rows[:, None, :, None], columns[:, None, None, :]]
    return picked.view(*raw.shape[:-2], *picked.shape[-2:])
