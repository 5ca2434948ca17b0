"""What a search says becomes settings: grids, ranges, draws."""

from __future__ import annotations

import math

import pytest

from mmlab.errors import UserError
from mmlab.sweep.settings import Range, draw, grid, parse_set, split_values


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("model.lam=0.1,1,10", ("0.1", "1", "10")),
        ("model.lam=5", ("5",)),
        ("model.modalities=[audio,image],[audio]", ("[audio,image]", "[audio]")),
        ("model.root=../a,../b", ("../a", "../b")),
        ("model.lam=0.1..1.0", Range(0.1, 1.0, log=False, whole=False)),
        ("model.lam=-2..3", Range(-2, 3, log=False, whole=True)),
        ("model.lam=log:1e-4..1e-2", Range(1e-4, 1e-2, log=True, whole=False)),
        ("model.lam=log:8..512", Range(8, 512, log=True, whole=True)),
    ],
)
def test_values_are_read(word: str, values: object) -> None:
    assert parse_set(word) == (word.split("=")[0], values)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("model.lam", "write a config key and its values"),
        ("--model.lam=1", "write a config key"),
        ("model.lam=", "empty value"),
        ("model.lam=1,,2", "empty value"),
        ("model.lam=1,2,1", "has 1 twice"),
        ("model.lam=log:1,2", "two dots"),
        ("model.lam=3..1", "smaller end first"),
        ("model.lam=log:0..1", "above 0"),
    ],
)
def test_wrong_values_are_refused(word: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_set(word)


def test_commas_in_brackets_split_nothing() -> None:
    assert split_values("[a,(b,c)], {d: [e,f]},g") == ["[a,(b,c)]", "{d: [e,f]}", "g"]


def test_a_grid_is_every_combination() -> None:
    assert grid({"a": ("1", "2"), "b": ("x", "y")}) == [
        {"a": "1", "b": "x"},
        {"a": "1", "b": "y"},
        {"a": "2", "b": "x"},
        {"a": "2", "b": "y"},
    ]
    assert grid({}) == [{}]
    with pytest.raises(UserError, match="--random 20"):
        grid({"a": Range(0, 1, log=False, whole=False)})


SPACE = {
    "lr": Range(1e-4, 1e-2, log=True, whole=False),
    "share": Range(0.25, 0.75, log=False, whole=False),
    "width": Range(1, 4, log=True, whole=True),
    "layers": Range(2, 5, log=False, whole=True),
    "rule": ("dynamic", "prior"),
}


def test_draws_fill_their_ranges_and_nothing_else() -> None:
    settings = draw(SPACE, 400)
    assert len({tuple(setting.values()) for setting in settings}) == 400
    rates = [float(setting["lr"]) for setting in settings]
    assert min(rates) >= 1e-4
    assert max(rates) <= 1e-2
    # Uniform in the logarithm: half of them lie below the geometric mean, 1e-3.
    assert sum(rate < 1e-3 for rate in rates) / 400 == pytest.approx(0.5, abs=0.1)
    logs = [math.log10(rate) for rate in rates]
    assert max(logs) - min(logs) > 1.9
    shares = [float(setting["share"]) for setting in settings]
    assert sum(share < 0.5 for share in shares) / 400 == pytest.approx(0.5, abs=0.1)
    assert 0.25 <= min(shares) < 0.27 < 0.73 < max(shares) <= 0.75
    assert {setting["width"] for setting in settings} == {"1", "2", "3", "4"}
    assert {setting["layers"] for setting in settings} == {"2", "3", "4", "5"}
    assert {setting["rule"] for setting in settings} == {"dynamic", "prior"}


def test_the_same_search_draws_the_same_and_more_begins_with_fewer() -> None:
    assert draw(SPACE, 20)[:5] == draw(SPACE, 5)


def test_more_settings_than_there_are_cannot_be_drawn() -> None:
    assert len(draw({"a": ("1", "2"), "b": ("x", "y")}, 4)) == 4
    with pytest.raises(UserError, match="only 4 different settings"):
        draw({"a": ("1", "2"), "b": ("x", "y")}, 5)
