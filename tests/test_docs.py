"""The documentation builds, its links hold, it loads nothing from the network, and its commands and code run."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from mkdocs.commands.build import build
from mkdocs.config import load_config

from tests.documents import PAGES, QUICK, ROOT, SMALL, blocks, commands, follow

DATA = Path(os.environ.get("MMLAB_DATA", "../shared/data")).resolve()
WITH_CODE = ("my_module", "my_data")  # these commands need a Python block: they have tests of their own
SHELL = [
    pytest.param(block, id=f"{page.stem}: {block.splitlines()[0][:50]}", marks=[pytest.mark.slow] * ("sweep" in block))
    for page in PAGES
    for block in blocks("sh", page.read_text(encoding="utf-8"))
    if not any(word in block for word in WITH_CODE)
]


class Links(HTMLParser):
    """What a page loads, where its links lead, and its anchors."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "a":
            self.leads += [given["href"]] if "href" in given else []
        elif not (tag == "link" and given.get("rel") in ("canonical", "next", "prev")):
            self.loads += [given[name] for name in ("src", "href", "srcset", "data") if name in given]
        self.anchors |= {given["id"]} if "id" in given else set()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning of mkdocs (a broken link, a page that the navigation lacks) is an error."""
    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    build(config)
    return folder


@pytest.mark.xdist_group("site")
def test_every_link_leads_somewhere(site: Path) -> None:
    pages = {page: Links(page) for page in site.rglob("*.html")}
    assert len(pages) > len(PAGES)  # and the page of errors
    wrong = []
    for page, links in pages.items():
        for lead in links.leads if page.name != "404.html" else []:
            path, _, anchor = unquote(lead).partition("#")
            target = (page.parent / path).resolve() if path else page
            there = anchor in pages[target].anchors | {""} if target in pages else target.is_file()
            wrong += [] if there or re.match(r"\w+:", lead) else [f"{page.name}: {lead}"]
    assert wrong == []


@pytest.mark.xdist_group("site")
def test_nothing_is_loaded_from_the_network(site: Path) -> None:
    loads = {(page.name, load) for page in site.rglob("*.html") for load in Links(page).loads}
    assert any("stylesheets" in load for _, load in loads)
    assert [pair for pair in loads if re.match(r"(\w+:)?//", pair[1]) and not pair[1].startswith("data:")] == []
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)]*", style.read_text(encoding="utf-8")) == []


@pytest.mark.xdist_group("site")
def test_everything_that_is_made_is_there(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert "made:" not in page.read_text(encoding="utf-8"), page
    text = (site / "methods" / "mnl.html").read_text(encoding="utf-8")
    for part in (
        "NeurIPS 2025",
        "<code>lam</code>",
        "<code>0.7</code>",
        "mnl_kinetics.yaml",
        "MNL (fusion static)",
    ):
        assert part in text
    text = (site / "robustness.html").read_text(encoding="utf-8")
    assert "<code>--severities 0,5,10</code>" in text
    assert "<code>--again true|false</code>" in text
    assert "0.80" in (site / "data" / "computed.html").read_text(encoding="utf-8"), "a table of a docstring"


@pytest.mark.parametrize(("kind", "parts"), [("methods", "paper|baseline"), ("datasets", "dataset")])
def test_every_method_and_data_set_has_its_place(mmlab, kind: str, parts: str) -> None:
    names = [line.split()[0] for line in mmlab(f"list {kind}").splitlines()]
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert sorted(re.findall(rf"^<!-- made: (?:{parts}) (\w+) -->$", text, re.MULTILINE)) == sorted(names)


@pytest.mark.xdist_group("site")
def test_measured_rows_are_those_of_the_results(site: Path) -> None:
    """Every row that results.md prints for a method is on that method's page or on the baselines'."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    tables = "".join(re.findall(r"<!-- \w+: mmlab .*? -->\n(.*?)<!-- end", text, re.DOTALL))
    rows = [line.strip("| ").split(" | ") for line in tables.splitlines() if re.match(r"\| \w+( \(.*?)? \| \d", line)]
    assert len(rows) > 100
    made = "".join(page.read_text(encoding="utf-8") for page in (site / "methods").glob("*.html"))
    made_rows = {
        tuple(re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL))
        for row in re.findall(r"<tr>(.*?)</tr>", made, re.DOTALL)
    }
    assert [row for row in rows if tuple(row) not in made_rows] == []


@pytest.mark.parametrize("block", SHELL)
def test_shell_block(mmlab, block: str) -> None:
    follow(mmlab, block)


