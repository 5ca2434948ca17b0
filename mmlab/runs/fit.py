"""A run from its first stage to its result.json."""

from __future__ import annotations

import contextlib
import os
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mmlab.data.datamodule import MultimodalDataModule
from mmlab.errors import UserError
from mmlab.methods.base import Method, Stage
from mmlab.runs.callbacks import MovableCheckpoint, RandomState, SaveOnTermination, Stopwatch
from mmlab.runs.curves import draw_curves
from mmlab.runs.folder import RunFolder, read_json, write_json
from mmlab.runs.metrics_file import MetricsFile
from mmlab.runs.result import describe, peak_memory_mib


@dataclass
class Plan:
    """How a run goes, apart from its method and data.

    Attributes:
        folder: where everything goes.
        seed: of the run.
        resume: whether to go on from what the folder holds.
        test: whether to test the selected checkpoint at the end.
        patience: epochs without a better validation metric before a stage stops; 0 never stops.
        checkpoint_every: training steps between checkpoints within an epoch; 0 for none.
        make_trainer: a Trainer as configured, from more callbacks, loggers and a number of epochs (None: as is).
        loggers: a stage's, besides metrics.csv, from what stands before its names: nothing for the last stage.
        config: the whole config, for result.json.
    """

    folder: RunFolder
    seed: int
    resume: bool
    test: bool
    patience: int
    checkpoint_every: int
    make_trainer: Callable[[list[Callback], list[Logger], int | None], Trainer]
    loggers: Callable[[str], list[Logger]]
    config: dict[str, Any]


def fit(method: Method, data: MultimodalDataModule, plan: Plan) -> dict[str, Any]:
    """Trains every stage, selects on validation, tests, and writes result.json and curves.png.

    Returns:
        The content of result.json; empty for a ``fast_dev_run``, which keeps nothing.
    """
    stages = method.stages()
    names = [stage.name for stage in stages]
    if not names or len(set(names)) < len(names) or any(Path(name).name != name for name in names):
        raise UserError(
            f"{type(method).__name__}.stages() returned {names}: it must name one stage at least, each by a name of "
            f"its own that can be a folder's."
        )
    finished: list[dict[str, Any]] = []
    for stage in stages:
        done = _fit_stage(method, data, plan, stage, plan.folder.checkpoints(stage.name, len(stages)))
        if done is None:
            return {}
        finished.append(done)
    trainer = plan.make_trainer([], [], None)
    result = describe(method, data, plan.seed)
    result["config"] = plan.config
    result["partial"] = partial(plan.config)
    result["stages"] = finished
    result["best_epoch"] = finished[-1]["best_epoch"]
    result["epochs"] = sum(done["epochs"] for done in finished)
    result["wall_s"] = round(sum(done["wall_s"] for done in finished), 2)
    result["samples_per_s"] = finished[-1]["samples_per_s"]
    result["peak_memory_mib"] = round(peak_memory_mib(), 1)
    result["devices"] = trainer.world_size
    result["precision"] = str(trainer.precision)
    result["val"] = evaluate(trainer, method, data, "val")
    if plan.test:
        result["test"] = evaluate(trainer, method, data, "test")
    _finish(plan, result, method)
    trainer.strategy.barrier("result")
    return result


def partial(config: dict[str, Any]) -> list[str]:
    """The limits that let a run see a part of its data only; its metrics don't count beside others' then."""
    limits = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "overfit_batches")
    given = {key: config["trainer"][key] for key in limits}
    whole = {key for key, value in given.items() if value is None or (isinstance(value, float) and value in (0.0, 1.0))}
    return [f"{key} {given[key]}" for key in limits if key not in whole]


def evaluate(trainer: Trainer, method: Method, data: MultimodalDataModule, split: str) -> dict[str, float]:
    """Metrics of one whole split, fused and of each modality, by name without the split."""
    run = trainer.validate if split == "val" else trainer.test
    (values,) = run(method, datamodule=data, verbose=False)
    return {key.removeprefix(f"{split}/"): round(value, 6) for key, value in values.items()}


def load_weights(method: Method, path: Path) -> dict[str, Any]:
    """Loads a checkpoint's weights and memory into a method; nothing in the file is executed.

    Returns:
        The whole checkpoint.

    Raises:
        UserError: if the file is absent, damaged, refused by the restricted loader, or of another model.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}; `mmlab fit` writes it at the end of the first epoch.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        state, owner = dict(checkpoint["state_dict"]), checkpoint.get("mmlab_method")
    except Exception as error:  # a damaged file fails in many ways, all of which mean the same
        kind = type(error).__name__
        raise UserError(
            f"the checkpoint {path} can't be loaded ({kind}): it is damaged, or holds other things than plain "
            f"numbers, which mmlab refuses to execute; fit the run again."
        ) from None
    if owner != type(method).__name__:
        raise UserError(f"the checkpoint {path} is of {owner}, but the config says {type(method).__name__}.")
    try:
        method.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        detail = textwrap.shorten(" ".join(str(error).split()), 240, placeholder=" ...")
        raise UserError(f"the checkpoint {path} belongs to another model than the config builds: {detail}") from None
    return dict(checkpoint)


def check_data(checkpoint: dict[str, Any], data: MultimodalDataModule, path: Path) -> None:
    """Refuses a data set whose classes or training samples are not those that a checkpoint was made with.

    Raises:
        UserError: if they differ; a data set that was prepared anew from other files, say.
    """
    then, now = checkpoint.get("mmlab_data"), data.trained_on
    if then is None or then == now:
        return
    what = "classes" if then["classes"] != now["classes"] else "training samples"
    raise UserError(
        f"the checkpoint {path} was made with other {what} than {type(data.dataset).__name__} has now: prepare the "
        f"data that it was made with, or fit anew."
    )


def selected_checkpoint(folder: RunFolder, method: Method) -> Path:
    """The checkpoint that a run's last stage selected on validation."""
    stages = method.stages()
    return folder.checkpoints(stages[-1].name, len(stages)) / f"{stages[-1].keep}.ckpt"


