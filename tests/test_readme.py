"""What README.md says is tried: its code runs, its commands parse or run, its paths and names are real."""

from __future__ import annotations

import csv
import json
import re
import runpy
import sys
from pathlib import Path
from typing import get_args

import pytest
import torch

from mmlab.data.corruption import Name

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))

QUICK = "--trainer.max_epochs 1 --model.backbone.width 4 --trainer.accelerator cpu --trainer.enable_progress_bar false"
SMALL = "--data.dataset.train_size 24 --data.dataset.val_size 12 --data.dataset.test_size 12 --data.batch_size 12"


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    """The block's commands without comments, a loop written out."""
    text = re.sub(r"(^|\s)#.*", "", block)
    loop = re.search(r"^for (\w+) in (.*); do\n(.*?)^done$", text, re.MULTILINE | re.DOTALL)
    if loop:
        name, values, body = loop.groups()
        text = text.replace(loop[0], "".join(body.replace(f"${name}", value) for value in values.split()))
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_commands_are_taken_apart() -> None:
    block = "for s in 0 1; do\n  mmlab fit --seed $s --run_dir a/b$s  # twice\ndone\nmmlab compare a\n"
    assert commands(block) == [
        "mmlab fit --seed 0 --run_dir a/b0",
        "mmlab fit --seed 1 --run_dir a/b1",
        "mmlab compare a",
    ]


def exits_well(mmlab, line: str) -> None:
    with pytest.raises(SystemExit) as end:
        mmlab(line)
    assert end.value.code == 0


WITH_CODE = ("my_module", "my_data")  # these commands need a Python block: they have tests of their own
SHELL = [block for block in blocks("sh") if not any(word in block for word in WITH_CODE)]


@pytest.mark.parametrize("block", SHELL, ids=[block.splitlines()[0][:50] for block in SHELL])
def test_shell_block(mmlab, block: str) -> None:
    """Commands on computed data run at a small size; the others, which need data or hours, are parsed."""
    Path("experiments").symlink_to(ROOT / "experiments")
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for command in commands(block):
        program, line = command.split(maxsplit=1)
        if program == "make":
            assert line in targets
            continue
        assert program == "mmlab"
        if line.startswith("prepare"):
            mmlab(f"{line} --frame_side 32" if "KineticsSounds" in line else line)
        elif line.startswith("sweep --configs"):
            mmlab(f"{line} {QUICK} {SMALL} --wandb.mode off --jobs 2")
        elif ".help" in line:
            exits_well(mmlab, line)
        elif line.startswith("fit") and "--resume" not in line:
            if re.search("keypad|rooms|moods", line.lower()):
                mmlab(f"{line} {QUICK} {SMALL} --wandb.mode off")
            else:
                exits_well(mmlab, f"{line} --print_config")
        else:
            mmlab(line)


def test_own_method(mmlab, monkeypatch: pytest.MonkeyPatch) -> None:
    section = SECTIONS["Add a method"]
    (code,), ((command,),) = blocks("python", section), map(commands, blocks("sh", section))
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
    section = SECTIONS["Your own data"]
    (code,), ((command,),) = blocks("python", section), map(commands, blocks("sh", section))
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


def test_what_a_run_leaves_behind(mmlab) -> None:
    section = SECTIONS["What a run leaves behind"]
    mmlab(f"fit --model MNL --data.dataset Keypad {QUICK} {SMALL} --run_dir run")
    cells = re.findall(r"^\| (`.*?) \| (.*?) \|$", section, re.MULTILINE)
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
OWN = ("runs/", "data/", "models/", "my_", "../shared/data", ".venv")
SUFFIXES = {".cff", ".csv", ".json", ".md", ".png", ".py", ".txt", ".yaml"}
RESULTS = "results/"  # test_results_tables asks for it


def test_paths_exist() -> None:
    of_a_run = set(re.findall(r"`([\w.]+)`", SECTIONS["What a run leaves behind"]))
    paths = set(re.findall(r"`([\w./-]+)`", TEXT)) | set(re.findall(r"experiments/[\w.]+", TEXT))
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
        ("results.md", "missing"),
        ("results.md", "iou"),
        ("results.md", "sentiment"),
    }
