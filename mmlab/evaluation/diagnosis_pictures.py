"""Pictures of a diagnosis: what each modality does, confusions, calibration, a map of the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mmlab.compare.drawing import COLOURS, save
from mmlab.errors import UserError
from mmlab.evaluation.diagnosis import FUSED, NONE
from mmlab.evaluation.seen import Seen
from mmlab.metrics.calibration import BINS, Reliability
from mmlab.types import Classification, DataSpec

LABELLED = 40  # classes, above which their names would overlap
NUMBERED = 15  # classes, above which counts would
MAPPED = 2000  # samples
BARS = {"own_head": "own head", "probe": "linear probe", "shapley": "Shapley value", "logit_share": "share of logits"}


def draw_modalities(values: Mapping[str, Any], names: Sequence[str], title: str, picture: Path) -> None:
    """Draws bars of each modality: own head, probe, Shapley value, share of logits, as far as they are defined.

    Args:
        values: of a :class:`~mmlab.evaluation.diagnosis.Diagnosis`.
        names: the modalities.
        title: over the picture.
        picture: the file to write.
    """
    from matplotlib.figure import Figure  # costs half a second

    shown = [key for key in BARS if values[key]]
    width = 0.8 / len(shown)
    figure = Figure(figsize=(3.2 + 1.6 * len(names), 4), layout="constrained")
    axes = figure.subplots()
    for number, key in enumerate(shown):
        places = [place + (number - (len(shown) - 1) / 2) * width for place in range(len(names))]
        heights = [values[key].get(name, float("nan")) for name in names]
        axes.bar(places, heights, width, label=BARS[key], color=COLOURS[number])
    metric, without = values["metric"], abs(values["subsets"][NONE])
    axes.axhline(values[FUSED], color="black", linewidth=1, label=f"fused {metric}")
    axes.axhline(without, color="black", linewidth=1, linestyle=":", label=f"{metric} without any modality")
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel(metric if metric != "acc" else "accuracy, and share")
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle(title, fontsize=10)
    save(figure, picture)


def draw_confusion(confusion: Tensor, classes: Sequence[str], title: str, picture: Path) -> None:
    """Draws the share of each class that is decided for each; counts in the cells where there is room.

    Args:
        confusion: (C, C) counts, the target down.
        classes: their names.
        title: over the picture.
        picture: the file to write.
    """
    from matplotlib.figure import Figure

    count = len(classes)
    side = min(3.0 + 0.25 * count, 14.0)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    shares = confusion.double() / confusion.sum(dim=1, keepdim=True).clamp(min=1)
    drawn = axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(drawn, ax=axes, label="share of the class's samples", shrink=0.8)
    if count <= NUMBERED:
        for row, column in confusion.nonzero().tolist():
            colour = "white" if shares[row, column] > 0.5 else "black"
            number = int(confusion[row, column])
            axes.text(column, row, str(number), ha="center", va="center", color=colour, fontsize=7)
    if count <= LABELLED:
        axes.set_xticks(range(count), classes, rotation=90, fontsize=7)
        axes.set_yticks(range(count), classes, fontsize=7)
    axes.set_xlabel("decided")
    axes.set_ylabel("true")
    axes.set_title(title, fontsize=9, wrap=True)
    save(figure, picture)


def draw_reliability(found: Mapping[str, Reliability], errors: Mapping[str, float], title: str, picture: Path) -> None:
    """Draws the accuracy over the probability in each bin, and below it how many samples the bin has.

    Args:
        found: bins of the fused decision and of each own head.
        errors: the expected calibration error of each.
        title: over the picture.
        picture: the file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(3.2 * len(found), 4.5), 4.4), layout="constrained")
    grid = figure.subplots(2, len(found), sharex=True, squeeze=False, height_ratios=[3, 1])
    middles = (np.arange(BINS) + 0.5) / BINS
    for column, (name, bins) in enumerate(found.items()):
        above, below = grid[0][column], grid[1][column]
        counts = bins.counts.cpu().numpy()
        there = counts > 0
        above.bar(middles[there], bins.accuracy.cpu().numpy()[there], 0.9 / BINS, color=COLOURS[0])
        above.plot(bins.confidence.cpu().numpy()[there], bins.accuracy.cpu().numpy()[there], ".", color="black")
        above.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle=":")
        above.set_ylim(0, 1)
        above.set_title(f"{name}: ECE {errors[name]:.3f}", fontsize=9)
        below.bar(middles, counts, 0.9 / BINS, color="#888888")
        below.set_xlim(0, 1)
        below.set_xlabel("probability of the decision")
    grid[0][0].set_ylabel("accuracy")
    grid[1][0].set_ylabel("samples")
    figure.suptitle(title, fontsize=10)
    save(figure, picture)


