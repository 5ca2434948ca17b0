"""The words that all rooms share: Modality, Task, DataSpec, Batch, Prediction.

Shapes use one set of letters throughout: ``B`` batch, ``M`` modalities, ``C`` classes, ``D`` feature width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmlab.errors import UserError, did_you_mean

if TYPE_CHECKING:  # torchmetrics costs seconds to import and only training needs it
    from torchmetrics import MetricCollection

Kind = Literal["audio", "image", "frames", "flow", "depth", "sequence", "text", "vector"]


@dataclass(frozen=True)
class Modality:
    """One kind of input and the scale of its raw values.

    A tensor that an encoder sees is ``(raw - mean) / std``, channel by channel, so that a corruption given in
    raw units (grey levels, say) can be applied to it and clamped where the raw data would be.

    Attributes:
        name: how data sets, methods and results call it (``audio``, ``image``, ...).
        kind: what it is; a backbone reads from this how the shape is meant.
        shape: what an encoder sees for one sample, without the batch: ``audio`` (1, F, T), ``image``, ``depth``
            (channels, H, W), ``frames``, ``flow`` (channels, T, H, W), ``sequence`` (T, D), ``vector`` (D,), ``text``
            (2, L) whole numbers: tokens, 0 for padding, and below each the number of its word from 1, 0 for
            tokens that belong to none. A batch of text is only as long as its longest sample.
        mean: of the raw values, one number or one for each channel.
        std: likewise.
        low: the smallest raw value there can be; None where there is no bound.
        high: the largest; of text, the last token of the vocabulary.
        noise: standard deviation of Gaussian noise for each unit of severity, in raw units; None for what is usual
            for its kind.
        blank: of text, the token that stands in place of a word that is blanked.
        ragged: of a sequence whose samples differ in length: the last of the D values then says of each step whether
            it belongs to the sample (1) or fills it up (0; all its values are 0). A batch is only as long as its
            longest sample, and a missing one has no step.
    """

    name: str
    kind: Kind
    shape: tuple[int, ...]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    low: float | None = None
    high: float | None = None
    noise: float | None = None
    blank: int | None = None
    ragged: bool = False


@dataclass(frozen=True)
class Classification:
    """Single-label classification.

    Attributes:
        classes: the names in the order of the logits.
    """

    classes: tuple[str, ...]
    monitor = "acc"
    """The validation metric that selects the checkpoint, and its direction."""
    mode = "max"
    loss = "ce"
    """How the criterion is called in the names of losses."""

    @property
    def outputs(self) -> int:
        """How many numbers a head puts out for one sample."""
        return len(self.classes)

    def criterion(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of each sample, (B,), from logits (B, C) and target (B,)."""
        return F.cross_entropy(logits, target, reduction="none")

    def decision(self, logits: Tensor) -> Tensor:
        """The predicted class of each sample, (B,), the lowest index on ties."""
        return logits.argmax(dim=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax of the logits, (B, C)."""
        return logits.softmax(dim=1)

    def metrics(self) -> MetricCollection:
        """Top-1 accuracy over all samples and macro F1, under the names ``acc`` and ``f1``."""
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

        classes = len(self.classes)
        return MetricCollection(
            {
                "acc": MulticlassAccuracy(classes, average="micro", validate_args=False),
                "f1": MulticlassF1Score(classes, average="macro", validate_args=False),
            },
            compute_groups=False,  # a process that saw no sample of a modality must hold the same states
        )


@dataclass(frozen=True)
class AntiSpoofing(Classification):
    """Whether a face is living or an attack; 1 is living.

    Attributes:
        classes: what 0 and 1 are.
    """

    classes: tuple[str, ...] = ("spoof", "live")
    monitor = "acer"
    mode = "min"

    def metrics(self) -> MetricCollection:
        """The error rates ``acer``, ``apcer`` and ``bpcer`` at the larger logit, and the accuracy ``acc``."""
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassAccuracy

        from mmlab.metrics.antispoofing import SpoofingErrors

        accuracy = MulticlassAccuracy(2, average="micro", validate_args=False)
        return MetricCollection({"errors": SpoofingErrors(), "acc": accuracy}, compute_groups=False)


@dataclass(frozen=True)
class Segmentation:
    """A class for every pixel.

    Attributes:
        classes: the names in the order of the logits.
        ignore_index: the label of pixels that count neither in the loss nor in the metrics.
        weights: of each class in the training loss, by the data set (median frequency, say); None for equal ones.
    """

    classes: tuple[str, ...]
    ignore_index: int = 255
    weights: tuple[float, ...] | None = None
    monitor = "miou"
    mode = "max"
    loss = "ce"

    @property
    def outputs(self) -> int:
        """How many numbers a network puts out for one pixel."""
        return len(self.classes)

    def criterion(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of each sample, (B,), over its labelled pixels, without weights; 0 where it has none.

        Args:
            logits: (B, C, H, W).
            target: (B, H, W).
        """
        each = F.cross_entropy(logits, target, reduction="none", ignore_index=self.ignore_index)
        labelled = (target != self.ignore_index).flatten(1).sum(dim=1)
        return each.flatten(1).sum(dim=1) / labelled.clamp(min=1)

    def decision(self, logits: Tensor) -> Tensor:
        """The predicted class of each pixel, (B, H, W)."""
        return logits.argmax(dim=1)

    def metrics(self) -> MetricCollection:
        """Over the whole split: ``miou``, ``miou_all``, ``acc`` by pixel, ``iou_<class>``.

        See :class:`~mmlab.metrics.intersection_over_union.IntersectionOverUnion`.
        """
        from torchmetrics import MetricCollection

        from mmlab.metrics.intersection_over_union import IntersectionOverUnion

        return MetricCollection({"iou": IntersectionOverUnion(self.classes, self.ignore_index)}, compute_groups=False)


@dataclass(frozen=True)
class Regression:
    """One real number.

    Attributes:
        low: the smallest target there can be.
        high: the largest.
    """

    low: float
    high: float
    monitor = "mae"
    mode = "min"
    loss = "l1"

    @property
    def outputs(self) -> int:
        """A head puts out one number for one sample."""
        return 1

    def criterion(self, logits: Tensor, target: Tensor) -> Tensor:
        """Absolute error of each sample, (B,), from logits (B, 1) and target (B,)."""
        return (logits.squeeze(1) - target).abs()

    def decision(self, logits: Tensor) -> Tensor:
        """The predicted number of each sample, (B,), not clipped."""
        return logits.squeeze(1)

    def metrics(self) -> MetricCollection:
        """Mean absolute error and Pearson's correlation, neither clipped: ``mae`` and ``corr``."""
        from torchmetrics import MeanAbsoluteError, MetricCollection, PearsonCorrCoef

        return MetricCollection({"mae": MeanAbsoluteError(), "corr": PearsonCorrCoef()}, compute_groups=False)


@dataclass(frozen=True)
class Sentiment(Regression):
    """The sentiment of an utterance, negative below 0, under the field's names of metrics.

    Attributes:
        convention: whose cuts the metrics take: those of CMU-MOSI and MOSEI, or those of CH-SIMS.
    """

    convention: Literal["mosi", "sims"] = "mosi"
    monitor = "MAE"

    def metrics(self) -> MetricCollection:
        """Those of MMSA, see :class:`~mmlab.metrics.sentiment.SentimentMetrics`."""
        from torchmetrics import MetricCollection

        from mmlab.metrics.sentiment import SentimentMetrics

        return MetricCollection({"sentiment": SentimentMetrics(self.convention)}, compute_groups=False)


Task = Classification | Segmentation | Regression
"""Every task there is; each owns its criterion, its metrics and its decision, so that no method asks which it is on."""


@dataclass(frozen=True)
class DataSpec:
    """What a method must know of the data it is built for.

    Attributes:
        dataset: the data set's name, for results and dashboards.
        modalities: in the order that ``Batch.present`` and all fusion weights follow.
        task: owns the criterion, the metrics and the decision.
        train_size: number of training samples (methods with a memory allocate by it).
    """

    dataset: str
    modalities: tuple[Modality, ...]
    task: Task
    train_size: int

    @property
    def names(self) -> tuple[str, ...]:
        """The modalities' names, in order."""
        return tuple(modality.name for modality in self.modalities)

    def position(self, name: str) -> int:
        """The place of a modality in the order.

        Raises:
            UserError: if the data set has no such modality.
        """
        if name not in self.names:
            raise UserError(
                f"{self.dataset} has no modality {name!r}{did_you_mean(name, self.names)}; "
                f"its modalities are {', '.join(self.names)}."
            )
        return self.names.index(name)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: numbers, strings, lists and dicts. The command line links this into the method."""
        return {**asdict(self), "task": {"kind": type(self.task).__name__, **asdict(self.task)}}

    @staticmethod
    def from_dict(plain: dict[str, Any]) -> DataSpec:
        """The reverse of :meth:`to_dict`; lists in place of tuples are accepted."""

        def modality(fields: dict[str, Any]) -> Modality:
            tuples: dict[str, Any] = {key: tuple(fields[key]) for key in ("shape", "mean", "std") if key in fields}
            return Modality(**(fields | tuples))

        options: dict[str, Any] = dict(plain["task"])
        kinds = {kind.__name__: kind for kind in (Classification, AntiSpoofing, Segmentation, Regression, Sentiment)}
        kind = kinds[options.pop("kind")]
        options |= {key: tuple(options[key]) for key in ("classes", "weights") if options.get(key) is not None}
        return DataSpec(
            dataset=plain["dataset"],
            modalities=tuple(modality(fields) for fields in plain["modalities"]),
            task=kind(**options),
            train_size=plain["train_size"],
        )


@dataclass
class Batch:
    """Samples on their way from a data set to a method.

    Attributes:
        inputs: (B, ...) by modality. A modality that a sample lacks holds zeros there.
        target: (B,) class indices or numbers, or (B, H, W) label maps, as the task has it.
        present: (B, M) bool, which modalities a sample really has, in the DataSpec's order.
        index: (B,) int64, the sample's position in its split.
        complete: whether every sample is known to have every modality, which spares asking the device; False where
            nobody looked.
    """

    inputs: dict[str, Tensor]
    target: Tensor
    present: Tensor
    index: Tensor
    complete: bool = False

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory (called by the DataLoader's pinning thread)."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Any) -> Batch:
        inputs = {name: change(tensor) for name, tensor in self.inputs.items()}
        return Batch(inputs, change(self.target), change(self.present), change(self.index), self.complete)

    def __len__(self) -> int:
        return len(self.index)


@dataclass
class Prediction:
    """What a method says of a batch; diagnostics, robustness and plots read this and nothing else of a method.

    Attributes:
        logits: (B, C), the fused decision; (B, C, H, W) for a class of each pixel, of any size: metrics resize it.
        unimodal: (B, C) by modality, for methods that have a decision of each modality alone.
        weights: (B, M), fusion weights, 0 where a modality is missing.
        uncertainty: (B, M).
        features: (B, D) by modality.
    """

    logits: Tensor
    unimodal: dict[str, Tensor] = field(default_factory=dict)
    weights: Tensor | None = None
    uncertainty: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)
