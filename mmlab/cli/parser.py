"""One parser for all commands that run a method."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import pkgutil
import re

import jsonargparse
import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer

import mmlab.data
import mmlab.methods
from mmlab.cli.messages import config_files, explain
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.errors import UserError
from mmlab.methods.base import Method
from mmlab.runs.tracking import WandbOptions

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


def _refuse_linked(words: list[str]) -> None:
    """The data set says the spec: a value of one's own would be overwritten without a word."""
    for word in words:
        if word.startswith(("--model.spec", "--model.init_args.spec", "--data.seed")):
            raise UserError(f"{word.split('=')[0]} can't be set: it follows from the data set and --seed.")
    for file in config_files(words):
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
