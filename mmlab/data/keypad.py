"""Keypad: the twelve telephone keys, seen and heard. Procedural: no files, no download."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab.data.base import Transform
from mmlab.data.image import RandomShift
from mmlab.data.procedural import ProceduralDataset
from mmlab.data.spectrogram import LogMel
from mmlab.draws import Draws
from mmlab.types import Classification, Modality

KEYS = ("1", "2", "3", "4", "5", "6", "7", "8", "9", "*", "0", "#")
ROWS = (697.0, 770.0, 852.0, 941.0)
COLUMNS = (1209.0, 1336.0, 1477.0)
FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "STIXGeneralItalic.ttf",
)

SAMPLE_RATE = 8000
SAMPLES = 2000
SIDE = 32

# Measured on the default training part.
LOG_MEL_MEAN, LOG_MEL_STD = 1.45, 1.22
IMAGE_MEAN, IMAGE_STD = 127.7, 41.5


class Keypad(ProceduralDataset):
    """The picture of a telephone key and its two-tone sound; 12 classes, balanced.

    The picture (32 x 32, grey) is a glyph in one of ten fonts, turned, sheared, scaled and moved, under lines, blobs
    and white noise. The sound (8 kHz, 0.25 s) is the key's pair of tones (DTMF, ITU-T Q.23) with random onset,
    length, phases and gain, in white noise. A sample depends on ``data_seed``, its split and its position only: a
    larger set begins with the smaller one.

    Args:
        train_size: number of training samples.
        val_size: number of validation samples.
        test_size: number of test samples.
        image_snr: variance of the glyph over variance of the noise, in dB. The lower, the weaker the modality.
        audio_snr: power of the tones, while they sound, over power of the noise, in dB.
        data_seed: of the data, not of the run.

    Raises:
        UserError: if a split has fewer samples than there are keys.
    """

    at_once = 1024
    classes_are = "key"

    def __init__(
        self,
        train_size: int = 1200,
        val_size: int = 240,
        test_size: int = 480,
        image_snr: float = -2.0,
        audio_snr: float = -11.0,
        data_seed: int = 0,
    ) -> None:
        super().__init__(len(KEYS), train_size, val_size, test_size, data_seed)
        self._image_snr, self._audio_snr = image_snr, audio_snr
        self._log_mel = LogMel(SAMPLE_RATE, SAMPLES, n_fft=512, hop=80, mels=64, mean=LOG_MEL_MEAN, std=LOG_MEL_STD)

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``audio`` (1, 64, 26) and ``image`` (1, 32, 32)."""
        return (
            Modality("audio", "audio", self._log_mel.shape, (LOG_MEL_MEAN,), (LOG_MEL_STD,), low=math.log(1e-6)),
            Modality("image", "image", (1, SIDE, SIDE), (IMAGE_MEAN,), (IMAGE_STD,), low=0.0, high=255.0),
        )

    @property
    def task(self) -> Classification:
        """Which key it is."""
        return Classification(KEYS)

    def details(self) -> dict[str, object]:
        """The variant in use, as plain data for result.json."""
        return {"image_snr": self._image_snr, "audio_snr": self._audio_snr, "data_seed": self._data_seed}

    def transforms(self) -> dict[str, Transform]:
        """Log-mel spectrogram; shifts of up to two pixels in training."""
        return {"audio": self._log_mel, "image": RandomShift(2, (IMAGE_MEAN,), (IMAGE_STD,))}

    def arrays(self, labels: Tensor, draws: Draws) -> dict[str, Tensor]:
        """``audio`` and ``image``."""
        return {"audio": sound(labels, self._audio_snr, draws), "image": picture(labels, self._image_snr, draws)}


