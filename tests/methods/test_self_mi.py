import signal
from pathlib import Path

import pytest
import torch

from mmlab.backbones.config import BackboneConfig
from mmlab.errors import UserError
from mmlab.losses.cpc import cpc
from mmlab.methods.self_mi import SelfMI
from mmlab.types import DataSpec, Modality, Sentiment
from tests.methods.test_self_mm import LSTM, RUN, WIDTHS, build, epochs
from tests.methods.test_self_mm import AtEpoch as SelfMMAtEpoch
from tests.methods.toy import check
from tests.methods.utterances import everything, some, spec
from tests.runs.checks import states, two_processes_equal_one
from tests.runs.test_resume import in_a_process_of_its_own

NAMES = ("fusion_text", "fusion_audio", "fusion_vision", "text_audio", "text_vision")


class AtEpoch(SelfMI):
    epoch = 0

    @property
    def current_epoch(self):
        return self.epoch


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("options", [{}, {"pairs": "all", "over": "target"}, {"use_mi": False}])
def test_losses_and_prediction(missing, options):
    torch.manual_seed(0)
    method = SelfMI(spec().to_dict(), branch_widths=WIDTHS, backbone=LSTM, **options)
    batch = everything(missing, torch.float32)
    method.labels.begin(batch.target, batch.present)
    prediction = check(method, batch)
    assert prediction.unimodal.keys() == batch.inputs.keys()


def test_the_loss_is_the_weighted_sum_of_its_parts():
    method = build(AtEpoch, alpha=0.3, beta=0.7, pairs="all")
    for parts in epochs(method, everything(), 3):
        l1 = sum(parts[f"l1{name}"] for name in ("", "_text", "_audio", "_vision"))
        fusion = sum(parts[f"cpc_{name}"] for name in NAMES[:3])
        pairs = sum(parts[f"cpc_{name}"] for name in (*NAMES[3:], "audio_vision"))
        torch.testing.assert_close(parts["loss"], l1 + 0.3 * fusion + 0.7 * pairs)
    assert list(build(AtEpoch).predictors) == list(NAMES)


def test_the_terms_compare_encoded_features_with_predictions_of_them():
    method = build(AtEpoch)
    batch = everything()
    decision = method.decide(batch.inputs, batch.present)
    found = method.information(decision, batch.present)
    assert list(found) == list(NAMES)
    conditions = {"fusion": decision.representations[0], "text": decision.features["text"]}
    for name, term in found.items():
        given, predicted = name.split("_")
        predictor = method.predictors[name]
        torch.testing.assert_close(term, cpc(decision.features[predicted], predictor(conditions[given])))
        leaves = [
            *predictor.parameters(),
            *method.encoders[predicted].parameters(),
            *method.encoders["text"].parameters(),
        ]
        assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(term, leaves, retain_graph=True))
    reached = torch.autograd.grad(sum(found.values()), list(method.fused.representation.parameters()))
    assert all(gradient.abs().max() > 0 for gradient in reached)


def test_a_batch_of_one_has_no_information():
    method = build(AtEpoch)
    parts = method.losses(some(everything(), [3]))
    assert all(parts[f"cpc_{name}"] == 0 for name in NAMES)


def test_only_samples_that_have_both_modalities_are_compared():
    batch = everything(missing=True)
    method = build(AtEpoch, batch=batch)
    found = method.information(method.decide(batch.inputs, batch.present), batch.present)
    both = some(batch, batch.present[:, :2].all(dim=1).nonzero()[:, 0])
    alone = method.information(method.decide(both.inputs, both.present), both.present)
    torch.testing.assert_close(found["text_audio"], alone["text_audio"])
    assert abs(found["text_vision"] - alone["text_vision"]) > 1e-6


@pytest.mark.parametrize("options", [{"use_mi": False}, {"alpha": 0.0, "beta": 0.0}])
def test_without_information_it_is_self_mm_step_by_step(options):
    batch = everything()
    steps = []
    for kind, given in ((AtEpoch, options), (SelfMMAtEpoch, {})):
        method = build(kind, **given)
        method.fused.dropout.p = 0.3
        optimizer = torch.optim.SGD(method.parameters(), lr=0.05)
        torch.manual_seed(3)  # of dropout
        for method.epoch in range(4):
            for rows in torch.arange(12).split(4):
                parts = method.losses(some(batch, rows))
                optimizer.zero_grad()
                parts["loss"].backward()
                optimizer.step()
        steps.append((method.state_dict(), parts))
    (own, parts), (other, others) = steps
    assert all(torch.equal(own[name], tensor) for name, tensor in other.items())
    assert all(torch.equal(parts[name], part) for name, part in others.items())
    assert (own.keys() == other.keys()) == ("use_mi" in options)


@pytest.mark.parametrize("options", [{"alpha": -0.1}, {"beta": float("nan")}])
def test_what_makes_no_sense_is_refused(options):
    with pytest.raises(UserError, match="0 or more"):
        SelfMI(spec().to_dict(), backbone=LSTM, **options)


def test_two_modalities_of_other_names():
    modalities = (spec().modalities[0], Modality("gesture", "vector", (4,)))
    data = DataSpec("Two", modalities, Sentiment(-1.0, 1.0), 12)
    method = SelfMI(data.to_dict(), backbone=BackboneConfig("mlp", hidden=4, width=3))
    assert list(method.predictors) == ["fusion_text", "fusion_gesture", "text_gesture"]
    assert method.labels.unimodal.shape == (2, 12)


KILL = "--trainer.callbacks+=own_methods.KillAt --trainer.callbacks.step"
SUMMED = f"{RUN.format('SelfMI')} --model.optimizer.lr 0.01 --trainer.max_epochs 4 --trainer.accumulate_grad_batches 5"


def test_a_run_that_is_killed_twice_resumes_to_the_same_bits(mmlab):
    mmlab(f"{SUMMED} --run_dir whole")
    # An epoch has twelve batches: two steps, and one of two batches that is left out but counted.
    killed = f"{SUMMED} --checkpoint_every 1 --run_dir killed {KILL} 7"
    assert in_a_process_of_its_own(lambda: mmlab(killed)) == signal.SIGKILL
    again = "fit --resume killed --trainer.callbacks+=own_methods.KillAmong --trainer.callbacks.batches 2"
    assert in_a_process_of_its_own(lambda: mmlab(again)) == signal.SIGKILL
    saved = torch.load("killed/checkpoints/last.ckpt", weights_only=True)
    assert saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]["ready"] == 5
    mmlab("fit --resume killed --trainer.callbacks null")
    one, other = states("whole"), states("killed")
    assert one.keys() == other.keys()
    assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []
    assert Path("whole/metrics.csv").read_text() == Path("killed/metrics.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["Brightness", "PartlyDark"])
def test_two_processes_equal_one(mmlab, dataset):
    line = SUMMED.replace("--trainer.max_epochs 4", "--trainer.max_epochs 3").replace("lr 0.01", "lr 0.001")
    two_processes_equal_one(mmlab, line.replace("Brightness", dataset), atol=1e-5)
