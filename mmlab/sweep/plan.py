"""The plan of a sweep: every run by its name and flags, kept in sweep.yaml beside copies of the configs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from mmlab.errors import UserError, did_you_mean
from mmlab.runs.folder import RunFolder, write_text
from mmlab.sweep.settings import Setting, Values, draw, grid

PLAN = "sweep.yaml"
CONFIGS = "configs"
# What a run's config begins with; the rest of `mmlab fit`'s options is the sweep's to say.
ROOTS = ("model", "data", "trainer", "wandb", "patience", "checkpoint_every", "compile")
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
        name: its folder within the sweep's: ``mnl_keypad/lam=0.1/seed0``.
        config: the name of its config file, without .yaml; None without one.
        setting: what is searched, by config key.
        seed: of the run.
        flags: of ``mmlab fit``: the setting, and what all runs have in common.
    """

    name: str
    config: str | None
    setting: Setting
    seed: int
    flags: list[str]


@dataclass(frozen=True)
class Plan:
    """All runs of a sweep.

    Attributes:
        runs: in their order.
        test: whether each is tested at its end; a search looks at validation only.
    """

    runs: list[Run]
    test: bool


def make_plan(
    configs: Sequence[str],
    seeds: Sequence[int],
    space: dict[str, Values],
    random_settings: int | None,
    flags: Sequence[str],
    test: bool | None,
) -> Plan:
    """Configs x settings x seeds.

    Args:
        configs: names of the config files, without .yaml; may be empty.
        seeds: of each setting.
        space: what to search, by config key; may be empty.
        random_settings: how many settings to draw for each config, the same for all; None for every combination.
        flags: for every run.
        test: whether to test; by default only where nothing is searched.

    Raises:
        UserError: if a key can't be searched, is a flag too, or two runs would have one name.
    """
    check_flags(flags)
    given = {_key(word) for word in flags if word.startswith("--")}
    for key in space:
        _check_root(key, f"--set {key}")
        if key in given:
            raise UserError(f"--set {key} and --{key} are both given; take one of them out.")
    settings = grid(space) if random_settings is None else draw(space, random_settings)
    runs: dict[str, Run] = {}
    names: Sequence[str | None] = configs or [None]
    for config in names:
        for name, setting in zip(_names(settings), settings, strict=True):
            for seed in seeds:
                parts = [part for part in (config, name, f"seed{seed}") if part]
                run = Run("/".join(parts), config, setting, seed, _flags(setting, flags, given))
                if run.name in runs:
                    raise UserError(
                        f"two runs would be named {run.name}; change what sets them apart, or take one out."
                    )
                runs[run.name] = run
    searched = any(len({setting[key] for setting in settings}) > 1 for key in space)
    return Plan(list(runs.values()), not searched if test is None else test)


def check_flags(flags: Sequence[str]) -> None:
    """Refuses flags that no run's config has.

    Raises:
        UserError: naming the flag, or a word that belongs to none.
    """
    takes_value = False
    for word in flags:
        if word.startswith("--"):
            _check_root(_key(word), word.split("=")[0])
            takes_value = "=" not in word
        elif takes_value:
            takes_value = False
        else:
            raise UserError(f"there is nothing that {word!r} could belong to: a value follows its --option.")


def begin(folder: Path, plan: Plan, files: dict[str, Path]) -> None:
    """Writes the plan into a new folder, or finds that the folder has this very plan already.

    Args:
        folder: the sweep's.
        plan: of this command.
        files: the config files by name.

    Raises:
        UserError: if the folder holds another sweep, or something else.
    """
    texts = {name: file.read_text(encoding="utf-8") for name, file in files.items()}
    if (folder / PLAN).is_file():
        kept = read_plan(folder)
        differing = [name for name, text in texts.items() if not _is(folder / CONFIGS / f"{name}.yaml", text)]
        if kept == plan and differing:
            what = f"{files[differing[0]]} has changed since"
        elif kept != plan:
            what = f"it has {len(kept.runs)} runs, and this command {len(plan.runs)}, some of them others"
        else:
            return
        raise UserError(
            f"{folder} holds another sweep ({what}): go on with it by --resume {folder}, or choose another --out."
        )
    if folder.exists() and (not folder.is_dir() or any(path.name != CONFIGS for path in folder.iterdir())):
        raise UserError(f"--out {folder} holds something else than a sweep: choose a folder that is new or empty.")
    for name, text in texts.items():
        write_text(folder / CONFIGS / f"{name}.yaml", text)
    head = f"# All runs of a sweep. Go on with: mmlab sweep --resume {folder}\n"
    write_text(folder / PLAN, head + yaml.safe_dump(asdict(plan), sort_keys=False, width=120))


