from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmlab.availability import every_combination, limited
from mmlab.backbones.config import BackboneConfig
from mmlab.methods.modality_dropout import ModalityDropout
from tests.methods.toy import batch, spec

TINY = BackboneConfig(width=4)
FLAGS = "--wandb.mode off --run_dir run "


def test_a_missing_modality_changes_nothing() -> None:
    toy = spec(3)
    method, given = ModalityDropout(toy.to_dict(), TINY).eval(), batch(toy)
    names = method.spec.names
    for combination in every_combination(3):
        present = limited(given.present, combination)
        noisy = {
            name: given.inputs[name] if has else torch.full_like(given.inputs[name], float("inf"))
            for name, has in zip(names, combination, strict=True)
        }
        torch.testing.assert_close(method(noisy, present).logits, method(given.inputs, present).logits, rtol=0, atol=0)


def test_selection_is_on_the_average_over_the_combinations(mmlab, tiny: str) -> None:
    mmlab(f"fit --model ModalityDropout {tiny} {FLAGS} --trainer.max_epochs 4")
    result = json.loads(Path("run/result.json").read_text())
    assert result["monitor"] == "val/acc_average"
    assert result["combinations"] == ["audio", "image", "audio+image"]
    for split in ("val", "test"):
        found = result[split]
        assert found["acc_average"] == pytest.approx(
            (found["acc"] + found["acc_audio"] + found["acc_image"]) / 3, abs=1e-5
        )
    assert result["stages"][0]["best_score"] == pytest.approx(result["val"]["acc_average"], abs=1e-6)
    header = Path("run/metrics.csv").read_text().splitlines()[0]
    assert "val/acc_average" in header
    table = mmlab("compare run")
    assert "| method | seeds | fused | audio | image | average |" in table


def test_any_method_can_be_tested_by_combination(mmlab, tiny: str) -> None:
    mmlab(f"fit --model LateFusion {tiny} {FLAGS} --trainer.max_epochs 2")
    plain = json.loads(Path("run/result.json").read_text())["test"]
    out = mmlab("test --run run --combinations true")
    found = json.loads(Path("run/test.json").read_text())
    assert "acc_average" in out
    # With one modality alone, late fusion's decision is that modality's own.
    assert {key: found[key] for key in ("acc", "acc_audio", "acc_image")} == pytest.approx(
        {key: plain[key] for key in ("acc", "acc_audio", "acc_image")}
    )
    assert "write true or false" in mmlab("test --run run --combinations perhaps", code=2)


def test_samples_that_lack_a_modality_count_where_they_can(mmlab, tiny: str) -> None:
    flags = tiny.replace("Keypad ", "own_datasets.Gaps ", 1)
    mmlab(f"fit --model ModalityDropout {flags} {FLAGS} --trainer.max_epochs 1")
    assert 0 <= json.loads(Path("run/result.json").read_text())["test"]["acc_average"] <= 1
