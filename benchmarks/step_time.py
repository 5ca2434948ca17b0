"""The time of a training step of each method over that of plain late fusion with the same encoders.

    python benchmarks/step_time.py --dataset AVDigits --backbone small_conv --batch_size 64 --device cpu --out step.md

A step is what Lightning's Trainer does with a batch: forward, losses, backward, the method's hooks, the step of the
optimiser (Adam). The batches are the data set's, already on the device and transformed: loading and augmentation, the
same for all, are left out. All methods take turns, a few steps each, round by round: what else the machine does then
falls on all of them. A method's time is the median over rounds of a round's median step; its cost is the median over
rounds of its step divided by late fusion's in the same round, with the quartiles beside it.

Flags that are not named here go to `mmlab fit`, such as --data.dataset.root.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Iterable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader

from mmlab.cli.classes import subclasses
from mmlab.cli.parser import build_parser, import_classes, parse
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.draws import Draws
from mmlab.methods.base import Method
from mmlab.runs.result import commit, hardware
from mmlab.types import Batch

BASELINE = "LateFusion"
# By the name in the table: the method, its flags, and which of its stages.
VARIANTS = {
    BASELINE: ("LateFusion", "", 0),
    "JointTraining": ("JointTraining", "", 0),
    "MNL": ("MNL", "", 0),
    "QMF": ("QMF", "", 0),
    "PDF": ("PDF", "", 0),
    "OGMGE": ("OGMGE", "", 0),
    "DIMML, stage 1 before DUC": ("DIMML", "--model.duc_weight 0", 0),
    "DIMML, stage 1 with DUC": ("DIMML", "--model.duc_start_epoch 0", 0),
    "DIMML, stage 2": ("DIMML", "", 1),
    "ERLMR, fixed weight": ("ERLMR", "--model.weighting fixed", 0),
    "ERLMR, Pareto weight": ("ERLMR", "", 0),
    "UDML, first epochs": ("UDML", "", 0),
    "UDML, noise and dynamic weights": ("UDML", "--model.noise_epoch 0 --model.dynamic_epoch 0", 0),
}


class Ready(MultimodalDataModule):
    """A data set of which a few training batches lie on the device as encoders see them."""

    batches: list[Batch]

    def keep(self, count: int, device: torch.device) -> None:
        """Transforms the first batches of the first epoch, repeated where there are fewer."""
        self.batches = []
        for raw in islice(cycle(super().train_dataloader()), count):
            raw = raw.to(device)
            self.batches.append(self.transform(raw, Draws(self.seed, 0, raw.index)))

    def train_dataloader(self) -> Any:
        """The batches that were kept."""
        return DataLoader(self.batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """What was transformed already stays as it is."""
        return batch


class StepTimes(Callback):
    """Seconds of each step; a GPU is waited for before and after it."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Starts the clock."""
        self._start = self._now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops it."""
        self.seconds.append(self._now() - self._start)

    @staticmethod
    def _now() -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def built(words: str, rest: list[str]) -> tuple[Method, MultimodalDataModule]:
    """A method and its data as the command line builds them."""
    parser = build_parser("fit")
    parts = parser.instantiate(parse(parser, [*words.split(), *rest]))
    return parts.model, parts.data


def round_of(method: Method, data: Ready, device: str, warm_up: int) -> float:
    """The median seconds of a round's steps, without the first ones, which allocate."""
    times = StepTimes()
    trainer = Trainer(
        accelerator=device,
        devices=1,
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        callbacks=[times],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(method, datamodule=data)
    return statistics.median(times.seconds[warm_up:])


def markdown(seconds: dict[str, list[float]]) -> str:
    """The table, one row for each method."""
    lines = ["| method | ms a step | over late fusion | quartiles over rounds |", "| --- | --- | --- | --- |"]
    for name, rounds in seconds.items():
        ratios = [own / plain for own, plain in zip(rounds, seconds[BASELINE], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        lines.append(
            f"| {name} | {1000 * statistics.median(rounds):.2f} | {middle:.2f} | "
            + ("" if name == BASELINE else f"{low:.2f} to {high:.2f}")
            + " |"
        )
    return "\n".join(lines)


def machine(device: str) -> str:
    """The accelerator, or the processor's model and the number of threads."""
    models = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next((line.partition(":")[2].strip() for line in models if line.startswith("model name")), "CPU")
    return hardware() if device == "cuda" else f"{model}, {torch.get_num_threads()} threads"


def main(words: Iterable[str] | None = None) -> None:
    """Measures, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--dataset", default="Keypad", help="by class name")
    parser.add_argument("--backbone", default="small_conv", help="of every modality")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=9, help="turns of every method; 2 or more")
    parser.add_argument("--steps", type=int, default=12, help="steps of a method in a round, the first 2 not counted")
    parser.add_argument("--methods", nargs="+", choices=list(VARIANTS), help="only these, beside late fusion")
    parser.add_argument("--out", type=Path, help="a file for the table")
    options, rest = parser.parse_known_args(None if words is None else list(words))
    warm_up = 2
    if options.rounds < 2 or options.steps <= warm_up:
        parser.error(f"give 2 rounds or more, and more than {warm_up} steps")
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    import_classes()
    known = {method.__name__ for method in subclasses(Method)}
    common = (
        f"--data.dataset {options.dataset} --data.batch_size {options.batch_size} --model.backbone {options.backbone}"
    )
    methods: dict[str, Method] = {}
    data: Ready | None = None
    for name, (kind, flags, stage) in VARIANTS.items():
        chosen = not options.methods or name in (BASELINE, *options.methods)
        if not chosen or kind not in known:
            continue
        seed_everything(0, verbose=False)
        methods[name], loaded = built(f"--model {kind} {common} {flags}", rest)
        methods[name].begin(methods[name].stages()[stage])
        if data is None:
            data = Ready(loaded.dataset, options.batch_size)
            data.keep(options.steps, torch.device(options.device))
    assert data is not None

    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(options.rounds):
        for name, method in methods.items():
            seconds[name].append(round_of(method, data, options.device, warm_up))
    report = (
        f"{options.dataset}, {options.backbone}, batches of {len(data.batches[0])}, float32; medians of "
        f"{options.rounds} rounds of {options.steps - warm_up} steps on {machine(options.device)}; torch "
        f"{torch.__version__}, mmlab {commit()}.\n\n{markdown(seconds)}\n"
    )
    print(report)
    if options.out:
        options.out.write_text(report)


if __name__ == "__main__":
    main()
