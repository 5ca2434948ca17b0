import random

import pytest

from mmlab.availability import every_combination
from mmlab.evaluation.shapley import shapley_values


def game(modalities: int, seed: int) -> dict:
    draw = random.Random(seed)
    return {subset: draw.random() for subset in [(False,) * modalities, *every_combination(modalities)]}


def test_two_modalities_by_hand() -> None:
    values = {(False, False): 0.1, (True, False): 0.6, (False, True): 0.3, (True, True): 0.9}
    assert shapley_values(values) == pytest.approx([0.5 * (0.5 + 0.6), 0.5 * (0.2 + 0.3)])


@pytest.mark.parametrize("modalities", range(1, 6))
def test_they_add_up_to_what_all_gain_over_none(modalities: int) -> None:
    values = game(modalities, seed=modalities)
    gained = values[(True,) * modalities] - values[(False,) * modalities]
    assert sum(shapley_values(values)) == pytest.approx(gained)


def test_what_never_helps_is_worth_nothing_and_twins_are_worth_the_same() -> None:
    alone = game(2, seed=0)
    with_dummy = {subset: alone[subset[:2]] for subset in [(False,) * 3, *every_combination(3)]}
    assert shapley_values(with_dummy) == pytest.approx([*shapley_values(alone), 0.0])
    counted = {subset: float(sum(subset)) ** 2 for subset in [(False,) * 3, *every_combination(3)]}
    assert shapley_values(counted) == pytest.approx([3.0, 3.0, 3.0])