def sound(keys: Tensor, snr: float, draws: Draws) -> Tensor:
    """The two tones of each key in white noise; (B, 2000) int16.

    Args:
        keys: (B,) positions in ``KEYS``.
        snr: power of the tones, while they sound, over power of the noise, in dB.
        draws: of the samples.
    """
    time = torch.arange(SAMPLES) / SAMPLE_RATE
    pitches = torch.stack((torch.tensor(ROWS)[keys // 3], torch.tensor(COLUMNS)[keys % 3]), dim=1)
    phases = 2 * math.pi * draws.uniform("sound/phase", 2)
    tones = torch.sin(2 * math.pi * pitches[:, :, None] * time + phases[:, :, None]).sum(dim=1)
    length = 0.08 + 0.12 * draws.uniform("sound/length")
    onset = draws.uniform("sound/onset") * (SAMPLES / SAMPLE_RATE - length)
    tones = tones * ((time >= onset) & (time < onset + length))
    noise = 10 ** (-snr / 20)
    mixed = (tones + noise * draws.normal("sound/noise", SAMPLES)) / math.sqrt(1 + noise**2)
    decibels = 12 * draws.uniform("sound/gain") - 6
    return (3000 * 10 ** (decibels / 20) * mixed).round().clamp(-32768, 32767).to(torch.int16)


def picture(keys: Tensor, snr: float, draws: Draws) -> Tensor:
    """The glyph of each key under clutter and white noise; (B, 1, 32, 32) uint8.

    Args:
        keys: (B,) positions in ``KEYS``.
        snr: variance of the glyph over variance of the noise, in dB. The clutter comes on top.
        draws: of the samples.
    """
    glyphs = _warped(keys, draws)
    spread = glyphs.std(dim=(1, 2), keepdim=True)
    noise = 10 ** (-snr / 20)
    grain = noise * draws.normal("picture/noise", SIDE * SIDE).view(-1, SIDE, SIDE)
    mixed = ((glyphs + _clutter(draws)) / spread + grain) / math.sqrt(1 + noise**2)
    centred = mixed - mixed.mean(dim=(1, 2), keepdim=True)
    return (128 + 40 * centred).round().clamp(0, 255).to(torch.uint8)[:, None]


@cache
def _templates() -> Tensor:
    # matplotlib and PIL cost half a second to import, and only this needs them.
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    templates = torch.empty(len(KEYS), len(FONTS), 2 * SIDE, 2 * SIDE)
    for column, name in enumerate(FONTS):
        font = ImageFont.truetype(str(folder / name), 52)
        for row, key in enumerate(KEYS):
            canvas = Image.new("L", (2 * SIDE, 2 * SIDE))
            left, top, right, bottom = font.getbbox(key)
            ImageDraw.Draw(canvas).text((SIDE - (left + right) / 2, SIDE - (top + bottom) / 2), key, 255, font)
            templates[row, column] = torch.from_numpy(np.array(canvas, dtype=np.float32) / 255)
    return templates


def _warped(keys: Tensor, draws: Draws) -> Tensor:
    fonts = (draws.uniform("picture/font")[:, 0] * len(FONTS)).long()
    glyphs = _templates()[keys, fonts][:, None]
    turn, shear, right, down = (2 * draws.uniform("picture/warp", 4) - 1).unbind(dim=1)
    zoom = 1 / (0.8 + 0.3 * draws.uniform("picture/size")[:, 0])
    turn, shear, right, down = 0.2 * turn, 0.2 * shear, 0.15 * right, 0.15 * down
    cos, sin = zoom * torch.cos(turn), zoom * torch.sin(turn)
    first = torch.stack((cos, shear * cos - sin, right), dim=1)
    second = torch.stack((sin, shear * sin + cos, down), dim=1)
    grid = F.affine_grid(torch.stack((first, second), dim=1), list(glyphs.shape), align_corners=False)
    # Twice the final size, then averaged: a glyph made smaller shows no jagged edges.
    return F.avg_pool2d(F.grid_sample(glyphs, grid, align_corners=False), 2)[:, 0]


def _clutter(draws: Draws) -> Tensor:
    across = torch.arange(SIDE) - (SIDE - 1) / 2
    down = across[:, None]
    clutter = torch.zeros(1, SIDE, SIDE)
    for number in range(4):
        place = draws.uniform(f"picture/clutter/{number}", 5)[:, :, None, None]
        x, y, angle, size, shade = (place - 0.5).unbind(dim=1)
        x, y = across - SIDE * x, down - SIDE * y
        cos, sin = torch.cos(2 * math.pi * angle), torch.sin(2 * math.pi * angle)
        along, aside = x * cos + y * sin, y * cos - x * sin
        # The first two are thin lines, the others round blobs.
        length, width = (8 + 8 * size, 1.0) if number < 2 else (4 + 4 * size, 4 + 4 * size)
        clutter = clutter + 1.5 * shade * torch.exp(-((along / length) ** 4) - (aside / width) ** 2)
    return clutter
