"""``mmlab test --corruption`` by the real command: one pass, and what it writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from mmlab.cli.main import main
from tests.cli.test_commands import MARGINS

LOCAL = {"radius_input_local", "tau_input_local_audio", "tau_input_local_image"}


def read(file: str | Path) -> dict:
    return json.loads(Path(file).read_text())


def cells(run: str | Path, name: str = "gaussian") -> dict[tuple[float, int], dict[str, float]]:
    """The metrics by severity and noise seed."""
    return {
        (cell["severity"], cell["noise_seed"]): cell["test"]
        for cell in read(Path(run, f"corruption_{name}.json"))["cells"]
    }


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to write into."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture(scope="module")
def tested(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run after a test at three severities by two noise seeds, which the tests only read."""
    folder = tmp_path_factory.mktemp("tested") / "run"
    shutil.copytree(finished, folder)
    line = f"test --run {folder} --corruption gaussian --severity 0,5,10 --noise_seeds 2"
    assert main(line.split()) == 0
    return folder


def test_the_content_of_the_file(tested: Path) -> None:
    content, result = read(tested / "corruption_gaussian.json"), read(tested / "result.json")
    identity = {
        *(
            "method",
            "dataset",
            "dataset_details",
            "protocol",
            "selected_on",
            "seed",
            "modalities",
            "monitor",
            "combinations",
        ),
        *("splits", "parameters", "versions", "commit", "hardware"),
    }
    own = {"config", "partial", "checkpoint_sha256", "corruption", "corrupted", "cells"}
    assert content.keys() == identity | own
    assert {key: content[key] for key in identity} == {key: result[key] for key in identity}
    assert content["config"] == yaml.safe_load((tested / "config.yaml").read_text())
    assert content["partial"] == []
    assert (content["corruption"], content["corrupted"]) == ("gaussian", ["audio", "image"])
    places = [(cell["severity"], cell["noise_seed"]) for cell in content["cells"]]
    assert places == [(0, 0), (5, 0), (5, 1), (10, 0), (10, 1)]
    assert all(cell.keys() == {"severity", "noise_seed", "test"} for cell in content["cells"])
    assert all(cell["test"].keys() == result["test"].keys() for cell in content["cells"])


def test_severity_0_is_the_plain_test_and_noise_is_not(mmlab, tested: Path, run: Path) -> None:
    mmlab(f"test --run {run}")
    plain, found = read(run / "test.json"), cells(tested)
    assert found[0, 0] == plain == read(run / "result.json")["test"]
    losses = [values["loss"] for values in found.values()]
    assert len(set(losses)) == 5  # another severity or noise seed is another test set


def test_what_is_printed(mmlab, run: Path) -> None:
    out = mmlab(f"test --run {run} --corruption gaussian --severity [0,2.5]").splitlines()
    found = cells(run)
    assert out[0] == "gaussian on audio, image:"
    for line, (severity, seed) in zip(out[1:3], [(0, 0), (2.5, 0)], strict=True):
        accuracy = found[severity, seed]["acc"]
        assert line.startswith(f"severity {severity:g}, noise seed {seed}: acc {accuracy:.4f}  acc_audio ")
    assert out[3:] == [f"results: {run}/corruption_gaussian.json"]


def test_without_severities_it_is_0_5_and_10(mmlab, tested: Path, run: Path) -> None:
    mmlab(f"test --run {run} --corruption gaussian")
    assert list(cells(run)) == [(0, 0), (5, 0), (10, 0)]
    assert cells(run).items() <= cells(tested).items()


@pytest.mark.parametrize("severity", [5, 10])
def test_one_pass_equals_a_pass_for_each_severity(mmlab, tested: Path, run: Path, severity: int) -> None:
    mmlab(f"test --run {run} --corruption gaussian --severity {severity} --noise_seeds 2")
    found = cells(run)
    assert list(found) == [(severity, 0), (severity, 1)]
    assert found == {place: values for place, values in cells(tested).items() if place[0] == severity}


def test_a_single_cell_has_the_same_keys(mmlab, tested: Path, run: Path) -> None:
    mmlab(f"test --run {run} --corruption=gaussian --severity=5")
    assert cells(run) == {(5, 0): cells(tested)[5, 0]}


@pytest.mark.parametrize("flags", ["--data.eval_batch_size 5", "--data.eval_batch_size 37", "--data.workers 1"])
def test_batches_and_workers_change_nothing(mmlab, tested: Path, run: Path, flags: str) -> None:
    mmlab(f"test --run {run} --corruption gaussian --severity 0,5,10 --noise_seeds 2 {flags}")
    found = cells(run)
    for place, values in cells(tested).items():
        assert found[place] == pytest.approx(values, abs=1e-5), place


def test_only_the_test_split_is_corrupted(mmlab, tested: Path, finished: Path) -> None:
    kept = ("result.json", "metrics.csv", "config.yaml")
    assert all((tested / name).read_bytes() == (finished / name).read_bytes() for name in kept)
    mmlab(f"validate --run {tested}")
    assert read(tested / "validate.json") == read(finished / "result.json")["val"]
    (tested / "validate.json").unlink()


