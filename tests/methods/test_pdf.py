import pytest
import torch
import torch.nn.functional as F

from mmlab.backbones.config import BackboneConfig
from mmlab.errors import UserError
from mmlab.methods.late import LateFusionMethod
from mmlab.methods.pdf import PDF
from tests.methods.toy import batch, check, spec

TINY = BackboneConfig(width=4)


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_losses_and_prediction(modalities, missing):
    data = spec(modalities)
    samples = batch(data, missing=missing)
    prediction = check(PDF(data.to_dict(), backbone=TINY), samples)
    assert torch.equal(prediction.weights > 0, samples.present)
    torch.testing.assert_close(prediction.weights.sum(dim=1), torch.ones(6))
    logits = torch.stack(list(prediction.unimodal.values()))
    torch.testing.assert_close(prediction.logits, torch.einsum("bm,mbc->bc", prediction.weights, logits))
    assert ((prediction.uncertainty > 0) & (prediction.uncertainty < 1)).all()


def test_the_loss_is_the_sum_of_its_parts():
    data = spec(2)
    samples = batch(data)
    method = PDF(data.to_dict(), unimodal_weights=[2, 0.5], backbone=TINY)
    losses = method.losses(samples)
    assert list(losses) == ["loss", "ce_fused", "ce_audio", "ce_visual", "confidence_audio", "confidence_visual"]
    sums = losses["ce_fused"] + 2 * losses["ce_audio"] + 0.5 * losses["ce_visual"]
    torch.testing.assert_close(losses["loss"], sums + losses["confidence_audio"] + losses["confidence_visual"])
    prediction = method(samples.inputs, samples.present)  # in training mode
    torch.testing.assert_close(losses["ce_fused"], F.cross_entropy(prediction.logits, samples.target))
    true_class = prediction.unimodal["visual"].softmax(dim=1)[torch.arange(6), samples.target]
    expected = (1 - prediction.uncertainty[:, 1] - true_class).abs().mean()
    torch.testing.assert_close(losses["confidence_visual"], expected)


def test_encoders_and_heads_train_as_if_there_were_no_nets():
    data = spec(2)
    method = PDF(data.to_dict(), backbone=TINY)
    losses = method.losses(batch(data))
    rest = losses["loss"] - losses["confidence_audio"] - losses["confidence_visual"]
    nets = list(method.fusion.confidence_nets.parameters())
    others = [*method.encoders.parameters(), *method.fusion.heads.parameters()]
    with_nets = torch.autograd.grad(losses["loss"], others, retain_graph=True)
    for gradient, expected in zip(with_nets, torch.autograd.grad(rest, others, retain_graph=True), strict=True):
        torch.testing.assert_close(gradient, expected)
    assert all(gradient is None for gradient in torch.autograd.grad(losses["ce_fused"], nets, allow_unused=True))


def groups_of(optimizer):
    """Weight decay of every parameter, by id."""
    return {id(each): group["weight_decay"] for group in optimizer.param_groups for each in group["params"]}


@pytest.mark.parametrize("decay", [0.0, 1e-4])
def test_the_first_layers_of_the_nets_decay_by_1_and_the_rest_as_the_optimiser_says(decay):
    data = spec(3)
    method = PDF(data.to_dict(), backbone=TINY, optimizer=lambda p: torch.optim.Adam(p, lr=1e-3, weight_decay=decay))
    found = groups_of(method.configure_optimizers())
    first = {id(each) for net in method.fusion.confidence_nets for each in net[0].parameters()}
    assert len(first) == 6
    assert found == {id(each): 1.0 if id(each) in first else decay for each in method.parameters()}


def test_what_is_frozen_is_in_no_group():
    method = PDF(spec(2).to_dict(), backbone=TINY)
    method.encoders["audio"].requires_grad_(False)
    method.fusion.confidence_nets[0].requires_grad_(False)
    expected = {id(parameter) for parameter in method.parameters() if parameter.requires_grad}
    assert set(groups_of(method.configure_optimizers())) == expected


def test_the_test_and_predictions_are_calibrated_but_neither_training_nor_selection(mmlab, tiny, monkeypatch):
    decide, seen = LateFusionMethod.decide, {}

    def watched(self, inputs, present):
        decision, features = decide(self, inputs, present)
        ways = {"plain": False, "calibrated": True}
        (way,) = (
            way for way in ways if torch.equal(self.fusion(features, present, ways[way]).weights, decision.weights)
        )
        seen.setdefault(self.trainer.state.stage.value, set()).add(way)
        return decision, features

    monkeypatch.setattr(LateFusionMethod, "decide", watched)
    mmlab(
        f"fit --model PDF {tiny} --wandb.mode off --trainer.max_epochs 1 --trainer.num_sanity_val_steps 1 --run_dir run"
    )
    assert seen == {"sanity_check": {"plain"}, "train": {"plain"}, "validate": {"plain"}, "test": {"calibrated"}}
    seen.clear()
    for command in ("validate", "test", "predict"):
        mmlab(f"{command} --run run" + (" --split val" if command == "predict" else ""))
    assert seen == {"validate": {"plain"}, "test": {"calibrated"}, "predict": {"calibrated"}}


@pytest.mark.parametrize(
    ("modalities", "options", "sentence"),
    [(1, {}, "only audio"), (2, {"unimodal_weights": [1.0]}, "unimodal_weights")],
)
def test_what_cannot_be_is_refused(modalities, options, sentence):
    with pytest.raises(UserError, match=sentence):
        PDF(spec(modalities).to_dict(), backbone=TINY, **options)
