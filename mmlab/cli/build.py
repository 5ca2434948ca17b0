"""From a config to what runs: the method, its data, its Trainer; a finished run opened again."""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mmlab.data.datamodule import MultimodalDataModule
from mmlab.errors import UserError
from mmlab.methods.base import Method
from mmlab.runs.callbacks import WholeFiles
from mmlab.runs.fit import check_data, load_weights, selected_checkpoint
from mmlab.runs.folder import RunFolder

OTHER_WEIGHTS = ("64-true", "16-true", "bf16-true")


@dataclass(frozen=True)
class FinishedRun:
    """A run with the weights that it selected.

    Attributes:
        folder: of the run.
        method: in its last stage, with the selected weights.
        data: of the run.
        trainer: to evaluate with.
        checkpoint: that the weights are from.
        config: the whole config, as plain data.
    """

    folder: RunFolder
    method: Method
    data: MultimodalDataModule
    trainer: Trainer
    checkpoint: Path
    config: dict[str, Any]


def open_run(parser: ArgumentParser, config: Namespace, folder: RunFolder) -> FinishedRun:
    """Opens a run.

    Args:
        parser: that parsed the config.
        config: of the run, with the flags of now.
        folder: of the run.

    Raises:
        UserError: if it has no checkpoint, or the data are not those that it was trained on.
    """
    seed_everything(config.seed, workers=True, verbose=False)
    method, data, trainer_options = instantiate(parser, config)
    method.begin(method.stages()[-1])
    checkpoint = selected_checkpoint(folder, method)
    check_data(load_weights(method, checkpoint), data, checkpoint)
    trainer = trainer_maker(trainer_options, folder)([], [], None)
    return FinishedRun(folder, method, data, trainer, checkpoint, yaml.safe_load(dump(parser, config)))


def quiet() -> None:
    """Silences what a person can do nothing about."""
    # Lightning's info log advertises other products at every start; its warnings stay.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # "does not have many workers": copying bytes is cheap here, so that 0 workers are often right.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # torch 2.11 renamed its pytree module; lightning 2.6 uses the old name.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # mmlab's evaluation order returns every sample.
    warnings.filterwarnings("ignore", message=".*You are using a custom batch sampler `EvaluationOrder`.*")
    # The experiment files' workers are meant for larger machines; copying bytes, too many of them do no harm.
    warnings.filterwarnings("ignore", message=".*This DataLoader will create .* worker processes.*")
    # What a stage doesn't train is in evaluation mode on purpose.
    warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode at the start of training.*")
    # A shortened epoch logs at its end all the same.
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    # torchmetrics has summed over all processes before anything is logged.
    warnings.filterwarnings("ignore", message=".*It is recommended to use `self.log.*sync_dist=True.*")
    # The folder exists before the checkpoints: config.yaml is in it.
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")


def instantiate(parser: ArgumentParser, config: Namespace) -> tuple[Method, MultimodalDataModule, dict[str, Any]]:
    """The method, its data and the Trainer's options that a config names.

    Raises:
        UserError: if one of them refuses its options.
    """
    try:
        built = parser.instantiate(config)
    except ValueError as error:  # how jsonargparse reports that something of a union of types can't be built
        reasons = [line[4:] for line in str(error).splitlines() if line.startswith("  - ")]
        given = re.search(r"Given value: .*?class_path='([\w.]+)'", str(error))
        if not reasons or not given:
            raise
        raise UserError(f"{given[1]} can't be built: {reasons[0]}") from error
    if config.compile:
        for part in built.model.compilable():
            part.compile()
    return built.model, built.data, dict(vars(built.trainer))


def trainer_maker(configured: dict[str, Any], folder: RunFolder) -> Callable[..., Trainer]:
    """What makes a run's Trainers, one for each stage, from callbacks, loggers and a number of epochs.

    Args:
        configured: the config's options of the Trainer.
        folder: of the run.
    """
    own = _as_list(configured["callbacks"])
    own_loggers = _as_list(configured["logger"])

    def make(callbacks: list[Callback], loggers: list[Logger], epochs: int | None) -> Trainer:
        options = dict(configured)
        options |= {
            # Copies: each stage is a fit of its own, with counters of its own.
            "callbacks": [*copy.deepcopy(own if callbacks else _without_selection(own)), *callbacks],
            "plugins": [*_as_list(configured["plugins"]), WholeFiles()],
            "logger": [*loggers, *own_loggers] if loggers else False,
            "default_root_dir": str(folder.path),
            "enable_checkpointing": bool(callbacks),
            "use_distributed_sampler": False,  # the loaders' orders are made for the processes already
        }
        if epochs is not None:
            options["max_epochs"] = epochs
        try:
            trainer = Trainer(**options)
        except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"the Trainer refuses its options: {' '.join(str(error).split())}") from None
        if trainer.precision in OTHER_WEIGHTS:
            raise UserError(
                f"--trainer.precision {trainer.precision} makes weights of another kind than mmlab's inputs, which are "
                f"float32: choose 32-true, bf16-mixed or 16-mixed."
            )
        return trainer

    return make


def _without_selection(callbacks: list[Callback]) -> list[Callback]:
    """What an evaluation leaves out: there is nothing to select or to stop."""
    return [callback for callback in callbacks if not isinstance(callback, (Checkpoint, EarlyStopping))]


def _as_list(given: Any) -> list[Any]:
    if isinstance(given, bool) or given is None:
        return []
    return given if isinstance(given, list) else [given]


def dump(parser: ArgumentParser, config: Namespace) -> str:
    """The whole config, without what belongs to this one run."""
    kept = config.clone()
    for key in ("config", "run_dir"):
        kept.pop(key, None)
    return parser.dump(kept, skip_unset=False)


@rank_zero_only
def print_rank_zero(line: str) -> None:
    """Prints once, however many processes there are."""
    print(line, flush=True)
