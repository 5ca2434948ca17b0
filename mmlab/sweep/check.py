"""Whether the configs of a sweep are right, tried before its folder is made.

Their parser imports torch, which a sweep doesn't: it runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mmlab.errors import UserError
from mmlab.sweep.plan import Plan


def check_configs(plan: Plan, files: Mapping[str, Path]) -> None:
    """Parses the first run of each config: a mistyped key would let every run fail.

    Args:
        plan: of the sweep.
        files: the config files by name.

    Raises:
        UserError: as `mmlab fit` would say it.
    """
    first = {run.config: run for run in reversed(plan.runs)}
    commands = [
        [*(["--config", str(files[config])] if config else []), *run.flags] for config, run in reversed(first.items())
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mmlab.cli.try_parse"], input=json.dumps(commands), capture_output=True, text=True
    )
    if done.returncode:
        raise UserError(done.stderr.strip().splitlines()[-1])
