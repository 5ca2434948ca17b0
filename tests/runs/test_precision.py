"""Half precision, clipping, accumulation and compilation go through the same command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

LINE = "fit --model MNL --wandb.mode off --trainer.max_epochs 2 --test false "


def last_loss(run: str) -> float:
    header, *rows = Path(run, "metrics.csv").read_text().splitlines()
    return float(rows[-1].split(",")[header.split(",").index("train/loss")])


def test_bf16_stays_near_full_precision(mmlab, tiny) -> None:
    mmlab(f"{LINE} {tiny} --run_dir full")
    mmlab(f"{LINE} {tiny} --run_dir half --trainer.precision bf16-mixed")
    assert json.loads(Path("half/result.json").read_text())["precision"] == "bf16-mixed"
    assert last_loss("half") == pytest.approx(last_loss("full"), rel=0.02)
    assert last_loss("half") != last_loss("full")


class ScaledOnCpu(MixedPrecision):
    """fp16 with a gradient scaler, which Lightning leaves out on a CPU: what a GPU runs, where there is none."""

    def __init__(self) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))


def test_fp16_with_a_gradient_scaler_and_clipping(mmlab, tiny, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    mmlab(f"{LINE} {tiny} --run_dir full --trainer.gradient_clip_val 1")
    mmlab(f"{LINE} {tiny} --run_dir half --trainer.gradient_clip_val 1 --trainer.plugins+=test_precision.ScaledOnCpu")
    assert last_loss("half") == pytest.approx(last_loss("full"), rel=0.02)


def test_accumulated_batches_step_less_often(mmlab, tiny) -> None:
    mmlab(f"{LINE} {tiny} --run_dir run --trainer.accumulate_grad_batches 3")
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2 * 6 // 3
