"""Utterances of three ragged modalities with a mood, in memory, for the methods of sentiment."""

import torch

from mmlab.types import Batch, DataSpec, Modality, Sentiment

SHAPES = {"text": (6, 5), "audio": (5, 4), "vision": (4, 3)}
SAMPLES = 12


def spec(task=None):
    modalities = tuple(Modality(name, "sequence", shape, ragged=True) for name, shape in SHAPES.items())
    return DataSpec("Utterances", modalities, task or Sentiment(-3.0, 3.0), train_size=SAMPLES)


def everything(missing=False, dtype=torch.float64):
    """All samples; with some, the i-th of every fourth lacks the i-th modality."""
    generator = torch.Generator().manual_seed(1)
    present = torch.ones(SAMPLES, len(SHAPES), dtype=torch.bool)
    if missing:
        present[range(0, SAMPLES, 4), range(len(SHAPES))] = False
    inputs = {}
    for m, (name, (steps, width)) in enumerate(SHAPES.items()):
        lengths = torch.randint(1, steps + 1, (SAMPLES, 1), generator=generator)
        belongs = (torch.arange(steps) < lengths) & present[:, [m]]
        values = torch.randn(SAMPLES, steps, width - 1, generator=generator, dtype=dtype)
        inputs[name] = torch.cat([values, torch.ones(SAMPLES, steps, 1, dtype=dtype)], dim=2) * belongs[..., None]
    target = torch.tensor([2.4, -1.6, 0.0, 0.8, -3.0, 1.2, -0.4, 0.0, 3.0, -2.0, 0.2, -0.2], dtype=dtype)
    return Batch(inputs, target, present, torch.arange(SAMPLES))


def some(batch, rows):
    rows = torch.as_tensor(rows)
    inputs = {name: tensor[rows] for name, tensor in batch.inputs.items()}
    return Batch(inputs, batch.target[rows], batch.present[rows], batch.index[rows])
