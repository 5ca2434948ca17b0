"""Each method's diagnosis, in this process and untrained; and what there is to say of a few data sets' samples."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from mmlab.backbones.config import BackboneConfig
from mmlab.cli.classes import subclasses
from mmlab.cli.parser import import_classes
from mmlab.data.base import MultimodalDataset
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.data.keypad import Keypad
from mmlab.data.moods import Moods
from mmlab.errors import UserError
from mmlab.evaluation.diagnosis import Diagnosis, diagnose_method
from mmlab.methods.base import Method
from mmlab.methods.late_fusion import LateFusion
from mmlab.methods.modality_dropout import ModalityDropout
from mmlab.methods.mult import MulT
from mmlab.methods.omd import OMD
from mmlab.methods.unimodal import Unimodal
from tests.evaluation.signal_and_noise import NumberAndNoise, SignalAndNoise, Uneven
from tests.own_datasets import Halves

OPTIONS: dict[str, dict[str, Any]] = {
    "Unimodal": {"modality": "audio"},
    "Dedicated": {"modalities": ["image"]},
    "OMD": {"privileged": ["image"]},
    "TFN": {"width": 8, "hidden": 8},
    "LFDNN": {"hidden": 8},
}
OF_SEQUENCES = ("MulT", "SelfMM", "SelfMI")
SMALL = BackboneConfig("small_conv", width=4)


def kinds() -> dict[str, type[Method]]:
    import_classes()
    return {kind.__name__: kind for kind in subclasses(Method) if kind.__module__.startswith("mmlab.")}


def trainer() -> Trainer:
    return Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)


def diagnosed(method: Method, data: MultimodalDataModule, split: Any = "test") -> Diagnosis:
    method.begin(method.stages()[-1])
    found = diagnose_method(method, data, trainer(), split)
    values = found.values
    json.dumps(values)
    *_, everything = values["subsets"]
    gained = values["subsets"][everything] - values["subsets"]["none"]
    assert sum(values["shapley"].values()) == pytest.approx(gained, abs=1e-9)
    assert not method.training
    return found


def data_of(dataset: MultimodalDataset) -> MultimodalDataModule:
    return MultimodalDataModule(dataset, batch_size=16)


@pytest.fixture(scope="module")
def keypad() -> MultimodalDataModule:
    return data_of(Keypad(24, 12, 13))


@pytest.mark.parametrize("name", sorted(kinds().keys() - {*OF_SEQUENCES}))
def test_every_method_of_classes(name: str, keypad: MultimodalDataModule) -> None:
    method = kinds()[name](keypad.spec, backbone=SMALL, **OPTIONS.get(name, {}))
    found = diagnosed(method, keypad)
    values = found.values
    probed = {"Unimodal": {"audio"}, "Dedicated": {"image"}, "OMD": {"audio"}}.get(name, {"audio", "image"})
    assert values["probe"].keys() == probed
    for modality in {"audio", "image"} - probed:
        assert values["shapley"][modality] == 0
    assert found.confusion is not None
    target = torch.from_numpy(keypad.splits["test"].targets)
    assert found.confusion.sum(dim=1).equal(target.bincount(minlength=len(found.confusion)))  # what is true lies down
    assert found.confusion.trace() / 13 == pytest.approx(values["fused"])
    assert values["subsets"]["audio+image"] == pytest.approx(values["fused"])
    assert values["ece"].keys() == {"fused", *values["own_head"]}
    defined = {**values, "own heads": values["own_head"], "share of logits": values["logit_share"]}
    for what in ("own heads", "share of logits"):
        said = any(sentence.startswith(what) for sentence in values["not_defined"])
        assert said == (not defined[what])


@pytest.mark.parametrize("name", OF_SEQUENCES)
def test_methods_of_sequences_and_numbers(name: str) -> None:
    data = data_of(Moods(24, 12, 13))
    options = {"width": 8, "heads": 2, "layers": 1} if name == "MulT" else {"backbone": "lstm"}
    values = diagnosed(kinds()[name](data.spec, **options), data).values
    assert (values["metric"], values["value"]) == ("MAE", "-MAE")
    assert values["fused"] > 0
    assert values["subsets"]["text+audio+vision"] == pytest.approx(-values["fused"])
    assert not values["ece"]
    assert len(values["probe"]) == (0 if name == "MulT" else 3)
    if name == "MulT":
        assert "linear probes: MulT has no encoder of one modality" in values["not_defined"]


def trained(method: Method, data: MultimodalDataModule, steps: int = 60) -> Method:
    """By the method's own losses, on whole batches of the training split."""
    optimizer = torch.optim.Adam(method.parameters(), lr=0.02)
    split = data.splits["train"]
    for _ in range(steps):
        batch = data.transform(split.__getitems__(list(range(len(split)))), None)
        optimizer.zero_grad()
        method.losses(batch)["loss"].backward()
        optimizer.step()
    return method


@pytest.fixture(scope="module")
def told_apart() -> dict[str, Any]:
    data = data_of(SignalAndNoise())
    torch.manual_seed(0)
    return diagnosed(trained(LateFusion(data.spec, backbone=BackboneConfig("mlp", width=8)), data), data).values


