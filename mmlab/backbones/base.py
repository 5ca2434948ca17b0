"""The contract of a backbone: one modality in, features out."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """Encodes pictures: spectrograms, images, depth, frames and flow.

    A clip is encoded frame by frame: its frames are folded into the batch (clip by clip) and unfolded again.

    Attributes:
        width: D, the features' width.
    """

    width: int

    @abstractmethod
    def picture_maps(self, pictures: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, D, h, w)."""

    def maps(self, x: Tensor) -> Tensor:
        """Features that still know where and when.

        Args:
            x: (B, channels, H, W), or (B, channels, T, H, W) for frames and flow.

        Returns:
            (B, T, D, h, w), with T = 1 where there is no time.
        """
        if x.dim() == 4:
            return self.picture_maps(x).unsqueeze(1)
        pictures = x.transpose(1, 2).flatten(0, 1)
        return self.picture_maps(pictures).unflatten(0, (x.shape[0], x.shape[2]))

    def pool(self, maps: Tensor) -> Tensor:
        """(B, T, D, h, w) to (B, D): the mean over time and place, unless a backbone says otherwise."""
        return maps.mean(dim=(1, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) from (B, channels, H, W) or (B, channels, T, H, W)."""
        return self.pool(self.maps(x))


def reason(error: Exception) -> str:
    """The first line of what another library raised, so that a message about it stays one sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
