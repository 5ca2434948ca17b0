"""``mmlab fit``, ``validate``, ``test`` and ``predict``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException

from mmlab.cli.build import FinishedRun, dump, instantiate, open_run, print_rank_zero, quiet, trainer_maker
from mmlab.cli.own_flags import help_is_wanted, print_help, switch, take_own
from mmlab.cli.parser import build_parser, parse
from mmlab.data.corruption import Corruption, Name
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.errors import UserError, did_you_mean
from mmlab.methods.base import Method
from mmlab.runs.corrupted import evaluate_corrupted, make_cells, write_corrupted
from mmlab.runs.fit import Plan, evaluate, fit, partial
from mmlab.runs.folder import RunFolder, read_json, write_json, write_text
from mmlab.runs.pictures import write_pictures
from mmlab.runs.predictions import write_predictions
from mmlab.runs.tracking import Record, add_result

# The processes that DDP starts run this same command: the first one tells them the folder that it chose.
RUN_DIR_VARIABLE = "MMLAB_RUN_DIR"
# Metrics that are printed on a line of their own.
MARGINS = ("margin", "radius", "ucom", "tau")


def run(command: str, words: list[str]) -> None:
    """Runs one of the four commands.

    Args:
        command: its name.
        words: what follows it on the command line.

    Raises:
        UserError: for everything that a person can mend.
    """
    if command != "fit" and help_is_wanted(words):
        print_help(command)
        raise SystemExit(0)
    quiet()
    words, existing, own = _expand(command, words)
    parser = build_parser(command)
    config = parse(parser, words)
    _check_numbers(config)
    if command == "fit":
        _fit(parser, config, existing)
    else:
        _evaluate(command, parser, config, existing, own)


def _check_numbers(config: Namespace) -> None:
    for name, least, most in (("seed", 0, 2**32 - 1), ("patience", 0, None), ("checkpoint_every", 0, None)):
        value = config[name]
        if value < least or (most is not None and value > most):
            bounds = f"{least} or more" if most is None else f"from {least} to {most}"
            raise UserError(f"--{name} is {value}; it must be {bounds}.")
    if config.trainer.max_epochs == 0:
        raise UserError("--trainer.max_epochs is 0; it must be 1 or more.")


def _expand(command: str, words: list[str]) -> tuple[list[str], RunFolder | None, dict[str, str]]:
    """Turns ``--resume DIR`` and ``--run DIR`` into the config that they stand for; takes out predict's own flags."""
    values, rest = take_own(command, words)
    own = {name: given[0] for name, given in values.items()}
    for name in ("severity", "noise_seeds"):
        if name in own and "corruption" not in own:
            raise UserError(f"--{name} needs --corruption: {', '.join(get_args(Name))}.")
    for name in ("input_radius", "combinations"):
        switch(own, name)  # a wrong word ends the command before data are read
    run_dir = own.pop("resume", None) or own.pop("run", None)
    if run_dir is None:
        if command != "fit":
            raise UserError(f"`mmlab {command}` needs the run to work on: mmlab {command} --run runs/...")
        return rest, None, own
    folder = RunFolder.existing(run_dir)
    return ["--config", str(folder.config), *rest], folder, own


