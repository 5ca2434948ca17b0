"""The methods for sentiment through the real command, on sequences."""

from __future__ import annotations

import csv
import statistics

import pytest

from tests.runs.checks import bf16_stays_near_full_precision, killed_resumed_and_tested, two_processes_equal_one

QUIET = "--data.batch_size 8 --wandb.mode off --trainer.accelerator cpu --trainer.enable_progress_bar false"
# Self-MM's losses of single modalities begin with the third epoch; its steps here are made of two batches, and the
# fifth batch of an epoch makes none.
LABELLED = (
    "--model.backbone lstm --model.backbone.hidden 8 --model.backbone.width 8 --trainer.max_epochs 3 "
    "--trainer.accumulate_grad_batches 2 --data.dataset.train_size 40"
)
ENCODED = "--model.backbone lstm --model.backbone.hidden 8 --model.backbone.width 8 --trainer.max_epochs 2"
# Their heads compute in full precision: the loss shows that the encoders don't once it depends on them enough.
FAST = "--model.optimizer Adam --model.optimizer.lr 0.02"
METHODS = {
    "SelfMM": LABELLED,
    "SelfMI": LABELLED,
    "LFDNN": f"--model.hidden 8 {ENCODED}",
    "TFN": f"--model.width 8 --model.hidden 16 {ENCODED} {FAST}",
    "LMF": f"{ENCODED} {FAST}",
    "MulT": "--model.width 8 --model.heads 2 --model.layers 1 --trainer.max_epochs 2",
}
ON_EACH = pytest.mark.parametrize("method", METHODS)


def line(method: str, twin) -> str:
    return f"fit --model {method} --data.dataset Moods {twin('Moods')} {QUIET} {METHODS[method]}"


@ON_EACH
def test_it_is_killed_resumed_to_the_same_bits_and_tested(mmlab, twin, method: str) -> None:
    result, tested = killed_resumed_and_tested(mmlab, line(method, twin))
    assert tested == result["test"]
    assert {"MAE", "Corr", "Has0_acc_2", "Non0_acc_2", "Mult_acc_5", "Mult_acc_7"} <= tested.keys()
    own = {f"MAE_{name}" for name in ("text", "audio", "vision")}
    labelled = method in ("SelfMM", "SelfMI")
    assert own <= tested.keys() if labelled else not own & tested.keys()
    mmlab("predict --run killed --split test")
    with open("killed/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    error = statistics.mean(abs(float(row["target"]) - float(row["prediction"])) for row in rows)
    assert error == pytest.approx(tested["MAE"], abs=1e-5)
    if labelled:
        error = statistics.mean(abs(float(row["target"]) - float(row["prediction_text"])) for row in rows)
        assert error == pytest.approx(tested["MAE_text"], abs=1e-5)


@pytest.mark.slow
@ON_EACH
def test_two_processes_equal_one(mmlab, twin, method: str) -> None:
    # Each process draws a dropout of its own.
    labelled = "--model.branch_dropouts.text 0 --model.branch_dropouts.audio 0"
    still = {"SelfMM": labelled, "SelfMI": labelled, "LMF": ""}.get(method, "--model.dropout 0")
    command = f"{line(method, twin)} {still} --model.optimizer SGD --model.optimizer.lr 0.01 --test false"
    two_processes_equal_one(mmlab, command, atol=2e-6)


@ON_EACH
def test_bf16_stays_near_full_precision(mmlab, twin, method: str) -> None:
    bf16_stays_near_full_precision(mmlab, line(method, twin))
