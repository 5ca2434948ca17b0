"""What a run needs beside training: generators that resume, a stopwatch, checkpoints that are whole."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException


class RandomState(Callback):
    """Puts the state of every generator of every process into the checkpoint and takes it up on resume."""

    def __init__(self) -> None:
        self._states: list[dict[str, Any]] = []

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Collects the states of all processes."""
        states: list[Any] = [_generator_states()]
        if trainer.world_size > 1:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, _generator_states())
        checkpoint["mmlab_random_state"] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remembers them until training starts: setting up in between draws numbers too."""
        self._states = checkpoint["mmlab_random_state"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restores this process's generators."""
        if trainer.global_rank < len(self._states):
            _restore_generators(self._states[trainer.global_rank])
        self._states = []


def _generator_states() -> dict[str, Any]:
    # Plain containers and tensors only, so that the checkpoint can be read by the restricted loader.
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    version, internal, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": [str(kind), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }


def _restore_generators(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


class Stopwatch(Callback):
    """Seconds of the fit and of its training epochs alone, over all its sittings."""

    def __init__(self) -> None:
        self.wall_s = 0.0
        self.training_s = 0.0
        self.samples = 0
        self._epoch_start = self._pause_start = self._paused = 0.0
        self._batches = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the epoch's clock."""
        self._epoch_start = time.perf_counter()
        self._paused = 0.0
        self._batches = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Counts samples."""
        if not self._epoch_start:  # resumed in mid-epoch: the epoch's start lies in another process
            self._epoch_start = time.perf_counter()
        self._batches += len(batch)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pauses the training clock."""
        self._pause_start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes on."""
        self._paused += time.perf_counter() - self._pause_start

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds up."""
        passed = time.perf_counter() - self._epoch_start
        self.wall_s += passed
        self.training_s += passed - self._paused
        self.samples += self._batches * trainer.world_size

    def state_dict(self) -> dict[str, Any]:
        """Kept in the checkpoint."""
        return {"wall_s": self.wall_s, "training_s": self.training_s, "samples": self.samples}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self.wall_s, self.training_s = state_dict["wall_s"], state_dict["training_s"]
        self.samples = state_dict["samples"]


class SaveOnTermination(Callback):
    """A scheduler that ends the process (SIGTERM) costs little: the place in the epoch is saved before leaving.

    Lightning leaves at the end of a batch then, so that the place is exact, except among batches whose gradients are
    being accumulated: then, and after Ctrl-C, which may strike within a step, the run resumes from its last checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Saves if it was such an end (after an error, the last good checkpoint stays as it is)."""
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        exact = batches % trainer.accumulate_grad_batches == 0
        if isinstance(exception, SIGTERMException) and trainer.training and exact:
            trainer.save_checkpoint(self._path)


class MovableCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that still knows its best one after the run's folder was moved or renamed."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves after steps only: gradients that are being accumulated are in no checkpoint."""
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the state up with the folder that the files lie in now."""
        before, now = str(state_dict["dirpath"]), str(self.dirpath)

        def moved(value: Any) -> Any:
            if isinstance(value, dict):
                return {moved(key): moved(inner) for key, inner in value.items()}
            return now + value[len(before) :] if isinstance(value, str) and value.startswith(before) else value

        super().load_state_dict(moved(state_dict))


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and then renames it: a kill leaves the old one or the new one, whole.

    Lightning writes to the system's temporary folder, from which a move is a copy where that is another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Saves with torch.save, whole or not at all."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        torch.save(checkpoint, partial)
        os.replace(partial, target)
