from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from mmlab.errors import UserError
from mmlab.methods.schedules import WarmupSteps


def sgd(lr: float) -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9, nesterov=True)


def rates(schedule: LRScheduler, epochs: int, key: str = "lr") -> list[float]:
    """What each epoch trains with, as Lightning steps the schedule: after every epoch, the last one too."""
    seen = []
    for _ in range(epochs):
        seen.append(schedule.optimizer.param_groups[0][key])
        schedule.optimizer.step()
        schedule.step()
    return seen


# Written down from the papers' description of the run of 100 epochs.
OFFICIAL = [0.0] * 2 + [0.2, 0.4, 0.6, 0.8] + [1.0] * 16 + [0.1] * 17 + [0.01] * 17 + [0.001] * 44


def test_the_official_list() -> None:
    assert rates(WarmupSteps(sgd(1e-3), 100, official=True), 100) == pytest.approx([1e-3 * each for each in OFFICIAL])


def test_the_default_leaves_out_the_two_epochs_in_which_nothing_is_learnt() -> None:
    assert rates(WarmupSteps(sgd(0.5), 100), 98) == pytest.approx([0.5 * each for each in OFFICIAL[2:]])


def test_a_run_of_another_length() -> None:
    expected = [0.2, 0.4, 0.6, 0.8, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]  # 12 epochs: tenths after 2, 4 and 6
    assert rates(WarmupSteps(sgd(1.0), 12), 12) == pytest.approx(expected)
    # A short one has done with all steps when the rise ends.
    assert rates(WarmupSteps(sgd(1.0), 1), 1) == pytest.approx([0.2])
    with pytest.raises(UserError, match="epochs is 0; give the number"):
        WarmupSteps(sgd(1.0), 0)


def test_each_group_keeps_its_own_rate() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups)
    schedule = WarmupSteps(optimizer, 60)
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.4, 0.04])


def test_it_resumes() -> None:
    whole = rates(WarmupSteps(sgd(1.0), 30), 30)
    first = WarmupSteps(sgd(1.0), 30)
    begun = rates(first, 7)
    again = WarmupSteps(sgd(1.0), 30)
    again.load_state_dict(first.state_dict())
    again.optimizer.load_state_dict(first.optimizer.state_dict())
    assert begun + rates(again, 23) == whole


def test_torchs_one_cycle_stepped_by_epoch_is_the_segmentation_networks_schedule() -> None:
    # Phases from the description: a cosine from lr/25 up to lr over 10 %, then one down to lr/25e4; the momentum
    # 0.95 -> 0.85 -> 0.95, whatever the optimiser was given.
    one_cycle = OneCycleLR(sgd(0.01), max_lr=0.01, total_steps=30, pct_start=0.1)
    seen = rates(one_cycle, 30)
    assert (seen[0], seen[2], seen[-1]) == pytest.approx((4e-4, 0.01, 4e-8))
    assert seen[1] == pytest.approx((4e-4 + 0.01) / 2)
    momenta = rates(OneCycleLR(sgd(0.01), max_lr=0.01, total_steps=30, pct_start=0.1), 30, "momentum")
    assert (momenta[0], momenta[2], momenta[-1]) == pytest.approx((0.95, 0.85, 0.95))


@pytest.mark.parametrize(
    ("schedule", "second"),
    [
        ({"class_path": "mmlab.methods.schedules.WarmupSteps", "init_args": {"epochs": 12}}, 0.0004),
        ({"class_path": "OneCycleLR", "init_args": {"max_lr": 0.01, "total_steps": 4, "pct_start": 0.5}}, 0.01),
    ],
)
def test_both_are_named_in_yaml(
    mmlab: Callable[..., str], tiny: str, schedule: dict[str, object], second: float
) -> None:
    optimizer = {"class_path": "SGD", "init_args": {"lr": 0.001, "momentum": 0.9, "nesterov": True}}
    model = {"class_path": "ModalityDropout", "init_args": {"optimizer": optimizer, "scheduler": schedule}}
    Path("my.yaml").write_text(yaml.safe_dump({"model": model}))
    mmlab(f"fit --config my.yaml {tiny} --trainer.max_epochs 1 --test false --wandb.mode off --run_dir run")
    checkpoint = torch.load(next(Path("run").rglob("last*.ckpt")), weights_only=True)
    # The first epoch is over, so the schedule stands at the second one's rate.
    assert checkpoint["lr_schedulers"][0]["_last_lr"] == pytest.approx([second])
