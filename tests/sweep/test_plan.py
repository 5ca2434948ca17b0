"""A sweep's runs by name and flags, and the folder that keeps them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmlab.errors import UserError
from mmlab.sweep.plan import begin, fit_words, make_plan, read_plan

LAM = {"model.lam": ("0.1", "1")}


def test_configs_times_settings_times_seeds() -> None:
    plan = make_plan(["mnl", "late"], [0, 3], LAM, None, ["--wandb.mode", "off"], None)
    assert [run.name for run in plan.runs] == [
        f"{config}/lam={lam}/seed{seed}" for config in ("mnl", "late") for lam in ("0.1", "1") for seed in (0, 3)
    ]
    assert plan.runs[-1].flags == ["--wandb.mode", "off", "--model.lam", "1"]
    assert plan.runs[-1].setting == {"model.lam": "1"}


def test_a_search_is_not_tested_unless_asked_for() -> None:
    assert make_plan(["mnl"], [0, 1], {}, None, [], None).test
    assert make_plan(["mnl"], [0, 1], {"model.lam": ("0.1",)}, None, [], None).test
    assert not make_plan(["mnl"], [0, 1], LAM, None, [], None).test
    assert make_plan(["mnl"], [0, 1], LAM, None, [], True).test


def test_folders_are_named_by_what_sets_them_apart() -> None:
    space = {
        "model.optimizer.init_args.lr": ("1e-3",),
        "model.backbones.audio.lr": ("0.1",),
        "model.modalities": ("[audio, image]",),
        "data.dataset.root": ("../my data/x",),
    }
    (run,) = make_plan([], [0], space, None, [], None).runs
    assert run.name == "init_args.lr=1e-3,audio.lr=0.1,modalities=audio-image,root=..-my-data-x/seed0"
    many = {f"model.option_with_a_long_name{number}": ("1",) for number in range(9)}
    assert make_plan([], [0], many, None, [], None).runs[0].name == "setting0/seed0"
    with pytest.raises(UserError, match="two runs would be named"):
        make_plan([], [0], {"data.dataset.root": ("a/b", "a-b")}, None, [], None)


def test_a_class_stands_before_its_options() -> None:
    flags = ["--model.lam", "3", "--data.dataset", "Keypad"]
    space = {"data.dataset.train_size": ("24",), "model.optimizer": ("SGD",), "model": ("MNL",)}
    (run,) = make_plan([], [0], space, None, flags, None).runs
    assert run.flags == ["--model", "MNL", *flags, "--model.optimizer", "SGD", "--data.dataset.train_size", "24"]


@pytest.mark.parametrize(
    ("space", "flags", "said"),
    [
        ({"seed": ("1",)}, [], "did you mean '--seeds'"),
        ({"modle.lam": ("1",)}, [], "--set modle.lam: a sweep has no such option"),
        (LAM, ["--model.lam", "3"], "both given"),
        (LAM, ["--model.lam=3"], "both given"),
        ({}, ["--config", "x.yaml"], "did you mean '--configs'"),
        ({}, ["--run_dir", "x"], "no such option"),
        ({}, ["stray"], "'stray'"),
        ({}, ["--patience", "3", "4"], "'4'"),
    ],
)
def test_what_a_run_has_not_is_refused(space: dict, flags: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make_plan(["mnl"], [0], space, None, flags, None)


def test_the_folder_keeps_the_plan_and_refuses_another(tmp_path: Path) -> None:
    file, folder = tmp_path / "mnl.yaml", tmp_path / "sweep"
    file.write_text("model: MNL\n")
    plan = make_plan(["mnl"], [0], LAM, None, ["--data.batch_size=08"], None)
    begin(folder, plan, {"mnl": file})
    assert read_plan(folder) == plan
    begin(folder, plan, {"mnl": file})  # the same command again goes on
    with pytest.raises(UserError, match="holds another sweep"):
        begin(folder, make_plan(["mnl"], [0, 1], LAM, None, [], None), {"mnl": file})
    file.write_text("model: PDF\n")
    with pytest.raises(UserError, match=r"mnl\.yaml has changed since"):
        begin(folder, plan, {"mnl": file})
    assert (folder / "configs" / "mnl.yaml").read_text() == "model: MNL\n"


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="something else than a sweep"):
        begin(tmp_path, make_plan(["mnl"], [0], {}, None, [], None), {})
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("text", ["", "runs: 3\n", "runs:\n- name: a\ntest: true\n", "runs: [\n", "runs: []\n"])
def test_a_damaged_plan_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.yaml").write_text(text)
    with pytest.raises(UserError, match=r"sweep\.yaml is damaged"):
        read_plan(tmp_path)


def test_a_run_is_begun_or_gone_on_with(tmp_path: Path) -> None:
    plan = make_plan(["mnl"], [3], LAM, None, [], None)
    words = fit_words(tmp_path, plan, plan.runs[0])
    folder = tmp_path / "mnl" / "lam=0.1" / "seed3"
    assert words == [
        *("fit", "--config", str(tmp_path / "configs" / "mnl.yaml"), "--model.lam", "0.1"),
        *("--trainer.enable_progress_bar", "false", "--seed", "3", "--test", "false", "--run_dir", str(folder)),
    ]
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    assert fit_words(tmp_path, plan, plan.runs[0]) == ["fit", "--resume", str(folder)]
