"""The metrics of multimodal sentiment analysis, under the names that MMSA gives them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from mmlab.precision import precise

# An interval is open below and closed above.
_SIMS_CUTS = {"Mult_acc_2": (0.0,), "Mult_acc_3": (-0.1, 0.1), "Mult_acc_5": (-0.7, -0.1, 0.1, 0.7)}
# Of the same number, computed in batches of several sizes, float32 makes scores that differ by less.
_CONSTANT = 1e-5


class SentimentMetrics(Metric):
    """Accuracies, F1, mean absolute error and correlation of predicted scores, as MMSA's released code defines them.

    Of CMU-MOSI and MOSEI (``mosi``):

    - ``Has0_acc_2``: negative or not, below 0 or not, over all samples.
    - ``Non0_acc_2``: positive or not, above 0 or not, over the samples whose truth isn't 0; nan where there is none.
    - ``Has0_F1_score``, ``Non0_F1_score``: F1 of these two classes, averaged by how often each is the truth.
    - ``Mult_acc_7``, ``Mult_acc_5``: both clipped to [-3, 3] or to [-2, 2] and rounded, half to even.
    - ``MAE`` and Pearson's ``Corr``, of scores that aren't clipped.

    Of CH-SIMS (``sims``) prediction and truth are clipped to [-1, 1] first, for all metrics:

    - ``Mult_acc_2``: cut at 0, ``Mult_acc_3``: cut at -0.1 and 0.1, ``Mult_acc_5``: cut at -0.7, -0.1, 0.1 and 0.7. A
      score on a cut belongs to the class below it, also a float32 score that is the nearest to the cut.
    - ``F1_score``: as above, of the two classes.
    - ``MAE`` and ``Corr``.

    A correlation with a constant, which is undefined, is 0; scores within 1e-5 of one another are one. All scores are
    collected, and errors are averaged in float64, so the numbers depend neither on the batch size nor on the number of
    processes.

    Args:
        convention: whose cuts are taken.
    """

    higher_is_better = None
    full_state_update = False
    predictions: list[Tensor]
    targets: list[Tensor]

    def __init__(self, convention: Literal["mosi", "sims"]) -> None:
        super().__init__()
        self._convention = convention
        self.add_state("predictions", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Collects scores, in float32 at least.

        Args:
            prediction: (B,) numbers.
            target: (B,) numbers.
        """
        self.predictions.append(precise(prediction.detach()))
        self.targets.append(precise(target))

    def compute(self) -> dict[str, Tensor]:
        """The metrics by name, shares of 1, in the precision of the predictions."""
        prediction, truth = dim_zero_cat(self.predictions), dim_zero_cat(self.targets)
        # Some devices have no float64.
        values = (_of_mosi if self._convention == "mosi" else _of_sims)(prediction.cpu(), truth.cpu())
        return {name: value.to(prediction) for name, value in values.items()}


def _of_mosi(prediction: Tensor, truth: Tensor) -> dict[str, Tensor]:
    polar = truth != 0
    values = _two_classes("Has0_", prediction >= 0, truth >= 0)
    values |= _two_classes("Non0_", prediction[polar] > 0, truth[polar] > 0)
    for name, bound in (("Mult_acc_5", 2), ("Mult_acc_7", 3)):
        same = prediction.clamp(-bound, bound).round() == truth.clamp(-bound, bound).round()
        values[name] = same.double().mean()
    return values | _errors(prediction, truth)


def _of_sims(prediction: Tensor, truth: Tensor) -> dict[str, Tensor]:
    prediction, truth = prediction.clamp(-1, 1), truth.clamp(-1, 1)
    values = {}
    for name, cuts in _SIMS_CUTS.items():
        own, true = (torch.bucketize(each, torch.tensor(cuts, dtype=each.dtype)) for each in (prediction, truth))
        values[name] = (own == true).double().mean()
    f1 = _two_classes("", prediction > 0, truth > 0)["F1_score"]
    return values | {"F1_score": f1} | _errors(prediction, truth)


def _two_classes(prefix: str, decided: Tensor, true: Tensor) -> dict[str, Tensor]:
    f1 = torch.zeros((), dtype=torch.float64)
    for label in (False, True):
        said, is_so = decided == label, true == label
        # A class that is neither decided nor true has no weight.
        own = 2 * (said & is_so).sum() / (said.sum() + is_so.sum()).clamp(min=1).double()
        f1 += own * is_so.double().mean()
    return {f"{prefix}acc_2": (decided == true).double().mean(), f"{prefix}F1_score": f1}


def _errors(prediction: Tensor, truth: Tensor) -> dict[str, Tensor]:
    prediction, truth = prediction.double(), truth.double()
    values = {"MAE": (prediction - truth).abs().mean(), "Corr": torch.zeros((), dtype=torch.float64)}
    if min(prediction.max() - prediction.min(), truth.max() - truth.min()) > _CONSTANT:
        aside, apart = prediction - prediction.mean(), truth - truth.mean()
        values["Corr"] = (aside / aside.norm()) @ (apart / apart.norm())
    return values
