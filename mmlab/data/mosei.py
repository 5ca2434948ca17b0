"""CMU-MOSEI: the sentiment of monologues on the web (Zadeh, Liang, Poria, Cambria and Morency, 2018)."""

from __future__ import annotations

from mmlab.data.mmsa import MMSADataset, TextInput
from mmlab.data.mmsa_twin import TwinSizes
from mmlab.data.sentiment import SentimentTask


class MOSEI(MMSADataset):
    """CMU-MOSEI in MMSA's files: 16326 training, 1871 validation, 4659 test utterances in English, scored -3 to 3.

    The file is ``<root>/MOSEI/Processed/unaligned_50.pkl`` or ``aligned_50.pkl``: features of BERT (50 x 768), of the
    voice (500 x 74; COVAREP) and of the face (500 x 35; FACET), or of all at each of 50 words. Everything else is as in
    MOSI. The unaligned pickle has 13 GB, and ``mmlab prepare`` needs as much memory; the pack has 9 GB, and a run reads
    of it what it needs.

    Args:
        root: the folder that holds ``MOSEI/``; give MMSA's folder of data sets here.
        aligned: whether voice and face are taken word by word.
        text: ``features`` of BERT as the file has them, or its ``tokens`` for a text model of your own (of the same
            vocabulary; bert-base-uncased). Which tokens are one word isn't known: each counts as its own.
        task: ``regression`` of the score; ``binary``, below 0 or not; or ``seven``, the score rounded half to even.
    """

    folder = "MOSEI"
    convention = "mosi"
    checksums = {
        "unaligned_50.pkl": (
            "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f",
            "db3e2cff4d706a88ee156981c2100975513d4610",
        ),
        "aligned_50.pkl": (
            "45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791",
            "ef49589349bc1c2bc252ccc0d4657a755c92a056",
        ),
    }
    twin = TwinSizes(steps=(8, 12, 12), widths=(16, 74, 35), infinite=True)

    def __init__(
        self,
        root: str = "data",
        aligned: bool = False,
        text: TextInput = "features",
        task: SentimentTask = "regression",
    ) -> None:
        file = "aligned_50.pkl" if aligned else "unaligned_50.pkl"
        super().__init__(root, (f"Processed/{file}",), aligned, text, task)