def test_a_modality_of_pure_noise_is_worth_about_nothing(told_apart: dict[str, Any]) -> None:
    assert told_apart["fused"] > 0.9
    assert told_apart["subsets"]["none"] == pytest.approx(1 / 3)
    assert told_apart["shapley"]["signal"] > 0.55
    assert abs(told_apart["shapley"]["noise"]) < 0.04
    assert told_apart["logit_share"]["noise"] < 0.3 < 0.7 < told_apart["logit_share"]["signal"]


def test_probes_read_what_the_encoders_kept(told_apart: dict[str, Any]) -> None:
    assert told_apart["probe"]["signal"] > 0.95
    assert told_apart["probe"]["noise"] < 0.42
    assert told_apart["own_head"]["signal"] > 0.95
    assert told_apart["ece"]["fused"] < 0.2


def test_samples_without_a_modality() -> None:
    data = data_of(Uneven())
    method = trained(LateFusion(data.spec, backbone=BackboneConfig("mlp", width=8)), data)
    found = diagnosed(method, data)
    present = torch.from_numpy(data.splits["test"].present)
    target = torch.from_numpy(data.splits["test"].targets)
    assert 0 < present.sum(dim=0).min() < len(target)
    # Of the samples without the signal, those of the most frequent class (the first on ties) count as right.
    batch = data.transform(data.splits["test"].__getitems__(list(range(len(target)))), None)
    with torch.no_grad():
        alone = method(batch.inputs, present & torch.tensor([True, False])).logits.argmax(dim=1)
    right = torch.where(present[:, 0], alone == target, target == 0).double().mean().item()
    assert found.values["subsets"]["signal"] == pytest.approx(right)
    own = (method(batch.inputs, present).unimodal["noise"].argmax(dim=1) == target)[present[:, 1]].double().mean()
    assert found.values["own_head"]["noise"] == pytest.approx(own.item())
    assert found.reliability["signal"].counts.sum() == present[:, 0].sum()
    assert found.reliability["fused"].counts.sum() == len(target)


def test_numbers_are_worth_the_error_that_they_save() -> None:
    data = data_of(NumberAndNoise())
    method = trained(LateFusion(data.spec, backbone=BackboneConfig("mlp", width=8)), data)
    values = diagnosed(method, data).values
    assert values["shapley"]["noise"] < 0.1 < 0.4 < values["shapley"]["signal"]
    assert values["probe"]["signal"] < 0.4 < 1.0 < values["probe"]["noise"]
    assert 0.0 < values["own_head"]["signal"] < 0.4 < 1.0 < values["own_head"]["noise"]
    targets = torch.from_numpy(data.splits["test"].targets)
    median = torch.from_numpy(data.splits["train"].targets).double().quantile(0.5)
    assert values["subsets"]["none"] == pytest.approx(-(targets - median).abs().mean().item(), rel=1e-5)


def test_a_modality_that_no_sample_has_gets_no_probe() -> None:
    class Deaf(Uneven):
        def splits(self):
            splits = super().splits()
            splits["val"].present[:, 1] = False
            return splits

    data = data_of(Deaf(24, 12, 13))
    values = diagnosed(LateFusion(data.spec, backbone="mlp"), data).values
    assert values["probe"].keys() == {"signal"}
    assert "linear probe of noise: no sample of the val split has it" in values["not_defined"]


def test_validation_and_training_samples_too(keypad: MultimodalDataModule) -> None:
    for split, samples in (("val", 12), ("train", 24)):
        found = diagnosed(ModalityDropout(keypad.spec, backbone=SMALL), keypad, split)
        assert found.confusion is not None
        assert found.confusion.sum() == samples


def test_batches_make_no_difference() -> None:
    values = []
    for size in (5, 64):
        data = MultimodalDataModule(Keypad(24, 12, 13), batch_size=16, eval_batch_size=size)
        torch.manual_seed(0)
        values.append(diagnosed(LateFusion(data.spec, backbone=SMALL), data).values)
    first, second = values
    for key in ("subsets", "own_head", "shapley", "logit_share", "ece", "margins"):
        assert first[key] == pytest.approx(second[key], abs=1e-5)


def test_the_upper_bound_of_omd_looks_at_all(keypad: MultimodalDataModule) -> None:
    method = OMD(keypad.spec, privileged=["image"], use_privileged_at_test=True, backbone=SMALL)
    assert diagnosed(method, keypad).values["subsets"].keys() == {"none", "audio", "image", "audio+image"}


def test_a_method_that_reads_inputs_itself_has_no_probe() -> None:
    data = data_of(SignalAndNoise(24, 12, 13))
    values = diagnosed(MulT(data.spec, width=8, heads=2, layers=1), data).values
    assert not values["probe"]
    assert values["ece"].keys() == {"fused"}


def test_unimodal_gains_all_by_its_modality() -> None:
    data = data_of(SignalAndNoise())
    method = trained(Unimodal(data.spec, "signal", backbone=BackboneConfig("mlp", width=8)), data)
    values = diagnosed(method, data).values
    assert values["shapley"]["noise"] == 0
    assert values["shapley"]["signal"] == pytest.approx(values["fused"] - 1 / 3)


def test_a_class_for_every_pixel_is_refused() -> None:
    data = data_of(Halves())
    method = ModalityDropout(data.spec)
    with pytest.raises(UserError, match="one decision a sample, but Halves asks for a class of each pixel"):
        diagnose_method(method, data, trainer(), "test")
