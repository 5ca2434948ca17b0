"""One parser for all commands that run a method, and its errors as sentences."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import inspect
import io
import os
import pkgutil
import re
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

import jsonargparse
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Callback, Trainer

import mmlab.data
import mmlab.methods
from mmlab.data.base import MultimodalDataset
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.errors import UserError, did_you_mean
from mmlab.methods.base import Method


@dataclass
class WandbOptions:
    """Weights & Biases.

    Attributes:
        mode: ``auto`` is online where you are logged in and offline into the run's folder elsewhere.
        project: in which runs are gathered.
    """

    mode: Literal["auto", "online", "offline", "off"] = "auto"
    project: str = "mmlab"


OWN_FLAGS = {"fit": ("resume",), "validate": ("run",), "test": ("run",), "predict": ("run", "split", "out")}
"""What a command takes beside the config."""

TRAINER_DEFAULTS = {
    "trainer.max_epochs": 20,
    "trainer.devices": 1,
    # Validation problems show at the end of the first epoch; a sanity check would only start it later.
    "trainer.num_sanity_val_steps": 0,
    "trainer.enable_model_summary": False,
}
# What a run's folder, its loaders and its checkpoints settle already; a value of one's own would be lost silently.
SETTLED = {
    "default_root_dir",
    "enable_checkpointing",
    "use_distributed_sampler",
    "barebones",
    "enable_autolog_hparams",
    "model_registry",
}


def import_classes() -> None:
    """Imports every method and data set of the package, so that their bare names are known."""
    for package in (mmlab.methods, mmlab.data):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")


def build_parser(command: str) -> ArgumentParser:
    """The parser of ``fit``, ``validate``, ``test`` or ``predict``; they share one config."""
    import_classes()
    parser = ArgumentParser(
        prog=f"mmlab {command}", description=DESCRIPTIONS[command], exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--config", action="config", help="a YAML file; several are merged, the later wins")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order, augmentation and dropout")
    parser.add_argument("--run_dir", type=str | None, default=None, help="the run's folder; a new one under runs/")
    parser.add_argument("--test", type=bool, default=True, help="test the selected checkpoint at the end of fit")
    parser.add_argument("--patience", type=int, default=0, help="epochs without a better validation metric; 0: off")
    parser.add_argument("--checkpoint_every", type=int, default=0, help="steps between checkpoints within an epoch")
    parser.add_argument("--compile", type=bool, default=False, help="torch.compile each encoder")
    parser.add_argument("--wandb", type=WandbOptions, default=WandbOptions())
    parser.add_argument("--model", type=Method, required=True, help="the method, by class name or import path")
    parser.add_class_arguments(MultimodalDataModule, "data")
    parser.add_class_arguments(Trainer, "trainer", instantiate=False, skip=set(SETTLED))
    parser.set_defaults(TRAINER_DEFAULTS)
    parser.link_arguments("seed", "data.seed")
    parser.link_arguments("data.spec", "model.init_args.spec", apply_on="instantiate")
    return parser


DESCRIPTIONS = {
    "fit": "Trains a method on a data set, selects the checkpoint on validation, tests it, writes result.json.",
    "validate": "Metrics of the selected checkpoint of a run (--run DIR) on its validation split.",
    "test": "Metrics of the selected checkpoint of a run (--run DIR) on its test split.",
    "predict": "Writes a table of the selected checkpoint's predictions of a run (--run DIR).",
}


def parse(parser: ArgumentParser, words: list[str]) -> Namespace:
    """Parses, or says in one sentence what is wrong.

    Raises:
        UserError: for a wrong key, class, path or value.
        SystemExit: after ``--help`` and the like.
    """
    _refuse_linked(words)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return parser.parse_args(_with_names(parser, words))
    except (jsonargparse.ArgumentError, argparse.ArgumentError, TypeError, ValueError) as error:
        raise UserError(explain(str(error), parser, words)) from None


_BACKBONE_FIELD = re.compile(r"--model\.(?:init_args\.)?(backbone|backbones\.\w+)\.(?:pretrained|width)(=|$)")


def _with_names(parser: ArgumentParser, words: list[str]) -> list[str]:
    """Lets ``--model.backbone.pretrained true`` refine a backbone that a flag or a file gave by its name alone.

    jsonargparse would drop the name there, without a word: it takes one form or the other.
    """
    rest, refined, position = [], [], 0
    while position < len(words):
        field = _BACKBONE_FIELD.match(words[position])
        if field:
            refined.append(field[1])
            position += 1 if field[2] else 2
        else:
            rest.append(words[position])
            position += 1
    if not refined:
        return words
    config = parser.parse_args(rest)
    named = [(key, config.get(f"model.init_args.{key}")) for key in dict.fromkeys(refined)]
    first = next(number for number, word in enumerate(words) if _BACKBONE_FIELD.match(word))
    names = [f"--model.{key}.name={name}" for key, name in named if isinstance(name, str)]
    return [*words[:first], *names, *words[first:]]


def explain(message: str, parser: ArgumentParser, words: list[str]) -> str:
    """Turns a parser's message of many lines into one sentence.

    Args:
        message: as jsonargparse says it.
        parser: that said it.
        words: what was parsed, to tell a flag from a line of a config file.
    """
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    where = "--" + ".".join(keys) if keys else ""
    source = _source(keys[-1] if keys else "", words)
    configs = ", ".join(_configs(words))
    classes = re.findall(r"Problem with given class_path '([\w.]+)'", message)
    leaf = re.search(r"Problems parsing config: (.*)", message, re.DOTALL)
    if leaf:
        return f"{configs or 'the config file'} is not valid YAML: {' '.join(leaf[1].split())}."
    if "Unexpected config:" in message:
        return f"{configs or 'the config file'} holds no options: it must have lines such as `seed: 0`."
    leaf = re.search(r"argument (--[\w.]+): expected one argument", message)
    if leaf:
        return f"{leaf[1]} needs a value."
    leaf = re.search(r"File does not exist: '([^']+)'", message)
    if leaf:
        return _no_file(leaf[1])
    leaf = re.search(r"arguments are required: (.*)", message)
    if leaf:
        return _required(".".join([*keys, leaf[1].split()[0].rstrip(",")]), parser)
    leaf = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", message)
    if leaf:
        return _unrecognized(f"{leaf[1]}.{leaf[2]}", classes, parser, source)
    leaf = re.search(r"Option '([\w.]+)' is not accepted", message)
    if leaf:
        # The class that said so: the one named next to it, or else the innermost.
        owner = re.findall(r"class_path '([\w.]+)':\s+Option '", message)[:1]
        owner = owner or re.findall(r"Got value: Namespace\(class_path='([\w.]+)'", message) or classes
        if not owner:
            return _unrecognized(leaf[1], [], parser, source)
        known, name = _options(owner[-1]), owner[-1].rpartition(".")[2]
        return f"{name} has no option {leaf[1]!r}{did_you_mean(leaf[1], known)}; it has {', '.join(known)}{source}."
    leaf = re.search(r"[Uu]nrecognized arguments: ([\w.+-]+)", message)
    if leaf and not leaf[1].startswith("-") and not classes:
        return f"there is nothing that {leaf[1]!r} could belong to: a value follows its --option."
    if leaf:
        return _unrecognized(leaf[1].removeprefix("--").split("=")[0], classes, parser, "")
    leaf = re.search(r"Not a valid subclass of \w+\. Got value: (.*)", message)
    if leaf:
        listed = ", ".join(sorted(kind.__name__ for kind in _kinds(where)))
        return f"{where} is {leaf[1]}, but it must be the name of a class: {listed}{source}."
    leaf = re.search(r"(?:Expected a dot import path string: |has no attribute ')([\w.]+)", message)
    if leaf:
        given, known = leaf[1], [kind.__name__ for kind in _kinds(where)]
        listed = f"; there are {', '.join(sorted(known))}" if 0 < len(known) < 20 else ""
        return f"{where}: there is no class {given!r}{did_you_mean(given, known)}{listed}{source}."
    leaf = re.search(r"No module named '([\w.]+)'", message)
    if leaf:
        return f"{where}: there is no module {leaf[1]!r} here or among the installed packages{source}."
    expected = re.findall(r"Expected a (?:<class '([\w.]+)'>|typing\.Literal\[(.*?)\]|([\w.\[\], |]+))", message)
    given = re.search(r"(?:Got value|Given value): (.*)", message)
    if expected and given:
        kinds = [f"one of {choices}" if choices else kind or other for kind, choices, other in expected]
        wanted = " or ".join(dict.fromkeys(kind for kind in kinds if kind != "NoneType"))
        return f"{where} is {given[1]!r}, but it must be {wanted}{source}."
    return " ".join(message.split())


def _source(key: str, words: list[str]) -> str:
    """Where to mend it: nothing for a flag, the config files for what no flag says."""
    configs = _configs(words)
    flagged = any(key and key.split(".")[0] in word for word in words if word.startswith("--"))
    return f" (in {', '.join(configs)})" if configs and not flagged else ""


def _configs(words: list[str]) -> list[str]:
    """The config files that are named."""
    after = [words[i + 1] for i, word in enumerate(words[:-1]) if word == "--config"]
    return after + [word.split("=", 1)[1] for word in words if word.startswith("--config=")]


def _no_file(path: str) -> str:
    folder, name = os.path.split(path)
    beside = os.listdir(folder) if os.path.isdir(folder) else []
    near = difflib.get_close_matches(name, beside, n=1, cutoff=0.5)
    hint = f" (did you mean {os.path.relpath(os.path.join(folder, near[0]))}?)" if near else ""
    return f"there is no file {os.path.relpath(path)}{hint}; `mmlab list experiments` names the ones that come along."


def _required(key: str, parser: ArgumentParser) -> str:
    example = {"model": "--model MNL", "data.dataset": "--data.dataset Keypad"}.get(key, f"--{key} ...")
    file = " or in a --config file" if any(action.dest == "config" for action in parser._actions) else ""
    return f"--{key} is missing: give it as a flag ({example}){file}."


def _unrecognized(key: str, classes: list[str], parser: ArgumentParser, source: str) -> str:
    if classes:  # within a class: --model.backbones.audoi comes as backbones.audoi
        head, _, tail = key.partition(".")
        annotation = _annotations(classes[-1]).get(head)
        fields = list(getattr(annotation, "__dataclass_fields__", {}))
        name = classes[-1].rpartition(".")[2]
        if fields and tail:
            word = tail.split(".")[0]
            hint = did_you_mean(word, fields)
            return f"{head} of {name} has no entry {word!r}{hint}; it has {', '.join(fields)}{source}."
        known = _options(classes[-1])
        return f"{name} has no option {key!r}{did_you_mean(key, known)}; it has {', '.join(known)}{source}."
    known = [action.dest for action in parser._actions if action.dest not in ("help", "config")]
    known += OWN_FLAGS.get(parser.prog.split()[-1], ())
    return f"there is no option --{key}{did_you_mean(key, known)}; `{parser.prog} --help` lists them{source}."


def _kinds(where: str) -> list[type]:
    """The classes that could stand at a key, by their bases."""
    if where == "--model":
        return _subclasses(Method)
    if where.endswith("dataset"):
        return _subclasses(MultimodalDataset)
    base: type
    if where.endswith("optimizer"):
        base = torch.optim.Optimizer
    elif where.endswith("scheduler"):
        base = torch.optim.lr_scheduler.LRScheduler
    else:
        base = Callback
    return [kind for kind in _subclasses(base) if not kind.__name__.startswith("_")]


def _subclasses(base: type) -> list[type]:
    direct: list[type] = base.__subclasses__()
    return [found for kind in direct for found in (kind, *_subclasses(kind))]


def _options(path: str) -> list[str]:
    module, _, name = path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    names = list(inspect.signature(kind).parameters)
    # mmlab hands these over: the data set's spec, the parameters, the optimiser.
    handed = issubclass(kind, (Method, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler))
    return names[1:] if handed else names


def _annotations(path: str) -> dict[str, Any]:
    module, _, name = path.rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    return get_type_hints(kind.__init__)


def _refuse_linked(words: list[str]) -> None:
    """The data set says the spec: a value of one's own would be overwritten without a word."""
    for word in words:
        if word.startswith(("--model.spec", "--model.init_args.spec", "--data.seed")):
            raise UserError(f"{word.split('=')[0]} can't be set: it follows from the data set and --seed.")
    for file in _configs(words):
        for key in (("model", "spec"), ("model", "init_args", "spec"), ("data", "seed")):
            if _holds(file, key):
                raise UserError(f"{file} sets {'.'.join(key)}: take it out, it follows from the data set and the seed.")


def _holds(file: str, key: tuple[str, ...]) -> bool:
    try:
        with open(file, encoding="utf-8") as text:
            found = yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError):
        return False  # the parser says what is wrong with it
    for part in key:
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True
