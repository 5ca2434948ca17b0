"""result.json: everything a table needs of a run, and everything a reader needs to trust it."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import mmlab
from mmlab.availability import combination_name
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.methods.base import Method

PACKAGES = ("torch", "lightning", "torchmetrics", "torchvision", "torchaudio", "timm", "numpy")


def describe(method: Method, data: MultimodalDataModule, seed: int) -> dict[str, Any]:
    """What was run on what: method, data set, protocol, split hashes, parameters, versions, commit, hardware."""
    parameters = sum(parameter.numel() for parameter in method.parameters())
    return {
        "method": type(method).__name__,
        "dataset": type(data.dataset).__name__,
        "dataset_details": data.dataset.details(),
        "protocol": data.dataset.protocol,
        "selected_on": "test" if data.dataset.protocol == "official" else "validation",
        "seed": seed,
        "modalities": list(method.spec.names),
        "monitor": f"val/{method.monitor}",
        "combinations": [combination_name(method.spec.names, each) for each in method.tested],
        "splits": {name: {"samples": len(split), "sha256": split.digest()} for name, split in data.splits.items()},
        "parameters": parameters,
        "versions": {
            "mmlab": mmlab.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        "commit": commit(),
        "hardware": hardware(),
    }


def commit() -> str | None:
    """The commit of the mmlab checkout, with ``+changes`` where it was edited; None for an installed package."""
    here = Path(mmlab.__file__).parent
    try:
        head = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changed else "")


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def hardware() -> str:
    """The accelerator's name, or the processor's kind and the number of threads used."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def peak_memory_mib() -> float:
    """The most memory held at once: on the accelerator, or else by this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes / 2**10 if sys.platform != "darwin" else kibibytes / 2**20
