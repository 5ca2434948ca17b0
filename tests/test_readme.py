"""What README.md says is tried: its code runs, its commands parse or run, its paths and names are real."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from mmlab.data.corruption import Name
from tests.documents import QUICK, ROOT, SMALL, blocks, commands, follow

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))

SHELL = blocks("sh", TEXT)


def test_commands_are_taken_apart() -> None:
    block = "for s in 0 1; do\n  mmlab fit --seed $s --run_dir a/b$s  # twice\ndone\nmmlab compare a\n"
    assert commands(block) == [
        "mmlab fit --seed 0 --run_dir a/b0",
        "mmlab fit --seed 1 --run_dir a/b1",
        "mmlab compare a",
    ]


@pytest.mark.parametrize("block", SHELL, ids=[block.splitlines()[0][:50] for block in SHELL])
def test_shell_block(mmlab, block: str) -> None:
    follow(mmlab, block)


def test_what_a_run_leaves_behind(mmlab) -> None:
    section = SECTIONS["What a run leaves behind"]
    mmlab(f"fit --model MNL --data.dataset Keypad {QUICK} {SMALL} --run_dir run")
    of_fit, later = section.split("Later commands")
    cells = re.findall(r"^\| (`.*?) \| (.*?) \|$", of_fit, re.MULTILINE)
    named = {name for cell, _ in cells for name in re.findall(r"`(.*?)`", cell)}
    assert named == {path.name for path in Path("run").iterdir()}
    (checkpoints,) = (content for cell, content in cells if "checkpoints" in cell)
    for name in re.findall(r"`(.*?)`", checkpoints):
        assert Path("run/checkpoints", name).is_file()
    result = json.loads(Path("run/result.json").read_text())
    fields = section.split("Result fields:")[1]
    assert set(re.findall(r"`(.*?)`", fields)) == set(result)

    mmlab("fit --config run/config.yaml --run_dir again --wandb.mode off")
    assert json.loads(Path("again/result.json").read_text())["test"] == result["test"]
    mmlab("predict --run run --split val --out val.csv")
    header = Path("val.csv").read_text().splitlines()[0].split(",")
    assert header[:4] == ["id", "target", "prediction", "p_1"]
    assert header[-2:] == ["weight_audio", "weight_image"]

    before = {path.name for path in Path("run").iterdir()}
    for command in (
        "validate --run run",
        "test --run run",
        "test --run run --corruption gaussian",
        "predict --run run",
        "robustness --run run --corruptions gaussian --severities 0,5",
        "diagnose --run run --features true",
    ):
        mmlab(f"{command} --wandb.mode off")
    files = {
        name
        for _, cell in re.findall(r"^\| (`.*?) \| (.*?) \|$", later, re.MULTILINE)
        for name in re.findall(r"`(.*?)`", cell)
    }
    assert files - {"pictures"} == {path.name for path in Path("run").iterdir()} - before


def test_methods_and_data_sets_are_those_there_are(mmlab) -> None:
    opening = TEXT.split("\n## ")[0]
    methods, datasets = (
        {line.split()[0] for line in mmlab(f"list {kind}").splitlines()} for kind in ("methods", "datasets")
    )
    assert set(re.findall(r"`(.*?)`", opening)) == methods | datasets


def test_corruptions_are_those_there_are() -> None:
    table = SECTIONS["Test under noise"].split("| --- | --- |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(get_args(Name))


# What a person has, not the checkout: own files, files of a run, and where data lie.
OWN = ("runs/", "data/", "models/", "../shared/data", ".venv", "site/")
SUFFIXES = {".cff", ".csv", ".json", ".md", ".png", ".py", ".txt", ".yaml"}
RESULTS = "results/"  # test_results_tables asks for it


def test_paths_exist() -> None:
    of_a_run = set(re.findall(r"`([\w.]+)`", SECTIONS["What a run leaves behind"]))
    paths = set(re.findall(r"`([\w./-]+)`", TEXT)) | set(re.findall(r"experiments/[\w.]+|(?<=\]\()[\w./-]+", TEXT))
    paths = {path for path in paths if "/" in path or Path(path).suffix in SUFFIXES or path == "LICENSE"}
    paths = {path for path in paths - of_a_run - {RESULTS} if not path.startswith(OWN)}
    assert {"LICENSE", "CITATION.cff", "mmlab/data/", "experiments/mnl_kinetics.yaml"} <= paths
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


TABLES = [
    (file.name, *found)
    for file in (ROOT / "README.md", ROOT / "docs" / "results.md")
    for found in re.findall(
        r"<!-- (\w+): mmlab (.*?) -->\n(.*?)<!-- end of \1 -->", file.read_text(encoding="utf-8"), re.DOTALL
    )
]


@pytest.mark.parametrize(("file", "name", "command", "printed"), TABLES, ids=[" ".join(table[:2]) for table in TABLES])
def test_results_tables(
    mmlab, monkeypatch: pytest.MonkeyPatch, file: str, name: str, command: str, printed: str
) -> None:
    monkeypatch.chdir(ROOT)
    assert mmlab(command).strip() == printed.strip()


def test_there_are_tables() -> None:
    assert {table[:2] for table in TABLES} == {
        ("README.md", "results"),
        ("results.md", "results"),
        ("results.md", "robustness"),
        ("results.md", "grids"),
        ("results.md", "diagnoses"),
        ("results.md", "missing"),
        ("results.md", "iou"),
        ("results.md", "sentiment"),
    }
