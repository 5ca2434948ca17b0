"""W&B offline: into the run's folder, the whole config, one run for each seed."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mmlab.runs.folder import RunFolder
from mmlab.runs.tracking import add_to_wandb


@pytest.mark.slow
def test_two_seeds_in_one_process_are_two_runs(mmlab, tiny, monkeypatch) -> None:
    line = f"fit --model MNL {tiny} --trainer.max_epochs 1 --trainer.log_every_n_steps 2 --test false"
    for seed in (0, 1):
        out = mmlab(f"{line} --seed {seed} --run_dir seed{seed}")
        assert out.count("W&B: offline") == 1
    names = set()
    for seed in (0, 1):
        (record,) = Path(f"seed{seed}/wandb").glob("offline-run-*/run-*.wandb")
        content = _read(record)
        names.add(record.name)
        assert content["run"].display_name == f"MNL-s{seed}"
        assert content["run"].run_group == "Keypad"
        assert content["run"].job_type == "MNL"
        config = {item.key: json.loads(item.value_json) for item in content["run"].config.update}
        assert config["seed"] == seed
        assert config["model"]["init_args"]["lam"] == 0.7
        assert {"val/acc", "train/loss", "step/loss"} <= content["keys"]
        assert Path(f"seed{seed}/wandb_id.txt").read_text().strip() in record.name
    assert len(names) == 2


@pytest.mark.slow
def test_every_method_has_the_same_names_and_its_result(mmlab, tiny) -> None:
    options = f"{tiny} --trainer.max_epochs 1 --trainer.log_every_n_steps 2"
    mmlab(f"fit --model own_methods.TwoStages {options} --run_dir stages")
    mmlab(f"fit --model JointTraining {options} --run_dir joint")
    stages, joint = (_read(_records_of(name)[0]) for name in ("stages", "joint"))
    same = {"train/loss", "step/loss", "val/loss", "val/acc", "val/f1", "lr", "curves/path"}
    assert same <= joint["keys"]
    assert same <= stages["keys"]
    assert {f"whole/{key}" for key in ("val/acc", "train/loss", "step/loss")} <= stages["keys"]
    for name, content in (("stages", stages), ("joint", joint)):
        result = json.loads(Path(name, "result.json").read_text())
        assert content["summary"]["test/acc"] == result["test"]["acc"]
        assert content["summary"]["best/acc"] == result["val"]["acc"]
        assert content["summary"]["sha256/test"] == result["splits"]["test"]["sha256"]


@pytest.mark.slow
def test_a_finished_run_takes_up_its_record_again(mmlab, tiny) -> None:
    mmlab(f"fit --model JointTraining {tiny} --trainer.max_epochs 1 --run_dir run --test false")
    Path("cells.csv").write_text("subset,acc\naudio,0.5\nimage,\n")
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    more = {"values": {"robustness/average": 0.25}, "pictures": {"a": Path("run/curves.png")}}
    for folder in ("run", "joint"):  # the second has no record: nothing is begun
        add_to_wandb(RunFolder(folder), "JointTraining", "Keypad", config, **more, tables={"b": Path("cells.csv")})
    assert not Path("joint").exists()
    first, second = _records_of("run")
    assert first.name == second.name
    content = _read(second)
    assert content["summary"]["robustness/average"] == 0.25
    assert {"a/path", "b/path"} <= content["keys"]
    (table,) = second.parent.glob("files/media/table/*.json")
    assert json.loads(table.read_text()) == {
        "columns": ["subset", "acc"],
        "data": [["audio", 0.5], ["image", None]],
    }


def _records_of(run: str) -> list[Path]:
    return sorted(Path(run, "wandb").glob("offline-run-*/run-*.wandb"))


def _read(file: Path) -> dict:
    """The run's description, the names of all that it logged, and its summary."""
    from wandb.proto import wandb_internal_pb2

    content: dict = {"keys": set(), "summary": {}}
    for data in _records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            content["run"] = record.run
        for item in record.history.item:
            content["keys"].add(item.key or "/".join(item.nested_key))
        for item in record.summary.update:
            content["summary"][item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return content


def _records(content: bytes) -> Iterator[bytes]:
    """The records of W&B's file: LevelDB's log format behind a header of 7 bytes, in blocks of 32 KiB."""
    position, whole = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        size, kind = struct.unpack_from("<HB", content, position + 4)
        whole += content[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last of several parts
            yield whole
            whole = b""
