"""Linear probes: what a linear model can read from the features of one frozen encoder.

Features are standardised by the training split's mean and deviation. Classes: multinomial logistic regression,

    CE(x W + b, y) + lambda / 2 ||W||^2,

minimised over the whole training split at once by L-BFGS from zero, so that nothing is random. Numbers: ridge
regression, with squared error in place of the cross-entropy, in closed form. lambda is one of 1, 0.1, ..., 1e-5, the
best on the validation split, the largest of several that are equally good; the bias is not decayed.

Source: Alain, Bengio, "Understanding Intermediate Layers Using Linear Classifier Probes", ICLR 2017 (workshop), for the
idea. Standardisation, decays and solver are this project's choice.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab.evaluation.seen import score
from mmlab.types import Classification, Task

DECAYS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
STEPS = 200


class Labelled(NamedTuple):
    """Features (N, D) and targets (N,) of the samples that have a modality."""

    features: Tensor
    target: Tensor


class Probe(NamedTuple):
    """What a probe found: the mean score on the split that is tested, and the weight decay."""

    score: float
    weight_decay: float


def probe(task: Task, train: Labelled, val: Labelled, tested: Labelled) -> Probe:
    """Fits a probe for each decay on the training features, and tests the one that is best on validation.

    Args:
        task: classification or regression.
        train: one sample at least; as are the others.
        val: chooses the decay.
        tested: gives the score, see :func:`~mmlab.evaluation.seen.score`.
    """
    mean, spread = train.features.mean(dim=0), train.features.std(dim=0, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)  # a feature that never changes stays 0

    def standardised(features: Tensor) -> Tensor:
        return F.pad((features - mean) / spread, (0, 1), value=1.0)  # the last column is the bias

    known, checked, asked = (standardised(part.features) for part in (train, val, tested))
    best, weights = Probe(float("-inf"), DECAYS[0]), torch.zeros(known.shape[1], task.outputs, device=known.device)
    chosen = weights
    for decay in DECAYS:
        if isinstance(task, Classification):
            weights = _logistic(known, train.target, decay, weights)  # from the last one's: it lies near
        else:
            weights = _ridge(known, train.target, decay)
        on_val = score(task, checked @ weights, val.target).double().mean().item()
        if on_val > best.score:
            best, chosen = Probe(on_val, decay), weights
    return Probe(score(task, asked @ chosen, tested.target).double().mean().item(), best.weight_decay)


def _logistic(known: Tensor, target: Tensor, decay: float, start: Tensor) -> Tensor:
    weights = start.clone().requires_grad_()
    solver = torch.optim.LBFGS([weights], max_iter=STEPS, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(known @ weights, target) + decay / 2 * weights[:-1].square().sum()
        loss.backward()
        return loss

    solver.step(objective)
    return weights.detach()


def _ridge(known: Tensor, target: Tensor, decay: float) -> Tensor:
    known = known.double().cpu()
    penalty = torch.full((known.shape[1],), decay, dtype=torch.float64)
    penalty[-1] = 0
    products = known.T @ known / len(known) + penalty.diag()
    solved = torch.linalg.lstsq(products, known.T @ target.double().cpu()[:, None] / len(known)).solution
    return solved.to(target.device, torch.float32)
