"""CMU-MOSI: the sentiment of film reviews that people speak into a camera (Zadeh, Zellers, Pincus, Morency, 2016)."""

from __future__ import annotations

from mmlab.data.mmsa import MMSADataset, TextInput
from mmlab.data.mmsa_twin import TwinSizes
from mmlab.data.sentiment import SentimentTask


class MOSI(MMSADataset):
    """CMU-MOSI in MMSA's files: 1284 training, 229 validation and 686 test utterances in English, scored -3 to 3.

    The file is ``<root>/MOSI/Processed/unaligned_50.pkl`` or ``aligned_50.pkl``, as MMSA gives them out: features of
    BERT (50 x 768), of the voice (375 x 5; COVAREP) and of the face (500 x 20; FACET), or of all at each of 50 words;
    lengths and widths are read from the arrays. The splits are the file's. A file with another checksum than the known
    ones is read with a warning, and one that tries to run code when it is read is refused.

    ``mmlab prepare`` packs it once into ``<root>/MOSI/packed-unaligned_50`` or ``packed-aligned_50``, float32 and
    memory-mapped, which takes as much memory as the pickle is large. A sequence ends where its recorded length says (in
    aligned files, and for the text, where BERT's mask ends), at least after 1 step and at most where the array ends;
    what stands behind is 0, and so are values that are no finite numbers, which are counted. Nothing is normalised.
    Utterances whose label is missing or out of range are left out and named; ids that repeat, or stand in two splits,
    are reported and stay.

    Args:
        root: the folder that holds ``MOSI/``; give MMSA's folder of data sets here.
        aligned: whether voice and face are taken word by word.
        text: ``features`` of BERT as the file has them, or its ``tokens`` for a text model of your own (of the same
            vocabulary; bert-base-uncased). Which tokens are one word isn't known: each counts as its own.
        task: ``regression`` of the score; ``binary``, below 0 or not; or ``seven``, the score rounded half to even.
    """

    folder = "MOSI"
    convention = "mosi"
    checksums = {
        "unaligned_50.pkl": (
            "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524",
            "5da0b8440fc5a7c3a457859af27458beb993e088",
        ),
        "aligned_50.pkl": (
            "d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9",
            "5c62b896619a334a7104c8bef05d82b05272c71c",
        ),
    }
    twin = TwinSizes(steps=(8, 12, 10), widths=(16, 5, 20), too_long=True)

    def __init__(
        self,
        root: str = "data",
        aligned: bool = False,
        text: TextInput = "features",
        task: SentimentTask = "regression",
    ) -> None:
        file = "aligned_50.pkl" if aligned else "unaligned_50.pkl"
        super().__init__(root, (f"Processed/{file}",), aligned, text, task)