def test_cells_of_earlier_tests_stay(mmlab, tested: Path, run: Path) -> None:
    mmlab(f"test --run {run} --corruption gaussian --severity 10 --noise_seeds 2")
    mmlab(f"test --run {run} --corruption gaussian --severity 5 --noise_seeds 2")
    mmlab(f"test --run {run} --corruption gaussian --severity 0,10")
    assert cells(run) == cells(tested)
    assert list(cells(run)) == list(cells(tested))


def test_cells_of_another_checkpoint_do_not(mmlab, run: Path) -> None:
    mmlab(f"test --run {run} --corruption gaussian --severity 0,10")
    shutil.copy(run / "checkpoints/last.ckpt", run / "checkpoints/best.ckpt")
    mmlab(f"test --run {run} --corruption gaussian --severity 5")
    assert list(cells(run)) == [(5, 0)]


def test_cells_of_other_data_do_not(mmlab, run: Path) -> None:
    mmlab(f"test --run {run} --corruption gaussian --severity 0,10")
    mmlab(f"test --run {run} --corruption gaussian --severity 5 --data.dataset.image_snr 9")
    assert list(cells(run)) == [(5, 0)]


def test_a_damaged_file_is_written_anew(mmlab, run: Path) -> None:
    (run / "corruption_gaussian.json").write_text("{")
    mmlab(f"test --run {run} --corruption gaussian --severity 5")
    assert list(cells(run)) == [(5, 0)]


def test_a_part_of_the_data_does_not_replace_the_whole(mmlab, tested: Path, run: Path) -> None:
    mmlab(f"test --run {run} --corruption gaussian --severity 5")
    out = mmlab(f"test --run {run} --corruption gaussian --severity 5 --trainer.limit_test_batches 1")
    assert "holds results of the whole test split, which stay: nothing is written" in out
    assert cells(run) == {(5, 0): cells(tested)[5, 0]}


def test_missing_modalities(mmlab, run: Path) -> None:
    mmlab(f"test --run {run} --corruption missing --severity 0,10 --noise_seeds 2")
    found = cells(run, "missing")
    plain = read(run / "result.json")["test"]
    assert found[0, 0] == plain
    for seed in (0, 1):
        # One modality is left of each sample, and has all the weight: every decision is that of one modality.
        values = found[10, seed]
        counts = [
            (audio, 37 - audio)
            for audio in range(1, 37)
            if audio * values["acc_audio"] + (37 - audio) * values["acc_image"]
            == pytest.approx(37 * values["acc"], abs=1e-3)
            and audio * values["ucom_audio"] + (37 - audio) * values["ucom_image"]
            == pytest.approx(37 * values["margin"], abs=1e-3)
        ]
        assert len(counts) == 1
        assert 6 < counts[0][0] < 31
    assert found[10, 0] != found[10, 1]


def test_a_part_of_the_test_split_is_said(mmlab, run: Path) -> None:
    out = mmlab(f"test --run {run} --corruption gaussian --severity 5 --trainer.limit_test_batches 1")
    assert "only a part of the data is used (limit_test_batches 1)" in out
    assert read(run / "corruption_gaussian.json")["partial"] == ["limit_test_batches 1"]


@pytest.mark.parametrize(
    ("method", "late"),
    [
        ("LateFusion", True),
        ("MNL --model.fusion qmf", True),
        ("QMF", True),
        ("PDF", True),
        ("JointTraining --model.fusion film", False),
        ("Unimodal --model.modality image", False),
    ],
)
def test_margins_are_those_of_late_fusion(mmlab, tiny: str, method: str, late: bool) -> None:
    mmlab(f"fit --model {method} {tiny} --wandb.mode off --trainer.max_epochs 1 --run_dir run --test false")
    mmlab("test --run run --corruption gaussian --severity 0,5")
    if late:
        mmlab("test --run run --input_radius true")
    else:
        assert "fuses no logits" in mmlab("test --run run --input_radius true", code=2)
        mmlab("test --run run")
    expected = MARGINS if late else set()
    own = {f"{metric}_{name}" for metric in ("acc", "f1") for name in ("audio", "image")} if late else set()
    own = {"acc_image", "f1_image"} if method.startswith("Unimodal") else own
    every = {"loss", "acc", "f1"} | own | expected
    assert read("run/result.json")["val"].keys() == every
    assert [values.keys() for values in cells("run").values()] == [every, every]
    assert read("run/test.json").keys() == every | (LOCAL if late else set())


def test_the_radius_in_the_space_of_inputs_is_added_and_changes_nothing(mmlab, tested: Path, run: Path) -> None:
    mmlab(f"test --run {run} --corruption gaussian --severity 0,5 --input_radius true")
    for place, values in cells(run).items():
        assert {key: value for key, value in values.items() if key not in LOCAL} == cells(tested)[place]
        assert values.keys() >= LOCAL
        assert values["tau_input_local_audio"] > 0
    mmlab(f"test --run {run} --input_radius true")
    assert read(run / "test.json") == cells(run)[0, 0]
    mmlab(f"test --run {run} --input_radius false")
    assert read(run / "test.json") == cells(tested)[0, 0]
