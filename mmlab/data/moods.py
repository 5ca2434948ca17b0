"""Moods: utterances whose mood is partly said, partly heard and partly seen. Procedural: no files, no download."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from mmlab.data.base import Split, SplitName, Transform
from mmlab.data.image import Normalise
from mmlab.data.procedural import ProceduralDataset
from mmlab.data.sentiment import SentimentTask, sentiment_targets, sentiment_task
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.types import Classification, Modality, Sentiment

PHRASES = 3
OPINIONS = (1.0, 1.0, 0.5, 0.5, -0.5, -0.5, -1.0, -1.0)  # of words 0 to 7
FILLERS = 7  # words 8 to 14
NOT = 15
SPOKEN = (0.5, 0.5, 0.25, 1.0)  # how often a phrase has a first and a second filler, "not", an opinion
SHORTEST_MELODY, LONGEST_MELODY = 12, 24
QUARTERS = (2, 3, 4, 5)  # frames in a quarter of a video
SHAPES = {"text": (4 * PHRASES, 17), "audio": (LONGEST_MELODY, 3), "vision": (4 * QUARTERS[-1], 9)}


class Moods(ProceduralDataset):
    """The mood of an utterance, a score from -3 to 3 that is the sum of three parts, one in each modality.

    The score is the sum, rounded to fifths (as the mean of five whole ratings is, so that some are 0 exactly) and
    clamped to [-3, 3]. The parts are independent of one another, and each is in its own modality only. All three
    modalities are sequences of different lengths:

    - ``text``: three phrases of at most two fillers, "not" in a quarter of them, and an opinion of 1, 1/2, -1/2 or -1,
      which "not" turns around. The part is the sum of the opinions. A word is a row of a 16 x 16 Hadamard matrix.
    - ``audio``: pitch, which rises or falls along a line at any height, and a loudness that means nothing. The part is
      the rise from begin to end.
    - ``vision``: frames of a smile or its opposite, in four values, of a face, in four others. The part is the share of
      smiling frames: none, a quarter, a half, three quarters or all, in any order.

    Whoever knows some of the parts exactly and no others can't get below this mean absolute error (with the default
    strengths; noise adds to it):

    ====================  =====
    text, audio, vision   0
    text, audio           0.49
    text, vision          0.67
    audio, vision         0.96
    text                  0.80
    audio                 1.06
    vision                1.14
    nothing               1.24
    ====================  =====

    A sample depends on ``data_seed``, its split and its position only: a larger set begins with the smaller one.

    Args:
        train_size: number of training samples.
        val_size: number of validation samples.
        test_size: number of test samples.
        text_strength: standard deviation of the part that text carries, in points of the score.
        audio_strength: likewise.
        vision_strength: likewise.
        text_noise: standard deviation of white noise on each value of a word, whose values are -1 and 1.
        audio_noise: on pitch and loudness; a pitch rises or falls by 1.7 at most.
        vision_noise: on each value of a frame, whose values are about -1 to 1.
        task: ``regression`` of the score, or its class: ``binary`` (negative, non-negative) or ``seven`` (rounded).
        data_seed: of the data, not of the run.

    Raises:
        UserError: if a split is empty, a strength or a noise is negative, or no modality has any strength.
    """

    at_once = 1024
    classes_are = "kind"

    def __init__(
        self,
        train_size: int = 1200,
        val_size: int = 240,
        test_size: int = 480,
        text_strength: float = 1.2,
        audio_strength: float = 0.8,
        vision_strength: float = 0.6,
        text_noise: float = 0.3,
        audio_noise: float = 0.1,
        vision_noise: float = 0.5,
        task: SentimentTask = "regression",
        data_seed: int = 0,
    ) -> None:
        super().__init__(1, train_size, val_size, test_size, data_seed)
        self._strengths = {"text": text_strength, "audio": audio_strength, "vision": vision_strength}
        self._noises = {"text": text_noise, "audio": audio_noise, "vision": vision_noise}
        for what, numbers in {"strength": self._strengths, "noise": self._noises}.items():
            for name, number in numbers.items():
                if not (math.isfinite(number) and number >= 0):
                    raise UserError(f"Moods' {name}_{what} is {number}; give a number of 0 or more.")
        if not any(self._strengths.values()):
            raise UserError("Moods' strengths are all 0, which leaves no mood: give one modality a strength above 0.")
        self._task: SentimentTask = task

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """``text`` (12, 17), ``audio`` (24, 3) and ``vision`` (20, 9), all ragged."""
        return tuple(Modality(name, "sequence", shape, ragged=True) for name, shape in SHAPES.items())

    @property
    def task(self) -> Sentiment | Classification:
        """The score from -3 to 3, or its class."""
        return sentiment_task(self._task, "mosi")

    def details(self) -> dict[str, object]:
        """The variant in use, as plain data for result.json.

        ``share`` is how much of the score's variance each modality carries, before the score is rounded and clamped.
        """
        whole = sum(strength**2 for strength in self._strengths.values())
        return {
            "variant": None if self._task == "regression" else self._task,
            "strength": dict(self._strengths),
            "noise": dict(self._noises),
            "share": {name: round(strength**2 / whole, 4) for name, strength in self._strengths.items()},
            "data_seed": self._data_seed,
        }

    def splits(self) -> dict[SplitName, Split]:
        """Makes the three splits (a second for the default sizes)."""
        return {name: replace(split, padded=dict.fromkeys(SHAPES, 1)) for name, split in super().splits().items()}

    def transforms(self) -> dict[str, Transform]:
        """The values as they are."""
        return {name: Normalise((0.0,), (1.0,)) for name in SHAPES}

    def arrays(self, labels: Tensor, draws: Draws) -> dict[str, Tensor]:
        """``text``, ``audio`` and ``vision``, and the ``target``; the labels mean nothing."""
        text, said = sentence(draws, self._noises["text"])
        audio, heard = melody(draws, self._noises["audio"])
        vision, seen = smiles(draws, self._noises["vision"])
        parts = zip(self._strengths.values(), (said, heard, seen), strict=True)
        scores = rated(sum((strength * part for strength, part in parts), start=torch.zeros(len(labels))))
        target = torch.from_numpy(sentiment_targets(scores.numpy(), self._task, "mosi"))
        return {"text": text, "audio": audio, "vision": vision, "target": target}


def rated(mood: Tensor) -> Tensor:
    """Scores (B,) from sums of parts (B,): rounded to fifths and clamped to [-3, 3]."""
    return (5 * mood).round().div(5).clamp(-3, 3) + 0.0  # which makes of -0.0 a plain 0


def sentence(draws: Draws, noise: float) -> tuple[Tensor, Tensor]:
    """What is said.

    Args:
        draws: of the samples.
        noise: standard deviation of white noise on each value.

    Returns:
        The words (B, 12, 17), ragged, and the part of the score (B,), of variance 1.
    """
    u = draws.uniform("text/words", 4 * PHRASES).view(-1, PHRASES, 4)
    words = torch.empty(u.shape, dtype=torch.int64)
    words[:, :, :2] = len(OPINIONS) + (FILLERS * u[:, :, :2]).long()
    words[:, :, 2] = NOT
    words[:, :, 3] = (len(OPINIONS) * u[:, :, 3]).long()
    spoken = draws.uniform("text/spoken", 4 * PHRASES).view(u.shape) < torch.tensor(SPOKEN)
    opinions = torch.tensor(OPINIONS)
    said = torch.where(spoken[:, :, 2], -1, 1) * opinions[words[:, :, 3]]
    spoken = spoken.flatten(1)
    order = (~spoken).to(torch.uint8).argsort(dim=1, stable=True)
    values = _hadamard()[words.flatten(1).gather(1, order)]
    part = said.sum(dim=1) / math.sqrt(PHRASES * opinions.square().mean().item())
    return _ragged(values, spoken.sum(dim=1, keepdim=True), "text", draws, noise), part


def melody(draws: Draws, noise: float) -> tuple[Tensor, Tensor]:
    """What is heard.

    Args:
        draws: of the samples.
        noise: standard deviation of white noise on each value.

    Returns:
        Pitch and loudness (B, 24, 3), ragged, and the part of the score (B,), of variance 1: the pitch's rise.
    """
    u = draws.uniform("audio/melody", 4)
    length = SHORTEST_MELODY + ((LONGEST_MELODY - SHORTEST_MELODY + 1) * u[:, :1]).long()
    step = torch.arange(LONGEST_MELODY)
    rise = math.sqrt(3) * (2 * u[:, 1:2] - 1)
    pitch = 2 * u[:, 2:3] - 1 + rise * (step / (length - 1) - 0.5)
    loudness = torch.sin(step + 2 * math.pi * u[:, 3:4])
    return _ragged(torch.stack((pitch, loudness), dim=2), length, "audio", draws, noise), rise[:, 0]


def smiles(draws: Draws, noise: float) -> tuple[Tensor, Tensor]:
    """What is seen.

    Args:
        draws: of the samples.
        noise: standard deviation of white noise on each value.

    Returns:
        Frames (B, 20, 9), ragged, and the part of the score (B,), of variance 1.
    """
    frames = SHAPES["vision"][0]
    u = draws.uniform("vision/smiles", 2)
    quarter = torch.tensor(QUARTERS)[(len(QUARTERS) * u[:, :1]).long()]
    smiling = (5 * u[:, 1:2]).long()
    length = 4 * quarter
    place = draws.uniform("vision/order", frames).masked_fill(torch.arange(frames) >= length, 1.0)
    smile = place.argsort(dim=1, stable=True).argsort(dim=1) < smiling * quarter
    mouth = torch.where(smile, 1.0, -1.0)[:, :, None] * torch.tensor([1.0, -1.0, 1.0, -1.0])
    face = draws.normal("vision/face", 4)[:, None].expand_as(mouth)
    part = math.sqrt(2) * (smiling[:, 0] / 2 - 1)
    return _ragged(torch.cat((mouth, face), dim=2), length, "vision", draws, noise), part


def _hadamard() -> Tensor:
    """(16, 16) of -1 and 1, whose rows are orthogonal."""
    matrix = torch.ones(1, 1)
    while len(matrix) < 16:
        matrix = torch.cat((torch.cat((matrix, matrix), dim=1), torch.cat((matrix, -matrix), dim=1)))
    return matrix


def _ragged(values: Tensor, length: Tensor, name: str, draws: Draws, noise: float) -> Tensor:
    """(B, T, D + 1) from values (B, T, D) and lengths (B, 1): noise, and which steps belong to the sample."""
    noisy = values + noise * draws.field(f"{name}/noise", values[0].numel()).view(values.shape)
    belongs = (torch.arange(values.shape[1]) < length)[:, :, None]
    return torch.cat((noisy.masked_fill(~belongs, 0.0), belongs.to(values.dtype)), dim=2)
