"""The time that `mmlab fit` trains over that of a plain PyTorch loop of the same method, which is written out below.

    python benchmarks/hand_written_loop.py
    python benchmarks/hand_written_loop.py --batch_size 16 --device cuda

Both sides start from the same weights and train the same encoders with the same optimiser on the same batches of the
same loader, as many steps. The loop knows two complete modalities and one loss, and nothing else: no missing modality,
no metric but the accuracy, no log. "Steps" is from the beginning of an epoch to the end of its last step, loading and
augmentation included. "Whole training" adds, after each epoch, validation and two checkpoints, the best and the last,
which the loop writes too; mmlab also computes the accuracy of each modality and its margins, and logs.

Whether both train the same is checked: the mean training loss of the first epoch of both stands in the table, and
losses that differ are an error. Later epochs tell less: there, rounding alone drives the losses apart, as another
number of threads does. AVDigits is read from the folder that MMLAB_DATA names, and left out where it isn't there.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import io
import math
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from measure import SMALL, now, ratio, table, where
from torch import Tensor, nn

from mmlab.cli.build import quiet
from mmlab.cli.main import main as mmlab
from mmlab.cli.parser import build_parser, parse
from mmlab.data.avdigits import AVDigits
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.draws import Draws
from mmlab.errors import UserError

ALIKE = 1e-3
"""How far, relatively, rounding may drive the losses apart: Adam makes full steps of even the smallest gradients."""


# The plain side: two modalities, both always there.


class Network(nn.Module):
    """Two encoders with a linear classifier each."""

    def __init__(self, encoders: Iterable[nn.Module], heads: Iterable[nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.heads = nn.ModuleList(heads)

    def forward(self, inputs: Iterable[Tensor]) -> Tensor:
        """Logits of each modality, (2, B, C); their mean is the decision."""
        parts = zip(self.encoders, self.heads, inputs, strict=True)
        return torch.stack([head(encoder(x)) for encoder, head, x in parts])


def late_fusion(logits: Tensor, target: Tensor) -> Tensor:
    """The cross-entropy of the decision plus those of the modalities."""
    first, second = logits
    return (
        F.cross_entropy(logits.mean(dim=0), target) + F.cross_entropy(first, target) + F.cross_entropy(second, target)
    )


def negative_learning(logits: Tensor, target: Tensor) -> Tensor:
    """Late fusion and the guidance of the better modality, in MNL's official variant."""
    log_p = logits.log_softmax(dim=2)
    rows = torch.arange(len(target), device=target.device)
    with torch.no_grad():
        rival = logits.mean(dim=0).scatter(1, target[:, None], float("-inf")).argmax(dim=1)
        sure, margin = log_p[:, rows, target].exp(), logits[:, rows, target] - logits[:, rows, rival]
        first_guides = (sure[0] > sure[1]) & (margin[0] > margin[1])
        second_guides = (sure[1] >= sure[0]) & (margin[1] >= margin[0])
        ruled_out = log_p.exp().scatter(2, target[None, :, None].expand(2, -1, 1), 0.0)
    each = -0.7 * (ruled_out.flip(0) * log_p).sum(dim=2) - log_p[:, rows, target]
    guided = each[0] * second_guides + each[1] * first_guides
    return late_fusion(logits, target) + guided.mean() / logits.shape[2]


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"LateFusion": late_fusion, "MNL": negative_learning}


def by_hand(
    network: Network,
    loss_of: Callable[[Tensor, Tensor], Tensor],
    data: MultimodalDataModule,
    epochs: int,
    device: torch.device,
    folder: Path,
) -> tuple[float, float, float]:
    """The loop; returns the seconds of the steps and of the whole training, and the first epoch's mean loss."""
    network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    train, val = data.train_dataloader(), data.val_dataloader()
    names = [modality.name for modality in data.dataset.modalities]
    best, steps, mean = -1.0, 0.0, math.nan
    begin = now(device.type)
    for epoch in range(epochs):
        network.train()
        train.set_epoch(epoch)
        losses = torch.zeros((), device=device)
        start = now(device.type)
        for raw in train:
            raw = raw.to(device, non_blocking=True)
            batch = data.transform(raw, Draws(data.seed, epoch, raw.index))
            loss = loss_of(network(batch.inputs[name] for name in names), batch.target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses += loss.detach()
        mean = losses.item() / len(train) if epoch == 0 else mean
        steps += now(device.type) - start
        network.eval()
        right = torch.zeros((), dtype=torch.long, device=device)
        with torch.no_grad():
            for raw in val:
                batch = data.transform(raw.to(device, non_blocking=True), None)
                logits = network(batch.inputs[name] for name in names).mean(dim=0)
                right += (logits.argmax(dim=1) == batch.target).sum()
        accuracy = right.item()
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, folder / "last.pt")
        if accuracy > best:
            best = accuracy
            torch.save(state, folder / "best.pt")
    return steps, now(device.type) - begin, mean


