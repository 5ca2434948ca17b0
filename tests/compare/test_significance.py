from __future__ import annotations

import math
import statistics

import pytest

from mmlab.compare.significance import (
    critical_difference,
    f_tail,
    friedman,
    holm,
    paired,
    ranks,
    studentised_range,
    t_tails,
)

# Hours of sleep that ten patients gained with one drug over another (Student, Biometrika 1908).
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]


def test_the_paired_test_on_students_own_data() -> None:
    found = paired(SLEEP)
    assert (found.seeds, round(found.mean, 2)) == (10, 1.58)
    assert found.error == pytest.approx(statistics.stdev(SLEEP) / math.sqrt(10))
    assert found.effect == pytest.approx(1.58 / statistics.stdev(SLEEP))
    assert found.p == pytest.approx(0.00283, abs=5e-6)
    assert paired([-value for value in SLEEP]).p == pytest.approx(found.p)


def test_what_can_not_be_tested_has_no_p() -> None:
    one = paired([2.0])
    assert (one.seeds, one.mean, one.error, one.effect, one.p) == (1, 2.0, None, None, None)
    # 0.1 * 3 and 0.3 differ in their last bit: no spread that means anything.
    same = paired([0.1 * 3, 0.3, 0.3])
    assert (same.error, same.effect, same.p) == (0.0, None, None)


@pytest.mark.parametrize(("t", "freedom"), [(12.7062, 1), (4.30265, 2), (2.77645, 4), (2.26216, 9), (1.98397, 100)])
def test_tails_of_t_are_those_of_the_printed_tables(t: float, freedom: int) -> None:
    assert t_tails(t, freedom) == pytest.approx(0.05, abs=1e-6)
    assert t_tails(0.0, freedom) == 1


def test_tail_of_f() -> None:
    # With two degrees of freedom between, the tail has a closed form.
    for f, within in ((0.5, 4), (3.0, 6), (9.0, 20)):
        assert f_tail(f, 2, within) == pytest.approx((1 + 2 * f / within) ** (-within / 2))
    assert f_tail(2.77645**2, 1, 4) == pytest.approx(0.05, abs=1e-6), "t squared"
    assert f_tail(math.inf, 3, 9) == 0


def test_holm_multiplies_the_smallest_most_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_equal_values_share_their_ranks() -> None:
    assert ranks([0.5, 0.9, 0.5, 0.1], smaller_is_better=False) == [2.5, 1, 2.5, 4]
    assert ranks([0.5, 0.9, 0.5, 0.1], smaller_is_better=True) == [2.5, 4, 2.5, 1]
    assert ranks([0.1 * 3, 0.3], smaller_is_better=False) == [1.5, 1.5]


def test_friedman_by_hand() -> None:
    # Rank sums 5, 8, 11: Friedman's statistic is 4.5, F = 3 * 4.5 / (8 - 4.5) with 2 and 6 degrees of freedom.
    places = [[1, 2, 3], [1, 3, 2], [1, 2, 3], [2, 1, 3]]
    assert friedman(places) == pytest.approx((1 + 2 * (13.5 / 3.5) / 6) ** -3)
    assert friedman([[1, 2, 3]] * 4) == 0
    assert friedman([[2, 2, 2]] * 4) is None


def test_nemenyis_distance_is_demsars() -> None:
    # Table 5 of Demšar, JMLR 2006: two to ten methods.
    table = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    assert [studentised_range(methods) / math.sqrt(2) for methods in range(2, 11)] == pytest.approx(table, abs=1.1e-3)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)  # his example
