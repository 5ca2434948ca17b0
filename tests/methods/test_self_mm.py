import csv
from pathlib import Path

import pytest
import torch

from mmlab.backbones.config import BackboneConfig
from mmlab.errors import UserError
from mmlab.fusion.branches import BranchDropouts, BranchWidths
from mmlab.losses.unimodal_labels import label_weights
from mmlab.methods.generated_labels import GeneratedLabels
from mmlab.methods.self_mm import SelfMM
from mmlab.types import Classification, DataSpec, Regression, Sentiment
from tests.methods.toy import check
from tests.methods.utterances import everything, some, spec

LSTM = BackboneConfig("lstm", hidden=4, width=3)
WIDTHS = BranchWidths(fusion=6, text=4, audio=3, vision=5)
NO_DROPOUT = BranchDropouts(text=0.0, audio=0.0)
RUN = (
    "fit --model {} --data.dataset own_datasets.Brightness --data.batch_size 4 --model.backbone small_conv "
    "--model.backbone.width 4 --trainer.accelerator cpu --trainer.enable_progress_bar false --wandb.mode off "
    "--model.optimizer SGD --test false "
)


class AtEpoch(SelfMM):
    """In an epoch, counted from 0, without a run."""

    epoch = 0

    @property
    def current_epoch(self):
        return self.epoch


def build(kind=AtEpoch, batch=None, **options):
    """Without dropout, so that the same batch is the same."""
    torch.manual_seed(0)
    method = kind(spec().to_dict(), branch_widths=WIDTHS, branch_dropouts=NO_DROPOUT, backbone=LSTM, **options).double()
    batch = everything() if batch is None else batch
    method.labels.begin(batch.target, batch.present)
    return method


def epochs(method, batch, count):
    """Goes through some epochs without training; the losses of every step."""
    found = []
    for _ in range(count):
        order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(method.epoch))
        found += [method.losses(some(batch, rows)) for rows in order.split(4)]
        method.epoch += 1
    return found


@pytest.mark.parametrize("missing", [False, True])
def test_losses_and_prediction(missing):
    data = spec()
    torch.manual_seed(0)
    method = SelfMM(data.to_dict(), branch_widths=WIDTHS, backbone=LSTM)
    batch = everything(missing, torch.float32)
    method.labels.begin(batch.target, batch.present)
    prediction = check(method, batch)
    assert list(prediction.unimodal) == list(data.names)
    assert [feature.shape for feature in prediction.features.values()] == [(12, 3)] * 3
    parts = method.losses(batch)
    assert list(parts) == ["loss", "l1", "l1_text", "l1_audio", "l1_vision", "clamped"]
    torch.testing.assert_close(
        parts["l1"], (method(batch.inputs, batch.present).logits[:, 0] - batch.target).abs().mean()
    )


def test_own_labels_act_from_the_third_epoch_on():
    batch = everything()
    method = build()
    for parts in epochs(method, batch, 2):
        assert parts["l1_text"] == parts["l1_audio"] == parts["l1_vision"] == 0
        gradients = torch.autograd.grad(parts["loss"], list(method.branches.parameters()))
        assert all((gradient == 0).all() for gradient in gradients)
    assert not torch.equal(method.labels.unimodal, batch.target.expand(3, -1))
    for parts in epochs(method, batch, 1):
        assert min(parts["l1_text"], parts["l1_audio"], parts["l1_vision"]) > 0
        torch.testing.assert_close(
            parts["loss"], sum(parts[f"l1{name}"] for name in ("", "_text", "_audio", "_vision"))
        )
    assert parts["clamped"] > 0


