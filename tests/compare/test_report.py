from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import ClassVar

import pytest

from tests.compare.made import diagnosis, grid, result, write

METHODS = {"LateFusion": (0.5, 0.6, 0.7), "MNL": (0.52, 0.61, 0.75), "QMF": (0.4, 0.5, 0.6), "PDF": (0.3, 0.2, 0.3)}


class Page(HTMLParser):
    """What stands in a page, by kind; fails where a tag is left open."""

    VOID: ClassVar = {"meta", "img", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.warnings: list[str] = []
        self.rows: list[list[str]] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "a":
            self.links.append(given["href"])
        if tag == "img":
            self.images.append(given)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        assert tag not in ("link", "iframe", "object"), "nothing comes from elsewhere"
        assert tag != "script" or not given

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data
        if "li" in self.open and "div" in self.open:
            self.warnings.append(data)


def corrupted(method: str, seed: int) -> dict:
    cells = [{"severity": s, "noise_seed": 0, "test": {"acc": 0.8 - s / 20}} for s in (0.0, 5.0)]
    content = result(method, seed, dataset="A", dataset_details={})
    return content | {"corruption": "gaussian", "corrupted": ["audio"], "cells": cells}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three data sets, four methods, three seeds; learning curves and noise on one of the data sets."""
    folder = tmp_path / "runs"
    for dataset in "ABC":
        for method, accs in METHODS.items():
            contents = [
                result(
                    method, seed, acc, dataset=dataset, dataset_details={}, monitor="val/acc", commit="c0ffee",
                    selected_on="validation", hardware="a CPU", versions={"torch": "2.11.0"},
                )
                for seed, acc in enumerate(accs)
            ]  # fmt: skip
            write(folder / dataset / method, *contents)
            if dataset == "A":
                noisy = [corrupted(method, seed) for seed in range(3)]
                write(folder / dataset / method, *noisy, name="corruption_gaussian.json")
                for seed in range(3):
                    rows = "stage,epoch,step,val/acc\nfit,1,4,0.2\nfit,2,8,0.4\n"
                    (folder / dataset / method / f"run{seed}" / "metrics.csv").write_text(rows)
    return folder


def test_a_report_holds_tables_tests_ranks_and_pictures(mmlab, runs: Path) -> None:
    out = mmlab("compare runs --out report")
    assert out.endswith("\nreport: report/index.html\n")
    assert out.startswith(mmlab("compare runs").rstrip("\n"))
    files = {str(file.relative_to("report")) for file in Path("report").rglob("*") if file.is_file()}
    pictures = {"a-balance", "a-learning", "a-robustness", "b-balance", "c-balance", "ranks"}
    tables = {"index.html", "table.md", "table.tex", "table.csv", "runs.csv"}
    assert files == tables | {f"pictures/{name}.svg" for name in pictures}
    text = Path("report/index.html").read_text()
    page = Page(text)
    assert ["MNL", "3", "62.7 ± 11.6", "31.3 ± 5.8", "25.0 ± 0.0"] in page.rows
    assert ["MNL", "3", "+2.7 ± 1.2", "+1.28", "0.157", "0.157"] in page.rows
    assert ["PDF", "3", "−33.3 ± 6.7", "−2.89", "0.038", "0.075"] in page.rows
    assert ["MNL", "3", "80.0 ± 0.0", "55.0 ± 0.0"] in page.rows
    assert ["MNL", "1.00", "1", "1", "1"] in page.rows
    assert "Ranks of 4 methods over 3 data sets" in text
    assert "36 runs of 4 methods on 3 data sets, seeds 0–2; test split" in text
    for fact in ("honest, selected on validation (all 12 runs)", "40 samples, SHA-256 " + "0" * 64, "c0ffee", "a CPU"):
        assert fact in text
    assert page.warnings == []
    assert "Nothing: every run that was found is on this page." in text
    assert "| MNL | 3 | +2.7 ± 1.2 | +1.28 | 0.157 | 0.157 |" in Path("report/table.md").read_text()
    assert "| MNL | 1.00 |" in Path("report/table.md").read_text()


def test_the_page_needs_nothing_but_itself(mmlab, runs: Path) -> None:
    mmlab("compare runs/A --out report")
    text = Path("report/index.html").read_text()
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link.removeprefix("#") in page.ids if link.startswith("#") else Path("report", link).is_file()
    assert len(page.images) == 3
    embedded = {base64.b64decode(image["src"].removeprefix("data:image/svg+xml;base64,")) for image in page.images}
    assert embedded == {file.read_bytes() for file in Path("report/pictures").iterdir()}
    assert all(image["alt"] for image in page.images)
    shell = re.sub(r'src="data:.*?"', "", text)
    assert "://" not in shell
    assert "default-src 'none'" in shell


def test_grids_and_diagnoses_have_their_place(mmlab, runs: Path) -> None:
    for method, value in (("MNL", 0.75), ("LateFusion", 0.5)):
        own = {"dataset": "B", "dataset_details": {}}
        write(runs / "B" / method, *(grid(method, seed, value, **own) for seed in range(3)), name="robustness.json")
        write(runs / "B" / method, *(diagnosis(method, seed, value, **own) for seed in range(3)), name="diagnosis.json")
    (runs / "B" / "MNL" / "run2" / "robustness.json").write_text("{}")
    mmlab("compare runs --out report")
    text = Path("report/index.html").read_text()
    page = Page(text)
    for command in ("--robustness", "--diagnosis"):
        table = [line for line in mmlab(f"compare runs {command}").splitlines() if line.startswith("| MNL")]
        assert [cell.strip() for cell in table[0].strip("|").split("|")] in page.rows
        assert table[0] in Path("report/table.md").read_text()
    assert ["MNL", "2", "75.0 ± 0.0", "75.0 ± 0.0"] in page.rows  # blur, at severities 0 and 10
    assert ["LateFusion", "3", "50.0 ± 0.0", "50.0 ± 0.0"] in page.rows
    assert Path("report/pictures/b-robustness.svg").is_file()
    assert not Path("report/pictures/c-robustness.svg").exists()
    assert "run2/robustness.json: no result of a run, it has no method" in text
    assert "it has no diagnosis.json" not in text  # not every run needs one


def test_what_is_not_comparable_and_what_was_left_out_is_said(mmlab, runs: Path) -> None:
    other = {"samples": 7, "sha256": "1" * 64}
    changes = {"dataset": "A", "dataset_details": {}}
    write(runs / "A" / "Odd", result("Odd", 0, **changes, splits={"test": other, "val": other}, partial=["x 2"]))
    write(runs / "A" / "Told", result("Told", 1, **changes, protocol="official", commit="abc+changes"))
    write(runs / "twin", result("MNL", dataset_details={"synthetic": True}))
    write(runs / "foreign", [1, 2])
    (runs / "half").mkdir()
    (runs / "half" / "metrics.csv").write_text("stage,epoch,step\n")
    write(runs / "noise", {"corruption": "blur"}, name="corruption_blur.json")
    mmlab("compare runs --out report")
    text = Path("report/index.html").read_text()
    warnings = " ".join(Page(text).warnings)
    for sentence in (
        "Not comparable: these runs saw different splits.",
        "Only a part of the data was used by: Odd.",
        "Missing seeds: Odd: 1, 2; Told: 0, 2.",
        "Selected on the test split: Told.",
        "Run from a checkout that was edited after its commit: Told.",
        "Synthetic data: these numbers say nothing about the real data set.",
    ):
        assert sentence in warnings
    assert "Odd saw other test samples than LateFusion: not compared." in text
    left = text.split('id="left-out"')[1]
    for sentence in (
        "runs/foreign/run0/result.json: no result of a run",
        "runs/half: not finished, it has no result.json",
        "there is no corruption_blur.json that can be read below runs",
    ):
        assert sentence in left


def test_names_are_escaped(mmlab, tmp_path: Path) -> None:
    write(tmp_path / "runs", result("<script>alert(1)</script>", dataset="a & <b>"))
    mmlab("compare runs --out report")
    text = Path("report/index.html").read_text()
    assert "<script>alert" not in text
    assert ["<script>alert(1)</script>", "1", "50.0", "25.0", "25.0"] in Page(text).rows
    assert "a &amp; &lt;b&gt; (hard)" in text


def test_the_baseline_and_the_metrics_can_be_chosen(mmlab, runs: Path) -> None:
    mmlab("compare runs/B --out report --baseline QMF --metric acc,loss")
    page = Page(Path("report/index.html").read_text())
    assert ["method", "seeds", "acc in %", "loss"] in page.rows
    assert ["LateFusion", "3", "+10.0 ± 0.0", "–", "–", "–"] in page.rows
    assert not any(image["alt"].startswith("Balance") for image in page.images)


def test_an_older_report_is_replaced_and_other_folders_are_not(mmlab, runs: Path) -> None:
    mmlab("compare runs/A --out report")
    Path("report/notes.txt").write_text("mine")
    mmlab("compare runs/B --out report")
    assert [file.name for file in Path("report/pictures").iterdir()] == ["b-balance.svg"]
    assert Path("report/notes.txt").read_text() == "mine"
    assert len(Page(Path("report/index.html").read_text()).images) == 1
    err = mmlab("compare runs --out runs", code=2)
    assert "--out is runs, which holds other files than a report; name a new folder." in err
    err = mmlab("compare runs --out report/notes.txt", code=2)
    assert "report/notes.txt, which is a file" in err


def test_where_nothing_is_there_no_report_is_written(mmlab, tmp_path: Path) -> None:
    Path("runs").mkdir()
    err = mmlab("compare runs --out report", code=2)
    assert err.splitlines() == ["mmlab: error: there is no result.json below runs; `mmlab fit` writes one at its end."]
    assert not Path("report").exists()


def test_a_report_imports_no_torch(runs: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from mmlab.cli.main import main; code = main(['compare', 'runs', '--out', 'report']); "
        "print(code, sorted({'torch', 'lightning', 'jsonargparse'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_the_same_runs_make_the_same_report(mmlab, runs: Path) -> None:
    for name in ("one", "two"):
        mmlab(f"compare runs/A --out {name}")
    for file in Path("one").rglob("*.*"):
        assert file.read_bytes() == Path("two", file.relative_to("one")).read_bytes()
    assert json.loads((runs / "A/MNL/run0/result.json").read_text())["method"] == "MNL", "runs are left as they are"
