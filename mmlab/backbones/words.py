"""A backbone of texts that needs no text model."""

from __future__ import annotations

from torch import Tensor, nn

from mmlab.backbones.sequences import mean_of_steps
from mmlab.errors import UserError
from mmlab.types import Modality


class WordEmbeddings(nn.Module):
    """The mean of learnt embeddings of a text's tokens and a linear layer, by the name ``word_embeddings``.

    It knows no order of words. Padding, token 0, doesn't count; a text without tokens is zeros to the linear layer. The
    sizes are ours.

    Args:
        modality: of the kind text, shape (2, L).
        hidden: of an embedding.
        width: D, of the features.

    Raises:
        UserError: if the modality is no text, or doesn't say what its last token is.
    """

    def __init__(self, modality: Modality, hidden: int = 32, width: int = 32) -> None:
        super().__init__()
        if modality.kind != "text" or modality.high is None:
            lack = "of the kind " + modality.kind if modality.kind != "text" else "without a largest token (high)"
            raise UserError(
                f"word_embeddings encodes the tokens of texts, but the modality {modality.name!r} is {lack}: choose "
                f"another backbone for it (mmlab list backbones)."
            )
        self.embedding = nn.Embedding(int(modality.high) + 1, hidden, padding_idx=0)
        self.linear = nn.Linear(hidden, width)
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """(B, width) from (B, 2, L) whole numbers: tokens, 0 for padding, and their words, which aren't looked at."""
        mask = x[:, 0] != 0
        mask[:, 0] = True  # the embedding of padding is 0, so this only keeps a mean over nothing from NaN
        return self.linear(mean_of_steps(self.embedding(x[:, 0]), mask))
