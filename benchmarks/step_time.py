"""The time of a training step of each method over the bare encoder passes that it makes, and over late fusion.

    python benchmarks/step_time.py
    python benchmarks/step_time.py --dataset AVDigits --backbone small_conv --batch_size 64 --device cuda

A step is what Lightning's Trainer does with a batch: forward, losses, backward, the method's hooks, the step of the
optimiser. The batches are the data set's, already on the device and transformed: loading and augmentation, the same
for all, are left out. The bare passes are those of one such step, found by hooks on the encoders: forward on the same
inputs, with or without gradient as the step does it, and as many times backward, from the sum of the features in place
of a loss. What the ratio is above 1 is heads, losses, the method's own mathematics, optimiser and Lightning together.

All methods take turns, a few steps and a few bare passes each, round by round. A method's time is the median over
rounds of a round's median.

Flags that are not named here go to `mmlab fit` for the first data set, such as --data.dataset.root.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from measure import SMALL, now, ratio, table, where
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader
from tqdm import tqdm

from mmlab.backbones.base import Backbone
from mmlab.cli.build import quiet
from mmlab.cli.parser import build_parser, parse
from mmlab.data.datamodule import MultimodalDataModule
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.methods.base import Method
from mmlab.types import Batch

BASELINE = "LateFusion"
WARM_UP = 2
# By the name in the table: the method, its flags, and which of its stages. {last} is the data set's last modality.
VARIANTS = {
    BASELINE: ("LateFusion", "", 0),
    "Unimodal": ("Unimodal", "--model.modality {last}", 0),
    "JointTraining": ("JointTraining", "", 0),
    "JointTraining, mmcosine": ("JointTraining", "--model.fusion mmcosine", 0),
    "MNL": ("MNL", "", 0),
    "QMF": ("QMF", "", 0),
    "PDF": ("PDF", "", 0),
    "MNL on QMF": ("MNL", "--model.fusion qmf", 0),
    "MNL on PDF": ("MNL", "--model.fusion pdf", 0),
    "OGMGE": ("OGMGE", "", 0),
    "DIMML, stage 1 before DUC": ("DIMML", "--model.duc_weight 0", 0),
    "DIMML, stage 1 with DUC": ("DIMML", "--model.duc_start_epoch 0", 0),
    "DIMML, stage 2": ("DIMML", "", 1),
    "ERLMR, fixed weight": ("ERLMR", "--model.weighting fixed", 0),
    "ERLMR, Pareto weight": ("ERLMR", "", 0),
    "UDML, first epochs": ("UDML", "", 0),
    "UDML, noise and dynamic weights": ("UDML", "--model.noise_epoch 0 --model.dynamic_epoch 0", 0),
    "ModalityDropout": ("ModalityDropout", "", 0),
    "Dedicated, one modality": ("Dedicated", "--model.modalities [{last}]", 0),
    "Distillation, teacher": ("Distillation", "", 0),
    "Distillation, student": ("Distillation", "", 1),
    "MMANet, teacher": ("MMANet", "", 0),
    "MMANet, student": ("MMANet", "--model.distil_from 0", 1),
    "DMRNet, first epochs": ("DMRNet", "", 0),
    "DMRNet, hard combinations": ("DMRNet", "--model.hard_epoch 0 --model.hard [{last}]", 0),
    "OMD, teacher": ("OMD", "--model.privileged [{last}]", 0),
    "OMD, transfer": ("OMD", "--model.privileged [{last}]", 1),
}
SENTIMENT = {
    BASELINE: ("LateFusion", "--model.backbone lstm", 0),
    "JointTraining": ("JointTraining", "--model.backbone lstm", 0),
    "LFDNN": ("LFDNN", "--model.backbone lstm", 0),
    "TFN": ("TFN", "--model.backbone lstm", 0),
    "LMF": ("LMF", "--model.backbone lstm", 0),
    "MulT": ("MulT", "", 0),
    "SelfMM": ("SelfMM", "", 0),
    "SelfMI": ("SelfMI", "", 0),
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


@dataclass
class Pass:
    """One call of an encoder.

    Attributes:
        encoder: that was called.
        inputs: its arguments.
        gradient: whether it was called with gradient.
    """

    encoder: nn.Module
    inputs: tuple[Any, ...]
    gradient: bool


@dataclass
class Passes:
    """The encoder passes of a step.

    Attributes:
        forward: in their order.
        backward: by encoder, how many times gradients went through it.
    """

    forward: list[Pass] = field(default_factory=list)
    backward: dict[nn.Module, int] = field(default_factory=dict)

    def __str__(self) -> str:
        back = sum(self.backward.values())
        return f"{len(self.forward)} forward" + (f", {back} backward" if back else "")

    def run(self) -> None:
        """Makes them again."""
        sums: dict[nn.Module, Tensor] = {}
        for each in self.forward:
            with torch.set_grad_enabled(each.gradient):
                out = each.encoder(*each.inputs)
            if each.gradient and each.encoder in self.backward:
                total = torch.stack([leaf.sum() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]).sum()
                sums[each.encoder] = sums.get(each.encoder, torch.zeros_like(total)) + total
        times = max(self.backward.values(), default=0)
        for turn in range(times):
            roots = [total for encoder, total in sums.items() if self.backward[encoder] > turn]
            torch.autograd.backward(roots, retain_graph=turn + 1 < times)


class Recorder(Callback):
    """Writes down which encoder passes the last step made.

    Attributes:
        passes: of the last step.
    """

    def __init__(self) -> None:
        self.passes = Passes()
        self._undo: list[Callable[[], None]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Listens to the encoders."""
        assert isinstance(pl_module, Method)
        self.passes = Passes()
        for encoder in pl_module.compilable():
            if isinstance(encoder, Backbone):  # a method may ask it for its maps alone
                maps = encoder.maps
                encoder.maps = partial(self._maps, encoder, maps)  # type: ignore[method-assign]
                self._undo.append(partial(delattr, encoder, "maps"))
            else:
                self._undo.append(encoder.register_forward_pre_hook(self._called).remove)
            first = next((each for each in encoder.parameters() if each.requires_grad), None)
            if first is not None:  # the last one that gradients reach on their way back
                self._undo.append(first.register_hook(partial(self._went_back, encoder)).remove)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Listens no longer."""
        for undo in self._undo:
            undo()
        self._undo = []

    def _maps(self, encoder: Backbone, maps: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        self._called(encoder, (x,))
        return maps(x)

    def _called(self, encoder: nn.Module, inputs: tuple[Any, ...]) -> None:
        kept = tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, inputs)
        self.passes.forward.append(Pass(encoder, kept, torch.is_grad_enabled()))

    def _went_back(self, encoder: nn.Module, gradient: Tensor) -> None:
        self.passes.backward[encoder] = self.passes.backward.get(encoder, 0) + 1


class StepTimes(Callback):
    """Seconds of each step."""

    def __init__(self, device: str) -> None:
        self.seconds: list[float] = []
        self._device = device
        self._start = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Starts the clock."""
        self._start = now(self._device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops it."""
        self.seconds.append(now(self._device) - self._start)


def fit(method: Method, data: Ready, device: str, callback: Callback) -> None:
    """One fit on the kept batches, with nothing around it."""
    trainer = Trainer(
        accelerator=device,
        devices=1,
        max_epochs=1,
        limit_val_batches=0,
        logger=False,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(method, datamodule=data)


class Contestant:
    """A method in one of its stages, with the times of its steps and of its bare passes, in seconds by round."""

    def __init__(self, method: Method, data: Ready, device: str) -> None:
        self.method, self.data, self.device = method, data, device
        self.steps: list[float] = []
        self.bare: list[float] = []
        recorder = Recorder()
        fit(method, data, device, recorder)  # allocates, too
        self.passes = recorder.passes
        assert self.passes.forward, f"{type(method).__name__} was not seen to call an encoder"

    def round(self) -> None:
        """A few steps, and as many times the bare passes."""
        times = StepTimes(self.device)
        fit(self.method, self.data, self.device, times)
        self.steps.append(statistics.median(times.seconds[WARM_UP:]))
        self.method.to(self.device)  # the Trainer leaves it on the CPU
        seconds = []
        for _ in times.seconds:
            self.method.zero_grad()
            start = now(self.device)
            self.passes.run()
            seconds.append(now(self.device) - start)
        self.bare.append(statistics.median(seconds[WARM_UP:]))


def measured(
    variants: dict[str, tuple[str, str, int]], flags: list[str], device: str, batch_size: int, rounds: int, steps: int
) -> str:
    """The table of some methods on one data set."""
    parser = build_parser("fit")
    contestants: dict[str, Contestant] = {}
    data: Ready | None = None
    last = ""
    for name, (kind, options, stage) in variants.items():
        seed_everything(0, verbose=False)
        built = parser.instantiate(
            parse(parser, ["--model", kind, *options.format(last=last).split(), *flags])  # the first needs no {last}
        )
        if data is None:
            data = Ready(built.data.dataset, batch_size)
            data.keep(steps, torch.device(device))
            last = built.data.dataset.modalities[-1].name
        built.model.begin(built.model.stages()[stage])
        contestants[name] = Contestant(built.model, data, device)
    for _ in tqdm(range(rounds), desc="rounds"):
        for contestant in contestants.values():
            contestant.round()
    assert data is not None
    late = contestants[BASELINE].steps
    rows = [
        [
            name,
            str(own.passes),
            ratio(own.steps, own.bare),
            ratio(own.steps, late),
            f"{1000 * statistics.median(own.steps):.2f}",
        ]
        for name, own in contestants.items()
    ]
    head = ["method", "encoder passes of a step", "step over its passes", "step over late fusion's", "ms a step"]
    return (
        f"{type(data.dataset).__name__}, batches of {len(data.batches[0])}, float32; medians of {rounds} rounds of "
        f"{steps - WARM_UP} steps; {where(device)}.\n\n{table(head, rows)}\n"
    )


def main(words: Iterable[str] | None = None) -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--dataset", default="Keypad", help="by class name")
    parser.add_argument("--backbone", default="small_conv", help="of every modality of this data set")
    parser.add_argument("--sentiment_dataset", default="Moods", help="of the methods of sentiment, by class name")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every method; 2 or more")
    parser.add_argument("--steps", type=int, default=6, help=f"of a method in a round, the first {WARM_UP} not counted")
    parser.add_argument("--methods", nargs="+", choices=[*VARIANTS, *SENTIMENT], help="only these, and late fusion")
    parser.add_argument("--quick", action="store_true", help="a short try of everything, on computed data sets")
    options, rest = parser.parse_known_args(None if words is None else list(words))
    pictures = ["--data.dataset", options.dataset, "--model.backbone", options.backbone, *rest]
    sentiment = ["--data.dataset", options.sentiment_dataset]
    if options.quick:
        options.rounds, options.steps, options.batch_size = 2, WARM_UP + 1, 12
        pictures += ["--model.backbone.width", "4", *SMALL]
        sentiment += SMALL
    if options.rounds < 2 or options.steps <= WARM_UP:
        parser.error(f"give 2 rounds or more, and more than {WARM_UP} steps")
    quiet()
    # So short a fit has epochs in which a part of a method doesn't act yet, and the methods say so.
    warnings.filterwarnings("ignore", message=".*(starts|count) after .* epochs.*")

    for variants, flags in ((VARIANTS, pictures), (SENTIMENT, sentiment)):
        chosen = variants
        if options.methods:
            chosen = {name: each for name, each in variants.items() if name in (BASELINE, *options.methods)}
        if options.methods and len(chosen) == 1:
            continue
        try:
            tables = measured(chosen, flags, options.device, options.batch_size, options.rounds, options.steps)
        except UserError as error:
            parser.error(str(error))
        print(tables, flush=True)


if __name__ == "__main__":
    main()