def test_the_loss_takes_labels_as_they_were_before_the_step():
    batch = everything()
    method = build()
    epochs(method, batch, 2)
    before = method.labels.unimodal.clone()
    decision = method.decide(batch.inputs, batch.present)
    parts = method.losses(batch)
    assert not torch.equal(method.labels.unimodal, before)
    weights = label_weights(before, batch.target)
    for m, name in enumerate(batch.inputs):
        expected = (weights[m] * (decision.unimodal[name][:, 0] - before[m]).abs()).mean()
        torch.testing.assert_close(parts[f"l1_{name}"], expected)
        (gradient,) = torch.autograd.grad(expected, decision.unimodal[name])
        sign = (decision.unimodal[name][:, 0] - before[m]).sign()
        torch.testing.assert_close(gradient[:, 0], weights[m] * sign / len(batch))


def test_the_memory_has_no_gradient_and_is_in_the_checkpoint():
    method = build()
    epochs(method, everything(), 3)
    memory = {name: tensor for name, tensor in method.state_dict().items() if name.startswith("labels.")}
    assert {"labels.unimodal", "labels.bank", "labels.centres", "labels.multimodal"} <= memory.keys()
    assert not any(tensor.requires_grad for tensor in memory.values())
    assert (method.labels.bank != 0).any(dim=1).all()
    other = build(batch=everything())
    other.load_state_dict(method.state_dict())
    other.epoch = method.epoch
    for ours, theirs in zip(epochs(method, everything(), 1), epochs(other, everything(), 1), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_padding_other_samples_and_a_batch_of_one_change_nothing():
    method = build().eval()
    batch = everything()
    whole = method(batch.inputs, batch.present)
    alone = some(batch, [5])
    steps = {name: int(tensor[0, :, -1].sum()) for name, tensor in alone.inputs.items()}
    for inputs in (alone.inputs, {name: tensor[:, : steps[name]] for name, tensor in alone.inputs.items()}):
        one = method(inputs, alone.present)
        torch.testing.assert_close(one.logits, whole.logits[[5]])
        torch.testing.assert_close(one.unimodal["audio"], whole.unimodal["audio"][[5]])


def test_what_a_sample_lacks_is_seen_as_zeros_and_has_no_loss():
    batch = everything(missing=True)
    method = build(batch=batch)
    epochs(method, batch, 2)
    assert torch.equal(method.labels.unimodal[0, 0], batch.target[0])
    filled = {name: torch.where(tensor == 0, 1.0, tensor) for name, tensor in batch.inputs.items()}
    torch.testing.assert_close(
        method.eval()(filled, batch.present).logits[0],
        method({**filled, "text": torch.zeros_like(filled["text"])}, batch.present).logits[0],
    )
    decision = method.decide(batch.inputs, batch.present)
    parts = method.multitask(decision, batch)
    for m, name in enumerate(batch.inputs):
        (gradient,) = torch.autograd.grad(parts["loss"], decision.unimodal[name], retain_graph=True)
        assert (gradient[~batch.present[:, m]] == 0).all()
        assert (gradient[batch.present[:, m]] != 0).all()


def test_labels_are_made_in_full_precision():
    method = build().float()
    batch = everything(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert method.encode(batch.inputs)["audio"].dtype == torch.bfloat16
        decision = method.decide(batch.inputs, batch.present)
        method.relabel(decision, batch)
    features = list(decision.features.values())
    for rows, branch, x in zip(
        decision.representations,
        (method.fused, *method.branches.values()),
        (torch.cat(features, dim=1), *features),
        strict=True,
    ):
        assert torch.equal(rows, branch(x)[0])
    assert torch.equal(method.labels.bank[batch.index], torch.cat(decision.representations, dim=1))


class Kept(GeneratedLabels):
    def new_labels(self, multimodal, representations):
        return multimodal.expand(len(representations) - 1, -1) + 1


class WithOwnLabels(AtEpoch):
    generator = Kept


def test_labels_of_ones_own():
    batch = everything()
    method = build(WithOwnLabels)
    epochs(method, batch, 2)
    torch.testing.assert_close(
        method.labels.unimodal[1], batch.target + 2 / 3 * ((batch.target + 1).clamp(max=3) - batch.target)
    )


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        (Classification(("negative", "positive")), {}, "--data.dataset.task regression"),
        (Regression(0.0, 1.0), {}, "both sides of 0"),
        (Sentiment(-3.0, 3.0), {"label_bound": 0.0}, "label_bound"),
        (Sentiment(-3.0, 3.0), {"label_bound": float("inf")}, "label_bound"),
    ],
)
def test_what_it_is_not_defined_for_is_refused(task, options, words):
    with pytest.raises(UserError, match=words):
        SelfMM(spec(task).to_dict(), backbone=LSTM, **options)


