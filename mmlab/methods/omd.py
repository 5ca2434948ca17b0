"""OMD, one-stage modality distillation: this project's RECONSTRUCTION of a method whose text and code it has not seen.

Paper: Wei, Luo, Luo, "One-stage Modality Distillation for Incomplete Multimodal Learning", arXiv 2309.08204, 2023. We
found no code, and of the paper its abstract alone. From there: some modalities are privileged, there in training and
gone at test time; restoring their features from what is available (joint adaptation network, JAN) and fusing both
(cross translation network, CTN, with parameters shared by the streams) are trained in one optimisation. How the two
look is taken from code that the authors released for a neighbouring paper, MSH-Net; the rest is ours.

With f_a = E_a(x_a), f_r = E_r(x_a), z_r = h_r(f_r), and the joint z = H(J) and the streams' own z_k = H(J_k) of
:mod:`mmlab.fusion.cross_translation`:

    teacher    L = CE(z_p, y), then frozen
    transfer   L = CE(z, y) + mu sum_k MSE(z_k, z) + lambda (alpha MMD(f_r, f_p) + beta T^2 KL(z_p / T || z_r / T))
                   + lambda_r CE(z_r, y)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmlab.availability import Combination, combination_name
from mmlab.backbones.config import NO_OVERRIDES, Backbones, Choice, build_encoders
from mmlab.backbones.pyramids import Pyramid
from mmlab.errors import UserError
from mmlab.fusion.cross_translation import CrossTranslation
from mmlab.losses.distillation import decision_divergence, number_divergence
from mmlab.losses.late_fusion import mean_over
from mmlab.losses.mmd import mmd
from mmlab.losses.pixel_cross_entropy import summed_over_sizes
from mmlab.methods.base import Method, OptimizerFactory, SchedulerFactory, Stage
from mmlab.networks.base import Decision, Features, Head, Network
from mmlab.networks.build import build_network
from mmlab.networks.decoder import Decoder
from mmlab.networks.segmentation import common_size
from mmlab.networks.vector import LinearHead
from mmlab.precision import precise
from mmlab.types import Batch, Classification, DataSpec, Prediction, Regression, Segmentation

TEACHER, TRANSFER = "teacher", "transfer"


class OMD(Method):
    """One-stage Modality Distillation: the project's reconstruction, since no code and no method section was found.

    Certain, from the paper's abstract: one optimisation that both restores the privileged features and fuses them with
    the available ones, alignment of the joint distribution of features and decisions, parameters shared across the
    streams, classification and segmentation. Taken from the authors' MSH-Net: the forms of both losses and of the
    cross translation. Ours: the teachers (one for each privileged modality, trained on it alone), the encoders, the
    weights lambda and lambda_r, more than two modalities, samples that lack some, regression, segmentation.

    Evaluation never sees a privileged modality: metrics are named after what is available, ``acc_image`` where the
    sound is privileged, and such a metric selects the checkpoint; of the teachers' stage ``acc_audio``, with several
    their average.

    Streams are the available modalities in the data set's order, then the restored ones. Every restorer sees the first
    available modality, by the privileged modality's backbone; where that can't encode it, by the available one's and a
    linear layer. Features of maps are averaged over all places where the task is not a class for each pixel. For
    segmentation translators work on the coarsest map, MMD on its mean over all places, KL on each pixel, and the
    decoder H takes the finer maps of the available streams, added up. For regression the criterion stands in the place
    of cross-entropy, and half the squared difference in that of KL, see
    :func:`~mmlab.losses.distillation.number_divergence`.

    A sample that lacks a privileged modality has no MMD and no KL of it. One that lacks an available modality is
    decided from the streams that it has. A loss is averaged over the samples that have what it needs.

    Ablations: beta 0 or alpha 0; shared_translators false; detach_restored true, the two-stage form, in which nothing
    but the adaptation trains the restorers; use_privileged_at_test true for the upper bound. The available modality
    alone is the method Unimodal.

    Args:
        spec: the data set's description as plain data; the command line fills it in.
        privileged: the names of the modalities that are there in training only: depth beside rgb, say.
        alpha: of the MMD; the authors' scripts of MSH-Net have 1 or 2.
        beta: of the KL; their scripts have 1, 2 or 5, more where the available modality is the weak one.
        temperature: T.
        consistency_weight: mu, of what draws the decision of each stream alone to the joint one and back.
        transfer_weight: lambda, of MMD and KL.
        restored_weight: lambda_r, of the loss of the restored stream's own head.
        translated_width: K, channels of what a translator puts out; those of the features unless given.
        shared_translators: whether each translator sees all streams; else only its own, and there is no consistency.
        detach_restored: whether the losses of the fusion stop at the restored features.
        use_privileged_at_test: whether evaluation also decides with the true privileged features in place of the
            restored ones, under the metric's name alone (``acc``): an upper bound, and an extension of ours.
        teacher_epochs: of the first stage; as many as the second has (the Trainer's) unless given.
        backbone: what encodes each modality: small_conv, a timm model's name, an import path, or its fields.
        backbones: overrides for single modalities, by name; the others keep the backbone above.
        optimizer: makes the optimiser from the parameters that train; a fresh one for each stage.
        scheduler: makes the schedule from the optimiser; stepped once an epoch; none by default.

    Raises:
        UserError: if no modality is privileged or none is left, or an option doesn't fit.
    """

    tasks = (Classification, Segmentation, Regression)
    dense = True

    def __init__(
        self,
        spec: dict[str, Any],
        privileged: list[str],
        alpha: float = 2.0,
        beta: float = 1.0,
        temperature: float = 2.0,
        consistency_weight: float = 1.0,
        transfer_weight: float = 1.0,
        restored_weight: float = 0.0,
        translated_width: int | None = None,
        shared_translators: bool = True,
        detach_restored: bool = False,
        use_privileged_at_test: bool = False,
        teacher_epochs: int | None = None,
        backbone: Choice = "small_conv",
        backbones: Backbones = NO_OVERRIDES,
        optimizer: OptimizerFactory = lambda p: torch.optim.Adam(p, lr=1e-3),
        scheduler: SchedulerFactory | None = None,
    ) -> None:
        super().__init__(spec, backbone, backbones, optimizer, scheduler)
        self.alpha, self.beta, self.temperature = alpha, beta, temperature
        self.consistency_weight = consistency_weight
        self.transfer_weight = transfer_weight
        self.restored_weight = restored_weight
        self.detach_restored = detach_restored
        self.use_privileged_at_test = use_privileged_at_test
        self.teacher_epochs = teacher_epochs
        self._check_options(privileged, translated_width)
        self.privileged = [name for name in self.spec.names if name in privileged]
        self.available = [name for name in self.spec.names if name not in privileged]
        self.maps = isinstance(self.spec.task, Segmentation)
        if self.maps:  # streams are joined place by place, beside networks of one modality each
            common_size(self.spec)

        own = self.encoders
        self.teachers = nn.ModuleDict({name: self._network(name, own[name]) for name in self.privileged})
        self.encoders = nn.ModuleDict({name: self._network(name, own[name]) for name in self.available})
        choices = {name: getattr(backbones, name, None) or backbone for name in self.spec.names}
        self.restorers = nn.ModuleDict({name: self._restorer(name, choices) for name in self.privileged})
        self.translation, self.head = self._fusion(translated_width, shared_translators)

    def _check_options(self, privileged: Sequence[str], translated_width: int | None) -> None:
        for name in privileged:
            self.spec.position(name)  # raises for a modality that the data set lacks
        left = set(self.spec.names) - set(privileged)
        if not privileged or not left:
            raise UserError(
                f"OMD needs a privileged modality and an available one, but privileged {list(privileged)} leaves "
                f"{', '.join(sorted(left)) or 'none'} of {self.spec.dataset}'s {', '.join(self.spec.names)}: "
                f"name those that are missing at test time, --model.privileged '[{self.spec.names[-1]}]'."
            )
        weights = {
            "alpha": self.alpha,
            "beta": self.beta,
            "consistency_weight": self.consistency_weight,
            "transfer_weight": self.transfer_weight,
            "restored_weight": self.restored_weight,
        }
        for option, weight in weights.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise UserError(f"OMD's {option} is {weight}: give a number of 0 or more.")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise UserError(f"OMD divides by the temperature, which is {self.temperature}: give a number above 0.")
        for option, number in {"translated_width": translated_width, "teacher_epochs": self.teacher_epochs}.items():
            if number is not None and number < 1:
                raise UserError(f"OMD's {option} is {number}: give 1 or more, or leave it out.")

    def _alone(self, name: str) -> DataSpec:
        return replace(self.spec, modalities=(self.spec.modalities[self.spec.position(name)],))

    def _network(self, name: str, encoder: nn.Module) -> Network:
        """A network that decides from one modality alone."""
        return build_network(self._alone(name), nn.ModuleDict({name: encoder}))

    def _restorer(self, name: str, choices: Mapping[str, Choice]) -> Network:
        """The network of a privileged modality that is given the first available one."""
        first = self.available[0]
        try:
            (encoder,) = build_encoders(self._alone(first), choices[name], NO_OVERRIDES, self.dense).values()
        except UserError:  # a backbone that is built for the privileged modality, and can't encode the available one
            (encoder,) = build_encoders(self._alone(first), choices[first], NO_OVERRIDES, self.dense).values()
        network, width = self._network(first, encoder), _network_of(self.teachers, name).width
        return network if network.width == width else self._network(first, _Widened(encoder, network.width, width))

    def _fusion(self, translated_width: int | None, shared: bool) -> tuple[CrossTranslation, Head]:
        available = [_network_of(self.encoders, name) for name in self.available]
        widths = [network.width for network in available]
        widths += [_network_of(self.teachers, name).width for name in self.privileged]
        translated = translated_width or max(widths)
        joint, outputs = len(widths) * translated, self.spec.task.outputs
        for network in available:
            del network.head  # decides nothing, and what gets no gradient would stop distributed training
        pyramids = [each for network in available for each in network.encoders.values() if isinstance(each, Pyramid)]
        if not self.maps:
            return CrossTranslation(widths, translated, False, "batch", shared), LinearHead(joint, outputs)
        first = pyramids[0]
        if any(pyramid.decoder != first.decoder for pyramid in pyramids):
            raise UserError(
                f"OMD's decoder adds up the maps of the available modalities {', '.join(self.available)}, but their "
                f"backbones have other widths: give all the same backbone."
            )
        decoder = Decoder(joint, tuple(reversed(first.decoder)), outputs, first.norm)
        return CrossTranslation(widths, translated, True, first.norm, shared), decoder

    # What the base asks for.

    def stages(self) -> list[Stage]:
        """The teachers, each on its modality alone; then everything else."""
        return [
            Stage(TEACHER, epochs=self.teacher_epochs, trains=("teachers",)),
            Stage(TRANSFER, trains=("encoders", "restorers", "translation", "head")),
        ]

    @property
    def tested(self) -> list[Combination]:
        """The available modalities; in the first stage each privileged one; for the upper bound, also all."""
        names = self.spec.names
        if self.stage == TEACHER:
            return [tuple(name == teacher for name in names) for teacher in self.privileged]
        without = tuple(name in self.available for name in names)
        return [without, tuple(True for _ in names)] if self.use_privileged_at_test else [without]

    @property
    def monitor(self) -> str:
        """The metric with the privileged modalities absent; in the first stage that of the teachers."""
        several = self.stage == TEACHER and len(self.privileged) > 1
        name = "average" if several else combination_name(self.spec.names, self.tested[0])
        return f"{self.spec.task.monitor}_{name}"

    def compilable(self) -> Iterable[nn.Module]:
        """The encoders within the networks."""
        networks = chain(self.teachers.values(), self.encoders.values(), self.restorers.values())
        return chain.from_iterable(network.compilable() for network in networks if isinstance(network, Network))

    def forward(self, inputs: dict[str, Tensor], present: Tensor) -> Prediction:
        """Decides from the available modalities alone, whatever stands in the place of the others.

        In the first stage the mean of the logits of the teachers whose modality is there.
        """
        if self.stage == TEACHER:
            return Prediction(self._taught_decision(inputs, present))
        available = self.available_features(inputs, present)
        restored = self.restored_features(inputs, present)
        has = self._streams_of(present)
        if self.use_privileged_at_test:
            for m, (name, true) in enumerate(self.taught_features(inputs, present).items(), start=len(available)):
                there = present[:, self.spec.position(name)]
                restored[name] = Features(_chosen(there, true.deep, restored[name].deep))
                has[:, m] |= there
        return Prediction(self.fused(available, restored, has)[0].logits)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The objective of the stage."""
        if self.stage == TEACHER:
            return self._teacher_losses(batch)
        with torch.no_grad():
            taught = self.taught_features(batch.inputs, batch.present)
            taught_logits = {name: _network_of(self.teachers, name).head(seen).logits for name, seen in taught.items()}
        return self.objective(
            self.available_features(batch.inputs, batch.present),
            self.restored_features(batch.inputs, batch.present),
            taught,
            taught_logits,
            batch,
        )

    def objective(
        self,
        available: Mapping[str, Features],
        restored: Mapping[str, Features],
        taught: Mapping[str, Features],
        taught_logits: Mapping[str, Tensor],
        batch: Batch,
    ) -> dict[str, Tensor]:
        """The second stage's losses, from the features of a batch.

        Args:
            available: f_a by modality.
            restored: f_r by privileged modality.
            taught: f_p likewise; gets no gradient.
            taught_logits: z_p likewise; gets no gradient.
            batch: its target and what is present.
        """
        has = self._streams_of(batch.present)
        both = self._privileged_of(batch.present) & batch.present[:, self._first, None]
        decided = has.any(dim=1)
        counts = self.counts(torch.cat((has, both, decided[:, None]), dim=1))
        stream_counts, both_counts, decided_count = counts.split([has.shape[1], both.shape[1], 1])

        decision, alone = self.fused(available, restored, has)
        apart = torch.stack([_mean_square(logits, decision.logits) for logits in alone]) if alone else None
        consistency = (
            decision.logits.new_zeros((), dtype=torch.float32)
            if apart is None
            else mean_over(apart, has.T, stream_counts).sum()
        )
        fused = self._task_loss(decision, batch.target, decided, decided_count[0])

        restored_losses, adaptations = [], []
        parts: dict[str, Tensor] = {}
        for number, (name, features) in enumerate(restored.items()):
            own = _network_of(self.restorers, name).head(features)
            kept, count = both[:, number], both_counts[number]
            adaptation, marginal, conditional = self.adaptation(
                self._vectors(features.deep),
                own.logits,
                self._vectors(taught[name].deep),
                taught_logits[name],
                kept,
                count,
            )
            adaptations.append(adaptation)
            seen = batch.present[:, self._first]
            restored_losses.append(self._task_loss(own, batch.target, seen, stream_counts[len(available) + number]))
            parts |= {f"mmd_{name}": marginal, f"kl_{name}": conditional}
        transfer, restored_loss = torch.stack(adaptations).sum(), torch.stack(restored_losses).sum()
        return {
            "loss": fused
            + self.consistency_weight * consistency
            + self.transfer_weight * transfer
            + self.restored_weight * restored_loss,
            f"{self.spec.task.loss}_fused": fused,
            "consistency": consistency,
            "transfer": transfer,
            **parts,
            f"{self.spec.task.loss}_restored": restored_loss,
        }

    def adaptation(
        self, features: Tensor, logits: Tensor, taught: Tensor, taught_logits: Tensor, kept: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """L_JAN of one privileged modality: alpha times the MMD plus beta times the KL, and both.

        Args:
            features: (B, ...), restored.
            logits: of the restored stream's head.
            taught: (B, ...), the teacher's; gets no gradient.
            taught_logits: the teacher's; gets no gradient.
            kept: (B,) bool, the samples that take part.
            count: how many do, a scalar; see :meth:`~mmlab.methods.base.Method.counts`.
        """
        # As many rows on every process, of which some don't count: the discrepancy is that of the whole batch.
        marginal = mmd(self.gathered(features, gradient=True), self.gathered(taught), self.gathered(kept))
        if isinstance(self.spec.task, Regression):
            each = number_divergence(logits, taught_logits)
        else:
            each = decision_divergence(logits, taught_logits, self.temperature)
        conditional = mean_over(each, kept, count)
        return self.alpha * marginal + self.beta * conditional, marginal, conditional

    # Its parts.

    @property
    def _first(self) -> int:
        """The place of the modality that the restorers see."""
        return self.spec.position(self.available[0])

    def _streams_of(self, present: Tensor) -> Tensor:
        """Which streams each sample has, (B, M) bool: the available ones, then the restored ones."""
        places = [*map(self.spec.position, self.available), *[self._first] * len(self.privileged)]
        return torch.stack([present[:, m] for m in places], dim=1)

    def _privileged_of(self, present: Tensor) -> Tensor:
        """Which privileged modalities each sample has, (B, P) bool."""
        return torch.stack([present[:, self.spec.position(name)] for name in self.privileged], dim=1)

    def _see(
        self, networks: nn.ModuleDict, name: str, seen: str, inputs: dict[str, Tensor], present: Tensor
    ) -> Features:
        """What a network, which sees one modality, makes of it."""
        network, position = _network_of(networks, name), self.spec.position(seen)
        encoded = network.encode({seen: inputs[seen]})
        return network.trunk(network.fuse(encoded, present[:, position : position + 1]))

    def available_features(self, inputs: dict[str, Tensor], present: Tensor) -> dict[str, Features]:
        """f_a of each available modality."""
        return {name: self._see(self.encoders, name, name, inputs, present) for name in self.available}

    def restored_features(self, inputs: dict[str, Tensor], present: Tensor) -> dict[str, Features]:
        """f_r of each privileged modality."""
        first = self.available[0]
        return {name: self._see(self.restorers, name, first, inputs, present) for name in self.privileged}

    def taught_features(self, inputs: dict[str, Tensor], present: Tensor) -> dict[str, Features]:
        """f_p of each privileged modality, from its teacher."""
        return {name: self._see(self.teachers, name, name, inputs, present) for name in self.privileged}

    def fused(
        self, available: Mapping[str, Features], restored: Mapping[str, Features], has: Tensor
    ) -> tuple[Decision, list[Tensor]]:
        """The joint decision z, and in training the logits z_k of each stream alone, which decide nothing."""
        streams = [self._translatable(features.deep) for features in available.values()]
        for features in restored.values():
            stream = self._translatable(features.deep)
            streams.append(stream.detach() if self.detach_restored else stream)
        joint, alone = self.translation(streams, has, self.gathered)
        columns = has.unbind(dim=1)
        seen = [(own, each.skips) for own, each in zip(columns, available.values(), strict=False)]
        levels = zip(*([_chosen(own, skip) for skip in skips] for own, skips in seen), strict=True)
        skips = tuple(torch.stack(level).sum(dim=0) for level in levels)
        own = [self.head(Features(each, skips)).logits for each in alone] if self.training else []
        return self.head(Features(joint, skips)), own

    def _translatable(self, deep: Tensor) -> Tensor:
        return deep if self.maps else self._vectors(deep)

    def _vectors(self, deep: Tensor) -> Tensor:
        """(B, D): maps are averaged over all places."""
        return deep.mean(dim=(2, 3)) if deep.dim() == 4 else deep

    def _taught_decision(self, inputs: dict[str, Tensor], present: Tensor) -> Tensor:
        taught = self.taught_features(inputs, present)
        logits = torch.stack([_network_of(self.teachers, name).head(seen).logits for name, seen in taught.items()])
        there = self._privileged_of(present)
        total = torch.stack([_chosen(own, each) for own, each in zip(there.unbind(dim=1), logits, strict=True)])
        return total.sum(dim=0) / there.sum(dim=1).clamp(min=1).view(-1, *[1] * (logits.dim() - 2))

    def _teacher_losses(self, batch: Batch) -> dict[str, Tensor]:
        taught = self.taught_features(batch.inputs, batch.present)
        there = self._privileged_of(batch.present)
        counts = self.counts(there)
        each = {
            f"{self.spec.task.loss}_{name}": self._task_loss(
                _network_of(self.teachers, name).head(seen), batch.target, there[:, number], counts[number]
            )
            for number, (name, seen) in enumerate(taught.items())
        }
        return {"loss": torch.stack(list(each.values())).sum(), **each}

    def _task_loss(self, decision: Decision, target: Tensor, kept: Tensor, count: Tensor) -> Tensor:
        """The task's training loss over the samples that are kept; for pixels at each size that was decided at."""
        task = self.spec.task
        if not isinstance(task, Segmentation):
            return mean_over(task.criterion(precise(decision.logits), target), kept, count)
        return summed_over_sizes((decision.logits, *decision.coarse), target, task, kept, self.gathered)


class _Widened(nn.Module):
    """An encoder and a linear layer to another width."""

    def __init__(self, encoder: nn.Module, before: int, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.linear = nn.Linear(before, width)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.encoder(x))


def _network_of(networks: nn.ModuleDict, name: str) -> Network:
    return cast(Network, networks[name])


def _mean_square(one: Tensor, other: Tensor) -> Tensor:
    """(B,): over classes, and places if there are any."""
    return (precise(one) - precise(other)).square().flatten(1).mean(dim=1)


def _chosen(has: Tensor, values: Tensor, others: Tensor | None = None) -> Tensor:
    """The values of the samples that have them, elsewhere others or zeros."""
    rows = has.view(-1, *[1] * (values.dim() - 1))
    return torch.where(rows, values, torch.zeros_like(values) if others is None else others)
