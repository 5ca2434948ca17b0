"""Text models of transformers as backbones (the extra ``text``), from local folders."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from mmlab.backbones.base import reason
from mmlab.errors import UserError
from mmlab.types import Modality

transformers.logging.set_verbosity_error()  # it would tell of the heads that a folder's weights have and a backbone not
transformers.logging.disable_progress_bar()


class TextBackbone(nn.Module):
    """A text encoder such as BERT, from a folder that holds its ``config.json`` and, if wanted, its weights.

    The features are the model's pooled output where it has one (of BERT: the first token's last state, through a dense
    layer and tanh), else the first token's last state; without pooling always that, and the model's pooling layer is
    left out. Padding is not attended to; a sample without text, which is all padding, is seen as its first token alone.
    Nothing is downloaded, and no code that lies in the folder is run.

    Args:
        folder: that holds the model, as ``save_pretrained`` writes it.
        modality: of the kind text, shape (2, L).
        pretrained: starts from the folder's weights (safetensors, else PyTorch's); at random otherwise.
        pooled: whether the features are the pooled output, if the model has one.

    Attributes:
        width: D, the model's hidden size.

    Raises:
        UserError: if the folder or its weights can't be used, or the model is too small for the modality's tokens.
    """

    def __init__(self, folder: Path, modality: Modality, pretrained: bool = False, pooled: bool = True) -> None:
        super().__init__()
        if not (folder / "config.json").is_file():
            if folder.is_dir():
                state = "holds no config.json"
            else:
                state = "is no folder" if folder.exists() else "doesn't exist"
            raise UserError(
                f"the backbone {folder} of {modality.name!r} {state}: nothing is downloaded by name, so download a "
                f"text model once (for example `hf download bert-base-uncased --local-dir models/bert-base-uncased`) "
                f"and give its folder (--model.backbones.{modality.name} models/bert-base-uncased)."
            )
        # transformers and the models in it raise all kinds of exceptions: each is told in the same way.
        try:
            self.model, missing = _model(folder, pretrained)
        except pickle.UnpicklingError as error:  # torch's advice would be to trust the file
            raise UserError(
                f"the weights in {folder} hold more than tensors and are not loaded: put weights as safetensors there."
            ) from error
        except Exception as error:
            if "trust_remote_code" in str(error):
                raise UserError(
                    f"the backbone {folder} needs the code that comes with it, which mmlab never runs: choose another "
                    f"model, one that transformers itself knows."
                ) from error
            remedy = "put its weights there or set pretrained to false" if pretrained else "choose another model"
            raise UserError(f"the backbone {folder} can't be built ({reason(error)}): {remedy}.") from error
        if not pooled and hasattr(self.model, "pooler"):  # without a gradient, it would stop distributed training
            self.model.register_module("pooler", None)
            missing = [name for name in missing if not name.startswith("pooler.")]
        if missing:
            raise UserError(
                f"the weights in {folder} lack {missing[0]}, which the model needs: put complete weights there or set "
                f"pretrained to false."
            )
        try:
            self.eval()
            with torch.no_grad():
                self.width = self(torch.zeros(1, 2, 2, dtype=torch.int64)).shape[1]
            self.train()
        except Exception as error:
            raise UserError(
                f"the backbone {folder} can't encode a text by its tokens alone ({reason(error)}): choose an encoder "
                f"such as BERT."
            ) from error
        self._check_size(folder, modality)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) from (B, 2, L) whole numbers: tokens, 0 for padding, and their words, which aren't looked at."""
        tokens = x[:, 0]
        attended = tokens != 0
        attended[:, 0] = True  # attention over nothing would be NaN
        # With four axes the mask is taken as it is; of two, transformers would ask the device whether all are True.
        output = self.model(input_ids=tokens, attention_mask=attended[:, None, None, :])
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        return output.last_hidden_state[:, 0] if pooled is None else pooled

    def _check_size(self, folder: Path, modality: Modality) -> None:
        config: Any = self.model.config
        vocabulary, positions = config.vocab_size, getattr(config, "max_position_embeddings", None)
        if modality.high is not None and modality.high >= vocabulary:
            raise UserError(
                f"the backbone {folder} knows {vocabulary} tokens, but {modality.name!r} holds tokens up to "
                f"{modality.high:.0f}: prepare the data with this model's tokeniser, or choose the model of theirs."
            )
        if positions is not None and modality.shape[-1] > positions:
            raise UserError(
                f"the backbone {folder} reads {positions} tokens, but {modality.name!r} has up to "
                f"{modality.shape[-1]}: choose a model for longer texts."
            )


def _model(folder: Path, pretrained: bool) -> tuple[nn.Module, list[str]]:
    """The model, and the names of the weights that the folder should hold and doesn't."""
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not pretrained:
        model = transformers.AutoModel.from_config(
            config, attn_implementation="sdpa", dtype=torch.float32, trust_remote_code=False
        )
        return model, []
    model, loading = transformers.AutoModel.from_pretrained(
        folder,
        config=config,
        attn_implementation="sdpa",
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        weights_only=True,
        output_loading_info=True,
    )
    return model, sorted(loading["missing_keys"])
