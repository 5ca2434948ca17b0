"""What every method shares: steps, metrics, logging, optimisers, stages.

A method writes two things, :meth:`Method.forward` and :meth:`Method.losses`. Everything below is done once here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mmlab.availability import Combination, every_combination
from mmlab.backbones.config import Backbones, Choice, build_encoders, own_options
from mmlab.backbones.shared import once, shared_features
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.losses.late_fusion import mean_counts
from mmlab.methods.evaluation import CombinationEvaluation, Evaluation
from mmlab.methods.sums import LossSums
from mmlab.types import Batch, Classification, DataSpec, Prediction, Regression, Task

OptimizerFactory = Callable[[Iterable], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]


@dataclass(frozen=True)
class Stage:
    """One fit of its own within a run: a fresh optimiser, schedule and Trainer.

    Attributes:
        name: names the folder of its checkpoints and the values of ``Method.stage``.
        epochs: how many; None for the Trainer's ``max_epochs``.
        trains: the child modules that train; the others are frozen and in evaluation mode. Empty for all.
        keep: which of its checkpoints the next stage (or the test) starts from.
    """

    name: str
    epochs: int | None = None
    trains: tuple[str, ...] = ()
    keep: Literal["best", "last"] = "best"


class Method(LightningModule, ABC):
    """The base of all methods.

    Args:
        spec: the data set's :class:`~mmlab.types.DataSpec` as plain data; the command line fills it in.
        backbone: what encodes each modality: ``small_conv``, a timm model's name, an import path, or its fields; None
            for a method that reads the inputs by modules of its own.
        backbones: overrides for single modalities, by name; the others keep ``backbone``.
        optimizer: makes the optimiser from the parameters that train.
        scheduler: makes the schedule from the optimiser; stepped once an epoch.

    Attributes:
        input_radius: whether evaluation estimates the robustness radius in the space of the inputs too.
        by_combination: whether evaluation lets the method decide with every combination of modalities.
    """

    tasks: tuple[type[Task], ...] = (Classification,)
    """What the method is defined for; a data set with another task is refused."""
    dense = False
    """Whether the encoders of a data set that asks for a class of each pixel are pyramids."""

    def __init__(
        self,
        spec: dict[str, Any],
        backbone: Choice | None,
        backbones: Backbones,
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None,
    ) -> None:
        super().__init__()
        self.spec = DataSpec.from_dict(spec)
        if not isinstance(self.spec.task, self.tasks):
            known = " and ".join(task.__name__.lower() for task in self.tasks)
            cut = "ask the data set for classes where it has them (--data.dataset.task binary), or "
            raise UserError(
                f"{type(self).__name__} is defined for {known}, but {self.spec.dataset} asks for "
                f"{type(self.spec.task).__name__.lower()}: {cut if isinstance(self.spec.task, Regression) else ''}"
                f"choose another method (mmlab list methods) or data set."
            )
        self.encoders = nn.ModuleDict()
        if backbone is not None:
            self.encoders = build_encoders(self.spec, backbone, backbones, self.dense)
        self.stage = ""
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._plateau: ReduceLROnPlateau | None = None
        self._resumed_plateau: dict[str, Any] | None = None
        self._trains: tuple[str, ...] = ()
        self._trainable: dict[str, bool] | None = None
        self.input_radius = False
        self.by_combination = False
        self._evaluations: list[Evaluation | CombinationEvaluation] = []
        self._sums = LossSums()
        self._rate = 0.0

    # What a method writes.

    @abstractmethod
    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """The method's decision.

        Args:
            inputs: (B, *shape) by modality; zeros where a sample lacks it.
            present: (B, M) bool, in the order of ``self.spec.modalities``.
        """

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The named parts of the training objective and, under ``loss``, their weighted sum; all scalars."""

    def stages(self) -> list[Stage]:
        """The fits that make up a run, in order; one that trains everything unless a method says otherwise."""
        return [Stage("fit")]

    @property
    def linear_heads(self) -> list[nn.Linear]:
        """Each modality's classifier, in order, where its logits are linear in ``Prediction.features``; else none.

        The robustness radius is measured where there are some.
        """
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's parameter groups: all that train by its own options, then a group for each other set."""
        own = self.own_options()
        groups: dict[tuple[tuple[str, float], ...], list[nn.Parameter]] = {(): []}
        for parameter in self.parameters():
            if parameter.requires_grad:
                groups.setdefault(tuple(own.get(parameter, {}).items()), []).append(parameter)
        return [{"params": members, **dict(options)} for options, members in groups.items() if members]

    def own_options(self) -> dict[nn.Parameter, dict[str, float]]:
        """Options of single parameters in place of the optimiser's: those of encoders, unless a method says more."""
        return dict(own_options(self))

    @property
    def tested(self) -> list[Combination]:
        """The combinations of modalities that evaluation tests each sample with; none for what the sample has.

        Metrics then are ``acc`` with all modalities, ``acc_audio``, ``acc_rgb+depth`` with some, and ``acc_average``,
        the mean over the combinations.
        """
        return every_combination(len(self.spec.modalities)) if self.by_combination else []

    @property
    def monitor(self) -> str:
        """The validation metric that selects the checkpoint."""
        return self.spec.task.monitor

    def forward_each(self, inputs: dict[str, Tensor], presents: Sequence[Tensor]) -> Iterator[Prediction]:
        """The decision for each of several availabilities of the same samples, made when it is asked for."""
        for present in presents:
            yield self(inputs, present)

    def compilable(self) -> Iterable[nn.Module]:
        """The modules that ``--compile true`` compiles, one by one."""
        return self.encoders.values()

    # What the base does.

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Features (B, D) of each modality."""
        return {name: once(encoder, inputs[name]) for name, encoder in self.encoders.items()}

    def begin(self, stage: Stage) -> None:
        """Enters a stage: freezes what it does not train, and nothing else, whatever the stage before it froze.

        Raises:
            UserError: if the stage names a child module that there isn't.
        """
        children = [name for name, _ in self.named_children()]
        for name in stage.trains:
            if name not in children:
                raise UserError(
                    f"stage {stage.name!r} of {type(self).__name__} trains {name!r}, but its modules are "
                    f"{', '.join(children)}."
                )
        if self._trainable is None:  # a parameter that the method itself froze is never unfrozen
            self._trainable = {name: parameter.requires_grad for name, parameter in self.named_parameters()}
        self.stage = stage.name
        self._trains = stage.trains
        for name, parameter in self.named_parameters():
            trains = not stage.trains or name.split(".")[0] in stage.trains
            parameter.requires_grad_(self._trainable[name] and trains)
        self.train()

    def train(self, mode: bool = True) -> Method:
        """Training mode for what the stage trains; what is frozen stays in evaluation mode."""
        super().train(mode)
        for name, child in self.named_children():
            if self._trains and name not in self._trains:
                child.eval()
        return self

    def configure_optimizers(self) -> Any:
        """The optimiser over :meth:`parameter_groups` and, if there is one, the schedule."""
        try:
            optimizer = self._optimizer(self.parameter_groups())
        except (TypeError, ValueError) as error:
            raise UserError(f"the optimiser can't be built: {error}; correct --model.optimizer.") from error
        self._plateau = None
        if self._scheduler is None:
            return optimizer
        try:
            schedule = self._scheduler(optimizer)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise UserError(f"the schedule can't be built: {error}; correct --model.scheduler.") from error
        if isinstance(schedule, ReduceLROnPlateau):
            # Stepped below: Lightning leaves out this kind in an epoch that was resumed.
            self._plateau = schedule
            return optimizer
        return [optimizer], [schedule]

    def _step_plateau(self) -> None:
        """Hands the schedule the selecting metric if it waits for a rise, the loss if it waits for a fall."""
        if self._plateau is None:
            return
        metric = f"val/{self.monitor}" if self._plateau.mode == self.spec.task.mode else "val/loss"
        if metric in self.trainer.callback_metrics:
            self._plateau.step(self.trainer.callback_metrics[metric].item())

    def gathered(self, rows: Tensor, gradient: bool = False) -> Tensor:
        """The rows of all processes, (W * B, ...), in the order of one process's batch.

        A memory by sample must be written from these, ``self.memory[self.gathered(batch.index)] = ...``: every
        process must hold the same memory, since the first one's is what a checkpoint keeps. A loss that compares
        samples of the batch takes them with their gradient: computed by every process, it then is one process's.

        Args:
            rows: (B, ...), as many on every process.
            gradient: whether gradient flows back to the processes that the rows came from.
        """
        rows = rows if gradient else rows.detach()
        if self._trainer is None or self.trainer.world_size == 1:
            return rows
        every = cast(Tensor, self.all_gather(rows, sync_grads=gradient))
        if every.requires_grad:
            # torch 2.11 gives the processes a transposed gradient with its numbers in another order.
            every.register_hook(Tensor.contiguous)
        return every.transpose(0, 1).flatten(0, 1)  # the samples of a batch are dealt out in turn

    def counts(self, present: Tensor) -> Tensor:
        """How many samples of a batch have each modality, (M,): with several processes, the mean of their numbers.

        A loss that is averaged over the samples that have a modality divides by these: the mean of the processes'
        losses then is one process's.

        Args:
            present: (B, M) bool.
        """
        return mean_counts(present, self.gathered(present))

    @property
    def selecting(self) -> bool:
        """Whether this is a pass over the validation split, by whose metrics the checkpoint is selected."""
        return self._trainer is not None and (self.trainer.validating or self.trainer.sanity_checking)

    def draws(self, batch: Batch) -> Draws:
        """Random draws for a batch: functions of the seed, the epoch and each sample, on any number of devices."""
        return Draws(self._data.seed, self.current_epoch, batch.index)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step: the method's losses, remembered on the device for the epoch's means."""
        losses = self.losses(batch)
        self._rate = self.trainer.optimizers[0].param_groups[0]["lr"]  # at the epoch's end it is the next one's
        if not self._sums.names:
            _check_losses(self, losses)
        self._sums.add(losses, batch.index, self.global_step)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set at run time
        if every and (batch_idx + 1) % every == 0:
            self._stop_on_nan()
            last = {f"step/{name}": value.item() for name, value in losses.items()}
            for logger in self.loggers:
                logger.log_metrics(last, step=self.global_step)
        return losses["loss"]

    def on_train_epoch_end(self) -> None:
        """Logs the epoch's mean of every loss as ``train/<name>``, over all processes, and the learning rate."""
        self._stop_on_nan()
        means = self.trainer.strategy.reduce(self._sums.means(), reduce_op="mean")
        values = {f"train/{name}": mean for name, mean in zip(self._sums.names, means, strict=True)}
        self.log_dict(values | {"lr": self._rate})
        self._step_plateau()
        self._sums = LossSums()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses to overwrite a good checkpoint with weights that a NaN went through; keeps what resuming needs.

        Raises:
            UserError: if there is one.
        """
        self._stop_on_nan()
        if not torch.stack([parameter.isfinite().all() for parameter in self.parameters()]).all():
            raise UserError(
                f"a weight is no longer a finite number after step {self.global_step}, in epoch "
                f"{self.current_epoch + 1}: training stopped, and the checkpoints of earlier epochs stay as they are; "
                f"lower the learning rate or clip the gradients (--trainer.gradient_clip_val 1)."
            )
        checkpoint["mmlab_plateau"] = self._plateau.state_dict() if self._plateau else None
        checkpoint["mmlab_method"] = type(self).__name__
        checkpoint["mmlab_data"] = self._data.trained_on
        checkpoint["mmlab_sums"] = self._sums.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the running means and the plateau schedule up again."""
        self._sums = LossSums.from_state(checkpoint["mmlab_sums"])
        self._resumed_plateau = checkpoint["mmlab_plateau"]

    def on_train_start(self) -> None:
        """Restores the plateau schedule, which there was not yet when the checkpoint was read."""
        if self._plateau and self._resumed_plateau:
            self._plateau.load_state_dict(self._resumed_plateau)
        self._resumed_plateau = None

    def _stop_on_nan(self) -> None:
        step, index = self._first_bad()
        if step < 0:
            return
        ids = self._data.splits["train"].ids
        names = ", ".join(ids[position] for position in index[:8]) + (", ..." if len(index) > 8 else "")
        raise UserError(
            f"the loss was no longer a finite number at step {step} (epoch {self.current_epoch + 1}, samples {names}): "
            f"training stopped, and the checkpoints of earlier epochs stay as they are; lower the learning rate, clip "
            f"the gradients (--trainer.gradient_clip_val 1) or look at these samples."
        )

    def _first_bad(self) -> tuple[int, list[int]]:
        """The first step whose loss wasn't finite on any process, and that process's samples; -1 for none."""
        found = self._sums.first_bad()
        if found is None:
            return -1, []
        steps, indices = (self.gathered(tensor[None]) for tensor in found)
        bad = steps >= 0
        if not bad.any():
            return -1, []
        first = int(torch.where(bad, steps, steps.max() + 1).argmin())
        return int(steps[first]), indices[first].tolist()

    def on_validation_epoch_start(self) -> None:
        """Starts the metrics afresh."""
        self._evaluations = [self._new_evaluation()]

    def on_test_epoch_start(self) -> None:
        """Starts the metrics afresh, for each variant of the test split."""
        self._evaluations = [self._new_evaluation() for _ in range(self._data.variants)]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the metrics, fused and of each modality."""
        with shared_features():
            self._evaluations[0].update(self, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch, in each of its variants, to the metrics, fused and of each modality."""
        with shared_features():
            for evaluation, variant in zip(self._evaluations, self._data.variants_of(batch), strict=True):
                evaluation.update(self, variant)

    def on_validation_epoch_end(self) -> None:
        """Logs ``val/<metric>`` and ``val/<metric>_<modality>``."""
        self._log_evaluation("val", self._evaluations[0])

    def on_test_epoch_end(self) -> None:
        """Logs ``test/<metric>`` and ``test/<metric>_<modality>``; with variants, ``test/<number>/<metric>``."""
        if len(self._evaluations) == 1:
            return self._log_evaluation("test", self._evaluations[0])
        for number, evaluation in enumerate(self._evaluations):
            self._log_evaluation(f"test/{number}", evaluation)

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[Batch, Prediction]:
        """The decision beside the batch that it is about, without the batch's inputs."""
        prediction = self(batch.inputs, batch.present)
        return Batch({}, batch.target, batch.present, batch.index), prediction

    def _new_evaluation(self) -> Evaluation | CombinationEvaluation:
        if self.tested:
            return CombinationEvaluation(type(self).__name__, self.spec, self.tested, self.device)
        weights = [head.weight for head in self.linear_heads]
        return Evaluation(type(self).__name__, self.spec, weights, self.input_radius, self.device)

    def _log_evaluation(self, prefix: str, evaluation: Evaluation | CombinationEvaluation) -> None:
        values = {f"{prefix}/{key}": value for key, value in evaluation.compute(self.gathered).items()}
        # The metrics have been summed over all processes already: every process logs the same numbers.
        self.log_dict(values, rank_zero_only=False, sync_dist=False)

    @property
    def _data(self) -> Any:  # the data module, which this room doesn't import
        return self.trainer.datamodule  # type: ignore[attr-defined]  # set at run time


def _check_losses(method: Method, losses: Any) -> None:
    """Says what is wrong with the first losses of a method of one's own."""
    name = type(method).__name__
    if not isinstance(losses, dict) or "loss" not in losses:
        given = f"a dict of {', '.join(losses)}" if isinstance(losses, dict) else type(losses).__name__
        raise UserError(f"{name}.losses must return a dict with the key 'loss', but it returned {given}.")
    for part, value in losses.items():
        if not isinstance(value, Tensor) or value.dim():
            given = f"of the shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise UserError(f"{name}.losses must return scalar tensors, but {part!r} is {given}: take its mean.")
    if not losses["loss"].requires_grad:
        raise UserError(f"the 'loss' of {name}.losses has no gradient: it must be computed from what trains.")
