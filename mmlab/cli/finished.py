"""What ``mmlab robustness`` and ``mmlab diagnose`` share: finished runs, each opened with the same flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmlab.cli.build import FinishedRun, open_run, quiet
from mmlab.cli.own_flags import help_is_wanted, print_help, take_own
from mmlab.cli.parser import build_parser, parse
from mmlab.errors import UserError
from mmlab.runs.folder import RunFolder


@dataclass(frozen=True)
class Request:
    """What a command line asks for.

    Attributes:
        command: its name.
        folders: of the runs, each once.
        own: the command's own flags but ``--run``, by name.
        flags: all others, which change the config of each run.
    """

    command: str
    folders: tuple[RunFolder, ...]
    own: dict[str, str]
    flags: tuple[str, ...]

    def open(self, folder: RunFolder) -> FinishedRun:
        """One of the runs, with its selected weights.

        Raises:
            UserError: if it can't be opened.
        """
        parser = build_parser(self.command)
        return open_run(parser, parse(parser, ["--config", str(folder.config), *self.flags]), folder)


def read_request(command: str, words: list[str]) -> Request:
    """Takes a command line apart: ``--run DIR DIR ...``, the command's own flags, and flags of the config.

    Raises:
        UserError: if no run is named, or one is no run.
        SystemExit: after ``--help``.
    """
    if help_is_wanted(words):
        print_help(command)
        raise SystemExit(0)
    quiet()
    values, rest = take_own(command, words, several="run")
    if "run" not in values:
        raise UserError(f"`mmlab {command}` needs the run to work on: mmlab {command} --run runs/...")
    folders = {Path(run): RunFolder.existing(run) for run in values.pop("run")}  # DIR and DIR/ are one
    return Request(command, tuple(folders.values()), {name: given[0] for name, given in values.items()}, tuple(rest))
