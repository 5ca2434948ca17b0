"""What the base does for every method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mmlab.backbones.config import NO_OVERRIDES, SMALL_CONV, BackboneConfig, Backbones, Choice
from mmlab.data.base import Split
from mmlab.data.keypad import Keypad
from mmlab.errors import UserError
from mmlab.methods.base import Method, Stage
from mmlab.methods.distillation import Distillation
from mmlab.methods.pdf import PDF
from mmlab.methods.sums import LossSums
from mmlab.types import Batch, Classification, DataSpec, Modality, Prediction
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


def names_of(method: Method) -> list[tuple[set[str], dict[str, float]]]:
    """The parameter groups, by the first two parts of the parameters' names."""
    names = {parameter: ".".join(name.split(".")[:2]) for name, parameter in method.named_parameters()}
    groups = [dict(group) for group in method.parameter_groups()]
    return [({names[parameter] for parameter in group.pop("params")}, group) for group in groups]


def test_encoders_may_have_rates_and_decays_of_their_own() -> None:
    choices = Backbones(audio=BackboneConfig(width=4, lr=0.1), image=BackboneConfig(width=4, lr=0.1, weight_decay=0.01))
    method = WithDropout(SPEC.to_dict(), "small_conv", choices)
    audio, image = ({"encoders.audio"}, {"lr": 0.1}), ({"encoders.image"}, {"lr": 0.1, "weight_decay": 0.01})
    (rest, plain), *own = names_of(method)
    assert rest == {"heads.audio", "heads.image"}
    assert plain == {}
    assert own == [audio, image]
    grouped = [parameter for group in method.parameter_groups() for parameter in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, method.parameters()))  # each once
    method.begin(Stage("encoders", trains=("encoders",)))
    assert names_of(method) == [audio, image]
    method.begin(Stage("heads", trains=("heads",)))
    assert names_of(method) == [({"heads.audio", "heads.image"}, {})]
    method.begin(Stage("all"))
    method.encoders["audio"].requires_grad_(False)
    assert names_of(method) == [(rest, plain), image]


def test_encoders_of_equal_options_share_a_group() -> None:
    method = WithDropout(SPEC.to_dict(), BackboneConfig(width=4, lr=0.1), NO_OVERRIDES)
    assert names_of(method)[1:] == [({"encoders.audio", "encoders.image"}, {"lr": 0.1})]


def test_every_copy_of_an_encoder_has_its_options() -> None:
    method = Distillation(SPEC.to_dict(), backbone=BackboneConfig(width=4, lr=0.1))
    own = method.own_options()
    rates = {name: own.get(each) for name, each in method.named_parameters() if ".encoders." in name}
    assert {name.split(".")[0] for name in rates} == {"teacher", "network"}
    assert all(options == {"lr": 0.1} for options in rates.values())


def test_options_of_encoders_stand_beside_those_of_a_fusion() -> None:
    choice = BackboneConfig(width=4, lr=0.1, weight_decay=0.01)
    method = PDF(SPEC.to_dict(), backbone=BackboneConfig(width=4), backbones=Backbones(audio=choice))
    groups = method.parameter_groups()
    assert [set(group) - {"params"} for group in groups] == [set(), {"lr", "weight_decay"}, {"weight_decay"}]
    assert {*groups[1]["params"]} == {*method.encoders["audio"].parameters()}
    assert {*groups[2]["params"]} == {each for each, _ in method.fusion.decays()}


def test_a_schedule_scales_every_group_and_the_logged_rate_is_the_optimisers_own(mmlab, tiny) -> None:
    mmlab(
        f"fit --model LateFusion {tiny} --wandb.mode off --test false --run_dir run --trainer.max_epochs 2 "
        "--model.backbones.audio.lr 0.04 --model.backbones.audio.weight_decay 0.5 --model.backbones.audio.width 4 "
        "--model.optimizer.lr 0.008 --model.scheduler StepLR --model.scheduler.step_size 1 --model.scheduler.gamma 0.5"
    )
    groups = torch.load("run/checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]["param_groups"]
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.002, 0), (0.01, 0.5)]
    header, *rows = Path("run/metrics.csv").read_text().splitlines()
    assert [float(row.split(",")[header.split(",").index("lr")]) for row in rows] == [0.008, 0.004]


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


def test_what_a_method_froze_itself_stays_frozen_and_stages_do_not_depend_on_those_before() -> None:
    method = WithDropout(SPEC.to_dict())
    method.encoders["audio"].requires_grad_(False)
    method.begin(Stage("heads", trains=("heads",)))
    method.begin(Stage("all"))
    assert not any(parameter.requires_grad for parameter in method.encoders["audio"].parameters())
    assert all(parameter.requires_grad for parameter in method.encoders["image"].parameters())


