"""Settings of a search: what ``--set KEY=VALUES`` means, every combination of it, and random draws from it."""

from __future__ import annotations

import itertools
import math
import random
import re
from dataclasses import dataclass

from mmlab.errors import UserError

Setting = dict[str, str]
"""Values by config key, as they are written on a command line."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"(log:)?({_NUMBER})\.\.({_NUMBER})")
_WHOLE = re.compile(r"[+-]?\d+")


@dataclass(frozen=True)
class Range:
    """Numbers between two, to draw from.

    Attributes:
        low: the least.
        high: the most.
        log: whether the logarithm is uniform, and not the number.
        whole: whether only whole numbers are drawn.
    """

    low: float
    high: float
    log: bool
    whole: bool


Values = tuple[str, ...] | Range
"""What a key can be: one of several texts, or a number of a range."""


def parse_set(word: str) -> tuple[str, Values]:
    """Reads ``model.lam=0.1,1,10``, ``model.lam=0.1..1.0`` or ``model.lam=log:1e-4..1e-2``.

    Commas within brackets belong to a value. A range whose ends are both written as whole numbers holds whole numbers.

    Raises:
        UserError: if it is none of these, or a value is given twice.
    """
    key, sign, text = word.partition("=")
    if not sign or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise UserError(f"--set {word}: write a config key and its values, --set model.lam=0.1,1,10.")
    between = _RANGE.fullmatch(text)
    if between is None and text.startswith("log:"):
        raise UserError(f"--set {word}: a range is two numbers with two dots between them, {key}=log:1e-4..1e-2.")
    if between is not None:
        ends = between[2], between[3]
        low, high = map(float, ends)
        if low >= high or (between[1] and low <= 0):
            least = " above 0" if between[1] else ""
            raise UserError(f"--set {word}: write the smaller end first{least}, {key}=log:1e-4..1e-2.")
        return key, Range(low, high, bool(between[1]), all(map(_WHOLE.fullmatch, ends)))
    values = split_values(text)
    if "" in values:
        raise UserError(f"--set {word} has an empty value; write the values with commas between them.")
    twice = [value for value in values if values.count(value) > 1]
    if twice:
        raise UserError(f"--set {word} has {twice[0]} twice; take one out.")
    return key, tuple(values)


def split_values(text: str) -> list[str]:
    """Splits at the commas that stand in no brackets."""
    values, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]


def grid(space: dict[str, Values]) -> list[Setting]:
    """Every combination; one empty setting of no keys.

    Raises:
        UserError: for a range, which has no end of values.
    """
    listed: list[tuple[str, ...]] = []
    for key, values in space.items():
        if isinstance(values, Range):
            raise UserError(f"--set {key} is a range: say how many settings to draw, --random 20, or list its values.")
        listed.append(values)
    return [dict(zip(space, chosen, strict=True)) for chosen in itertools.product(*listed)]


def draw(space: dict[str, Values], count: int) -> list[Setting]:
    """So many different settings, each key drawn on its own: uniform, or log-uniform.

    The same space gives the same draws everywhere, and more draws begin with the fewer. Numbers keep four digits.

    Raises:
        UserError: if there are fewer settings than that.
    """
    settings: list[Setting] = []
    for number in range(100 * count):
        drawn = {key: _drawn(key, values, number) for key, values in space.items()}
        if drawn not in settings:
            settings.append(drawn)
        if len(settings) == count:
            return settings
    raise UserError(f"--random {count}: there are only {len(settings)} different settings; leave --random out.")


def _drawn(key: str, values: Values, number: int) -> str:
    source = random.Random(f"{key} {number}")
    if not isinstance(values, Range):
        return source.choice(values)
    if not values.log:
        return (
            str(source.randint(int(values.low), int(values.high)))
            if values.whole
            else f"{source.uniform(values.low, values.high):.4g}"
        )
    # Half a number more on both sides, so that the ends are drawn as often as their neighbours.
    margin = 0.5 if values.whole else 0.0
    found = math.exp(source.uniform(math.log(values.low - margin), math.log(values.high + margin)))
    return str(min(max(round(found), int(values.low)), int(values.high))) if values.whole else f"{found:.4g}"
