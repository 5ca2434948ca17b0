"""``mmlab robustness``: every subset of modalities under every corruption and severity, of finished runs."""

from __future__ import annotations

from typing import Any, cast, get_args

from mmlab.cli.build import FinishedRun, print_rank_zero
from mmlab.cli.finished import read_request
from mmlab.cli.own_flags import switch
from mmlab.data.corruption import Corruption, Name, possible_corruptions
from mmlab.errors import UserError, did_you_mean
from mmlab.evaluation.robustness import evaluate_grid, is_finished, make_plan, write_grid
from mmlab.runs.corrupted import identify
from mmlab.runs.folder import read_earlier
from mmlab.runs.tracking import add_to_wandb

SEVERITIES = "0,2.5,5,7.5,10"


def robustness(words: list[str]) -> None:
    """Tests the runs that a command line names, one after the other.

    Raises:
        UserError: for a wrong flag, or a run that can't be opened.
    """
    request = read_request("robustness", words)
    names = _names(request.own.get("corruptions"))
    severities = _severities(request.own.get("severities", SEVERITIES))
    noise_seeds = _noise_seeds(request.own.get("noise_seeds", "1"))
    again = switch(request.own, "again")
    for place, folder in enumerate(request.folders, start=1):
        print_rank_zero(f"run {place} of {len(request.folders)}: {folder.path}")
        _test(request.open(folder), names, severities, noise_seeds, again)


def _test(opened: FinishedRun, names: list[Name], severities: list[float], noise_seeds: int, again: bool) -> None:
    folder, method, data, config = opened.folder, opened.method, opened.data, opened.config
    plan = make_plan(_possible(opened, names), severities, noise_seeds)
    method.by_combination = True
    identity = identify(method, data, config, opened.checkpoint)
    if identity["partial"]:
        print_rank_zero(f"only a part of the data is used ({', '.join(identity['partial'])}).")
        if read_earlier(folder.robustness).get("partial") == []:
            print_rank_zero(f"{folder.robustness} holds results of the whole test split, which stay: nothing is done.")
            return
    if not again and is_finished(folder, identity, plan):
        print_rank_zero(f"{folder.robustness} holds these cells already; --again true computes them anew.")
        return
    grid = evaluate_grid(opened.trainer, method, data, plan)
    _print(grid)
    if config["trainer"]["fast_dev_run"]:
        print_rank_zero("fast_dev_run: nothing was kept.")
        return
    if not opened.trainer.is_global_zero:
        return
    write_grid(folder, method, identity, grid)
    print(f"results: {folder.robustness}, {folder.robustness_table.name}, {folder.robustness_curves.name}")
    # The last combination is the largest: all modalities, or all that the method decides with.
    values = {f"robustness/auc_{name}": list(areas.values())[-1] for name, areas in grid["auc"].items()}
    add_to_wandb(
        folder,
        identity["method"],
        identity["dataset"],
        config,
        values | {"robustness/average": grid["average"], "robustness/worst": grid["worst"]["value"]},
        {"robustness/curves": folder.robustness_curves},
        {"robustness/cells": folder.robustness_table},
    )


def _possible(opened: FinishedRun, names: list[Name]) -> list[Corruption]:
    """The corruptions that the run's data set can have."""
    possible, impossible = possible_corruptions(names, opened.data.dataset.modalities)
    if not possible:
        raise next(iter(impossible.values()))
    if impossible:
        print_rank_zero(f"left out, as {opened.method.spec.dataset} has no modality for it: {', '.join(impossible)}")
    return possible


def _print(grid: dict[str, Any]) -> None:
    metric = grid["metric"]
    for name, by_subset in grid["auc"].items():
        shown = "  ".join(f"{subset} {value:.4f}" for subset, value in by_subset.items())
        average = grid["average_over_subsets"][name]
        print_rank_zero(f"{name}: {metric}, area under the curve: {shown}  average {average:.4f}")
    worst = grid["worst"]
    where = (
        f"{worst['subset']}, {worst['corruption']}, severity {worst['severity']:g}, noise seed {worst['noise_seed']}"
    )
    print_rank_zero(f"average {grid['average']:.4f}  worst {worst['value']:.4f} ({where})")


def _names(given: str | None) -> list[Name]:
    known = get_args(Name)
    names = list(known) if given is None else given.strip("[]").split(",")
    for name in names:
        if name not in known:
            raise UserError(f"--corruptions {name}{did_you_mean(name, known)}: choose some of {', '.join(known)}.")
        if names.count(name) > 1:
            raise UserError(f"--corruptions names {name} twice; name every corruption once.")
    return cast(list[Name], names)


def _severities(given: str) -> list[float]:
    try:
        severities = sorted(float(word) for word in given.strip("[]").split(","))
    except ValueError:
        raise UserError(f"--severities is {given!r}: write numbers, --severities {SEVERITIES}.") from None
    for severity in severities:
        if severities.count(severity) > 1:
            raise UserError(f"--severities names {severity:g} twice; name every severity once.")
    return severities


def _noise_seeds(given: str) -> int:
    try:
        return int(given)
    except ValueError:
        raise UserError(f"--noise_seeds is {given!r}: write a whole number, --noise_seeds 5.") from None
