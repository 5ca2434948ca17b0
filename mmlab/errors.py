"""The one exception that a person is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """One sentence: what is wrong, where, and what to do. The command prints it and exits with 2."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns `` (did you mean 'x'?)`` for the closest known word, or an empty string."""
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""
