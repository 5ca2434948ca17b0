from pathlib import Path

import numpy as np
import pytest

from mmlab.data.base import Split, SplitName, Transform
from mmlab.data.packed import PackedDataset
from mmlab.data.packing import Sample, pack
from mmlab.errors import UserError
from mmlab.types import Classification, Modality


class Numbers(PackedDataset):
    """One number for each sample, from a file of its own."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return (Modality("number", "vector", (1,)),)

    @property
    def task(self) -> Classification:
        return Classification(("a",))

    def splits(self) -> dict[SplitName, Split]:
        every = np.arange(len(self._packed.ids))
        return self._packed.parts(every, every, every, {"a": 0})

    def transforms(self) -> dict[str, Transform]:
        return {}

    def prepare(self, workers: int = 1) -> None:
        samples = [Sample(file.stem, "train", "a", {"number": file}) for file in sorted(self.root.glob("*.txt"))]
        layout = {"number": ((1,), "int64")}
        pack(self._folder, "Numbers", {}, samples, layout, lambda s: {"number": np.array([int(s.id)])}, workers)
        self._forget()


def test_a_pack_is_opened_once_and_anew_when_it_was_made_anew(tmp_path: Path) -> None:
    data = Numbers(str(tmp_path))
    with pytest.raises(UserError, match=f"packed is not prepared; run: mmlab prepare Numbers --root {tmp_path}"):
        data.splits()
    (tmp_path / "7.txt").write_text("")
    data.prepare()
    assert data.splits()["train"].arrays["number"] is data.splits()["test"].arrays["number"]
    (tmp_path / "8.txt").write_text("")
    data.prepare()
    assert data.splits()["train"].arrays["number"].tolist() == [[7], [8]]
