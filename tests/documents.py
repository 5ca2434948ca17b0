"""What the tests of README.md and of docs/ share: a page's code blocks, and what is done with their commands."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from wandb.cli.cli import cli as wandb_cli

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))

QUICK = "--trainer.max_epochs 1 --model.backbone.width 4 --trainer.accelerator cpu --trainer.enable_progress_bar false"
SMALL = "--data.dataset.train_size 24 --data.dataset.val_size 12 --data.dataset.test_size 12 --data.batch_size 12"


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[str]:
    """The block's commands without comments, a loop written out."""
    text = re.sub(r"(^|\s)#.*", "", block)
    loop = re.search(r"^for (\w+) in (.*); do\n(.*?)^done$", text, re.MULTILINE | re.DOTALL)
    if loop:
        name, values, body = loop.groups()
        text = text.replace(loop[0], "".join(body.replace(f"${name}", value) for value in values.split()))
    return [line.strip() for line in text.splitlines() if line.strip()]


def exits_well(mmlab: Callable[..., str], line: str) -> None:
    with pytest.raises(SystemExit) as end:
        mmlab(line)
    assert end.value.code == 0


def follow(mmlab: Callable[..., str], block: str) -> None:
    """Commands on computed data run at a small size; the others, which need data or hours, are parsed."""
    for folder in ("experiments", "results"):
        Path(folder).symlink_to(ROOT / folder)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for command in commands(block):
        program, line = command.split(maxsplit=1)
        if program == "make":
            assert line in targets
            continue
        if program == "wandb":
            assert line.split()[0] in wandb_cli.commands
            continue
        assert program == "mmlab"
        if "help" in line:
            exits_well(mmlab, line)
        elif line.startswith("prepare"):
            mmlab(f"{line} --frame_side 32" if re.search("KineticsSounds|CREMAD", line) else line)
        elif line.startswith("sweep --configs"):
            # Each run is a process that imports torch: one seed of each setting says as much.
            mmlab(f"{line} --seeds 0 {QUICK} {SMALL} --wandb.mode off --jobs 2")
        elif line.startswith("fit") and "--resume" not in line:
            if re.search("keypad|rooms|moods", line.lower()):
                mmlab(f"{line} {QUICK} {SMALL} --wandb.mode off")
            else:
                exits_well(mmlab, f"{line} --print_config")
        else:
            mmlab(line)