def read_plan(folder: Path) -> Plan:
    """Reads what ``begin`` wrote.

    Raises:
        UserError: if there is no plan, or it is damaged.
    """
    file = folder / PLAN
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return Plan([Run(**run) for run in content["runs"]], content["test"])
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is no sweep: it holds no {PLAN}; give the --out of `mmlab sweep`.") from None
    except (ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{file} is damaged ({reason}): give the sweep's command with another --out.") from None


def run_folder(folder: Path, run: Run) -> RunFolder:
    """Where a run of a sweep keeps what it makes."""
    return RunFolder(folder / run.name)


def config_words(folder: Path, run: Run) -> list[str]:
    """The flags that say a run's config, but for its seed."""
    return [*(["--config", str(folder / CONFIGS / f"{run.config}.yaml")] if run.config else []), *run.flags]


def fit_words(folder: Path, plan: Plan, run: Run) -> list[str]:
    """The words after ``mmlab`` that do a run, or go on with it."""
    path = run_folder(folder, run)
    if path.config.is_file():
        return ["fit", "--resume", str(path.path)]
    bar = [] if "trainer.enable_progress_bar" in map(_key, run.flags) else ["--trainer.enable_progress_bar", "false"]
    own = ["--seed", str(run.seed), "--test", str(plan.test).lower(), "--run_dir", str(path.path)]
    return ["fit", *config_words(folder, run), *bar, *own]


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each key's last part, or as many parts from its end as set it apart from the others."""
    ends = {key: [".".join(key.split(".")[-count:]) for count in range(1, key.count(".") + 2)] for key in keys}
    every = [end for known in ends.values() for end in known]
    return {key: next((end for end in ends[key] if every.count(end) == 1), key) for key in keys}


def _names(settings: list[Setting]) -> list[str]:
    """Names of folders; by number where one would be too long for a file system."""
    shown = short_names(list(settings[0]))
    names = [",".join(f"{shown[key]}={_plain(value)}" for key, value in setting.items()) for setting in settings]
    return [f"setting{number}" for number in range(len(names))] if max(map(len, names)) > _LONGEST_NAME else names


def _plain(value: str) -> str:
    return re.sub(r"[^\w.+-]+", "-", value.strip("[]{}()'\" "))


def _flags(setting: Setting, flags: Sequence[str], given: set[str]) -> list[str]:
    """A class stands before its options, whichever of the two is searched."""
    words = {key: [f"--{key}", value] for key, value in sorted(setting.items(), key=lambda pair: pair[0].count("."))}
    first = [key for key in words if any(flag.startswith(f"{key}.") for flag in given)]
    before = [word for key in first for word in words[key]]
    after = [word for key in words if key not in first for word in words[key]]
    return [*before, *flags, *after]


def _key(word: str) -> str:
    return re.split(r"[=+]", word.removeprefix("--"))[0]


def _check_root(key: str, said: str) -> None:
    if key.split(".")[0] in ROOTS:
        return
    known = [
        "--configs",
        "--seeds",
        "--set",
        "--out",
        "--random",
        "--resume",
        "--show",
        *(f"--{root}" for root in ROOTS),
    ]
    raise UserError(
        f"{said}: a sweep has no such option{did_you_mean(f'--{key}', known)}; a run's own begin with "
        f"{', '.join(f'--{root}' for root in ROOTS)}."
    )


def _is(file: Path, text: str) -> bool:
    return file.is_file() and file.read_text(encoding="utf-8") == text
