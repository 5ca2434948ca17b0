import pytest

from mmlab.errors import UserError
from mmlab.fusion.sizes import check_sizes


def test_what_can_be():
    check_sizes("TFN", {"width": 1, "hidden": 128}, 0.0)
    check_sizes("TFN", {"width": 1}, 0.99)


@pytest.mark.parametrize(
    ("sizes", "dropout", "words"),
    [
        ({"width": 3, "hidden": 0}, 0.0, "TFN can't have hidden 0"),
        ({"rank": -1}, 0.0, "rank -1: give 1 or more"),
        ({}, 1.0, "dropout 1.0"),
        ({}, -0.1, "dropout -0.1"),
        ({}, float("nan"), "dropout nan"),
    ],
)
def test_what_can_not(sizes, dropout, words):
    with pytest.raises(UserError, match=words):
        check_sizes("TFN", sizes, dropout)
