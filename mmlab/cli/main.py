"""The door: which command was meant. Nothing heavy is imported before it is known that it is needed."""

from __future__ import annotations

import os
import sys

import mmlab
from mmlab.errors import UserError, did_you_mean

HELP = """\
mmlab: balanced and robust multimodal learning

  mmlab fit --config experiments/mnl_keypad.yaml            train, select on validation, test
  mmlab fit --model MNL --data.dataset AVDigits --model.backbone resnet18 --trainer.max_epochs 20
  mmlab fit --resume runs/...                               go on with a run that was stopped
  mmlab validate | test | predict --run runs/...            the run's config and its selected checkpoint
  mmlab test --run runs/... --corruption gaussian           under noise, at severities 0, 5 and 10
  mmlab robustness --run runs/...                           every subset of modalities x corruption x severity
  mmlab diagnose --run runs/...                             each modality's share, calibration, confusions
  mmlab prepare KineticsSounds --root data/kinetics_sounds  verify, decode once, pack; can be resumed
  mmlab sweep --configs experiments/mnl_keypad.yaml --seeds 0,1,2 --set model.lam=0.1,1,10 --out runs/lam
  mmlab compare runs/... [--corruption gaussian]            a table, mean and deviation over seeds
  mmlab compare runs/... --out report                       tables, tests and pictures in one page
  mmlab list methods | datasets | backbones | experiments

  mmlab COMMAND --help           a command's options;  --print_config after the others: the whole config
  mmlab fit --model.help MNL     a method's options;   --data.dataset.help AVDigits: a data set's
  mmlab --version
"""

COMMANDS = ("fit", "validate", "test", "predict", "robustness", "diagnose", "prepare", "sweep", "compare", "list")


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after ``mmlab``; those of this process by default.

    Returns:
        The exit code: 0, 1 after a sweep some of whose runs failed, 2 after an error that a person can mend, 130 after
        Ctrl-C, or 143 after a sweep that SIGTERM stopped.
    """
    words = sys.argv[1:] if argv is None else argv
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a method in a person's own file is found by its module's name
    try:
        return _dispatch(words)
    except UserError as error:
        print(f"mmlab: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        # No right to write, a file where a folder should be, a full disk: not the program's fault.
        print(f"mmlab: error: {error.filename}: {error.strerror}; check the path and your rights.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mmlab: interrupted; a run goes on with: mmlab fit --resume RUN", file=sys.stderr)
        return 130


def _dispatch(words: list[str]) -> int:
    command = words[0] if words else "--help"
    if command in ("--help", "-h", "help"):
        print(HELP, end="")
    elif command == "--version":
        print(f"mmlab {mmlab.__version__}")
    elif command == "list":
        from mmlab.cli.listing import print_list

        print_list(words[1:])
    elif command == "sweep":
        from mmlab.sweep.command import sweep

        return sweep(words[1:])
    elif command == "compare":
        from mmlab.compare.command import compare

        compare(words[1:])
    elif command == "robustness":
        from mmlab.cli.robustness import robustness

        robustness(words[1:])
    elif command == "diagnose":
        from mmlab.cli.diagnose import diagnose

        diagnose(words[1:])
    elif command == "prepare":
        from mmlab.cli.prepare import prepare

        prepare(words[1:])
    elif command in COMMANDS:
        from mmlab.cli.run import run

        run(command, words[1:])
    else:
        raise UserError(
            f"there is no command {command!r}{did_you_mean(command, COMMANDS)}; the commands are {', '.join(COMMANDS)}."
        )
    return 0
