"""W&B offline: into the run's folder, the whole config, one run for each seed."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest


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


def _read(file: Path) -> dict:
    """The run's description and the names of all that it logged."""
    from wandb.proto import wandb_internal_pb2

    content: dict = {"keys": set()}
    for data in _records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.HasField("run"):
            content["run"] = record.run
        for item in record.history.item:
            content["keys"].add(item.key or "/".join(item.nested_key))
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