def test_one_modality_is_refused():
    only = DataSpec("One", spec().modalities[:1], Sentiment(-3.0, 3.0), 12)
    with pytest.raises(UserError, match="Unimodal"):
        SelfMM(only.to_dict(), backbone=LSTM)


@pytest.mark.parametrize(
    ("task", "given", "bound"), [((-3.0, 3.0), None, 3), ((-1.0, 1.0), None, 1), ((-1.0, 1.0), 3.0, 3)]
)
def test_the_bound_of_labels(task, given, bound):
    assert SelfMM(spec(Sentiment(*task)).to_dict(), backbone=LSTM, label_bound=given).labels.bound == bound


def parameters(run):
    state = torch.load(Path(run, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]
    return {name: tensor for name, tensor in state.items() if not name.startswith("labels.")}


def test_gradients_of_batches_are_summed(mmlab):
    line = f"{RUN.format('SelfMM')} --trainer.max_epochs 1"
    mmlab(
        f"{line} --model.optimizer.lr 0.1 --trainer.accumulate_grad_batches 2 --trainer.limit_train_batches 2 "
        "--run_dir two"
    )
    # The mean over a batch of both, with twice the rate, is the same step.
    mmlab(f"{line} --model.optimizer.lr 0.2 --data.batch_size 8 --trainer.limit_train_batches 1 --run_dir one")
    one, two = parameters("one"), parameters("two")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)


def test_too_few_batches_for_a_step_train_nothing_but_are_remembered(mmlab):
    line = f"{RUN.format('SelfMM')} --model.optimizer.lr 0.1 --trainer.max_epochs 1 --trainer.accumulate_grad_batches 5"
    mmlab(f"{line} --run_dir twelve")
    mmlab(f"{line} --trainer.limit_train_batches 10 --run_dir ten")
    ten, twelve = parameters("ten"), parameters("twelve")
    assert all(torch.equal(ten[name], tensor) for name, tensor in twelve.items())
    banks = [
        torch.load(Path(run, "checkpoints/last.ckpt"), weights_only=True)["state_dict"]["labels.bank"]
        for run in ("ten", "twelve")
    ]
    assert [int((bank != 0).any(dim=1).sum()) for bank in banks] == [40, 48]


def test_an_epoch_without_a_step_is_refused(mmlab):
    err = mmlab(f"{RUN.format('SelfMM')} --trainer.accumulate_grad_batches 13 --run_dir run", code=2)
    assert "would never train" in err
    assert "12 batches" in err


def test_labels_begin_with_the_training_split_and_the_share_that_was_clamped_is_logged(mmlab):
    mmlab(f"{RUN.format('SelfMM')} --model.optimizer.lr 0.01 --trainer.max_epochs 3 --run_dir run")
    state = torch.load("run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    targets, labels = state["labels.multimodal"], state["labels.unimodal"]
    assert (targets != 0).sum() > 40
    assert (labels != targets).any(dim=1).all()
    with open("run/metrics.csv", newline="") as text:
        rows = list(csv.DictReader(text))
    assert [float(row["train/l1_front"]) > 0 for row in rows] == [False, False, True]
    assert float(rows[0]["train/clamped"]) == 0
    assert all(0 <= float(row["train/clamped"]) <= 1 for row in rows)
