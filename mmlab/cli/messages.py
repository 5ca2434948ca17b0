"""A parser's message of many lines, as one sentence."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
from typing import Any, get_type_hints

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback

from mmlab.cli.classes import subclasses
from mmlab.cli.own_flags import FLAGS
from mmlab.data.base import MultimodalDataset
from mmlab.errors import did_you_mean
from mmlab.methods.base import Method


def explain(message: str, parser: ArgumentParser, words: list[str]) -> str:
    """Turns a parser's message of many lines into one sentence.

    Args:
        message: as jsonargparse says it.
        parser: that said it.
        words: what was parsed, to tell a flag from a line of a config file.
    """
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    helps = [word.split("=")[0] for word in words if re.match(r"--[\w.]+\.help(=|$)", word)]
    where = "--" + ".".join(keys) if keys else "".join(helps[:1])
    source = _source(keys[-1] if keys else "", words)
    configs = ", ".join(config_files(words))
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
    leaf = re.search(r"Path is not a file: '([^']+)'", message)
    if leaf:
        return f"--config {os.path.relpath(leaf[1])} is a folder: give a YAML file in it."
    if "Expected an instantiatable class" in message:
        return f"{where} has options but no class: name it by --model MNL, or by class_path beside init_args{source}."
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
        listed = f"; there are {', '.join(sorted(known))}" if 0 < len(known) < 60 else ""
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
    configs = config_files(words)
    flagged = any(key and key.split(".")[0] in word for word in words if word.startswith("--"))
    return f" (in {', '.join(configs)})" if configs and not flagged else ""


def config_files(words: list[str]) -> list[str]:
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
    known += FLAGS.get(parser.prog.split()[-1], ())
    return f"there is no option --{key}{did_you_mean(key, known)}; `{parser.prog} --help` lists them{source}."


def _kinds(where: str) -> list[type]:
    """The classes that could stand at a key, by their bases."""
    where = where.removesuffix(".help")
    if where == "--model":
        return subclasses(Method)
    if where.endswith("dataset"):
        return subclasses(MultimodalDataset)
    base: type
    if where.endswith("optimizer"):
        base = torch.optim.Optimizer
    elif where.endswith("scheduler"):
        base = torch.optim.lr_scheduler.LRScheduler
    else:
        base = Callback
    return [kind for kind in subclasses(base) if not kind.__name__.startswith("_")]


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