def check_feature_map() -> None:
    """Refuses a feature map where scikit-learn is absent.

    Raises:
        UserError: in that case.
    """
    try:
        import sklearn.manifold  # noqa: F401
    except ImportError:
        raise UserError(
            "--features true needs scikit-learn, which is not installed: pip install 'mmlab[features]', or leave it "
            "out."
        ) from None


def draw_features(seen: Seen, spec: DataSpec, title: str, picture: Path) -> bool:
    """Draws t-SNE of the features of each modality and of the fused logits, coloured by class or number.

    Features are standardised. 2000 samples at most, by a draw that is the same each time; those that lack a modality
    are not in its map. Distances between groups, and their sizes, mean nothing in such a map.

    Args:
        seen: from a pass over a split.
        spec: of the data.
        title: over the picture.
        picture: the file to write.

    Returns:
        Whether there was something to draw.
    """
    from matplotlib.figure import Figure

    present = seen.encoded.present
    maps = {name: (features, present[:, spec.position(name)]) for name, features in seen.encoded.features.items()}
    if isinstance(spec.task, Classification):
        maps["fused logits"] = (seen.prediction.logits, present.any(dim=1))
    maps = {name: (features, has) for name, (features, has) in maps.items() if has.sum() > 2}
    if not maps:
        return False
    figure = Figure(figsize=(3.4 * len(maps) + 1.6, 3.8), layout="constrained")
    grid = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (name, (features, has)) in zip(grid, maps.items(), strict=True):
        rows = has.nonzero()[:, 0].cpu().numpy()
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:MAPPED])
        target = seen.encoded.target.cpu().numpy()[rows]
        drawn = axes.scatter(*_placed(features.cpu().numpy()[rows]).T, c=target, s=5, linewidths=0, **_colours(spec))
        axes.set_title(f"{name} ({len(rows)} samples)", fontsize=9)
        axes.set_xticks([])
        axes.set_yticks([])
    bar = figure.colorbar(drawn, ax=list(grid))
    if isinstance(spec.task, Classification) and spec.task.outputs <= LABELLED:
        bar.set_ticks(range(spec.task.outputs), labels=list(spec.task.classes))
        bar.ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    save(figure, picture)
    return True


def _colours(spec: DataSpec) -> dict[str, Any]:
    """How a scatter is coloured: a colour for each class, or a scale of numbers."""
    from matplotlib import colormaps

    if not isinstance(spec.task, Classification):
        return {"cmap": "viridis"}
    count = spec.task.outputs
    palette = colormaps["tab10" if count <= 10 else "tab20" if count <= 20 else "gist_rainbow"]
    return {"cmap": palette.resampled(count), "vmin": -0.5, "vmax": count - 0.5}


def _placed(features: np.ndarray) -> np.ndarray:
    """(N, 2)."""
    from sklearn.manifold import TSNE

    spread = features.std(axis=0)
    standardised = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
    start = "pca" if features.shape[1] > 1 else "random"
    nearest = min(30.0, (len(features) - 1) / 3)
    return np.asarray(TSNE(init=start, perplexity=nearest, random_state=0).fit_transform(standardised))
