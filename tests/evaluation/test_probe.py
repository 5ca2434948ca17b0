import pytest
import torch

from mmlab.evaluation.probe import DECAYS, Labelled, probe
from mmlab.types import Classification, Regression

CLASSES = Classification(("a", "b", "c"))


def blobs(samples: int, seed: int, spread: float = 0.3) -> Labelled:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(3, (samples,), generator=generator)
    centres = torch.tensor([[0.0, 0.0], [200.0, 0.0], [0.0, 0.02]])  # very different scales
    noise = torch.randn(samples, 2, generator=generator) * torch.tensor([100.0, 0.01]) * spread
    return Labelled(centres[target] + noise, target)


def test_it_separates_what_a_line_separates_whatever_the_scale() -> None:
    assert probe(CLASSES, blobs(90, 0, 0.1), blobs(60, 1, 0.1), blobs(80, 2, 0.1)).score == 1.0


def test_it_is_the_same_every_time() -> None:
    parts = blobs(90, 0, 1.0), blobs(60, 1, 1.0), blobs(80, 2, 1.0)
    torch.manual_seed(1)
    first = probe(CLASSES, *parts)
    torch.manual_seed(2)
    assert probe(CLASSES, *parts) == first


def test_the_decay_is_chosen_on_validation() -> None:
    generator = torch.Generator().manual_seed(0)
    target = (torch.arange(200) % 10 == 0).long()  # a rare class, which a strong decay never decides for
    features = target[:, None] * 3.0 + torch.randn(200, 1, generator=generator)
    train = Labelled(features, target)
    common = Labelled(features[target == 0], target[target == 0])
    assert probe(CLASSES, train, common, train) == (pytest.approx(0.9), max(DECAYS))
    found = probe(CLASSES, train, train, train)
    assert found.weight_decay < max(DECAYS)
    assert found.score > 0.95


def test_a_feature_that_never_changes_harms_nothing() -> None:
    parts = [Labelled(torch.cat([p.features, torch.ones(len(p.target), 1)], 1), p.target) for p in (blobs(90, 0),) * 3]
    assert probe(CLASSES, *parts).score > 0.9


def test_numbers_by_ridge_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 5, generator=generator)
    target = features @ torch.tensor([1.0, -2.0, 0.5, 0.0, 0.0]) + 4.0
    parts = [Labelled(features[rows], target[rows]) for rows in torch.arange(300).split(100)]
    found = probe(Regression(-10.0, 10.0), *parts)
    assert found.score == pytest.approx(0.0, abs=1e-3)  # minus the absolute error
    assert found.weight_decay == min(DECAYS)


def test_of_equally_good_decays_the_largest_is_taken() -> None:
    features = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
    known = Labelled(features, torch.tensor([0, 0, 1, 1]))
    assert probe(Classification(("low", "high")), known, known, known) == (1.0, DECAYS[0])
