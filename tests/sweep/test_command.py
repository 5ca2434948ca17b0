"""The real command: what is wrong in a sentence, a sweep that is stopped, gone on with and ranked, a file for W&B."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from mmlab.sweep.plan import begin, make_plan, run_folder
from mmlab.sweep.run import find_gpus, start
from tests.compare.made import result

MNL = Path(__file__).parents[2] / "experiments" / "mnl_keypad.yaml"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", ["needs a folder", "--out DIR"]),
        ("--out o", ["needs --configs", "--model MNL"]),
        ("--out o --model MNL", ["--data.dataset Keypad"]),
        ("--out o --configs {mnl}x", ["there is no file", "did you mean", "mmlab list experiments"]),
        ("--out o --configs {mnl},{mnl}", ["have one name"]),
        ("--out o --configs {mnl} --seeds 1,a", ["--seeds is 1,a", "--seeds 0,1,2"]),
        ("--out o --configs {mnl} --seeds 1,1", ["different whole numbers"]),
        ("--out o --configs {mnl} --seed 1", ["did you mean '--seeds'?"]),
        ("--out o --configs {mnl} --set model.lam=1 --set model.lam=2", ["given twice"]),
        ("--out o --configs {mnl} --set model.lam=1..2", ["is a range", "--random 20"]),
        ("--out o --configs {mnl} --random 3", ["--random draws from what --set names"]),
        ("--out o --configs {mnl} --random 0 --set model.lam=1", ["--random is 0", "1 or more"]),
        ("--out o --configs {mnl} --jobs 0", ["--jobs is 0", "1 or more"]),
        ("--out o --configs {mnl} --jobs x", ["--jobs", "'x'"]),
        ("--out o --configs {mnl} --test maybe", ["--test", "'maybe'"]),
        ("--out o --configs {mnl} --metric acc", ["leave out --metric"]),
        ("--out o --configs {mnl} --slurm time=9 --jobs 3", ["leave out --jobs"]),
        ("--out o --configs {mnl} --slurm partition=gpu", ["how many minutes", "time=240"]),
        ("--out o --configs {mnl} --slurm time=9,nodes=2", ["nodes=2", "one task on one node"]),
        ("--out o --configs {mnl} --slurm time", ["option=value"]),
        ("--out o --show o", ["--out and --show don't go together"]),
        ("--resume o", ["o is no sweep", "sweep.yaml"]),
        ("--resume o --seeds 1", ["leave out --seeds"]),
        ("--resume o --patience 1", ["leave out --patience"]),
        ("--show o --jobs 1", ["nothing is run", "leave out --jobs"]),
        ("--wandb_sweep w --configs {mnl} late.yaml", ["there is no file late.yaml"]),
    ],
)
def test_a_wrong_command_line(mmlab, line: str, words: list[str]) -> None:
    err = mmlab(f"sweep {line.format(mnl=MNL)}", code=2)
    assert len(err.splitlines()) == 1, err
    for word in words:
        assert word in err
    assert not Path("o").exists()


def test_no_torch_in_the_parent(tmp_path: Path) -> None:
    script = """
