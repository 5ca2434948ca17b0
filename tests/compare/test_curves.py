from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mmlab.compare.curves import draw_robustness
from mmlab.compare.robustness import Robustness
from mmlab.compare.rows import Spread

METHODS = ("LateFusion", "MNL (fusion pdf)", "MNL (fusion qmf)", "MNL (fusion static)", "PDF", "QMF")
SEVERITIES = (0.0, 5.0, 10.0)


def panel(dataset: str = "AVDigits (hard)", methods: tuple[str, ...] = METHODS, metric: str = "acc") -> Robustness:
    values = {
        method: {severity: Spread(99 - severity * number, 1.0 + number) for severity in SEVERITIES}
        for number, method in enumerate(methods)
    }
    return Robustness(
        dataset=dataset,
        corruption="gaussian",
        corrupted=("audio", "image"),
        metric=metric,
        samples=300,
        noise_seeds=(0, 1),
        severities=SEVERITIES,
        seeds=dict.fromkeys(methods, 5),
        values=values,
        warnings=(),
    )


def curves(axes: Axes) -> list[Line2D]:
    """The methods' lines, without those of the error bars."""
    return [line for line in axes.lines if line.get_marker() != "None"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that were saved, in order."""
    figures = []
    save = Figure.savefig

    def keep(self: Figure, *given: object, **options: object) -> None:
        figures.append(self)
        save(self, *given, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def test_lines_stand_at_the_means_and_bars_are_as_long_as_the_deviations(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_robustness([panel()], tmp_path / "a.png")
    (axes,) = drawn[0].axes
    lines = curves(axes)
    assert len(lines) == len(METHODS)
    for number, line in enumerate(lines):
        assert tuple(line.get_xdata()) == SEVERITIES
        assert list(line.get_ydata()) == [99 - severity * number for severity in SEVERITIES]
    centres = []
    for number, bars in enumerate(axes.containers):
        for (low, high), severity in zip(bars.lines[2][0].get_segments(), SEVERITIES, strict=True):
            assert high[1] - low[1] == pytest.approx(2 * (1.0 + number))
            assert (high[1] + low[1]) / 2 == pytest.approx(99 - severity * number)
        centres.append(low[0])
    assert len(set(centres)) == len(METHODS), "bars of one severity stand apart"
    assert max(abs(centre - 10) for centre in centres) < 1


def test_methods_are_told_apart_by_colour_and_marker_and_named_once(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_robustness([panel(), panel("GRIDLetters", METHODS[1:])], tmp_path / "a.png")
    figure = drawn[0]
    (legend,) = figure.legends
    assert [entry.get_text() for entry in legend.get_texts()] == list(METHODS)
    looks = [[(line.get_color(), line.get_marker()) for line in curves(axes)] for axes in figure.axes]
    assert len(set(looks[0])) == len(METHODS)
    assert len({colour for colour, _ in looks[0]}) == len({marker for _, marker in looks[0]}) == len(METHODS)
    assert looks[1] == looks[0][1:], "a method looks the same on every data set"
    # The legend covers no curve.
    assert all(legend.get_window_extent().y1 <= axes.get_tightbbox().y0 for axes in figure.axes)


def test_each_data_set_has_a_panel_with_its_own_metric(tmp_path: Path, drawn: list[Figure]) -> None:
    names = ("A", "B", "C", "D")
    draw_robustness([panel(name, metric="mae" if name == "D" else "acc") for name in names], tmp_path / "a.png")
    shown = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [f"{name}\ngaussian on audio, image" for name in names]
    assert [axes.get_ylabel() for axes in shown] == ["test acc in %"] * 3 + ["test mae"]


def test_a_method_without_some_severities_and_one_seed(tmp_path: Path, drawn: list[Figure]) -> None:
    whole = panel(methods=("LateFusion", "MNL"))
    whole.values["MNL"] = {5.0: Spread(61.0, None)}
    draw_robustness([whole], tmp_path / "a.png")
    last = drawn[0].axes[0].lines[-1]
    assert (*last.get_xdata(), *last.get_ydata()) == (5.0, 61.0)


def test_equal_curves_all_show(tmp_path: Path, drawn: list[Figure]) -> None:
    same = {severity: Spread(99 - 4 * severity, None) for severity in SEVERITIES}
    draw_robustness([replace(panel(), values=dict.fromkeys(METHODS, same))], tmp_path / "a.png")
    (axes,) = drawn[0].axes
    pixels = image.imread(tmp_path / "a.png")[:, :, :3]
    # Between the second and the third severity, where no marker or error bar is, from the picture's top.
    (left, low), (right, high) = axes.transData.transform([(5.8, 50.0), (9.2, 95.0)])
    line = pixels[len(pixels) - int(high) : len(pixels) - int(low), int(left) : int(right)]
    for method, curve in zip(METHODS, curves(axes), strict=True):
        seen = (np.abs(line - to_rgb(curve.get_color())) < 0.06).all(-1).sum()
        assert seen > 20, f"{method} is hidden"
    sizes = [curve.get_markersize() for curve in curves(axes)]
    assert sizes == sorted(set(sizes), reverse=True)
    assert {curve.get_markerfacecolor() for curve in curves(axes)} == {"none"}


@pytest.mark.parametrize(
    ("severities", "own"),
    [
        ((0.0, 5.0, 10.0), True),
        ((0.0, 2.5, 5.0, 10.0), True),
        ((0.0, 0.001, 0.002, 0.003), True),
        ((5.0,), True),
        ((0.0, 5.0, 10.0, 1000.0), False),
        (tuple(map(float, range(41))), False),
    ],
)
def test_severities_are_ticks_where_they_fit(
    tmp_path: Path, drawn: list[Figure], severities: tuple[float, ...], own: bool
) -> None:
    values = {"MNL": {severity: Spread(severity, 1.0) for severity in severities}}
    one = replace(panel(methods=("MNL",)), severities=severities, values=values)
    draw_robustness([one] * 3, tmp_path / "a.png")
    for axes in drawn[0].axes:
        low, high = axes.get_xlim()
        labels = [label for label in axes.get_xticklabels() if low <= label.get_position()[0] <= high]
        assert ([label.get_text() for label in labels] == [f"{severity:g}" for severity in severities]) == own
        extents = [label.get_window_extent() for label in labels]
        assert all(left.x1 < right.x0 for left, right in pairwise(extents))
        bars = [segment[0][0] for segment in axes.containers[0].lines[2][0].get_segments()]
        assert bars == sorted(bars)
        nearest = min((b - a for a, b in pairwise(severities)), default=1.0)
        for bar, severity in zip(bars, severities, strict=True):
            assert abs(bar - severity) < nearest / 2, "an error bar stands nearest to its own severity"


def test_warnings_stand_below_their_panel(tmp_path: Path, drawn: list[Figure]) -> None:
    long = f"Trained differently: {'; '.join(f'option{number} 32 / 64' for number in range(24))}."
    warned = replace(panel("B"), warnings=("Not comparable: these runs saw different splits.", long))
    draw_robustness([panel("A"), warned, panel("C"), panel("D")], tmp_path / "a.png")
    figure = drawn[0]
    notes = [axes.texts[0] for axes in figure.axes[:4]]
    assert [note.get_text() != "" for note in notes] == [False, True, False, False]
    assert notes[1].get_text().replace("\n", " ") == " ".join(warned.warnings)
    assert notes[1].get_text().count("\n") > 3, "wrapped"
    extent = notes[1].get_window_extent()
    above, left, right, below = (figure.axes[number] for number in (1, 0, 2, 3))
    assert extent.y1 < above.xaxis.label.get_window_extent().y0
    assert left.get_window_extent().x1 < extent.x0
    assert extent.x1 < right.get_window_extent().x0
    assert below.title.get_window_extent().y1 < extent.y0
    draw_robustness([panel(name) for name in "ABCD"], tmp_path / "b.png")
    heights = [one.axes[0].get_window_extent().height for one in drawn]
    assert heights[0] > 0.95 * heights[1], "the picture grows, no panel is squeezed"


def test_the_last_rows_warnings_and_the_legend_stand_apart(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_robustness([replace(panel(), warnings=("Not every method has the same seeds.",) * 4)], tmp_path / "a.png")
    (axes,), (legend,) = drawn[0].axes, drawn[0].legends
    assert legend.get_window_extent().y1 <= axes.texts[0].get_window_extent().y0


def test_the_command_draws_and_names_the_picture(mmlab, tmp_path: Path) -> None:
    size = {"samples": 40}
    content = {
        "method": "MNL",
        "dataset": "AVDigits",
        "protocol": "honest",
        "seed": 0,
        "modalities": ["audio", "image"],
        "splits": {"test": size},
        "corruption": "missing",
        "corrupted": ["audio", "image"],
        "cells": [{"severity": 0.0, "noise_seed": 0, "test": {"acc": 0.5}}],
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "corruption_missing.json").write_text(json.dumps(content))
    out = mmlab("compare run --corruption missing --curves report/missing.png")
    assert "| MNL | 1 | 50.0 |" in out
    assert out.endswith("\n\ncurves: report/missing.png\n"), "apart from the table, which would swallow it"
    assert image.imread("report/missing.png").shape[0] > 300
    assert [path.name for path in Path("report").iterdir()] == ["missing.png"]


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"the old one")

    def fill_disk(self: Figure, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Figure, "savefig", fill_disk)
    with pytest.raises(OSError, match="No space left"):
        draw_robustness([panel()], picture)
    assert picture.read_bytes() == b"the old one"
