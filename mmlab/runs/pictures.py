"""Pictures of a segmentation: inputs, truth, and what the method decides with each combination of modalities."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mmlab.availability import combination_name, every_combination, limited
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.errors import UserError
from mmlab.methods.base import Method
from mmlab.methods.evaluation import full_size
from mmlab.types import Batch, Modality, Segmentation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_AS_PICTURES = ("image", "depth", "audio")


def write_pictures(method: Method, data: MultimodalDataModule, device: torch.device, count: int, folder: Path) -> int:
    """Writes a PNG for each of some samples, spread evenly over a split.

    Args:
        method: with its weights loaded.
        data: ``predict_split`` says which split.
        device: to compute on.
        count: of pictures; all samples if there are fewer.
        folder: for the pictures; made if need be.

    Returns:
        How many were written.

    Raises:
        UserError: if the task isn't a class for every pixel.
    """
    task = method.spec.task
    if not isinstance(task, Segmentation):
        raise UserError(
            f"--pictures shows a class for every pixel, but {method.spec.dataset} asks for one decision a sample: "
            f"leave it out, predictions.csv holds them."
        )
    split = data.splits[data.predict_split]
    places = np.unique(np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int)).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    method.to(device).eval()
    for place in places:
        batch = data.transform(split.__getitems__([place]).to(device), None)
        _draw(method, task, batch, split.ids[place], folder)
    return len(places)


def _draw(method: Method, task: Segmentation, batch: Batch, name: str, folder: Path) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure  # costs half a second; only who asks for pictures pays
    from matplotlib.patches import Patch

    spec = method.spec
    decisions = _decisions(method, task, batch)
    shown = [modality for modality in spec.modalities if modality.kind in SHOWN_AS_PICTURES]
    colours = _colours(len(task.classes))
    panels = len(shown) + 1 + len(decisions)
    figure = Figure(figsize=(2.6 * panels, 3.0), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for axis, modality in zip(axes, shown, strict=False):
        _show_input(axis, modality, batch.inputs[modality.name][0])
    truth = batch.target[0]
    maps = {"truth": truth, **decisions}
    for axis, (title, labels) in zip(axes[len(shown) :], maps.items(), strict=True):
        ignored = labels == task.ignore_index
        painted = labels.masked_fill(ignored, len(task.classes)).cpu().numpy()
        axis.imshow(painted, ListedColormap(colours), vmin=-0.5, vmax=len(colours) - 0.5, interpolation="nearest")
        axis.set_title(title, fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    used = sorted({int(value) for labels in maps.values() for value in labels.unique() if value != task.ignore_index})
    patches = [Patch(color=colours[label], label=task.classes[label]) for label in used]
    figure.legend(handles=patches, loc="outside lower center", ncols=min(len(used), 10), fontsize=8)
    figure.suptitle(f"{type(method).__name__} on {spec.dataset}: {name}", fontsize=10)
    word = re.sub(r"[^\w.-]+", "_", name)
    file = folder / f"{int(batch.index):05}-{word}.png"  # two names may differ in what no file's name can hold
    partial = file.with_name(f".{file.name}.partial.png")
    figure.savefig(partial, dpi=110)
    partial.replace(file)


@torch.no_grad()
def _decisions(method: Method, task: Segmentation, batch: Batch) -> dict[str, Tensor]:
    """Label maps (H, W) by what they are decided from, for each combination that the sample allows."""
    combinations = method.tested or every_combination(len(method.spec.modalities))
    presents = [limited(batch.present, each) for each in combinations]
    predictions = method.forward_each(batch.inputs, presents)
    return {
        f"from {combination_name(method.spec.names, each)}": task.decision(
            full_size(prediction.logits.float(), batch.target)
        )[0]
        for each, present, prediction in zip(combinations, presents, predictions, strict=True)
        if present.any()
    }


def _show_input(axis: Axes, modality: Modality, values: Tensor) -> None:
    """One input (channels, H, W) in its raw scale: three channels as colours, one as shades."""
    mean, std = (torch.tensor(each, device=values.device).view(-1, 1, 1) for each in (modality.mean, modality.std))
    raw = (values * std + mean).float()
    if raw.shape[0] == 3:
        low, high = modality.low or 0.0, 255.0 if modality.high is None else modality.high
        axis.imshow(((raw - low) / (high - low)).clamp(0, 1).permute(1, 2, 0).cpu().numpy())
    else:
        axis.imshow(raw[0].cpu().numpy(), cmap="viridis")
    axis.set_title(modality.name, fontsize=9)


def _colours(classes: int) -> list[Any]:
    """A colour for each class, and white for what isn't labelled."""
    from matplotlib import colormaps

    palette = colormaps["tab10" if classes <= 10 else "tab20"].colors  # type: ignore[attr-defined]  # of listed maps
    # Beyond the palette, colours come again, darker each time.
    shades = [
        tuple(part * 0.65 ** (label // len(palette)) for part in palette[label % len(palette)])
        for label in range(classes)
    ]
    return [*shades, (1.0, 1.0, 1.0)]
