"""CH-SIMS v2: more scenes in Chinese, chosen for what is said without words (Liu, Yuan, Mao, Liang et al., 2022)."""

from __future__ import annotations

from typing import Literal

from mmlab.data.mmsa import MMSADataset, TextInput
from mmlab.data.mmsa_twin import TwinSizes


class SIMSv2(MMSADataset):
    """CH-SIMS v2 in MMSA's file: 2722 training, 647 validation and 1034 test utterances in Chinese, scored -1 to 1.

    The file is ``<root>/SIMSv2/Processed/sims_unaligned.pkl``; lengths and widths are read from its arrays. No
    checksum of it is published. Everything else is as in SIMS.

    Args:
        root: the folder that holds ``SIMSv2/``; give MMSA's folder of data sets here.
        text: ``features`` of BERT as the file has them, or its ``tokens`` for a text model of your own (of the same
            vocabulary; bert-base-chinese). Which tokens are one word isn't known: each counts as its own.
        task: ``regression`` of the score, or ``binary``: above 0 or not.
    """

    folder = "SIMSv2"
    convention = "sims"
    checksums = {"sims_unaligned.pkl": None}
    twin = TwinSizes(steps=(8, 10, 12), widths=(16, 25, 17), by_modality=True)

    def __init__(
        self, root: str = "data", text: TextInput = "features", task: Literal["regression", "binary"] = "regression"
    ) -> None:
        super().__init__(root, ("Processed/sims_unaligned.pkl",), False, text, task)
