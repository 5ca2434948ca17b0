"""RGB, depth and a label map of one scene: batched on their device, with one geometric draw for all of them.

Every class here is a transform: it takes raw values and the batch's draws (None in evaluation). What shares a
:class:`Geometry` is cut alike. An output pixel is taken from the raw image in one step, rescaling and crop together: of
pictures between the four nearest pixels, of depth and labels the nearest one, both measured from the pixels' centres.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmlab.data.image import Normalise
from mmlab.draws import Draws


class Geometry:
    """Where the pixels of the result lie in the raw image; the same for all that share it.

    Training rescales by a factor that is drawn uniformly, to whole pixels, and cuts ``size`` out at a random place; a
    rescaled image that isn't larger than ``size`` in both directions is stretched to it instead. Then it is mirrored
    left to right with probability 1/2. Evaluation stretches the whole image.

    Source: the training of MMANet's segmentation code (Wei, Luo, Luo, CVPR 2023), after ESANet (Seichter et al., ICRA
    2021), which rescale first and crop then, rounding grey levels between, and measure the nearest pixel from corners.

    Args:
        size: (height, width) of the result, in pixels.
        scale: the smallest and the largest factor.
        shift: training moves the result by up to as many pixels in each direction, repeating the edge.
        evaluation: (height, width) in evaluation; ``size`` by default.
        draw: prefix of the draws' names.
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float] = (1.0, 1.0),
        shift: int = 0,
        evaluation: tuple[int, int] | None = None,
        draw: str = "scene",
    ) -> None:
        self.size = size
        self._scale = scale
        self._shift = shift
        self._evaluation = evaluation or size
        self._draw = draw
        # Moved to the device once: a tensor made of numbers in every step would wait for it.
        self._cut, self._stretched = torch.tensor([size]), torch.tensor([self._evaluation])

    def axes(self, raw: Tensor, draws: Draws | None) -> tuple[Axis, Axis] | None:
        """Where the rows and the columns of the result lie; None where the raw image stays as it is.

        Args:
            raw: (B, ..., h, w).
            draws: the batch's; None in evaluation.
        """
        if draws is None:
            if tuple(raw.shape[-2:]) == self._evaluation:
                return None
            stretched = self._stretched = self._stretched.to(raw.device)
            rows, columns = (torch.arange(side, device=raw.device)[None] for side in self._evaluation)
            return self._axes(raw, rows, columns, stretched)
        size = self._cut = self._cut.to(raw.device)
        low, high = self._scale
        factor = low + (high - low) * draws.uniform(f"{self._draw}/scale")
        scaled = torch.cat([factor * side for side in raw.shape[-2:]], dim=1).round().long()
        scaled = torch.where((scaled > size).all(dim=1, keepdim=True), scaled, size)
        room = scaled - size
        place = (draws.uniform(f"{self._draw}/place", 2) * (room + 1)).long().minimum(room)
        if self._shift:
            place = place + (draws.uniform(f"{self._draw}/shift", 2) * (2 * self._shift + 1)).long() - self._shift
        rows, columns = (torch.arange(side, device=raw.device) for side in self.size)
        mirrored = torch.where(draws.uniform(f"{self._draw}/flip") < 0.5, columns.flip(0), columns)
        return self._axes(raw, place[:, :1] + rows, place[:, 1:] + mirrored, scaled)

    def _axes(self, raw: Tensor, rows: Tensor, columns: Tensor, scaled: Tensor) -> tuple[Axis, Axis]:
        height, width = raw.shape[-2:]
        return Axis(rows, scaled[:, :1], height), Axis(columns, scaled[:, 1:], width)


