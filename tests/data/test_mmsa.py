import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmlab.data import mmsa_twin
from mmlab.data.mmsa import MMSADataset
from mmlab.data.mosei import MOSEI
from mmlab.data.mosi import MOSI
from mmlab.data.sims import SIMS
from mmlab.data.simsv2 import SIMSv2
from mmlab.errors import UserError
from mmlab.types import Classification, Sentiment

Command = Callable[..., str]
Content = dict[str, dict[str, Any]]
KINDS: dict[str, type[MMSADataset]] = {"MOSI": MOSI, "MOSEI": MOSEI, "SIMS": SIMS, "SIMSv2": SIMSv2}
FILES = {
    "MOSI": ("aligned_50", "unaligned_50"),
    "MOSEI": ("aligned_50", "unaligned_50"),
    "SIMS": ("unaligned_39",),
    "SIMSv2": ("sims_unaligned",),
}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One root with the prepared synthetic twins of all four."""
    root = tmp_path_factory.mktemp("twins")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mmsa_twin.importlib.util, "find_spec", lambda name: None)  # to import transformers takes seconds
        for kind in KINDS.values():
            kind(root=str(root)).write_synthetic()
    for kind in KINDS.values():
        kind(root=str(root)).prepare()
    for kind in (MOSI, MOSEI):
        kind(root=str(root), aligned=True).prepare()
    return root


@pytest.fixture
def copy(twins: Path, tmp_path: Path) -> Path:
    """A copy of the twins, to change."""
    return Path(shutil.copytree(twins, tmp_path / "copy"))


def raw(root: Path, name: str, file: str) -> Content:
    return pickle.loads((root / name / "Processed" / f"{file}.pkl").read_bytes())


def change(root: Path, name: str, file: str, edit: Callable[[Content], object]) -> Path:
    content = raw(root, name, file)
    edit(content)
    path = root / name / "Processed" / f"{file}.pkl"
    path.write_bytes(pickle.dumps(content, protocol=4))
    return path


def test_the_command_prepares_a_twin(mmlab: Command, twins: Path) -> None:
    out = mmlab("prepare MOSI --root r --synthetic")
    assert "train: 24 samples" in out
    assert "val: 8 samples" in out
    assert "test: 8 samples" in out
    assert "Lengths outside of what the arrays hold, which are cut to it: 1 of audio." in out
    assert "Warning" not in out
    assert Path("r/MOSI/tiny_bert/vocab.txt").read_text().split() == list(mmsa_twin.VOCABULARY)
    assert MOSI(root="r").splits()["train"].digest() == MOSI(root=str(twins)).splits()["train"].digest()
    assert "r/MOSI/packed-unaligned_50 is prepared already" in mmlab("prepare MOSI --root r")
    assert "is not empty" in mmlab("prepare MOSI --root r --synthetic", code=2)


@pytest.mark.parametrize("name", KINDS)
def test_a_twin_has_the_public_layout(twins: Path, name: str) -> None:
    assert {file.stem for file in (twins / name / "Processed").iterdir()} == set(FILES[name])
    for file in FILES[name]:
        content = raw(twins, name, file)
        assert list(content) == ["train", "valid", "test"]
        keys = {"raw_text", "text", "text_bert", "audio", "vision", "id", "regression_labels", "classification_labels"}
        keys |= {"annotations"} | (set() if file.startswith("aligned") else {"audio_lengths", "vision_lengths"})
        keys |= {f"regression_labels_{letter}" for letter in "TAV"} if name.startswith("SIMS") else set()
        assert all(set(part) == keys for part in content.values())
        bert = content["train"]["text_bert"]
        assert bert.shape[1] == 3
        assert (bert[:, 0, 0] == 101).all()
        assert (bert[:, 0].astype(bool) == bert[:, 1].astype(bool)).all()


@pytest.mark.parametrize(
    ("name", "file", "aligned"),
    [
        ("MOSI", "unaligned_50", False),
        ("MOSI", "aligned_50", True),
        ("MOSEI", "unaligned_50", False),
        ("SIMS", "unaligned_39", False),
        ("SIMSv2", "sims_unaligned", False),
    ],
)
def test_what_an_encoder_sees_is_what_the_pickle_holds(twins: Path, name: str, file: str, aligned: bool) -> None:
    data = KINDS[name](root=str(twins), aligned=True) if aligned else KINDS[name](root=str(twins))
    assert [modality.name for modality in data.modalities] == ["text", "audio", "vision"]
    for ours, theirs in (("train", "train"), ("val", "valid"), ("test", "test")):
        split, part = data.splits()[ours], raw(twins, name, file)[theirs]
        assert split.ids == part["id"]
        np.testing.assert_array_equal(split.targets, part["regression_labels"])
        words = part["text_bert"][:, 1].sum(axis=1).astype(int)
        chosen = list(range(len(split)))[::-1]
        batch = split.__getitems__(chosen)
        assert batch.index.tolist() == chosen
        assert batch.present.all()
        for modality in data.modalities:
            key, values = modality.name, part[modality.name]
            assert (modality.kind, modality.ragged) == ("sequence", True)
            assert modality.shape == (values.shape[1], values.shape[2] + 1)
            lengths = words if aligned or key == "text" else np.minimum(part[f"{key}_lengths"], values.shape[1])
            seen = data.transforms()[key](batch.inputs[key], None).numpy()
            assert seen.dtype == np.float32
            assert seen.shape[1] == max(lengths)
            for place, row in enumerate(chosen):
                assert seen[place, :, -1].tolist() == [1.0] * lengths[row] + [0.0] * (seen.shape[1] - lengths[row])
                expected = np.where(np.isfinite(values[row]), values[row], 0)[: lengths[row]]
                np.testing.assert_array_equal(seen[place, : lengths[row], :-1], expected)
                assert not seen[place, lengths[row] :].any()


def test_what_stands_behind_the_length_is_never_seen(copy: Path) -> None:
    def rubbish(content: Content) -> None:
        for part in content.values():
            words = part["text_bert"][:, 1].sum(axis=1).astype(int)
            for key, lengths in (("text", words), ("audio", part["audio_lengths"]), ("vision", part["vision_lengths"])):
                for row, length in enumerate(lengths):
                    part[key][row, length:] = 1e6
            part["text_bert"][:, 0] += 7 * (part["text_bert"][:, 1] == 0)

    before = MOSI(root=str(copy)).splits()["train"].__getitems__([3, 5, 0])
    tokens = MOSI(root=str(copy), text="tokens").splits()["train"].__getitems__([3, 5, 0])
    change(copy, "MOSI", "unaligned_50", rubbish)
    MOSI(root=str(copy)).prepare()
    after = MOSI(root=str(copy)).splits()["train"].__getitems__([3, 5, 0])
    assert all(torch.equal(before.inputs[name], after.inputs[name]) for name in before.inputs)
    after = MOSI(root=str(copy), text="tokens").splits()["train"].__getitems__([3, 5, 0])
    assert torch.equal(tokens.inputs["text"], after.inputs["text"])


def test_tokens_and_features_are_in_one_pack(twins: Path) -> None:
    data = MOSI(root=str(twins), text="tokens")
    text, audio, _ = data.modalities
    part = raw(twins, "MOSI", "unaligned_50")["train"]
    assert (text.kind, text.shape, text.low, text.blank, text.ragged) == ("text", (2, 8), 0.0, 100, False)
    assert text.high == max(part["text_bert"][:, 0].max() for part in raw(twins, "MOSI", "unaligned_50").values())
    assert audio.ragged
    batch = data.splits()["train"].__getitems__([4, 2])
    tokens = data.transforms()["text"](batch.inputs["text"], None)
    assert tokens.dtype == torch.int64
    longest = int(part["text_bert"][[4, 2], 1].sum(axis=1).max())
    assert tokens.shape == (2, 2, longest)
    np.testing.assert_array_equal(tokens[:, 0], part["text_bert"][[4, 2], 0, :longest])
    length = int(part["text_bert"][4, 1].sum())
    assert tokens[0, 1].tolist() == [0, *range(1, length - 1), *[0] * (longest - length + 1)]
    said = [mmsa_twin.VOCABULARY[token] for token in tokens[0, 0, 1 : length - 1]]
    assert " ".join(said) == part["raw_text"][4]


def test_each_modality_carries_a_part_of_the_score(twins: Path) -> None:
    data = SIMS(root=str(twins))
    split = data.splits()["train"]
    batch = split.__getitems__(list(range(len(split))))
    means = [sequence[..., :-1].sum(1) / sequence[..., -1:].sum(1) for sequence in batch.inputs.values()]
    told = torch.stack([mean @ torch.linalg.svd(mean)[2][0] for mean in means], 1)  # the way they differ in most

    def unexplained(parts: torch.Tensor) -> float:
        design = torch.cat([parts, torch.ones(len(split), 1)], dim=1)
        return float(
            (design @ torch.linalg.lstsq(design, batch.target[:, None]).solution - batch.target[:, None]).std()
        )

    best_pair = min(unexplained(told[:, pair]) for pair in ([0, 1], [0, 2], [1, 2]))
    assert unexplained(told) < 0.5 * best_pair
    assert all(unexplained(told[:, [place]]) < 0.95 * float(batch.target.std()) for place in range(3))


@pytest.mark.parametrize(
    ("data", "task"),
    [
        (lambda root: MOSI(root=root), Sentiment(-3.0, 3.0, "mosi")),
        (lambda root: SIMSv2(root=root), Sentiment(-1.0, 1.0, "sims")),
        (lambda root: MOSI(root=root, task="binary"), Classification(("negative", "non-negative"))),
        (lambda root: SIMS(root=root, task="binary"), Classification(("non-positive", "positive"))),
        (lambda root: MOSEI(root=root, task="seven"), Classification(("-3", "-2", "-1", "0", "1", "2", "3"))),
    ],
)
def test_tasks(twins: Path, data: Callable[[str], MMSADataset], task: object) -> None:
    made = data(str(twins))
    assert made.task == task
    targets = made.splits()["train"].targets
    assert isinstance(targets, np.ndarray)
    assert targets.dtype == (np.float32 if isinstance(task, Sentiment) else np.int64)
    if isinstance(task, Classification):
        scores = type(made)(root=str(twins)).splits()["train"].targets
        cut = {7: np.round(scores).astype(int) + 3, 2: scores >= 0 if isinstance(made, MOSI) else scores > 0}
        np.testing.assert_array_equal(targets, cut[len(task.classes)])


def test_values_that_are_no_numbers_are_0_and_counted(
    twins: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    details = MOSEI(root=str(twins)).details()
    assert details["not_finite"] == {"text": 0, "audio": 9, "vision": 0}
    assert details["synthetic"] is True

    def spoil(content: Content) -> None:
        content["valid"]["vision"][0, 0, 3:5] = np.nan, np.inf
        content["valid"]["text"] = content["valid"]["text"].astype(np.float64)
        content["valid"]["text"][1, 0, 0] = 1e300  # as float32 it is infinite

    change(copy, "MOSEI", "unaligned_50", spoil)
    data = MOSEI(root=str(copy))
    data.prepare()
    assert "which become 0: 1 of text, 9 of audio, 2 of vision." in capsys.readouterr().out
    batch = data.splits()["val"].__getitems__([0, 1])
    assert all(values.isfinite().all() for values in batch.inputs.values())
    assert batch.inputs["vision"][0, 0, 3:5].tolist() == [0, 0]
    assert data.details()["not_finite"] == {"text": 1, "audio": 9, "vision": 2}


def test_lengths_are_brought_to_what_there_is(copy: Path) -> None:
    def edit(content: Content) -> None:
        content["train"]["vision_lengths"][:3] = 0, 900, 10
        content["train"]["text_bert"][2, 1] = 0

    change(copy, "MOSI", "unaligned_50", edit)
    data = MOSI(root=str(copy))
    data.prepare()
    assert data.details()["lengths_cut"] == {"text": 1, "audio": 1, "vision": 2}
    batch = data.splits()["train"].__getitems__([0, 1, 2])
    assert batch.inputs["vision"][..., -1].sum(dim=1).tolist() == [1, 10, 10]
    assert batch.inputs["text"][2, :, -1].sum() == 1


def test_bad_labels_are_left_out_by_name(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def edit(content: Content) -> None:
        content["train"]["regression_labels"][[2, 5, 7]] = np.nan, 3.5, -3

    change(copy, "MOSI", "unaligned_50", edit)
    data = MOSI(root=str(copy))
    data.prepare()
    out = capsys.readouterr().out
    assert "2 bad ones are left out and named in pack.json" in out
    assert "train0$_$2: its label is nan, but labels are -3 to 3" in out
    split = data.splits()["train"]
    assert len(split) == 22
    assert split.targets[split.ids.index("train1$_$3")] == -3
    assert split.rows.tolist() == [row for row in range(24) if row not in (2, 5)]


def test_repeated_ids_are_said(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def edit(content: Content) -> None:
        content["train"]["id"][3] = content["train"]["id"][0]
        content["test"]["id"][1] = content["train"]["id"][6]
        content["valid"]["id"] = np.array(content["valid"]["id"])

    change(copy, "SIMS", "unaligned_39", edit)
    data = SIMS(root=str(copy))
    data.prepare()
    out = capsys.readouterr().out
    assert "repeats 1 ids (for example 'train0$_$0' in train); the samples are kept, numbered" in out
    assert "1 ids in both train and test (for example 'train1$_$2'): these utterances leak" in out
    assert (data.details()["repeated_ids"], data.details()["shared_ids"]) == (1, 1)
    assert data.splits()["train"].ids[3] == "train0$_$0 #2"
    assert len(data.splits()["val"]) == 8


def test_an_unknown_version_is_read_with_a_warning(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("MOSI", "SIMSv2"):
        (copy / name / "SYNTHETIC").unlink()
    MOSI(root=str(copy)).prepare()
    out = capsys.readouterr().out
    known = MOSI.checksums["unaligned_50.pkl"]
    assert known is not None
    assert f"none of the known versions of MOSI's unaligned_50.pkl (SHA-256 {known[0]} in MMSA's README, SHA-1" in out
    assert "It is read all the same." in out
    assert len(MOSI(root=str(copy)).splits()["train"]) == 24
    SIMSv2(root=str(copy)).prepare()
    assert "no checksum of SIMSv2's sims_unaligned.pkl is published" in capsys.readouterr().out


def test_a_known_version_is_read_without(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "MOSI" / "SYNTHETIC").unlink()
    sha256 = str(MOSI(root=str(copy)).details()["sha256"])
    monkeypatch.setattr(MOSI, "checksums", {"unaligned_50.pkl": (sha256, "")})
    MOSI(root=str(copy)).prepare()
    assert "Warning" not in capsys.readouterr().out


def test_the_older_layout_of_sims(copy: Path) -> None:
    (copy / "SIMS" / "Processed" / "features").mkdir()
    file = copy / "SIMS" / "Processed" / "unaligned_39.pkl"
    file.rename(file.parent / "features" / file.name)
    shutil.rmtree(copy / "SIMS" / "packed-unaligned_39")
    SIMS(root=str(copy)).prepare()
    assert len(SIMS(root=str(copy)).splits()["train"]) == 24


def _renamed(content: Content) -> None:
    content["train"]["regression_label"] = content["train"].pop("regression_labels")


def _without_valid(content: Content) -> None:
    content["val"] = content.pop("valid")


def _few_bytes_many_numbers() -> list[Any]:
    numbers: list[Any] = [0.0] * 1000
    for _ in range(5):
        numbers = [numbers] * 1000
    return numbers


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (_without_valid, r"unaligned_50.pkl has no key 'valid' \(did you mean 'val'\?\), but 'train', 'test', 'val'"),
        (_renamed, r"'train' has no key 'regression_labels' \(did you mean 'regression_label'\?\)"),
        (lambda content: content.update(train=[1]), "'train' is of the type list, not a dict"),
        (
            lambda content: content["test"].update(audio=np.zeros((8, 12))),
            r"'test': 'audio' is of float64 in the shape \(8, 12\), where numbers in the shape \(8, any, any\)",
        ),
        (
            lambda content: content["train"].update(audio=np.zeros((24, 12, 6))),
            r"'audio' with other steps or values in one split than in another \(train \(12, 6\), valid \(12, 5\)",
        ),
        (
            lambda content: content["train"].update(vision_lengths=[[1], [1, 2]] * 12),
            r"'vision_lengths' is of the type list, where numbers in the shape \(24\)",
        ),
        (
            lambda content: content["train"].update(vision_lengths=[10**400] * 24),
            r"'vision_lengths' is of the type list, where numbers in the shape \(24\)",
        ),
        (
            lambda content: content["valid"].update(audio=_few_bytes_many_numbers()),
            r"'valid': 'audio' is of the type list, where numbers in the shape \(8, any, any\)",
        ),
        (lambda content: content["test"].update(id=[]), "'test' holds no sample"),
        (
            lambda content: content.update({"valid" * 1_000_000: content.pop("valid")}),
            r"unaligned_50.pkl has no key 'valid', but 'train', 'test'; get",
        ),
        (
            lambda content: content["train"].update(text_bert=content["train"]["text_bert"][:, :, :5]),
            r"'text' is of float32 in the shape \(24, 8, 16\), where numbers in the shape \(24, 5, any\)",
        ),
        (
            lambda content: content["train"]["id"].pop(),
            r"'text_bert' is .* in the shape \(24, 3, 8\), where .* \(23, 3",
        ),
        (lambda content: content["train"]["id"].append(3), "'train': 'id' is no list of strings"),
        (
            lambda content: content["train"]["id"].append("a\nb"),
            "'train': 'id' is no list of strings, one name of a line",
        ),
        (
            lambda content: content["train"].update(audio_lengths=[np.nan] * 24),
            "'audio_lengths' holds what is no whole number from 0 on",
        ),
        (
            lambda content: content["train"]["text_bert"].fill(-1),
            "'text_bert' holds what is no whole number from 0 on",
        ),
    ],
)
def test_files_that_are_not_as_described(copy: Path, edit: Callable[[Content], object], sentence: str) -> None:
    change(copy, "MOSI", "unaligned_50", edit)
    with pytest.raises(UserError, match=sentence):
        MOSI(root=str(copy)).prepare()


def test_an_unaligned_file_under_an_aligned_name(copy: Path) -> None:
    folder = copy / "MOSI" / "Processed"
    shutil.copy(folder / "unaligned_50.pkl", folder / "aligned_50.pkl")
    with pytest.raises(UserError, match=r"'audio' has 12 steps, but an aligned file has one for each of the 8"):
        MOSI(root=str(copy), aligned=True).prepare()


def test_a_file_that_runs_code_is_refused_and_the_pack_stays(copy: Path, mmlab: Command) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(copy / "made"),)

    change(copy, "MOSI", "unaligned_50", lambda content: content["train"].update(raw_text=Hostile()))
    error = mmlab(f"prepare MOSI --root {copy}", code=2)
    assert "is refused, as it tries to load 'posix.mkdir'" in error
    assert not (copy / "made").exists()
    assert len(MOSI(root=str(copy)).splits()["train"]) == 24


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not prepared; run: mmlab prepare MOSI --root .* --aligned true"):
        MOSI(root=str(tmp_path), aligned=True).splits()
    with pytest.raises(UserError, match=r"holds no SIMS/Processed/unaligned_39.pkl or SIMS/Processed/features/unal"):
        SIMS(root=str(tmp_path)).prepare()
    with pytest.raises(UserError, match=rf"that holds MOSI/ \(here: --root {tmp_path}\)"):
        MOSI(root=str(tmp_path / "MOSI")).prepare()


def test_variants_have_names_of_their_own(twins: Path) -> None:
    root = str(twins)
    made = [MOSI(root), MOSI(root, aligned=True, task="seven"), MOSI(root, text="tokens"), SIMS(root), SIMSv2(root)]
    assert [data.details()["variant"] for data in made] == [
        "unaligned",
        "aligned, seven",
        "unaligned, tokens",
        "",
        "",
    ]
