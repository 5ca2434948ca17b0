"""``mmlab sweep``: many runs from one command, and which setting is best. Imports no torch: the runs do."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mmlab.errors import UserError, did_you_mean
from mmlab.sweep.check import check_configs
from mmlab.sweep.plan import PLAN, Plan, begin, check_flags, make_plan, read_plan, run_folder
from mmlab.sweep.ranking import best_of_each, rank, ranking_table, write_table
from mmlab.sweep.run import find_gpus, run_all
from mmlab.sweep.settings import Values, parse_set

if TYPE_CHECKING:
    from submitit import Executor

DESCRIPTION = """\
Runs configs x settings x seeds, ranks them on validation, and can be stopped and gone on with.

  mmlab sweep --configs experiments/mnl_keypad.yaml --seeds 0,1,2 --set model.lam=0.1,1,10 --out runs/lam --jobs 2
  mmlab sweep --configs experiments/mnl_keypad.yaml --set model.optimizer.init_args.lr=log:1e-4..1e-2 --random 20 \\
    --out runs/lr
  mmlab sweep --resume runs/lam      goes on, as the same command does
  mmlab sweep --show runs/lam        the ranking of what is finished

Any other option is one of `mmlab fit`, for every run: --trainer.max_epochs 5, --wandb.mode off. Methods and data sets
can be searched too, --set model=MNL,LateFusion; so can whatever else a config has.
"""


def sweep(words: list[str]) -> int:
    """Runs a sweep, goes on with one, shows its ranking, or writes it down for W&B.

    Returns:
        The exit code: 0, 1 if a run failed, or 128 and the number of the signal that stopped the sweep.

    Raises:
        UserError: for a wrong option, another sweep's folder, or a damaged one.
    """
    options, flags = _options(words)
    if options.show is not None:
        _show(options.show, read_plan(options.show))
        return 0
    if options.resume is not None:
        folder, plan = options.resume, read_plan(options.resume)
    else:
        files = _files(options.configs)
        seeds = _seeds(options.seeds)
        space = _space(options.set, options.random)
        plan = make_plan(list(files), seeds, space, options.random, flags, options.test)
        if options.wandb_sweep is not None:
            _write_wandb(options, files, seeds, space, flags, plan.test)
            return 0
        folder = options.out
    if options.slurm is not None:
        from mmlab.sweep.slurm import slurm_executor

        executor = slurm_executor(folder, options.slurm)
    if options.out is not None:
        if not (folder / PLAN).is_file():
            check_configs(plan, files)
        begin(folder, plan, files)
    if options.slurm is not None:
        _submit(executor, folder, plan)
        return 0
    return _run(folder, plan, options.jobs)


def _options(words: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        prog="mmlab sweep",
        exit_on_error=False,
        allow_abbrev=False,
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--configs", nargs="+", default=[], metavar="FILE", help="config files, with commas or spaces")
    parser.add_argument("--seeds", metavar="0,1,2", help="each setting runs with each of them; 0 unless given")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUES",
        help="a config key and its values, with commas; or with --random a range, 0.1..1.0 or log:1e-4..1e-2, of whole "
        "numbers if its ends are; may be repeated",
    )
    parser.add_argument(
        "--random", type=int, metavar="N", help="draw N settings for each config; else all combinations"
    )
    parser.add_argument(
        "--test",
        nargs="?",
        const="true",
        choices=["true", "false"],
        help="test each run at its end; off where settings are searched, unless given. The ranking is by validation",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the sweep's folder")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="goes on with a sweep")
    parser.add_argument("--show", type=Path, metavar="DIR", help="ranks what is finished of a sweep, and runs nothing")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time; one for each GPU unless given, else one")
    parser.add_argument(
        "--slurm",
        metavar="OPTIONS",
        help="submits each run as a job, queued again when its time is over: time=240,partition=gpu,gpus_per_node=1 "
        "(minutes; the options are submitit's)",
    )
    parser.add_argument(
        "--wandb_sweep", type=Path, metavar="FILE", help="writes a file for `wandb sweep`; runs nothing"
    )
    parser.add_argument("--metric", metavar="NAME", help="for --wandb_sweep: what selects, acc unless given")
    try:
        options, flags = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise UserError(f"mmlab sweep: {error}; see mmlab sweep --help.") from None
    _check(options, flags)
    options.test = None if options.test is None else options.test == "true"
    return options, flags


def _check(options: argparse.Namespace, flags: list[str]) -> None:
    ways = [name for name in ("out", "resume", "show", "wandb_sweep") if getattr(options, name) is not None]
    if len(ways) != 1:
        given = f"--{' and --'.join(ways)} don't go together" if ways else "mmlab sweep needs a folder"
        raise UserError(f"{given}: give one of --out DIR, --resume DIR, --show DIR and --wandb_sweep FILE.")
    check_flags(flags)
    if ways[0] in ("resume", "show"):
        planned = [f"--{name}" for name in ("configs", "seeds", "set", "random", "test") if getattr(options, name)]
        if planned or flags:
            raise UserError(f"--{ways[0]} takes its runs from the sweep's folder: leave out {(planned + flags)[0]}.")
    if ways[0] in ("show", "wandb_sweep"):
        _refuse_given(options, f"with --{ways[0]} nothing is run", "jobs", "slurm")
    if ways[0] != "wandb_sweep":
        _refuse_given(options, "a ranking is by the metric that selected the checkpoints", "metric")
    if options.slurm is not None:
        _refuse_given(options, "SLURM says how many jobs run at a time (--slurm ...,array_parallelism=4)", "jobs")
    for name in ("random", "jobs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}; it must be 1 or more.")
    if ways[0] in ("out", "wandb_sweep") and not options.configs:
        words = [*flags, *(f"--{word}" for word in options.set)]
        for key, example in (("model", "MNL"), ("data.dataset", "Keypad")):
            if not any(word.split("=")[0] == f"--{key}" for word in words):
                raise UserError(f"a sweep needs --configs, experiments/mnl_keypad.yaml say, or else --{key} {example}.")


def _refuse_given(options: argparse.Namespace, why: str, *names: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise UserError(f"{why}: leave out --{name}.")


def _files(words: list[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for word in filter(None, ",".join(words).split(",")):
        file = Path(word)
        if not file.is_file():
            near = sorted(map(str, file.parent.glob("*.yaml")))
            raise UserError(
                f"--configs: there is no file {word}{did_you_mean(word, near)}; see mmlab list experiments."
            )
        if file.stem in files:
            raise UserError(f"--configs: {files[file.stem]} and {file} have one name; a run's folder is named by it.")
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"--configs: {file} is not a text file; give a YAML file.") from None
        files[file.stem] = file
    return files


def _seeds(words: str | None) -> list[int]:
    seeds = (words or "0").split(",")
    if not all(seed.isdecimal() for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds is {words}; write different whole numbers with commas between them, --seeds 0,1,2.")
    return [int(seed) for seed in seeds]


def _space(words: list[str], random_settings: int | None) -> dict[str, Values]:
    space: dict[str, Values] = {}
    for word in words:
        key, values = parse_set(word)
        if key in space:
            raise UserError(f"--set {key} is given twice; write all its values into one.")
        space[key] = values
    if random_settings is not None and not space:
        raise UserError("--random draws from what --set names: --set model.optimizer.init_args.lr=log:1e-4..1e-2.")
    return space


def _write_wandb(
    options: argparse.Namespace,
    files: dict[str, Path],
    seeds: list[int],
    space: dict[str, Values],
    flags: list[str],
    test: bool,
) -> None:
    from mmlab.sweep.wandb_file import write_wandb_sweep

    if len(files) > 1:
        raise UserError("--wandb_sweep: a sweep of W&B has one command; write a file for each config.")
    config = next(iter(files.values()), None)
    metric = options.metric or "acc"
    write_wandb_sweep(options.wandb_sweep, config, seeds, space, options.random, flags, test, metric)
    print(f"{options.wandb_sweep}: go on with wandb sweep --project mmlab {options.wandb_sweep}")


def _submit(executor: Executor, folder: Path, plan: Plan) -> None:
    from mmlab.sweep.slurm import submit

    jobs = submit(executor, folder, plan)
    if jobs:
        print(f"{len(jobs)} jobs submitted: {jobs[0]}" + (f" to {jobs[-1]}" if len(jobs) > 1 else ""))
    else:
        print("every run is finished: nothing is submitted")
    print(f"the ranking of what is finished: mmlab sweep --show {folder}")


def _run(folder: Path, plan: Plan, jobs: int | None) -> int:
    gpus = find_gpus()
    jobs = jobs or max(len(gpus), 1)
    done = sum(run_folder(folder, run).result.is_file() for run in plan.runs)
    where = f"{len(gpus)} GPUs" if gpus else "CPU"
    test = "each is tested" if plan.test else "none is tested"
    print(f"sweep: {folder}, {len(plan.runs)} runs ({done} finished), {jobs} at a time on {where}; {test}", flush=True)
    outcome = run_all(folder, plan, jobs, gpus)
    if outcome.stopped_by is not None:
        print(f"stopped; go on with: mmlab sweep --resume {folder}")
        return 128 + outcome.stopped_by
    _show(folder, plan)
    if outcome.failed:
        print(f"failed: {', '.join(outcome.failed)}; try again: mmlab sweep --resume {folder}", file=sys.stderr)
    return 1 if outcome.failed else 0


def _show(folder: Path, plan: Plan) -> None:
    rankings, left_out = rank(folder, plan)
    for sentence in left_out:
        print(sentence, file=sys.stderr)
    unfinished = sum(not run_folder(folder, run).result.is_file() for run in plan.runs)
    if unfinished:
        print(f"{unfinished} of {len(plan.runs)} runs are not finished", file=sys.stderr)
    if rankings:
        print("\n\n".join(f"{ranking_table(ranking)}\n\n{best_of_each(folder, ranking)}" for ranking in rankings))
        print(f"\nranking: {write_table(folder, rankings)}")
    else:
        print("no run is finished that could be ranked")
