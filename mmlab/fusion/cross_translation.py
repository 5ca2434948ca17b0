"""Cross translation: every stream of features through every stream's translator.

With two streams, of an available modality a and of a restored one r, each with a translator T:

    J = [ (T_a(f_a) + T_a(f_r)) / 2 ; (T_r(f_r) + T_r(f_a)) / 2 ]      J_a = [ T_a(f_a) ; T_r(f_a) ]      J_r likewise

Translators that see both streams are shared parameters: they learn what the streams have in common.

Source: the parameter-sharing cross fusion that Wei et al. released for MSH-Net (2023). That the cross translation
network of OMD, of the same authors, is this one is this project's inference. Any number of streams, and samples that
lack some, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmlab.backbones.gaussian import Gathered, GatheredBatchNorm
from mmlab.networks.blocks import Norm, normalisation
from mmlab.precision import precise


class Translator(nn.Module):
    """A linear layer, or for maps a 3 x 3 convolution, without a bias; normalisation; ReLU.

    Args:
        width: D, of the features.
        translated: K, of what comes out.
        maps: whether features are maps.
        norm: over the samples of each call, by itself, of all processes; or over groups of four channels.
    """

    def __init__(self, width: int, translated: int, maps: bool, norm: Norm) -> None:
        super().__init__()
        self.layer: nn.Module = (
            nn.Conv2d(width, translated, kernel_size=3, padding=1, bias=False)
            if maps
            else nn.Linear(width, translated, bias=False)
        )
        self.norm: nn.Module = GatheredBatchNorm(translated) if norm == "batch" else normalisation(norm, translated)

    def forward(self, features: Tensor, has: Tensor, gathered: Gathered) -> Tensor:
        """(B, K) from (B, D), or (B, K, h, w) from (B, D, h, w); in float32 at least.

        Args:
            features: of one stream.
            has: (B,) bool, which samples have the stream and count in the normalisation.
            gathered: joins the rows of all processes.
        """
        out = self.layer(features)
        out = precise(out)
        if not isinstance(self.norm, GatheredBatchNorm):
            return self.norm(out).relu()
        maps = out.view(len(out), 1, out.shape[1], *(out.shape[2:] or (1, 1)))
        return self.norm(maps, has, gathered).view_as(out).relu()


class CrossTranslation(nn.Module):
    """Joins streams by translators that each is applied to all of them.

    Args:
        widths: of each stream's features. Where they differ, a linear layer (of maps, a 1 x 1 convolution) brings
            each to the largest first: ours.
        translated: K.
        maps: whether features are maps.
        norm: of the translators.
        shared: whether each translator sees all streams; else only its own, the ablation: then J = [T_1(f_1); ...].
    """

    def __init__(self, widths: Sequence[int], translated: int, maps: bool, norm: Norm, shared: bool = True) -> None:
        super().__init__()
        width = max(widths)
        self.shared = shared
        self.translated = translated
        self.projections = nn.ModuleList(
            nn.Identity() if set(widths) == {width} else _linear(own, width, maps) for own in widths
        )
        self.translators = nn.ModuleList(Translator(width, translated, maps, norm) for _ in widths)

    def forward(self, streams: Sequence[Tensor], has: Tensor, gathered: Gathered) -> tuple[Tensor, list[Tensor]]:
        """What goes to the head.

        Args:
            streams: M of (B, D_m), or of (B, D_m, h, w).
            has: (B, M) bool, which streams each sample has; the others take no part.
            gathered: joins the rows of all processes.

        Returns:
            J, (B, M * K, ...), by translator the mean over the streams that a sample has, zeros where it has none; and
            the same of each stream alone, J_1 ... J_M, none unless translators are shared.
        """
        columns = has.unbind(dim=1)
        streams = [project(features) for project, features in zip(self.projections, streams, strict=True)]
        if not self.shared:
            own = zip(self.translators, streams, columns, strict=True)
            return torch.cat(
                [_where(each, translate(stream, each, gathered)) for translate, stream, each in own], 1
            ), []
        alone = [
            torch.cat([translate(stream, own, gathered) for translate in self.translators], dim=1)
            for stream, own in zip(streams, columns, strict=True)
        ]
        total = torch.stack([_where(own, each) for own, each in zip(columns, alone, strict=True)]).sum(dim=0)
        count = has.sum(dim=1).clamp(min=1).view(-1, *[1] * (total.dim() - 1))
        return total / count, alone


def _linear(width: int, out: int, maps: bool) -> nn.Module:
    return nn.Conv2d(width, out, kernel_size=1) if maps else nn.Linear(width, out)


def _where(has: Tensor, values: Tensor) -> Tensor:
    return values.masked_fill(~has.view(-1, *[1] * (values.dim() - 1)), 0.0)