def test_paths_exist() -> None:
    folders = "mmlab|tests|docs|results|benchmarks|experiments"
    for page in PAGES:
        paths = re.findall(rf"(?<![\w/])((?:{folders})/[\w./]+\w/?)", page.read_text(encoding="utf-8"))
        assert [path for path in paths if not (ROOT / path).exists()] == [], page


def test_imports_go_the_way_that_the_house_says() -> None:
    (levels,) = blocks("text", (ROOT / "docs" / "house.md").read_text(encoding="utf-8"))
    height = {room: -number for number, line in enumerate(levels.splitlines()) for room in line.split()}
    folders = {folder.parent.name for folder in (ROOT / "mmlab").glob("*/__init__.py")}
    assert height.keys() == folders | {"types"}
    wrong = []
    for room in folders:
        for file in (ROOT / "mmlab" / room).glob("*.py"):
            text = file.read_text(encoding="utf-8")
            known = set(re.findall(r"^ *(?:from|import) mmlab\.(\w+)", text, re.MULTILINE)) & height.keys() - {room}
            wrong += [f"{file.relative_to(ROOT)}: {other}" for other in known if height[other] >= height[room]]
            wrong += [str(file) for other in known if {room, other} == {"methods", "data"}]
    assert wrong == []


SPLITS = [
    found
    for page in PAGES
    for found in re.findall(
        r"<!-- splits: mmlab (.*?) -->\n\n```text\n(.*?)```\n\n<!-- end of splits -->",
        page.read_text(encoding="utf-8"),
        re.DOTALL,
    )
]


@pytest.mark.parametrize(("command", "printed"), SPLITS, ids=[command for command, _ in SPLITS])
def test_splits_are_those_that_prepare_prints(
    mmlab, monkeypatch: pytest.MonkeyPatch, command: str, printed: str
) -> None:
    if not re.search("Keypad|MovingShapes|Solids|Rooms|Moods", command):
        if not DATA.is_dir():
            pytest.skip(f"the real data are absent: {DATA} is no folder; set MMLAB_DATA to the one that holds them")
        monkeypatch.setenv("MMLAB_DATA", str(DATA))
    assert [line for line in mmlab(command).splitlines() if " samples, " in line] == printed.splitlines()


def test_there_are_splits() -> None:
    assert len(SPLITS) == 13


def test_own_method(mmlab, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "methods" / "add.md").read_text(encoding="utf-8")
    (code,), ((command,),) = blocks("python", text), map(commands, blocks("sh", text))
    assert len(code.splitlines()) <= 45
    Path("my_module.py").write_text(code)
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    mmlab(f"{command.removeprefix('mmlab ')} {QUICK} {SMALL} --wandb.mode off --run_dir run --model.start 0.5")
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    assert json.loads(Path("run/result.json").read_text())["method"] == "MyMethod"
    scores = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]["scores"]
    assert scores[0] != scores[1], "the weights were not trained"
    assert torch.allclose(scores, torch.full((2,), 0.5), atol=0.1)


def test_own_data(mmlab) -> None:
    text = (ROOT / "docs" / "data" / "own.md").read_text(encoding="utf-8")
    code, (command,) = blocks("python", text)[0], commands(blocks("sh", text)[0])
    Path("example.py").write_text(code)
    runpy.run_path("example.py")
    with open("my_data/samples.csv", newline="") as file:
        lacks_image = {row["id"]: row["image"] == "" for row in csv.DictReader(file)}
    mmlab(f"{command.removeprefix('mmlab ')} {QUICK} --wandb.mode off --run_dir run")
    splits = json.loads(Path("run/result.json").read_text())["splits"]
    assert {name: split["samples"] for name, split in splits.items()} == {"train": 36, "val": 12, "test": 12}
    mmlab("predict --run run")
    with open("run/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    for row in rows:
        assert (float(row["weight_image"]) == 0) == lacks_image[row["id"]]
        assert (row["prediction_image"] == "") == lacks_image[row["id"]]
        assert row["prediction_audio"] in ("low", "middle", "high")


def test_own_data_set(mmlab, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "data" / "own.md").read_text(encoding="utf-8")
    code, (command,) = blocks("python", text)[1], commands(blocks("sh", text)[1])
    Path("my_data_set.py").write_text(code)
    monkeypatch.delitem(sys.modules, "my_data_set", raising=False)
    mmlab(f"{command.removeprefix('mmlab ')} {QUICK} --wandb.mode off --run_dir run --data.dataset.noise 5")
    monkeypatch.delitem(sys.modules, "my_data_set", raising=False)
    result = json.loads(Path("run/result.json").read_text())
    assert result["dataset"] == "Brightness"
    assert 0 < result["test"]["mae"] < 6
