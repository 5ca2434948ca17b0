"""What a command takes beside the config, and the help of the commands that work on finished runs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import get_args

from mmlab.data.corruption import Name
from mmlab.errors import UserError

RUN = ("DIR", "the run, whose config and selected checkpoint are used; needed")
RUNS = ("DIR [DIR ...]", "the runs, whose configs and selected checkpoints are used; needed")
CORRUPTIONS = ", ".join(get_args(Name))

FLAGS: dict[str, dict[str, tuple[str, str]]] = {
    "fit": {"resume": ("DIR", "goes on with a run that was stopped, by its own config")},
    "validate": {"run": RUN},
    "test": {
        "run": RUN,
        "corruption": ("NAME", f"tests under corruption, all from one pass: {CORRUPTIONS}"),
        "severity": ("0,5,10", "of the corruption; 0,5,10 unless given"),
        "noise_seeds": ("N", "tests each severity with N different draws; 1 unless given"),
        "input_radius": (
            "true|false",
            "estimates the robustness radius in the space of the inputs; false unless given",
        ),
        "combinations": (
            "true|false",
            "tests every combination of modalities, whatever the method; false unless given",
        ),
    },
    "predict": {
        "run": RUN,
        "split": ("NAME", "train, val or test; test unless given"),
        "out": ("FILE", "the CSV file, or the folder of the pictures; in the run's folder unless given"),
        "pictures": (
            "N",
            "where every pixel has a class, draws N samples in place of the table: inputs, truth, and the decision "
            "with each combination of modalities",
        ),
    },
    "robustness": {
        "run": RUNS,
        "corruptions": ("NAME,NAME", f"some of {CORRUPTIONS}; all that the data set can have unless given"),
        "severities": ("0,5,10", "0,2.5,5,7.5,10 unless given"),
        "noise_seeds": ("N", "tests each severity with N different draws; 1 unless given"),
        "again": ("true|false", "tests anew where a run has these cells already; false unless given"),
    },
    "diagnose": {
        "run": RUNS,
        "split": ("NAME", "train, val or test; test unless given"),
        "again": ("true|false", "does anew what is there already; false unless given"),
        "features": ("true|false", "draws a t-SNE map of the features too; false unless given"),
    },
}

DESCRIPTIONS = {
    "fit": "Trains a method on a data set, selects the checkpoint on validation, tests it, writes result.json. "
    "--resume DIR goes on with a run that was stopped, by its own config.",
    "validate": "Metrics of the selected checkpoint on its validation split.",
    "test": "Metrics of the selected checkpoint on its test split.",
    "predict": "Writes a table of the selected checkpoint's predictions.",
    "robustness": "Tests every combination of modalities under every corruption and severity, from one pass over the "
    "test split, and writes robustness.json, robustness.csv and robustness.png into the run's folder.",
    "diagnose": "Says what each modality does in finished runs: accuracy of its own head and of a linear probe on its "
    "frozen features, Shapley value, share of logits, margins, calibration, confusions; writes diagnosis.json and "
    "pictures into each run's folder.",
}


def take_own(command: str, words: list[str], several: str = "") -> tuple[dict[str, list[str]], list[str]]:
    """Takes a command's own flags out of a command line.

    Args:
        command: its name.
        words: what follows it.
        several: the flag that takes more than one value.

    Returns:
        The values of each own flag that is given, and the other words in order.

    Raises:
        UserError: if a flag lacks its value, or has several and takes one.
    """
    values: dict[str, list[str]] = {}
    rest: list[str] = []
    current = rest
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            own = name[2:] in FLAGS[command]
            current = values.setdefault(name[2:], []) if own else rest
            current += [value] if own and equals else [] if own else [word]
        else:
            current.append(word)
    for name, given in values.items():
        if not given:
            raise UserError(f"--{name} needs a value.")
        if name != several and len(given) > 1:
            raise UserError(f"--{name} takes one value, but there are {len(given)}: {' '.join(given)}.")
    return values, rest


def switch(own: Mapping[str, str], name: str) -> bool:
    """Whether an own flag, off by default, is true.

    Raises:
        UserError: if it is neither true nor false.
    """
    value = own.get(name, "false").lower()
    if value not in ("true", "false"):
        raise UserError(f"--{name} is {value!r}; write true or false.")
    return value == "true"


def help_is_wanted(words: list[str]) -> bool:
    """Whether a command line asks for the command's help."""
    return bool({"--help", "-h"} & set(words))


def print_help(command: str) -> None:
    """The help of a command that works on finished runs.

    It takes every option of ``mmlab fit`` too, hundreds of lines, in which its own would be lost.
    """
    parser = argparse.ArgumentParser(
        prog=f"mmlab {command}",
        usage=f"mmlab {command} --run {FLAGS[command]['run'][0]} [options]",
        description=DESCRIPTIONS[command],
        epilog="Any option of `mmlab fit` changes the run's config for this command alone: --data.eval_batch_size 256, "
        "--trainer.accelerator cpu, --wandb.mode off; `mmlab fit --help` lists them.",
    )
    for name, (values, meaning) in FLAGS[command].items():
        parser.add_argument(f"--{name}", metavar=values, help=meaning)
    parser.print_help()
