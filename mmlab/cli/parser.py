"""One parser for all commands that run a method."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import operator
import pkgutil
import re
from dataclasses import fields
from typing import Any, get_args

import jsonargparse
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer

import mmlab.data
import mmlab.methods
from mmlab.backbones.config import BackboneConfig
from mmlab.cli.checks import check_configs, check_linked_flags, check_model
from mmlab.cli.messages import explain
from mmlab.cli.own_flags import DESCRIPTIONS
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
    for action in parser._actions:
        if action.dest.startswith("trainer.") and hasattr(action, "_typehint"):
            action._typehint = _counts_stay_counts(action._typehint)
    parser.set_defaults(TRAINER_DEFAULTS)
    parser.link_arguments("seed", "data.seed")
    parser.link_arguments("data.spec", "model.init_args.spec", apply_on="instantiate")
    return parser


def parse(parser: ArgumentParser, words: list[str]) -> Namespace:
    """Parses, or says in one sentence what is wrong.

    Raises:
        UserError: for a wrong key, class, path or value.
        SystemExit: after ``--help`` and the like.
    """
    check_linked_flags(words)
    check_configs(words)
    check_model(words)
    errors, out = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(out):
            return parser.parse_args(_with_names(parser, words))
    except (jsonargparse.ArgumentError, argparse.ArgumentError, TypeError, ValueError) as error:
        raise UserError(explain(str(error), parser, words)) from None
    finally:
        print(_without_spec(out.getvalue()), end="")


_FIELDS = "|".join(field.name for field in fields(BackboneConfig) if field.name != "name")
_BACKBONE_FIELD = re.compile(rf"--model\.(?:init_args\.)?(backbone|backbones\.\w+)\.(?:{_FIELDS})(=|$)")


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
    config = parser.parse_args([word for word in rest if not word.startswith("--print_config")])
    named: list[str] = []
    waiting = set(refined)
    for word in words:
        field = _BACKBONE_FIELD.match(word)
        if field and field[1] in waiting:
            waiting.remove(field[1])
            name = config.get(f"model.init_args.{field[1]}")
            named += [f"--model.{field[1]}.name={name}"] if isinstance(name, str) else []
        named.append(word)
    return named


def _counts_stay_counts(hint: Any) -> Any:
    """Tries int before float: 1 batch is one batch, 1.0 is all of them.

    typing keeps one union for both orders, so that whichever was written first in the process would decide.
    """
    kinds = get_args(hint)
    if not {int, float} <= set(kinds):
        return hint
    return functools.reduce(operator.or_, sorted(kinds, key=lambda kind: kind is not int))


def _without_spec(text: str) -> str:
    """A method's help without the one option that can't be set."""
    text = text.replace(" --model.spec SPEC", "", 1)
    return re.sub(r"\n  --model\.spec SPEC.*?(?=\n  --|\n\n|\Z)", "", text, count=1, flags=re.DOTALL)