@dataclass
class Axis:
    """Positions along one side of a rescaled image, as places in the raw one; exact, in whole numbers.

    The centre of pixel p of n lies at ``(p + 1/2) length / n - 1/2`` of the raw image's pixels.

    Attributes:
        positions: (B or 1, size) int64, pixels of the rescaled image.
        scaled: (B or 1, 1) int64, the rescaled image's side n.
        length: the raw image's side.
    """

    positions: Tensor
    scaled: Tensor
    length: int

    def nearest(self) -> Tensor:
        """The nearest pixel, (B or 1, size) int64; the second one half-way between two."""
        return ((2 * self.positions + 1) * self.length // (2 * self.scaled)).clamp(0, self.length - 1)

    def between(self) -> tuple[Tensor, Tensor, Tensor]:
        """The pixel before, the pixel behind, and the weight of the latter in [0, 1), each (B or 1, size)."""
        parts = (2 * self.positions + 1) * self.length - self.scaled
        before = parts // (2 * self.scaled)
        weight = (parts % (2 * self.scaled)) / (2 * self.scaled)
        return before.clamp(0, self.length - 1), (before + 1).clamp(0, self.length - 1), weight


class AlignedImage:
    """A picture: bilinear; hue, saturation and brightness jittered in training if asked for; then normalised.

    Args:
        geometry: shared with what is aligned to it.
        mean: of the raw values (0 to 255), one number or one for each channel.
        std: likewise.
        jitter: whether training jitters the colours, see :func:`jittered`.
    """

    def __init__(
        self, geometry: Geometry, mean: tuple[float, ...], std: tuple[float, ...], jitter: bool = False
    ) -> None:
        self._geometry = geometry
        self._normalise = Normalise(mean, std)
        self._jitter = jitter

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, C, h, w) to float32 (B, C, H, W); colours are jittered where C is 3 for red, green and blue."""
        axes = self._geometry.axes(raw, draws)
        values = raw.to(torch.float32)
        if axes is not None:
            rows, columns = axes
            values = _lerped(_lerped(values, rows.between(), 2), columns.between(), 3)
        if self._jitter and draws is not None:
            values = jittered(values, draws.uniform("jitter", 3))
        return self._normalise(values, draws)


class AlignedDepth:
    """A depth map: the nearest pixel, its value not divided by the scale; then normalised.

    Args:
        geometry: shared with what is aligned to it.
        mean: of the raw values that count.
        std: likewise.
        keep_invalid: whether a raw 0 says that nothing was measured and stays 0 after normalising.
    """

    def __init__(self, geometry: Geometry, mean: float, std: float, keep_invalid: bool) -> None:
        self._geometry = geometry
        self._mean, self._std = mean, std
        self._keep_invalid = keep_invalid

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, 1, h, w) of any type to float32 (B, 1, H, W)."""
        # First: there is no picking from unsigned 16-bit tensors on every device.
        values = raw.to(torch.float32)
        axes = self._geometry.axes(raw, draws)
        return normalised_depth(_picked(values, axes), self._mean, self._std, self._keep_invalid)


class AlignedLabels:
    """A label map: the nearest pixel's label in training, untouched in evaluation.

    Args:
        geometry: shared with what is aligned to it.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, h, w) whole numbers to int64 (B, H, W)."""
        if draws is None:
            return raw.long()
        return _picked(raw[:, None], self._geometry.axes(raw, draws))[:, 0].long()


def normalised_depth(depth: Tensor, mean: float, std: float, keep_invalid: bool) -> Tensor:
    """``(depth - mean) / std``.

    Args:
        depth: any shape.
        mean: in the unit of the depth.
        std: likewise.
        keep_invalid: whether a depth of 0 stays 0.
    """
    normal = (depth - mean) / std
    return normal.masked_fill(depth == 0, 0.0) if keep_invalid else normal


def jittered(image: Tensor, uniform: Tensor) -> Tensor:
    """Colours jittered in hue, saturation and value.

    Hue and saturation, within [0, 1], are multiplied by a factor of 0.9 to 1.1 each and clipped; to the value, within
    [0, 255], -25 to 25 is added, and it is clipped. The ranges are those of MMANet's segmentation code.

    Args:
        image: (B, 3, H, W) red, green and blue, 0 to 255.
        uniform: (B, 3) draws in [0, 1), for hue, saturation and value.

    Returns:
        The same shape, 0 to 255.
    """
    hue, saturation, value = hsv(image)
    hue_by, saturation_by, value_by = (2 * uniform - 1).view(-1, 3, 1, 1).unbind(dim=1)
    hue = (hue * (1 + 0.1 * hue_by)).clamp(0, 1)
    saturation = (saturation * (1 + 0.1 * saturation_by)).clamp(0, 1)
    value = (value + 25 * value_by).clamp(0, 255)
    # How far each channel stays below the value, by how far the hue is from that channel's own.
    sector = 6 * hue
    red = (2 - (sector - 3).abs()).clamp(0, 1)
    green, blue = (((sector - own).abs() - 1).clamp(0, 1) for own in (2, 4))
    return torch.stack([value * (1 - saturation * below) for below in (red, green, blue)], dim=1)


def hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in [0, 1), saturation in [0, 1] and value of an image (B, 3, H, W), each (B, H, W)."""
    red, green, blue = image.unbind(dim=1)
    value = image.amax(dim=1)
    spread = value - image.amin(dim=1)
    safe = torch.where(spread > 0, spread, 1)
    after_green = torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe)
    sector = torch.where(value == red, (green - blue) / safe, after_green)
    hue = torch.where(sector < 0, sector + 6, sector) / 6
    return hue, spread / torch.where(value > 0, value, 1), value


def _lerped(values: Tensor, places: tuple[Tensor, Tensor, Tensor], dim: int) -> Tensor:
    before, behind, weight = places
    shape = [len(before), 1, 1, 1]
    shape[dim] = -1
    first = values.take_along_dim(before.view(shape), dim)
    second = values.take_along_dim(behind.view(shape), dim)
    return torch.lerp(first, second, weight.view(shape))


def _picked(values: Tensor, axes: tuple[Axis, Axis] | None) -> Tensor:
    if axes is None:
        return values
    rows, columns = (axis.nearest() for axis in axes)
    rows, columns = rows.view(len(rows), 1, -1, 1), columns.view(len(columns), 1, 1, -1)
    return values.take_along_dim(rows, 2).take_along_dim(columns, 3)