# mmlab's side.


class Clock(Callback):
    """Times the training of `mmlab fit`, which makes a copy of its own of this callback: hence class attributes.

    Attributes:
        found: of the training that ended last: the seconds of its steps and of the whole.
    """

    found: ClassVar[tuple[float, float]]

    def __init__(self) -> None:
        self._begin = self._start = self._steps = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training begins."""
        self._begin = now(pl_module.device.type)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch begins."""
        self._start = now(pl_module.device.type)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Its steps end, and validation follows."""
        if trainer.is_last_batch:
            self._steps += now(pl_module.device.type) - self._start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The training ends."""
        Clock.found = self._steps, now(pl_module.device.type) - self._begin


def by_mmlab(words: list[str], folder: Path) -> tuple[float, float, float]:
    """The command; returns what the loop does."""
    clock = f"--trainer.callbacks+={Clock.__module__}.Clock"
    with contextlib.redirect_stdout(io.StringIO()):
        code = mmlab(["fit", *words, "--run_dir", str(folder), "--test", "false", "--wandb.mode", "off", clock])
    if code:
        raise UserError(f"mmlab fit {' '.join(words)} failed; its message stands above.")
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        first = next(csv.DictReader(file))
    return *Clock.found, float(first["train/loss"])


def measured(method: str, dataset: str, flags: str, epochs: int, device: str, rounds: int, folder: Path) -> list[str]:
    """The row of one method on one data set."""
    parser = build_parser("fit")
    words = (
        f"--model {method} --data.dataset {dataset} {flags} --trainer.max_epochs {epochs} "
        f"--trainer.accelerator {device} --trainer.enable_progress_bar false"
    ).split()
    seed_everything(0, verbose=False)
    built = parser.instantiate(parse(parser, words))
    start = Network(built.model.encoders.values(), built.model.linear_heads)
    ours, plain = [], []
    for number in range(rounds + 1):
        own = folder / f"{method}-{dataset}-{number}"
        ours.append(by_mmlab(words, own))
        plain.append(by_hand(copy.deepcopy(start), LOSSES[method], built.data, epochs, torch.device(device), own))
        loss, plain_loss = ours[-1][2], plain[-1][2]
        if abs(loss / plain_loss - 1) > ALIKE:
            raise UserError(
                f"{method} on {dataset} doesn't train as the loop does: the losses are {loss:.4f} and "
                f"{plain_loss:.4f}; mend the one that is wrong, their times can't be compared."
            )
    steps, whole, _ = zip(*ours[1:], strict=True)  # the first round warms up
    plain_steps, plain_whole, _ = zip(*plain[1:], strict=True)
    count = epochs * len(built.data.train_dataloader())
    losses = f"{loss:.4f} / {plain_loss:.4f}"
    return [method, dataset, str(count), ratio(steps, plain_steps), ratio(whole, plain_whole), losses]


def main(words: Iterable[str] | None = None) -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--epochs", type=int, default=2, help="of each fit")
    parser.add_argument("--rounds", type=int, default=5, help="turns of both sides; 2 or more")
    parser.add_argument("--quick", action="store_true", help="a short try on the computed data set")
    options = parser.parse_args(None if words is None else list(words))
    datasets = {"Keypad": f"--data.batch_size {options.batch_size}"}
    if options.quick:
        options.rounds, options.epochs, options.batch_size = 2, 1, 12
        datasets = {"Keypad": f"--data.batch_size 12 --model.backbone.width 4 {' '.join(SMALL)}"}
    if options.rounds < 2 or options.epochs < 1:
        parser.error("give 2 rounds or more, and 1 epoch or more")
    quiet()

    left_out = ""
    if not options.quick:
        try:
            AVDigits().splits()
            datasets["AVDigits"] = f"--data.batch_size {options.batch_size}"
        except UserError as error:
            left_out = f"\nAVDigits is left out: {error}\n"
    try:
        with tempfile.TemporaryDirectory() as folder:
            rows = [
                measured(method, dataset, flags, options.epochs, options.device, options.rounds, Path(folder))
                for dataset, flags in datasets.items()
                for method in LOSSES
            ]
    except UserError as error:
        parser.error(str(error))
    head = ["method", "data set", "steps", "steps, mmlab over loop", "whole training, mmlab over loop"]
    print(
        f"small_conv, batches of {options.batch_size}, float32; medians of {options.rounds} rounds; "
        f"{where(options.device)}.\n\n{table([*head, 'loss, mmlab / loop'], rows)}\n{left_out}"
    )


if __name__ == "__main__":
    main()
