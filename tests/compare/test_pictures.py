from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from mmlab.compare.gather import Table, gather
from mmlab.compare.pictures import draw_balance, draw_learning, draw_ranks
from mmlab.compare.ranks import Ranks
from tests.compare.made import result


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


def of(*runs: dict) -> Table:
    (table,) = gather(list(runs), "test")
    return table


def test_balance_shows_every_mean_and_deviation(tmp_path: Path, drawn: list[Figure]) -> None:
    alone = result("Unimodal", test={"acc": 0.8, "acc_audio": 0.8})
    table = of(result(acc=0.5), result(seed=1, acc=0.7), result("QMF", acc=0.9), alone)
    assert draw_balance(table, tmp_path / "a.svg")
    (axes,) = drawn[0].axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Unimodal", "MNL", "QMF"], "the best fused on top"
    points = {bars.get_label(): bars.lines[0] for bars in axes.containers}
    assert list(points["fused"].get_xdata()) == pytest.approx([60, 90])
    assert list(points["audio"].get_xdata()) == pytest.approx([80, 30, 45])
    assert list(points["image"].get_xdata()) == pytest.approx([25, 25])
    ((low, _), (high, _)), _ = axes.containers[0].lines[2][0].get_segments()
    assert high - low == pytest.approx(2 * 14.142, abs=0.01)
    looks = {(line.get_color(), line.get_marker()) for line in points.values()}
    assert len(looks) == 3
    heights = [points[name].get_ydata()[-1] for name in ("fused", "audio")]
    assert heights[0] > heights[1], "no point hides another of its method"


def test_there_is_no_balance_without_modalities(tmp_path: Path) -> None:
    assert not draw_balance(of(result(test={"acc": 0.5})), tmp_path / "a.svg")
    assert list(tmp_path.iterdir()) == []


def test_each_row_has_a_panel_with_a_line_for_each_seed(tmp_path: Path, drawn: list[Figure]) -> None:
    runs = []
    for method, seed, accs in (("MNL", 0, (0.1, 0.2, 0.3)), ("MNL", 1, (0.2, 0.4)), ("QMF", 0, (0.5,))):
        folder = tmp_path / f"{method}{seed}"
        folder.mkdir()
        lines = [f"fit,{epoch},9,{acc}" for epoch, acc in enumerate(accs, start=1)]
        # An epoch without validation, and a cell that a stopped process left half written.
        (folder / "metrics.csv").write_text("\n".join(["stage,epoch,step,val/acc", *lines, "fit,8,9,", "fit,9,9,0.1e"]))
        runs.append(result(method, seed, folder=folder, monitor="val/acc"))
    runs.append(result("PDF", folder=tmp_path))
    assert draw_learning(of(*runs), tmp_path / "a.svg")
    shown = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["MNL", "QMF"]
    lines = [[(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines] for axes in shown]
    assert lines[0] == [([1, 2, 3], pytest.approx([10, 20, 30])), ([1, 2], pytest.approx([20, 40]))]
    assert lines[1] == [([1], pytest.approx([50]))]
    assert not draw_learning(of(result(folder=tmp_path)), tmp_path / "b.svg")


def test_bars_join_methods_within_the_critical_difference(tmp_path: Path, drawn: list[Figure]) -> None:
    places = {
        "A": (1.0, 1.0),
        "B": (2.0, 2.0),
        "C": (3.0, 3.0),
        "D (with options, of which there are many)": (4.5, 3.5),
    }
    draw_ranks(Ranks(("x", "y"), places, 0.5, 1.5, ()), tmp_path / "a.svg")
    (axes,) = drawn[0].axes
    bars = [line for line in axes.lines if line.get_linewidth() == 3.5]
    spans = [(round(bar.get_xdata()[0] + 0.04, 6), round(bar.get_xdata()[1] - 0.04, 6)) for bar in bars]
    assert spans == [(1, 2), (2, 3), (3, 4)]
    texts = [text.get_text() for text in axes.texts]
    assert "A  1.00" in texts
    assert any(text.startswith("4.00  D (with") and "\n" in text for text in texts), "a long name is broken"
    assert "critical difference 1.50" in texts
    figure = drawn[0].get_window_extent()
    inside = [text.get_window_extent() for text in axes.texts]
    assert all(each.x0 >= 0 and each.x1 <= figure.x1 and each.y0 >= 0 and each.y1 <= figure.y1 for each in inside)


def test_a_vector_picture_keeps_its_text_and_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw_balance(of(result()), tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert ">MNL</text>" in text
    assert text == (tmp_path / "b.svg").read_text()
