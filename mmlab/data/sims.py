"""CH-SIMS: the sentiment of scenes in Chinese films, series and shows (Yu, Xu, Meng, Zhu, Ma et al., 2020)."""

from __future__ import annotations

from typing import Literal

from mmlab.data.mmsa import MMSADataset, TextInput
from mmlab.data.mmsa_twin import TwinSizes


class SIMS(MMSADataset):
    """CH-SIMS in MMSA's file: 1368 training, 456 validation and 457 test utterances in Chinese, scored -1 to 1.

    The file is ``<root>/SIMS/Processed/unaligned_39.pkl``, or in the older layout
    ``<root>/SIMS/Processed/features/unaligned_39.pkl``: features of BERT (39 x 768), of the voice (400 x 33; librosa)
    and of the face (55 x 709; OpenFace). There are no aligned ones. Its labels of each modality alone are not used.
    Everything else is as in MOSI.

    Args:
        root: the folder that holds ``SIMS/``; give MMSA's folder of data sets here.
        text: ``features`` of BERT as the file has them, or its ``tokens`` for a text model of your own (of the same
            vocabulary; bert-base-chinese). Which tokens are one word isn't known: each counts as its own.
        task: ``regression`` of the score, or ``binary``: above 0 or not.
    """

    folder = "SIMS"
    convention = "sims"
    checksums = {
        "unaligned_39.pkl": (
            "c9e20c13ec0454d98bb9c1e520e490c75146bfa2dfeeea78d84de047dbdd442f",
            "a00c73e92f66896403c09dbad63e242d5af756f8",
        ),
    }
    twin = TwinSizes(steps=(7, 12, 6), widths=(16, 33, 24), by_modality=True)

    def __init__(
        self, root: str = "data", text: TextInput = "features", task: Literal["regression", "binary"] = "regression"
    ) -> None:
        files = ("Processed/unaligned_39.pkl", "Processed/features/unaligned_39.pkl")
        super().__init__(root, files, False, text, task)
