"""``mmlab prepare``: verify a data set, decode it once, pack it."""

from __future__ import annotations

import argparse
import importlib
import pkgutil

import jsonargparse

import mmlab.data
from mmlab.cli.classes import subclasses
from mmlab.data.base import MultimodalDataset
from mmlab.errors import UserError, did_you_mean

USAGE = "mmlab prepare DATASET [--root DIR] [--synthetic] [options];  mmlab prepare DATASET --help"


def prepare(words: list[str]) -> None:
    """Prepares the data set named first, with its constructor's options; ``--synthetic`` fakes its raw files first.

    Raises:
        UserError: for an unknown data set or option, and whatever preparing raises.
    """
    if not words or words[0] in ("--help", "-h"):
        print(f"usage: {USAGE}\n\ndata sets: {', '.join(sorted(_datasets()))}")
        return
    name, *rest = words
    known = _datasets()
    if name not in known:
        raise UserError(
            f"there is no data set {name!r}{did_you_mean(name, known)}; they are {', '.join(sorted(known))}."
        )
    parser = jsonargparse.ArgumentParser(prog=f"mmlab prepare {name}", exit_on_error=False)
    parser.add_argument("--synthetic", action="store_true", help="write a tiny fake of the raw layout first")
    parser.add_argument("--workers", type=int, default=1, help="threads that decode")
    parser.add_class_arguments(known[name])
    try:
        options = parser.parse_args(rest)
    except (jsonargparse.ArgumentError, argparse.ArgumentError) as error:
        from mmlab.cli.messages import explain  # the long way: it knows all options by name

        raise UserError(explain(str(error), parser, rest)) from None
    synthetic, workers = options.pop("synthetic"), options.pop("workers")
    if workers < 1:
        raise UserError(f"--workers is {workers}; it must be 1 or more.")
    dataset = known[name](**options.as_dict())
    if synthetic:
        dataset.write_synthetic()
    dataset.prepare(workers)
    for split, part in dataset.splits().items():
        print(f"{split}: {len(part)} samples, {part.digest()[:12]}")


def _datasets() -> dict[str, type[MultimodalDataset]]:
    for module in pkgutil.iter_modules(mmlab.data.__path__):
        importlib.import_module(f"mmlab.data.{module.name}")
    return {kind.__name__: kind for kind in subclasses(MultimodalDataset)}
