import numpy as np
import pytest
import torch

from mmlab.data.avdigits import SPEAKERS, AVDigits
from mmlab.data.npz import write_npz
from mmlab.draws import Draws
from mmlab.errors import UserError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "avdigits"
    AVDigits(str(folder)).write_synthetic()
    return str(folder)


def rewrite(folder, name, **changes):
    with np.load(folder / name) as file:
        write_npz(folder / name, {**file, **changes})


def test_splits_fit_the_spec(root):
    data = AVDigits(root)
    splits = data.splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 60, "val": 60, "test": 60}
    spec = data.spec(60)
    batch = splits["val"].__getitems__([5, 2])
    for modality, transform in zip(spec.modalities, data.transforms().values(), strict=True):
        for draws in (None, Draws(0, 0, batch.index)):
            assert transform(batch.inputs[modality.name], draws).shape == (2, *modality.shape)
    assert np.bincount(splits["train"].targets).tolist() == [6] * 10
    every = [name for split in splits.values() for name in split.ids]
    assert len(set(every)) == 180
    assert splits["train"].ids[0] == "0_george_5-mnist0"


def test_validation_is_what_is_marked(root):
    splits = AVDigits(root).splits()
    assert all("_45-" in name for name in splits["val"].ids)
    assert all("_5-" in name for name in splits["train"].ids)


def test_hard_variant_takes_the_other_images(root):
    clean, hard = (AVDigits(root, variant=variant).splits() for variant in ("clean", "hard"))
    with np.load(f"{root}/train.npz") as file:
        training = ~file["val"]
        assert np.array_equal(clean["train"].arrays["image"][:, 0], file["image"][training])
        assert np.array_equal(hard["train"].arrays["image"][:, 0], file["image_pca25"][training])
    assert hard["train"].ids == clean["train"].ids


def test_sound_is_cut_or_filled_around_its_middle(root):
    packed = AVDigits(root).splits()["test"].arrays["audio"]
    with np.load(f"{root}/test.npz") as file:
        offset, audio = file["audio_offset"], file["audio"]
    lengths = np.diff(offset)
    long, short = int(lengths.argmax()), int(lengths.argmin())
    assert lengths[long] > 8000 > lengths[short]
    spare = lengths[long] - 8000
    assert np.array_equal(packed[long], audio[offset[long] + spare // 2 :][:8000])
    start = (8000 - lengths[short]) // 2
    assert np.array_equal(packed[short, start : start + lengths[short]], audio[offset[short] : offset[short + 1]])
    assert not packed[short, :start].any()
    assert not packed[short, start + lengths[short] :].any()


@pytest.mark.parametrize("speaker", [SPEAKERS[0], SPEAKERS[-1]])
def test_an_unseen_speaker_is_only_tested(root, speaker):
    splits = AVDigits(root, unseen_speaker=speaker).splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 50, "val": 50, "test": 10}
    assert all(f"_{speaker}_" in name for name in splits["test"].ids)
    assert not any(f"_{speaker}_" in name for name in [*splits["train"].ids, *splits["val"].ids])


def test_extended_test_has_ten_images_for_each_recording(root):
    one, ten = AVDigits(root).splits()["test"], AVDigits(root, extended_test=True).splits()["test"]
    assert len(ten) == 600
    assert len(set(ten.ids)) == 600
    assert np.array_equal(ten.targets[::10], one.targets)
    assert np.array_equal(ten.arrays["audio"][13], one.arrays["audio"][1])
    with np.load(f"{root}/test.npz") as file:
        assert np.array_equal(ten.arrays["image"][13, 0], file["ext_image"][1, 3])


def test_official_protocol_selects_on_test(root):
    splits = AVDigits(root, protocol="official").splits()
    assert len(splits["train"]) == 120
    assert splits["val"].digest() == splits["test"].digest()


def test_the_twin_can_be_learnt(root):
    data = AVDigits(root)
    splits = data.splits()
    for name, transform in data.transforms().items():
        train, test = (transform(torch.from_numpy(splits[part].arrays[name]), None) for part in ("train", "test"))
        # Position along pitch or height tells the class: the other axis is averaged away.
        train, test = train.mean(dim=(1, 3)), test.mean(dim=(1, 3))
        nearest = torch.from_numpy(splits["train"].targets)[torch.cdist(test, train).argmin(dim=1)]
        assert (nearest.numpy() == splits["test"].targets).mean() > 0.5


def test_details(root):
    data = AVDigits(root, variant="hard", unseen_speaker="theo")
    assert data.details() == {"variant": "hard", "unseen_speaker": "theo", "extended_test": False}


def test_prepare_says_that_a_twin_is_not_the_published_set(root, capsys):
    AVDigits(root).prepare()
    assert capsys.readouterr().out.count("not the published file") == 2


def test_an_unknown_speaker_is_refused():
    with pytest.raises(UserError, match="did you mean 'nicolas'"):
        AVDigits(unseen_speaker="nikolas")


def test_absent_data(tmp_path):
    with pytest.raises(UserError, match=r"There is no .*train\.npz"):
        AVDigits(str(tmp_path)).splits()


def test_a_twin_overwrites_nothing(root):
    with pytest.raises(UserError, match="not empty"):
        AVDigits(root).write_synthetic()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"audio_offset": np.arange(121)}, "contradicts itself"),
        ({"speaker": np.full(120, 6, np.uint8)}, "contradicts itself"),
        ({"label": np.full(120, 10, np.uint8)}, "labels from 0 to 9"),
        ({"image": np.zeros((119, 28, 28), np.uint8)}, "120 labels but 119 rows of 'image'"),
    ],
)
def test_a_file_that_contradicts_itself(tmp_path, change, says):
    AVDigits(str(tmp_path)).write_synthetic()
    rewrite(tmp_path, "train.npz", **change)
    with pytest.raises(UserError, match=says):
        AVDigits(str(tmp_path)).splits()
