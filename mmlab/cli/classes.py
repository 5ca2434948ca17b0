"""Which classes there are below a base."""

from __future__ import annotations

from abc import ABC


def subclasses(base: type) -> list[type]:
    """The classes below a base, at any depth, but for those that are only bases themselves: they list ABC."""
    direct: list[type] = base.__subclasses__()
    every = [found for kind in direct for found in (kind, *subclasses(kind))]
    return [kind for kind in every if ABC not in kind.__bases__]
