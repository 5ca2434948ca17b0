from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmlab.backbones.config import BackboneConfig
from mmlab.errors import UserError
from mmlab.methods.dedicated import Dedicated
from mmlab.methods.evaluation import CombinationEvaluation
from mmlab.methods.modality_dropout import ModalityDropout
from mmlab.types import DataSpec, Modality, Segmentation
from tests.methods.toy import batch, check, spec

TINY = BackboneConfig(width=4)
FLAGS = "--wandb.mode off --run_dir run --trainer.max_epochs 3 "


@pytest.mark.parametrize("modalities", [["visual"], ["depth", "audio"], ["audio", "visual", "depth"]])
@pytest.mark.parametrize("missing", [False, True])
def test_it_has_its_own_modalities_and_no_other(modalities: list[str], missing: bool) -> None:
    data = spec(3)
    samples = batch(data, missing=missing)
    method = Dedicated(data.to_dict(), modalities, TINY)
    assert list(method.network.encoders) == [name for name in data.names if name in modalities]
    prediction = check(method, samples)
    for name in data.names:
        other = samples.inputs | {name: samples.inputs[name] + 1}
        same = torch.equal(method(other, samples.present).logits, prediction.logits)
        assert same == (name not in modalities)


def test_samples_without_its_modalities_do_not_count() -> None:
    data = spec(2)
    samples = batch(data)
    samples.present[2:, 0] = False
    method = Dedicated(data.to_dict(), ["audio"], TINY)
    loss = method.losses(samples)["loss"]
    logits = method(samples.inputs, samples.present).logits
    each = data.task.criterion(logits, samples.target)
    torch.testing.assert_close(loss, each[:2].sum() / len(samples))


def test_a_split_without_its_modalities_is_refused() -> None:
    data = spec(2)
    samples = batch(data)
    samples.present[:, 0] = False
    method = Dedicated(data.to_dict(), ["audio"], TINY).eval()
    evaluation = CombinationEvaluation("Dedicated", method.spec, method.tested, torch.device("cpu"))
    evaluation.update(method, samples)
    with pytest.raises(UserError, match="no sample of the split has any modality of audio;"):
        evaluation.compute(lambda rows: rows)


@pytest.mark.parametrize(
    ("modalities", "sentence"), [([], "modalities are empty: name some of audio"), (["sound"], "no modality 'sound'")]
)
def test_what_cannot_be_is_refused(modalities: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Dedicated(spec(2).to_dict(), modalities, TINY)


def test_a_class_for_every_pixel() -> None:
    pictures = (Modality("rgb", "image", (3, 32, 64)), Modality("depth", "depth", (1, 32, 64)))
    data = DataSpec("Rooms", pictures, Segmentation(("floor", "wall")), train_size=20)
    method = Dedicated(data.to_dict(), ["depth"], TINY)
    inputs = {each.name: torch.randn(2, *each.shape) for each in pictures}
    present = torch.ones(2, 2, dtype=torch.bool)
    assert method(inputs, present).logits.shape == (2, 2, 32, 64)
    assert method.monitor == "miou_depth"
    whole = ModalityDropout(data.to_dict(), TINY)
    assert sum(p.numel() for p in method.parameters()) < sum(p.numel() for p in whole.parameters())


def test_metrics_have_the_name_of_the_combination(mmlab: Any, tiny: str) -> None:
    mmlab(f"fit --model Dedicated --model.modalities [image] {tiny} {FLAGS}")
    result = json.loads(Path("run/result.json").read_text())
    assert result["monitor"] == "val/acc_image"
    assert result["combinations"] == ["image"]
    assert "acc" not in result["test"]
    assert result["stages"][0]["best_score"] == pytest.approx(result["val"]["acc_image"], abs=1e-6)


def test_with_all_modalities_nothing_is_in_the_name(mmlab: Any, tiny: str) -> None:
    gaps = tiny.replace("Keypad ", "own_datasets.Gaps ", 1)
    mmlab(f"fit --model Dedicated --model.modalities [image,audio] {gaps} {FLAGS} --trainer.precision bf16-mixed")
    result = json.loads(Path("run/result.json").read_text())
    assert result["monitor"] == "val/acc"
    assert result["combinations"] == ["audio+image"]
    assert 0 <= result["test"]["acc"] <= 1
