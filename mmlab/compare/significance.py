"""Significance over few seeds and few data sets: paired t-test, Holm's correction, Friedman's test, Nemenyi's distance.

The tails of the distributions come from mpmath's incomplete beta function. With five seeds Wilcoxon's test
can't go below p = 0.06, whatever the numbers: it is left out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import mpmath

ALPHA = 0.05


@dataclass(frozen=True)
class Paired:
    """Two methods on the same seeds.

    Attributes:
        seeds: how many pairs.
        mean: of the differences.
        error: standard error of that mean; None for one pair.
        effect: Cohen's d of paired differences: their mean over their standard deviation; None where that is 0.
        p: of the two-sided paired t-test; None where it can't be computed: one pair, or differences without spread.
    """

    seeds: int
    mean: float
    error: float | None
    effect: float | None
    p: float | None


def paired(differences: Sequence[float]) -> Paired:
    """A two-sided paired t-test (Student 1908) of one or more differences."""
    count, mean = len(differences), statistics.mean(differences)
    if count == 1:
        return Paired(count, mean, None, None, None)
    deviation = statistics.stdev(differences)
    error = deviation / math.sqrt(count)
    if error < 1e-9 * max(1.0, abs(mean)):  # differences that rounding alone spreads
        return Paired(count, mean, 0.0, None, None)
    return Paired(count, mean, error, mean / deviation, t_tails(mean / error, count - 1))


def t_tails(t: float, freedom: int) -> float:
    """The probability that Student's t lies beyond ``±t``."""
    return float(mpmath.betainc(freedom / 2, 0.5, 0, freedom / (freedom + t * t), regularized=True))


def f_tail(f: float, between: int, within: int) -> float:
    """The probability that F with these degrees of freedom is larger than ``f``, which may be infinite."""
    bound = 0.0 if math.isinf(f) else within / (within + between * f)
    return float(mpmath.betainc(within / 2, between / 2, 0, bound, regularized=True))


def holm(values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm 1979): the chance of one false alarm among all stays below each."""
    corrected = [0.0] * len(values)
    highest = 0.0
    for place, index in enumerate(sorted(range(len(values)), key=lambda index: values[index])):
        highest = max(highest, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = highest
    return corrected


def ranks(values: Sequence[float], smaller_is_better: bool) -> list[float]:
    """The place of each value, from 1 for the best; equal ones share the mean of their places."""
    rounded = [round(value, 9) for value in values]  # means of equal numbers may differ in their last bits
    ordered = sorted(rounded, reverse=not smaller_is_better)
    return [ordered.index(value) + (ordered.count(value) + 1) / 2 for value in rounded]


def friedman(places: Sequence[Sequence[float]]) -> float | None:
    """Whether methods differ over data sets: the p-value of Iman and Davenport's F (1980) of Friedman's statistic.

    Friedman's own approximation is too careful where data sets are few (Demšar, JMLR 2006, section 3.2.2).

    Args:
        places: for each data set, the rank of each method.

    Returns:
        None where all methods tie on every data set.
    """
    sets, methods = len(places), len(places[0])
    middle = (methods + 1) / 2
    spread = sum((place - middle) ** 2 for row in places for place in row)
    if spread == 0:
        return None
    totals = [sum(column) - sets * middle for column in zip(*places, strict=True)]
    chi2 = (methods - 1) * sum(total**2 for total in totals) / spread
    rest = sets * (methods - 1) - chi2
    f = (sets - 1) * chi2 / rest if rest > 1e-9 else math.inf
    return f_tail(f, methods - 1, (methods - 1) * (sets - 1))


def critical_difference(methods: int, sets: int) -> float:
    """How far mean ranks lie apart to differ at the level 0.05 (Nemenyi 1963; Demšar, JMLR 2006, section 3.2.2)."""
    return studentised_range(methods) / math.sqrt(2) * math.sqrt(methods * (methods + 1) / (6 * sets))


def studentised_range(groups: int) -> float:
    """The range of as many standard normal numbers that is exceeded with probability 0.05."""
    normal = NormalDist()
    step = 0.05  # of a smooth function that is 0 at both ends: the sum is exact to many digits
    places = [(normal.pdf(step * k), step * k) for k in range(-160, 161)]

    def exceeded(width: float) -> float:
        within = [density * (normal.cdf(x + width) - normal.cdf(x)) ** (groups - 1) for density, x in places]
        return 1 - groups * step * sum(within)

    low, high = 0.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if exceeded(middle) > ALPHA else (low, middle)
    return high
