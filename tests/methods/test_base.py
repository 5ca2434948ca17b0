"""What the base does for every method."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmlab.errors import UserError
from mmlab.methods.base import Stage
from mmlab.types import Classification, DataSpec, Modality
from tests.own_methods import WithDropout

SPEC = DataSpec(
    "Toy",
    (Modality("audio", "audio", (1, 8, 8)), Modality("image", "image", (1, 8, 8))),
    Classification(("a", "b", "c")),
    train_size=10,
)


def test_a_stage_freezes_what_it_does_not_train_and_keeps_it_in_evaluation_mode() -> None:
    method = WithDropout(SPEC.to_dict())
    method.begin(Stage("heads", trains=("heads",)))
    method.train()
    assert method.heads.training
    assert not method.encoders.training
    assert not method.dropout.training
    assert not any(parameter.requires_grad for parameter in method.encoders.parameters())
    (group,) = method.parameter_groups()
    assert {id(parameter) for parameter in group["params"]} == {id(p) for p in method.heads.parameters()}
    method.begin(Stage("all", trains=("encoders", "heads", "dropout")))
    method.train()
    assert method.encoders.training
    assert all(parameter.requires_grad for parameter in method.parameters())


def test_a_stage_of_an_unknown_module_is_refused() -> None:
    with pytest.raises(UserError, match=r"trains 'head'.*heads"):
        WithDropout(SPEC.to_dict()).begin(Stage("late", trains=("head",)))


def test_memory_by_sample_is_part_of_the_weights() -> None:
    assert WithDropout(SPEC.to_dict()).state_dict()["history"].shape == (10,)


def test_the_spec_survives_plain_data() -> None:
    assert DataSpec.from_dict(SPEC.to_dict()) == SPEC


def test_a_plateau_schedule_watches_the_selecting_metric(mmlab, tiny) -> None:
    mmlab(
        f"fit --model LateFusion {tiny} --wandb.mode off --trainer.max_epochs 3 --run_dir run --test false "
        "--model.optimizer.lr 1e-9 --model.scheduler ReduceLROnPlateau "
        "--model.scheduler.factor 0.5 --model.scheduler.patience 0 --model.scheduler.mode max --model.scheduler.eps 0"
    )
    header, *rows = Path("run/metrics.csv").read_text().splitlines()
    rates = [float(row.split(",")[header.split(",").index("lr")]) for row in rows]
    assert rates[0] == 1e-9
    assert rates[-1] < 1e-9  # nothing can improve at this rate


def test_losses_are_logged_as_the_mean_over_the_epoch(mmlab, tiny) -> None:
    mmlab(
        f"fit --model own_methods.WithDropout {tiny} --wandb.mode off --trainer.max_epochs 1 --run_dir run "
        "--test false --model.dropout 0 --model.optimizer SGD --model.optimizer.lr 0"
    )
    header, row = Path("run/metrics.csv").read_text().splitlines()
    # Nothing moved: the mean over the steps is the mean over the memory, where each sample was written once.
    history = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]["history"]
    assert float(row.split(",")[header.split(",").index("train/loss")]) == pytest.approx(
        history.mean().item(), rel=1e-4
    )