def _fit(parser: ArgumentParser, config: Namespace, existing: RunFolder | None) -> None:
    if existing is not None and existing.result.is_file():
        if yaml.safe_load(dump(parser, config)) != yaml.safe_load(existing.config.read_text(encoding="utf-8")):
            raise UserError(
                f"{existing.path} is finished, and the flags here would change it: begin a run of its own with "
                f"--config {existing.config} and these flags."
            )
        print_rank_zero(f"{existing.path} is finished: nothing is trained, its result.json stands.")
        _print_metrics(read_json(existing.result))
        return
    seed_everything(config.seed, workers=True, verbose=False)
    method, data, trainer_options = instantiate(parser, config)
    folder = existing or _new_folder(config, method, data)
    make_trainer = trainer_maker(trainer_options, folder)
    # Whatever is wrong with an option is said before a folder is made.
    _check_devices(make_trainer([], [], None))
    method.configure_optimizers()
    written = dump(parser, config)
    plain = yaml.safe_load(written)
    if existing is not None:
        _refuse_changes(yaml.safe_load(folder.config.read_text(encoding="utf-8")), plain)
    if _keeps(config):
        write_text(folder.config, written)
    if data.dataset.protocol == "official":
        print_rank_zero("protocol official: the checkpoint is selected on the test split, as in the papers.")
    _say_if_partial(plain)
    record = None
    if _keeps(config) and config.wandb.mode != "off":
        record = Record(config.wandb, folder, *_names(method, data), plain)
    plan = Plan(
        folder=folder,
        seed=config.seed,
        resume=existing is not None,
        test=config.test,
        patience=config.patience,
        checkpoint_every=config.checkpoint_every,
        make_trainer=make_trainer,
        loggers=lambda prefix: [record.logger(prefix)] if record else [],
        config=plain,
    )
    if _keeps(config):
        print(f"run: {folder.path}", flush=True)
    try:
        result = fit(method, data, plan)
        if record and result:
            add_result(record, result, folder.curves)
    except SystemExit as leaving:  # so Lightning leaves after Ctrl-C and after SIGTERM
        print_rank_zero(f"stopped; go on with: mmlab fit --resume {folder.path}")
        raise SystemExit(143 if isinstance(leaving, SIGTERMException) else 130) from None
    finally:
        if record:
            record.finish()
        if _rank() == 0:
            os.environ.pop(RUN_DIR_VARIABLE, None)  # the next run in this process chooses its own
    if not result:
        print_rank_zero("fast_dev_run: nothing was kept.")
        return
    _print_metrics(result)


def _evaluate(
    command: str, parser: ArgumentParser, config: Namespace, folder: RunFolder | None, own: dict[str, str]
) -> None:
    assert folder is not None
    opened = open_run(parser, config, folder)
    method, data, trainer, plain = opened.method, opened.data, opened.trainer, opened.config
    if command == "predict":
        split = own.get("split", "test")
        if split not in data.splits:
            raise UserError(f"--split {split}: there is no such split; they are {', '.join(data.splits)}.")
        data.predict_split = split
        if "pictures" in own:
            _predict_pictures(method, data, trainer, folder, own)
            return
        out = Path(own["out"]) if "out" in own else folder.predictions
        if out.is_dir():
            raise UserError(f"--out {out} is a folder; give the name of a CSV file.")
        write_predictions(trainer, method, data, out)
        print_rank_zero(f"predictions: {out}")
        return
    _say_if_partial(plain)
    if switch(own, "input_radius"):
        if not method.linear_heads:
            raise UserError(
                f"--input_radius true: {type(method).__name__} fuses no logits of the modalities, so that there is no "
                f"margin to take a radius of; leave it out."
            )
        if any(modality.kind == "text" for modality in data.dataset.modalities):
            print_rank_zero(
                "text has no slope, so that there is no radius_input_local; the other modalities' slopes are given."
            )
        method.input_radius = True
    method.by_combination |= switch(own, "combinations")
    if "corruption" in own:
        _test_corrupted(opened, own)
        return
    split = "val" if command == "validate" else "test"
    values = evaluate(trainer, method, data, split)
    rank_zero_only(write_json)(folder.path / f"{command}.json", values)
    _print_metrics({split: values})


def _predict_pictures(
    method: Method, data: MultimodalDataModule, trainer: Trainer, folder: RunFolder, own: dict[str, str]
) -> None:
    count = _number("pictures", own["pictures"], int)
    if count < 1:
        raise UserError(f"--pictures is {count}; it must be 1 or more.")
    out = Path(own["out"]) if "out" in own else folder.pictures
    if out.is_file():
        raise UserError(f"--out {out} is a file; give the name of a folder for the pictures.")
    if trainer.is_global_zero:
        written = write_pictures(method, data, trainer.strategy.root_device, count, out)
        print(f"pictures: {out} ({written})")