def test_parts_of_the_losses_may_not_come_and_go() -> None:
    sums = LossSums()
    index = torch.arange(2)
    sums.add({"loss": torch.tensor(1.0)}, index, step=0)
    with pytest.raises(UserError, match="same parts"):
        sums.add({"loss": torch.tensor(1.0), "extra": torch.tensor(1.0)}, index, step=1)


def test_a_frozen_teacher_does_not_move_and_every_command_knows_the_last_stage(mmlab, tiny) -> None:
    mmlab(f"fit --model own_methods.Teacher {tiny} --wandb.mode off --run_dir run")
    teacher, student = (
        torch.load(f"run/checkpoints/{stage}/last.ckpt", weights_only=True)["state_dict"]
        for stage in ("teacher", "student")
    )
    for name in teacher:
        if name.startswith(("norm.", "encoders.")):
            assert torch.equal(teacher[name], student[name]), name
    tested = json.loads(Path("run/result.json").read_text())["test"]
    mmlab("test --run run")
    assert json.loads(Path("run/test.json").read_text()) == tested
    Path("run/result.json").unlink()
    mmlab("fit --resume run")
    assert json.loads(Path("run/result.json").read_text())["test"] == tested


def test_weights_that_are_no_longer_finite_do_not_overwrite_a_good_checkpoint(mmlab, tiny) -> None:
    line = f"fit --model own_methods.WithDropout {tiny} --wandb.mode off --trainer.max_epochs 2 --run_dir run"
    err = mmlab(f"{line} --trainer.callbacks+=own_methods.NanGradient", code=2)
    assert "weight is no longer a finite number" in err
    saved = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert saved["epoch"] == 0
    assert all(tensor.isfinite().all() for tensor in saved["state_dict"].values())
    assert not Path("run/result.json").exists()


class Wrong(WithDropout):
    """A method with a mistake in it."""

    def __init__(self, spec: dict[str, Any], mistake: str = "", backbone: Choice = SMALL_CONV) -> None:
        super().__init__(spec, backbone, NO_OVERRIDES)
        self.mistake = mistake

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        prediction = super().forward(inputs, present)
        if self.mistake == "tensor":
            return prediction.logits
        if self.mistake == "shape" and not self.training:
            return Prediction(prediction.logits[:, :3])
        return prediction

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        if self.mistake == "tensor":
            return {"loss": super().forward(batch.inputs, batch.present).logits.mean()}
        losses = super().losses(batch)
        return {
            "none": None,
            "key": {"ce": losses["loss"]},
            "vector": {"loss": losses["loss"][None]},
            "number": {**losses, "part": 1.0},
            "detached": {"loss": losses["loss"].detach()},
        }.get(self.mistake, losses)

    def stages(self) -> list[Stage]:
        return [Stage("a", 1), Stage("a", 1)] if self.mistake == "stages" else super().stages()


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("none", "must return a dict with the key 'loss', but it returned NoneType"),
        ("key", "but it returned a dict of ce"),
        ("vector", "'loss' is of the shape (1,)"),
        ("number", "'part' is a float"),
        ("detached", "has no gradient"),
        ("tensor", "must return a Prediction"),
        ("shape", "'logits' has (16, 3)"),
        ("stages", "must name one stage at least, each by a name of its own"),
    ],
)
def test_a_mistake_in_a_method_is_said_in_a_sentence(mmlab, tiny, mistake: str, words: str) -> None:
    line = f"fit --model {__name__}.Wrong --model.mistake {mistake} {tiny} --wandb.mode off --run_dir run"
    assert words in mmlab(line, code=2)


@pytest.mark.parametrize("lacking", [slice(0, 4), slice(None)], ids=["a whole batch", "the whole split"])
def test_samples_without_a_modality_are_no_reason_to_stop(mmlab, monkeypatch, tiny, lacking: slice) -> None:
    whole = Keypad.splits

    def splits(self: Keypad) -> dict[str, Split]:
        parts = whole(self)
        parts["val"].present[lacking, 0] = False
        return parts

    monkeypatch.setattr(Keypad, "splits", splits)
    mmlab(
        f"fit --model LateFusion {tiny} --data.eval_batch_size 4 --trainer.max_epochs 1 --wandb.mode off --run_dir run"
    )
    result = json.loads(Path("run/result.json").read_text())
    assert ("acc_audio" in result["val"]) == (lacking.stop is not None)
    assert "acc_audio" in result["test"]
