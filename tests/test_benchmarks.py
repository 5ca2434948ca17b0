"""The benchmarks run, and their tables have the form that a reader needs; how fast anything is, is not tested."""

from __future__ import annotations

import importlib
import math
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Imports a benchmark as Python does that runs the file."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.chdir(tmp_path)
    yield lambda name: importlib.import_module(name)
    for path in (ROOT / "benchmarks").glob("*.py"):
        sys.modules.pop(path.stem, None)


def tables(text: str) -> list[list[dict[str, str]]]:
    """The Markdown tables of a text, a dict for each row."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, rule, *rows = [
            [cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()
        ]
        assert set(rule) == {"---"}
        assert all(len(row) == len(head) for row in (rule, *rows))
        found.append([dict(zip(head, row, strict=True)) for row in rows])
    return found


def check(rows: list[dict[str, str]], *names: str) -> None:
    """These columns hold ratios: finite positive numbers with their quartiles."""
    assert rows
    for row in rows:
        for name in names:
            middle, low, high = map(float, re.fullmatch(r"(\S+) \((\S+) to (\S+)\)", row[name]).groups())
            assert 0 < low <= middle <= high < math.inf


def says_where(text: str) -> bool:
    """Whether each table is preceded by the machine, its threads, the version of torch and the commit."""
    return len(re.findall(r"; .+, threads: \d+; torch \S+, mmlab \S+\.\n\n\|", text)) == len(tables(text))


def test_step_time(benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    module = benchmark("step_time")
    module.main(["--quick"])
    printed = capsys.readouterr().out
    assert says_where(printed)
    pictures, sentiment = tables(printed)
    assert [row["method"] for row in pictures] == list(module.VARIANTS)
    assert [row["method"] for row in sentiment] == list(module.SENTIMENT)
    for rows in (pictures, sentiment):
        check(rows, "step over its passes", "step over late fusion's")
        assert rows[0]["step over late fusion's"] == "1.00 (1.00 to 1.00)"
    passes = {row["method"]: row["encoder passes of a step"] for row in pictures}
    assert passes["LateFusion"] == "2 forward, 2 backward"
    assert passes["Unimodal"] == passes["OMD, teacher"] == "1 forward, 1 backward"
    assert passes["DIMML, stage 2"] == "2 forward"
    assert passes["ERLMR, Pareto weight"] == "2 forward, 6 backward"
    assert passes["UDML, first epochs"] == "2 forward, 2 backward"
    assert passes["MMANet, student"] == "4 forward, 2 backward"


def test_hand_written_loop(benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("hand_written_loop").main(["--quick"])
    printed = capsys.readouterr().out
    assert says_where(printed)
    (rows,) = tables(printed)
    assert [(row["method"], row["data set"], row["steps"]) for row in rows] == [
        ("LateFusion", "Keypad", "3"),
        ("MNL", "Keypad", "3"),
    ]
    check(rows, "steps, mmlab over loop", "whole training, mmlab over loop")
    for row in rows:
        mmlab, loop = map(float, row["loss, mmlab / loop"].split(" / "))
        assert 0 < mmlab == pytest.approx(loop, rel=1e-4)


def test_a_loop_that_trains_something_else_is_refused(
    benchmark, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = benchmark("hand_written_loop")
    monkeypatch.setitem(module.LOSSES, "LateFusion", module.negative_learning)
    with pytest.raises(SystemExit):
        module.main(["--quick"])
    assert "LateFusion on Keypad doesn't train as the loop does" in capsys.readouterr().err


@pytest.mark.slow
def test_loader(benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("loader").main(["--quick"])
    printed = capsys.readouterr().out
    assert says_where(printed)
    (rows,) = tables(printed)
    assert [row["time of a sample"] for row in rows] == [*["loader, 0 workers", "loader, 2 workers"] * 2, "decoding"]
    check(rows, "ratio")


@pytest.mark.slow
def test_robustness_grid(benchmark, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["robustness_grid.py", "--quick"])
    benchmark("robustness_grid").main()
    printed = capsys.readouterr().out
    assert says_where(printed)
    (rows,) = tables(printed)
    assert len(rows) == 3
    check(rows, "ratio")


@pytest.mark.slow
def test_startup_into_a_document(benchmark, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    before = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    page.write_text(before, encoding="utf-8")
    benchmark("bench").main(["--quick", "--only", "startup", "--out", str(page)])
    printed = capsys.readouterr().out
    assert says_where(printed)
    (rows,) = tables(printed)
    assert [row["command"] for row in rows] == ["`mmlab --help`", "`mmlab list`", "`mmlab compare results/gridwords`"]
    check(rows, "ratio")
    filled = r"(<!-- benchmark: startup -->\n)(.*?)(<!-- end of benchmark -->)"
    after = page.read_text(encoding="utf-8")
    assert re.search(filled, after, re.DOTALL)[2].strip() == printed.removeprefix("## startup").strip()
    empty = [re.sub(filled, r"\1\3", text, flags=re.DOTALL) for text in (before, after)]
    assert empty[0] == empty[1]


def test_a_document_without_places_is_refused_before_anything_runs(
    benchmark, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    module = benchmark("bench")
    page = tmp_path / "page.md"
    page.write_text("# Nothing\n", encoding="utf-8")
    for wrong, reason in ((page, "must have one place for step_time"), (tmp_path / "none.md", "No such file")):
        with pytest.raises(SystemExit):
            module.main(["--out", str(wrong)])
        assert reason in capsys.readouterr().err
    assert page.read_text(encoding="utf-8") == "# Nothing\n"