def _test_corrupted(opened: FinishedRun, own: dict[str, str]) -> None:
    method, data, trainer = opened.method, opened.data, opened.trainer
    name = own["corruption"]
    if name not in get_args(Name):
        known = get_args(Name)
        raise UserError(f"--corruption {name}{did_you_mean(name, known)}: choose one of {', '.join(known)}.")
    corruption = Corruption(cast(Name, name), data.dataset.modalities)
    severities = [_number("severity", word, float) for word in own.get("severity", "0,5,10").strip("[]").split(",")]
    cells = make_cells(corruption.name, severities, _number("noise_seeds", own.get("noise_seeds", "1"), int))
    rows = evaluate_corrupted(trainer, method, data, [(corruption, cells)])
    print_rank_zero(f"{name} on {', '.join(corruption.touched)}:")
    for row in rows:
        shown = {key: value for key, value in row["test"].items() if key.split("_")[0] == method.spec.task.monitor}
        _print_line(f"severity {row['severity']:g}, noise seed {row['noise_seed']}", shown)
    if trainer.is_global_zero:
        print(write_corrupted(opened.folder, opened.checkpoint, method, data, opened.config, corruption, rows))


def _number(flag: str, word: str, kind: Callable[[str], Any]) -> Any:
    try:
        return kind(word)
    except ValueError:
        example = {"severity": "0,5,10", "noise_seeds": "5", "pictures": "8"}[flag]
        what = "number" if flag == "severity" else "whole number"
        raise UserError(f"--{flag} has {word.strip()!r}, which is no {what}: write --{flag} {example}.") from None


def _say_if_partial(config: dict[str, Any]) -> None:
    limits = partial(config)
    if limits and not config["trainer"]["fast_dev_run"]:
        print_rank_zero(f"only a part of the data is used ({', '.join(limits)}): the metrics are for trying out only.")


def _check_devices(trainer: Trainer) -> None:
    if isinstance(trainer.accelerator, CPUAccelerator) and trainer.num_devices > (os.cpu_count() or 1):
        raise UserError(f"--trainer.devices {trainer.num_devices} is more than this machine's {os.cpu_count()} cores.")


def _refuse_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    """A resumed run keeps its method, data and seed; how it is run may change."""
    old, new = ({key: config[key] for key in ("seed", "model", "data")} for config in (before, now))
    for config in (old, new):
        config["data"] = {key: value for key, value in config["data"].items() if key != "workers"}
    for key in old:
        if old[key] != new[key]:
            raise UserError(
                f"a resumed run keeps its {key}, which the flags here change: leave them out, or begin a run of its "
                f"own with --config RUN/config.yaml and these flags."
            )


def _new_folder(config: Namespace, method: Method, data: MultimodalDataModule) -> RunFolder:
    path = config.run_dir or (os.environ.get(RUN_DIR_VARIABLE) if _rank() else None)
    if path is None:
        name = "_".join(_names(method, data)).lower()
        # Ranks that a cluster starts on its own have no parent to tell them: they share the job's number.
        job = os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID")
        moment = job or time.strftime("%Y%m%d-%H%M%S")
        path = f"runs/{name}/seed{config.seed}-{moment}"
    folder = RunFolder(path)
    if _rank() == 0 and folder.config.exists():
        raise UserError(f"{path} holds a run already: go on with it by --resume {path}, or choose another --run_dir.")
    os.environ[RUN_DIR_VARIABLE] = str(path)
    return folder


def _print_metrics(result: dict[str, Any]) -> None:
    for split in ("val", "test"):
        if split in result:
            margins = {key for key in result[split] if key.startswith(MARGINS)}
            shown = {key: value for key, value in result[split].items() if not key.startswith("iou_")}
            _print_line(split, {key: value for key, value in shown.items() if key not in margins})
            if margins:
                _print_line(f"{split} margins", {key: result[split][key] for key in result[split] if key in margins})


def _print_line(name: str, metrics: dict[str, float]) -> None:
    print_rank_zero(f"{name}: " + "  ".join(f"{key} {value:.4f}" for key, value in metrics.items()))


def _keeps(config: Namespace) -> bool:
    """Whether this process writes the run's files: the first of several, and not to try a single batch."""
    return not config.trainer.fast_dev_run and _rank() == 0


def _names(method: Method, data: MultimodalDataModule) -> tuple[str, str]:
    return type(method).__name__, type(data.dataset).__name__


def _rank() -> int:
    return int(getattr(rank_zero_only, "rank", 0))  # Lightning sets it from the environment
