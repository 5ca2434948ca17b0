"""A small data set's spec and random batches of it, for the methods' tests."""

import torch

from mmlab.types import Batch, Classification, DataSpec, Modality

MODALITIES = (
    Modality("audio", "audio", (1, 12, 8)),
    Modality("visual", "frames", (3, 2, 8, 8)),
    Modality("depth", "depth", (1, 8, 8)),
)


def spec(modalities=2, classes=4):
    names = tuple(f"class {c}" for c in range(classes))
    return DataSpec("Toy", MODALITIES[:modalities], Classification(names), train_size=20)


def batch(spec, samples=6, missing=False):
    generator = torch.Generator().manual_seed(0)
    modalities = len(spec.modalities)
    present = torch.ones(samples, modalities, dtype=torch.bool)
    if missing:
        rows = torch.arange(samples)
        present[rows, rows % modalities] = False
    inputs = {}
    for m, modality in enumerate(spec.modalities):
        values = torch.randn(samples, *modality.shape, generator=generator)
        inputs[modality.name] = values * present[:, m].view(-1, *[1] * len(modality.shape))
    target = torch.randint(spec.task.outputs, (samples,), generator=generator)
    return Batch(inputs, target, present, torch.arange(samples))


def check(method, batch):
    """What holds for every method: finite losses, and a gradient for all that trains (distributed training asks it)."""
    for autocast in (False, True):
        method.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            losses = method.losses(batch)
        assert all(value.isfinite() and value.shape == () for value in losses.values())
        losses["loss"].backward()
        trains = {name: parameter for name, parameter in method.named_parameters() if parameter.requires_grad}
        without = [name for name, parameter in trains.items() if parameter.grad is None]
        assert not without
        assert all(parameter.grad.isfinite().all() for parameter in trains.values())
    with torch.no_grad():
        prediction = method.eval()(batch.inputs, batch.present)
    assert prediction.logits.shape == (len(batch), method.spec.task.outputs)
    assert all(logits.shape == prediction.logits.shape for logits in prediction.unimodal.values())
    return prediction
