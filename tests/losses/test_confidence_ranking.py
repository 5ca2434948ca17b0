import pytest
import torch

from mmlab.losses.confidence_ranking import ranking_losses, relative_history

RANKINGS = ("released", "corrected_margin")
EVERYBODY = torch.ones(3, 1, dtype=torch.bool)


def by_hand(confidence, history, present, ranking):
    """The mean over neighbours of one modality, pair by pair."""
    total, pairs = 0.0, 0
    for i in range(len(confidence)):
        j = (i + 1) % len(confidence)
        if not (present[i] and present[j]):
            continue
        difference = history[i] - history[j]
        margin = abs(difference) if ranking == "corrected_margin" else -abs(difference)
        sign = (difference > 0) - (difference < 0)
        total, pairs = total + max(0.0, sign * (confidence[i] - confidence[j]) + margin), pairs + 1
    return total / max(pairs, 1)


def test_history_is_relative_to_that_of_the_whole_training_set():
    loss_sum = torch.tensor([[1.0, 3.0, 5.0, 2.0], [0.0, 0.0, 8.0, 4.0]])
    expected = torch.tensor([[0.25, 0.5], [0.5, 0.0]])  # samples 3 and 1; the extremes are others
    torch.testing.assert_close(relative_history(loss_sum, torch.tensor([3, 1])), expected)


@pytest.mark.parametrize("value", [0.0, 1.7])
def test_a_history_that_is_the_same_everywhere_says_nothing(value):
    history = relative_history(torch.full((2, 6), value), torch.tensor([0, 4, 5]))
    assert torch.equal(history, torch.zeros(2, 3))


@pytest.mark.parametrize("ranking", RANKINGS)
def test_it_equals_the_sum_over_pairs(ranking):
    generator = torch.Generator().manual_seed(0)
    confidence = torch.randn(3, 9, generator=generator, dtype=torch.float64)
    history = torch.rand(3, 9, generator=generator, dtype=torch.float64)
    history[1, 4] = history[1, 3]  # a tie
    present = torch.rand(9, 3, generator=generator) < 0.8
    assert not present.all()
    assert present.any(dim=0).all()
    expected = [by_hand(confidence[m].tolist(), history[m].tolist(), present[:, m], ranking) for m in range(3)]
    assert min(expected) > 0
    assert ranking_losses(confidence, history, present, ranking).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("ranking", "pairs"), [("released", [0.1, 0.1, 0.2]), ("corrected_margin", [0.9, 0.5, 1.4])])
def test_the_margin_is_subtracted_or_added(ranking, pairs):
    # The first has lost the most and is the most confident; the last is compared with the first.
    confidence, history = torch.tensor([[0.9, 0.4, 0.1]]), torch.tensor([[0.9, 0.5, 0.3]])
    assert ranking_losses(confidence, history, EVERYBODY, ranking).item() == pytest.approx(sum(pairs) / 3)


@pytest.mark.parametrize("ranking", RANKINGS)
def test_equal_histories_cost_nothing_and_pull_nowhere(ranking):
    confidence = torch.tensor([[0.9, 0.1, 0.4]], requires_grad=True)
    loss = ranking_losses(confidence, torch.zeros(1, 3), EVERYBODY, ranking).sum()
    loss.backward()
    assert loss == 0
    assert torch.equal(confidence.grad, torch.zeros(1, 3))


def test_the_gradient_lowers_the_confidence_in_what_was_harder():
    confidence = torch.tensor([[0.9, 0.1, 0.1]], requires_grad=True)
    history = torch.tensor([[0.4, 0.2, 0.2]])
    ranking_losses(confidence, history, EVERYBODY, "released").sum().backward()
    torch.testing.assert_close(confidence.grad, torch.tensor([[2.0, -1.0, -1.0]]) / 3)


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("samples", [1, 2])
def test_nobody_or_a_single_sample_to_compare(ranking, samples):
    confidence = torch.randn(1, samples, requires_grad=True)
    present = torch.zeros(samples, 1, dtype=torch.bool)
    present[0] = True  # its neighbour, if there is one, lacks the modality
    loss = ranking_losses(confidence, torch.rand(1, samples), present, ranking).sum()
    loss.backward()
    assert loss == 0
    assert torch.equal(confidence.grad, torch.zeros(1, samples))


def test_a_history_of_a_small_span_counts_as_well() -> None:
    loss_sum = torch.tensor([[0.25, 0.5, 0.3, 0.25]])
    torch.testing.assert_close(relative_history(loss_sum, torch.tensor([1, 2, 3])), torch.tensor([[1.0, 0.2, 0.0]]))
