"""A small data set of sequences and a vector, and batches of it, for the methods that read them."""

import torch

from mmlab.types import Batch, Classification, DataSpec, Modality, Sentiment

TEXT = Modality("text", "sequence", (4, 6), ragged=True)
AUDIO = Modality("audio", "sequence", (5, 4), ragged=True)
VISION = Modality("vision", "vector", (3,))
SENTIMENT = Sentiment(-3.0, 3.0)
CLASSES = Classification(("negative", "positive"))


def spec(task=SENTIMENT, modalities=3):
    return DataSpec("Toy", (TEXT, AUDIO, VISION)[:modalities], task, train_size=20)


def batch(spec, samples=6, missing=False):
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(samples)
    present = torch.ones(samples, len(spec.modalities), dtype=torch.bool)
    if missing:
        present[rows, rows % len(spec.modalities)] = False
    inputs = {}
    for m, modality in enumerate(spec.modalities):
        values = torch.randn(samples, *modality.shape, generator=generator)
        if modality.ragged:
            belongs = torch.arange(modality.shape[0]) < rows[:, None] % modality.shape[0] + 1
            values[..., -1] = 1
            values *= belongs[..., None]
        inputs[modality.name] = values * present[:, m].view(-1, *[1] * len(modality.shape))
    numbers = 6 * torch.rand(samples, generator=generator) - 3
    target = rows % 2 if isinstance(spec.task, Classification) else numbers
    return Batch(inputs, target, present, rows)


def check_invariances(method, spec):
    """In evaluation: a sample's decision is its own, and neither padding nor what a sample lacks matters."""
    method.eval()
    samples = batch(spec, missing=True)
    with torch.no_grad():
        before = method(samples.inputs, samples.present).logits
        shorter = {
            modality.name: samples.inputs[modality.name][:3, :3]
            if modality.ragged
            else samples.inputs[modality.name][:3]
            for modality in spec.modalities
        }
        torch.testing.assert_close(method(shorter, samples.present[:3]).logits, before[:3])
        order = torch.tensor([4, 2, 0, 5, 1, 3])
        turned = {name: x[order] for name, x in samples.inputs.items()}
        torch.testing.assert_close(method(turned, samples.present[order]).logits, before[order])
        alone = {name: x[:1] for name, x in samples.inputs.items()}
        torch.testing.assert_close(method(alone, samples.present[:1]).logits, before[:1])
        for m, name in enumerate(spec.names):
            lacks = ~samples.present[:, m]
            other = samples.inputs[name].clone()
            other[lacks] = 1.0
            torch.testing.assert_close(method(samples.inputs | {name: other}, samples.present).logits, before)
            everything = torch.ones_like(samples.present)
            changed = method(samples.inputs | {name: other}, everything).logits
            assert (changed - method(samples.inputs, everything).logits)[lacks].abs().max() > 1e-6


def learns(method, spec, steps=60, lr=0.01):
    """The loss before and after some steps on one batch, by the method's own losses and optimiser."""
    samples = batch(spec)
    optimizer = torch.optim.Adam(method.parameters(), lr=lr)
    method.train()
    values = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = method.losses(samples)["loss"]
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values[0], values[-1]
