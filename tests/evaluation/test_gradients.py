from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from mmlab.errors import UserError
from mmlab.evaluation.gradients import GradientBalance, gradient_balance

OURS = "mmlab.evaluation.gradients.GradientBalance"


def rows(run: str) -> list[dict[str, str]]:
    with Path(run, "metrics.csv").open() as file:
        return list(csv.DictReader(file))


class Compare(Callback):
    """Writes down, beside the callback, the norms by torch's own count of the same gradients."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        with Path("norms.jsonl").open("a") as file:
            norms = {
                name: torch.nn.utils.get_total_norm([p.grad for p in encoder.parameters()]).item()
                for name, encoder in pl_module.encoders.items()
            }
            file.write(json.dumps(norms) + "\n")


def test_norms_and_cosines_by_hand() -> None:
    found = gradient_balance(
        {
            "audio": {"weight": torch.tensor([[3.0, 0.0]]), "bias": torch.tensor([4.0]), "own": torch.ones(7)},
            "image": {"weight": torch.tensor([[6.0, 0.0]]), "bias": torch.tensor([-8.0]), "own": torch.ones(2)},
            "depth": {"weight": torch.ones(5)},
            "frozen": {},
        }
    )
    assert found.keys() == {*(f"gradient/norm_{name}" for name in ("audio", "image", "depth")), COSINE}
    assert found["gradient/norm_audio"].item() == pytest.approx((25 + 7) ** 0.5)
    assert found["gradient/norm_depth"].item() == pytest.approx(5**0.5)
    assert found[COSINE].item() == pytest.approx((18 - 32) / (5 * 10))


COSINE = "gradient/cosine_audio_image"


def test_by_flags_with_the_norms_of_the_step(mmlab, tiny) -> None:
    mmlab(
        f"fit --model OGMGE {tiny} --trainer.max_epochs 2 --run_dir run --wandb.mode off --trainer.gradient_clip_val 1 "
        f"--trainer.callbacks tests.evaluation.test_gradients.Compare "
        f"--trainer.callbacks+={OURS} --trainer.callbacks.every 4"
    )
    seen = [json.loads(line) for line in Path("norms.jsonl").read_text().splitlines()]
    assert len(seen) == 12
    for row, measured in zip(rows("run"), ((0, 4), (8,)), strict=True):
        for name in ("audio", "image"):
            mean = sum(seen[step][name] for step in measured) / len(measured)
            assert float(row[f"gradient/norm_{name}"]) == pytest.approx(mean, rel=1e-4)
        assert -1 <= float(row[COSINE]) <= 1


def test_in_a_config_and_in_stages_that_freeze_encoders(mmlab, tiny) -> None:
    Path("own.yaml").write_text(f"trainer:\n  callbacks:\n  - class_path: {OURS}\n    init_args:\n      every: 2\n")
    mmlab(
        f"fit --config own.yaml --model DIMML --model.fusion_epochs 1 {tiny} --trainer.max_epochs 1 --run_dir run "
        f"--wandb.mode off"
    )
    isolated, fusion = rows("run")
    assert float(isolated["gradient/norm_audio"]) > 0
    assert fusion["gradient/norm_audio"] == ""


def test_it_changes_nothing_that_is_trained(mmlab, tiny) -> None:
    line = f"fit --model MNL {tiny} --trainer.max_epochs 1 --wandb.mode off"
    mmlab(f"{line} --run_dir without")
    mmlab(f"{line} --run_dir with --trainer.callbacks {OURS} --trainer.callbacks.every 1")
    without, ours = (json.loads(Path(run, "result.json").read_text()) for run in ("without", "with"))
    assert without["test"] == ours["test"]
    assert "gradient/norm_audio" not in rows("without")[0]
    assert "gradient/norm_audio" in rows("with")[0]


def test_every_is_a_number_of_steps() -> None:
    with pytest.raises(UserError, match="every is 0; it must be 1 or more"):
        GradientBalance(every=0)
