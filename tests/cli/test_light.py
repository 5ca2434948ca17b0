"""What answers at once imports nothing heavy, and the lists name what there is."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from abc import ABC
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

import mmlab.data
import mmlab.methods
from mmlab.cli.main import main
from mmlab.cli.parser import build_parser, parse
from mmlab.data.base import MultimodalDataset
from mmlab.methods.base import Method

EXPERIMENTS = Path(__file__).parents[2] / "experiments"

SCRIPT = """
import sys
from mmlab.cli.main import main
codes = [main(line.split()) for line in sys.argv[1:]]
heavy = {"torch", "lightning", "jsonargparse", "numpy", "torchmetrics", "timm", "matplotlib", "wandb"}
print(codes, sorted(heavy & set(sys.modules)))
"""


def test_help_version_list_and_compare_import_nothing_heavy(tmp_path: Path) -> None:
    result = {
        "method": "MNL",
        "dataset": "Keypad",
        "protocol": "honest",
        "seed": 0,
        "modalities": ["audio"],
        "splits": {"val": {"samples": 3}, "test": {"samples": 3}},
        "val": {"acc": 1.0},
        "test": {"acc": 0.5},
    }
    (tmp_path / "result.json").write_text(json.dumps(result))
    lines = ["--help", "--version", "list", "list methods", "list experiments", "compare .", "fti"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *lines], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0, 0, 0, 2] []"
    assert f"mmlab {mmlab.__version__}" in done.stdout.splitlines()
    assert "| MNL | 1 | 50.0 |" in done.stdout
    assert "there is no folder experiments/ here" in done.stdout


def listed(out: str) -> dict[str, str]:
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}


def subclasses(package: object, base: type) -> dict[str, type]:
    """The package's own classes, not those that tests define."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    found: list[type] = list(base.__subclasses__())
    for kind in found:
        found += kind.__subclasses__()
    # One that lists ABC among its bases is itself only a base.
    own = [kind for kind in found if kind.__module__.startswith("mmlab.") and ABC not in kind.__bases__]
    return {kind.__name__: kind for kind in own}


def test_every_method_and_data_set_is_listed_with_its_first_line(mmlab) -> None:
    for word, package, base in (
        ("methods", importlib.import_module("mmlab.methods"), Method),
        ("datasets", importlib.import_module("mmlab.data"), MultimodalDataset),
    ):
        kinds = subclasses(package, base)
        assert len(kinds) >= 4
        assert listed(mmlab(f"list {word}")) == {
            name: kind.__doc__.strip().splitlines()[0] for name, kind in kinds.items()
        }


def test_every_experiment_is_listed_with_its_first_line(mmlab) -> None:
    Path("experiments").symlink_to(EXPERIMENTS)
    rows = listed(mmlab("list experiments"))
    files = sorted(EXPERIMENTS.glob("*.yaml"))
    assert rows == {f"experiments/{file.name}": file.read_text().splitlines()[0][2:] for file in files}
    assert len(rows) >= 16


def test_a_backbone_that_is_listed_can_be_used(mmlab) -> None:
    out = mmlab("list backbones")
    assert "small_conv" in out
    assert "any timm model" in out


def test_list_helps(mmlab) -> None:
    assert mmlab("list --help").startswith("usage: mmlab list [methods] [datasets]")


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        ("validate", ["--run"]),
        ("test", ["--run", "--corruption", "--severity", "--noise_seeds", "--input_radius", "--combinations"]),
        ("predict", ["--run", "--split", "--out", "--pictures"]),
        ("robustness", ["--run", "--corruptions", "--severities", "--noise_seeds", "--again"]),
        ("diagnose", ["--run", "--split", "--again", "--features"]),
    ],
)
def test_help_of_what_works_on_a_run_is_short_and_has_its_own_flags(
    capsys: pytest.CaptureFixture[str], command: str, flags: list[str]
) -> None:
    for words in ([command, "--help"], [command, "--run", "runs/absent", "-h"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0
        out = capsys.readouterr().out
        assert out.startswith(f"usage: mmlab {command} --run DIR")
        assert all(f"  {flag} " in out for flag in flags)
        assert "`mmlab fit" in out, "where the other options are told"
        assert len(out.splitlines()) < 40


def test_help_of_fit_names_its_own_flag() -> None:
    assert "--resume " in build_parser("fit").description


def test_the_help_of_a_method_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("MNL", "LateFusion", "JointTraining", "Unimodal"):
        with pytest.raises(SystemExit):
            parse(build_parser("fit"), ["--model.help", method])
        out = capsys.readouterr().out
        assert "--model.optimizer" in out
        for absent in ("--model.spec", "likewise", ":class:", "``"):
            assert absent not in out


COUNTS = ["limit_train_batches", "limit_test_batches", "overfit_batches", "val_check_interval"]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("how", ["flag", "file", "saved"])
@pytest.mark.parametrize("written", ["1", "1.0"])
def test_one_batch_is_not_all_batches(tmp_path: Path, name: str, how: str, written: str) -> None:
    parser = build_parser("fit")
    words = ["--model", "MNL", "--data.dataset", "Keypad"]
    file = tmp_path / "own.yaml"
    if how == "flag":
        config = parse(parser, [*words, f"--trainer.{name}", written])
    else:
        file.write_text(f"trainer:\n  {name}: {written}\n")
        config = parse(parser, ["--config", str(file), *words])
    if how == "saved":
        file.write_text(parser.dump(config, skip_unset=False))
        config = parse(build_parser("fit"), ["--config", str(file)])
    assert repr(config.trainer[name]) == written


def test_counts_stay_counts_whatever_the_order_of_the_union(monkeypatch: pytest.MonkeyPatch) -> None:
    class FloatFirst(ArgumentParser):
        def add_class_arguments(self, *given: Any, **options: Any) -> list[str]:
            added = super().add_class_arguments(*given, **options)
            for action in self._actions:
                if action.dest == "trainer.limit_test_batches":
                    action._typehint = float | int | None
            return added

    monkeypatch.setattr("mmlab.cli.parser.ArgumentParser", FloatFirst)
    words = ["--model", "MNL", "--data.dataset", "Keypad", "--trainer.limit_test_batches", "1"]
    assert repr(parse(build_parser("fit"), words).trainer.limit_test_batches) == "1"