import sys
from mmlab.cli.main import main
code = main(sys.argv[1:])
heavy = {"torch", "lightning", "jsonargparse", "numpy", "matplotlib", "wandb"}
print(code, sorted(heavy & set(sys.modules)))
import mmlab.sweep.run, mmlab.sweep.slurm
print(sorted(heavy & set(sys.modules)))
"""
    words = ["sweep", "--configs", str(MNL), "--set", "model.lam=1,2", "--wandb_sweep", "w.yaml"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-2:] == ["0 []", "[]"]


def test_the_file_for_wandb_gives_commands_that_parse(mmlab) -> None:
    space = "--set model.lam=0.5,1 --set model.variant=paper --set model.backbone.width=log:4..64"
    space += " --set model.optimizer.init_args.lr=log:1e-4..1e-2"
    flags = "--trainer.max_epochs 2"
    mmlab(f"sweep --configs {MNL} --seeds 0,1 {space} --random 10 {flags} --wandb_sweep own/w.yaml")
    content = yaml.safe_load(Path("own/w.yaml").read_text())
    assert content["method"] == "random"
    assert content["run_cap"] == 20
    assert content["metric"] == {"name": "best/acc", "goal": "maximize"}
    parameters = content["parameters"]
    assert parameters["model.lam"] == {"values": [0.5, 1]}
    assert parameters["seed"] == {"values": [0, 1]}
    assert parameters["model.optimizer.init_args.lr"] == {
        "distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2
    }  # fmt: skip
    assert parameters["model.backbone.width"]["q"] == 1
    program, *words = content["command"]
    assert program == "mmlab"
    assert words[-3:] == ["--test", "false", "${args}"]
    drawn = [f"--{key}={one.get('values', [one.get('max')])[0]}" for key, one in parameters.items()]
    with pytest.raises(SystemExit) as end:
        mmlab(" ".join([*words[:-1], *drawn, "--print_config"]))
    assert end.value.code == 0


def test_a_grid_for_wandb_and_an_error_to_minimise(mmlab) -> None:
    mmlab(f"sweep --configs {MNL} --set model.lam=0.5,1 --metric MAE --wandb_sweep w.yaml")
    content = yaml.safe_load(Path("w.yaml").read_text())
    assert content["method"] == "grid"
    assert "run_cap" not in content
    assert content["metric"] == {"name": "best/MAE", "goal": "minimize"}


def test_gpus_are_those_that_are_visible(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for visible, found in (("0,2", ["0", "2"]), ("", []), ("-1", []), ("GPU-1a, GPU-2b", ["GPU-1a", "GPU-2b"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert find_gpus() == found
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_gpus() == []  # no nvidia-smi


def test_a_run_that_another_process_is_at_is_left_to_it(tmp_path: Path) -> None:
    plan = make_plan([], [0], {}, None, ["--model", "Nothing"], None)
    first = start(tmp_path, plan, plan.runs[0], dict(os.environ))
    assert first is not None
    assert start(tmp_path, plan, plan.runs[0], dict(os.environ)) is None
    first.kill()
    first.wait()
    again = start(tmp_path, plan, plan.runs[0], dict(os.environ))
    assert again is not None
    again.kill()
    again.wait()


def test_a_mistyped_key_is_said_before_anything_is_made(mmlab) -> None:
    err = mmlab(f"sweep --configs {MNL} --set model.lamb=0.1,1 --out o", code=2)
    assert err.startswith("mmlab: error: MNL has no option 'lamb'")
    assert len(err.splitlines()) == 1
    assert not Path("o").exists()


def test_what_is_finished_is_not_run_again(mmlab) -> None:
    command = f"sweep --configs {MNL} --set model.lam=0.1,1 --out o"
    plan = make_plan(["mnl_keypad"], [0], {"model.lam": ("0.1", "1")}, None, [], None)
    begin(Path("o"), plan, {"mnl_keypad": MNL})
    for number, run in enumerate(plan.runs):
        path = run_folder(Path("o"), run).result
        path.parent.mkdir(parents=True)
        content = result(monitor="val/acc", selected_on="validation", val={"acc": number / 2})
        path.write_text(json.dumps(content))
    for line in (command, "sweep --resume o"):
        out = mmlab(line)
        assert "2 runs (2 finished)" in out
        assert "best on validation: mnl_keypad with model.lam 1 (val acc 50.0 %)" in out
    assert not list(Path("o").rglob("log.txt"))
    assert "holds another sweep" in mmlab(f"{command} --seeds 0,1", code=2)


def wait_for(happened: Callable[[], bool], process: subprocess.Popen) -> None:
    while not happened():
        assert process.poll() is None, "it ended too early"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_sweep_is_stopped_gone_on_with_and_ranked(mmlab, tiny) -> None:
    flags = f"{tiny} --wandb.mode off --trainer.max_epochs 10".split()
    words = ["--configs", str(MNL), "--set", "model.lam=0.1,high", "--out", "o", "--jobs", "2", *flags]
    good, bad = Path("o/mnl_keypad/lam=0.1/seed0"), Path("o/mnl_keypad/lam=high/seed0")
    command = [sys.executable, "-m", "mmlab", "sweep", *words]
    begun = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    metrics = good / "metrics.csv"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") > 2, begun)
    begun.send_signal(signal.SIGTERM)
    out, _ = begun.communicate()
    assert begun.returncode == 128 + signal.SIGTERM
    assert "stopped; go on with: mmlab sweep --resume o\n" in out
    assert not (good / "result.json").exists()
    assert f"stopped; go on with: mmlab fit --resume {good}" in (good / "log.txt").read_text()
    rows = len(metrics.read_text().splitlines())

    err = mmlab("sweep --resume o --jobs 2", code=1)
    assert "failed: mnl_keypad/lam=high/seed0; try again: mmlab sweep --resume o" in err
    assert f"$ mmlab fit --resume {good}\n" in (good / "log.txt").read_text()
    assert len(metrics.read_text().splitlines()) == 11 > rows
    assert "--model.lam is 'high', but it must be float." in (bad / "log.txt").read_text()
    content = json.loads((good / "result.json").read_text())
    assert "test" not in content
    assert content["config"]["model"]["init_args"]["lam"] == 0.1
    with open("o/sweep.csv", newline="") as text:
        (row,) = csv.DictReader(text)
    assert (row["model.lam"], float(row["mean"])) == ("0.1", content["val"]["acc"])

    out = mmlab("sweep --show o")
    assert "best on validation: mnl_keypad with model.lam 0.1" in out