def _fit_stage(
    method: Method, data: MultimodalDataModule, plan: Plan, stage: Stage, checkpoints: Path
) -> dict[str, Any] | None:
    record, last = checkpoints / "finished.json", checkpoints / "last.ckpt"
    method.begin(stage)
    if plan.resume and record.is_file():
        kept = checkpoints / f"{stage.keep}.ckpt"
        check_data(load_weights(method, kept), data, kept)
        return read_json(record)
    # A stage's randomness depends on the seed alone, not on whether the stage before it ran in this process.
    seed_everything(plan.seed, workers=True, verbose=False)
    stopwatch, best = Stopwatch(), _best(method, checkpoints)
    callbacks = [stopwatch, RandomState(), best, *_last(checkpoints, plan.checkpoint_every), SaveOnTermination(last)]
    if plan.patience:
        callbacks.append(EarlyStopping(f"val/{method.monitor}", mode=method.spec.task.mode, patience=plan.patience))
    # What every method has is called the same in all of them; earlier stages are a matter of some.
    prefix = "" if stage.name == method.stages()[-1].name else stage.name
    loggers = [MetricsFile(plan.folder.metrics, stage.name), *plan.loggers(prefix)]
    resumed = plan.resume and last.is_file()
    epochs = stage.epochs
    if resumed:
        # Says in a sentence what the Trainer would say in a traceback.
        checkpoint = load_weights(method, last)
        check_data(checkpoint, data, last)
        epochs = _epochs_if_stopped_early(checkpoint) or epochs
    trainer = plan.make_trainer(callbacks, loggers, epochs)
    torch.cuda.reset_peak_memory_stats() if torch.cuda.is_available() else None
    with _sentences():
        trainer.fit(
            method, datamodule=data, ckpt_path=last if resumed else None, weights_only=True if resumed else None
        )
    if trainer.fast_dev_run:  # type: ignore[attr-defined]  # set at run time
        return None
    trainer.strategy.barrier("stage")
    if not (checkpoints / "best.ckpt").is_file():
        raise UserError(
            f"stage {stage.name!r} ended before anything was validated, so that there is no checkpoint to select: let "
            f"it run for an epoch at least (--trainer.max_steps, max_time, limit_val_batches, check_val_every_n_epoch)."
        )
    load_weights(method, checkpoints / f"{stage.keep}.ckpt")
    score = float(best.best_model_score) if best.best_model_score is not None else None
    done = {
        "stage": stage.name,
        "epochs": trainer.current_epoch,
        "best_epoch": _epoch_of(best),
        "best_score": score,
        "kept": stage.keep,
        "wall_s": round(stopwatch.wall_s, 2),
        "samples_per_s": round(stopwatch.samples / max(stopwatch.training_s, 1e-9), 1),
    }
    rank_zero_only(write_json)(record, done)
    return done


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """What Lightning or an optimiser refuses is a mistake in the config, and not one in the code that calls them."""
    try:
        yield
    except (MisconfigurationException, RuntimeError, ValueError) as error:
        place = traceback.extract_tb(error.__traceback__)[-1].filename.replace(os.sep, "/")
        if isinstance(error, MisconfigurationException) or "/lightning/" in place or "/torch/optim/" in place:
            raise UserError(f"the fit can't go on: {' '.join(str(error).split())}") from error
        raise


def _best(method: Method, checkpoints: Path) -> MovableCheckpoint:
    return MovableCheckpoint(
        checkpoints,
        filename="best",
        monitor=f"val/{method.monitor}",
        mode=method.spec.task.mode,
        enable_version_counter=False,
        save_on_train_epoch_end=False,
    )


def _last(checkpoints: Path, every: int) -> list[MovableCheckpoint]:
    at_epochs = MovableCheckpoint(
        checkpoints, filename="last", enable_version_counter=False, every_n_epochs=1, save_on_train_epoch_end=True
    )
    within = MovableCheckpoint(checkpoints, filename="last", enable_version_counter=False, every_n_train_steps=every)
    return [at_epochs, within] if every else [at_epochs]


def _epochs_if_stopped_early(checkpoint: dict[str, Any]) -> int | None:
    """How many epochs a stage had when its patience ended; None if it didn't."""
    stopped = any(state.get("stopped_epoch") for state in checkpoint["callbacks"].values())
    return int(checkpoint["epoch"]) + 1 if stopped else None


def _epoch_of(best: MovableCheckpoint) -> int | None:
    """The epoch, counted from 1, that the best checkpoint was taken after."""
    if not best.best_model_path:
        return None
    return int(torch.load(best.best_model_path, map_location="cpu", weights_only=True)["epoch"]) + 1


@rank_zero_only
def _finish(plan: Plan, result: dict[str, Any], method: Method) -> None:
    result["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    title = f"{result['method']} on {result['dataset']}, seed {plan.seed}"
    draw_curves(plan.folder.metrics, plan.folder.curves, method.monitor, title)
    write_json(plan.folder.result, result)
