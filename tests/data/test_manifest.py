from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmlab.data import manifest
from mmlab.data.manifest import Manifest
from mmlab.draws import Draws
from mmlab.errors import UserError
from tests.conftest import Command

RATE = 8_000
SMALL = {"image_size": 8, "sample_rate": RATE, "seconds": 0.25}
HEADER = "id,split,target,audio,image\n"


def tone(seconds: float, rate: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 500 * np.arange(int(seconds * rate)) / rate)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Ten training and four test samples of two classes, in every kind of file."""
    for name, rate in (("a.wav", RATE), ("b.flac", 16_000)):
        soundfile.write(tmp_path / name, tone(0.25, rate), rate)
    np.save(tmp_path / "c.npy", (tone(0.25, RATE) * 32768).astype(np.int16))
    pixels = np.full((10, 20, 3), (200, 100, 50), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.jpg", quality=95)
    np.save(tmp_path / "d.npy", pixels)
    lines = [
        f"s{number},{'test' if number > 9 else 'train'},{'cat' if number % 2 else 'dog'},{audio},{image}\n"
        for number, (audio, image) in enumerate([("a.wav", "a.png"), ("b.flac", "b.jpg"), ("c.npy", "d.npy")] * 4)
    ]
    lines += ["s12,test,cat,,a.png\n", "s13,test,dog,a.wav,\n"]
    (tmp_path / "t.csv").write_text(HEADER + "".join(lines))
    return tmp_path / "t.csv"


def test_a_csv_is_all_that_is_needed(table: Path) -> None:
    data = Manifest(csv=str(table), **SMALL)  # type: ignore[arg-type]
    splits = data.splits()
    assert data.task.classes == ("cat", "dog")
    assert {name: len(split) for name, split in splits.items()} == {"train": 8, "val": 2, "test": 4}
    assert sorted(splits["val"].targets.tolist()) == [0, 1]
    batch = splits["test"].__getitems__([0, 1, 2, 3])
    assert batch.target.tolist() == [1, 0, 0, 1]
    assert batch.present.tolist() == [[True, True], [True, True], [False, True], [True, False]]
    assert not batch.inputs["audio"][2].any()
    assert not batch.inputs["image"][3].any()
    for modality in data.modalities:
        seen = data.transforms()[modality.name](batch.inputs[modality.name], None)
        assert tuple(seen.shape) == (4, *modality.shape)
        assert seen.dtype == torch.float32
        assert seen.isfinite().all()


def test_every_kind_of_file_gives_the_same_values(table: Path) -> None:
    splits = Manifest(csv=str(table), **SMALL).splits()  # type: ignore[arg-type]
    values = {name: array for split in splits.values() for name, array in split.arrays.items()}
    wave, pixels = values["audio"][:3].astype(int), values["image"][:3].astype(int)
    expected = tone(0.25, RATE) * 32768
    # The ends of a resampled wave ring.
    assert np.abs(wave[:, 200:-200] - expected[200:-200]).max() < 200
    assert np.abs(pixels - np.array([200, 100, 50])[:, None, None]).max() < 4


def test_val_rows_are_used_where_there_are_any(table: Path) -> None:
    table.write_text(table.read_text() + "v1,val,cat,a.wav,\nv2,val,dog,a.wav,\n")
    data = Manifest(csv=str(table), **SMALL)  # type: ignore[arg-type]
    splits = data.splits()
    assert splits["val"].ids == ["v1", "v2"]
    assert len(splits["train"]) == 10
    assert data.details()["validation"] == "given"


def test_sound_is_cut_and_filled_around_the_middle(table: Path) -> None:
    ramp = np.arange(4000, dtype=np.int16)
    np.save(table.parent / "c.npy", ramp)
    np.save(table.parent / "short.npy", np.ones(500, np.int16))
    table.write_text(table.read_text().replace("s5,train,cat,c.npy", "s5,train,cat,short.npy"))
    split = Manifest(csv=str(table), **SMALL).splits()["train"]  # type: ignore[arg-type]
    assert split.arrays["audio"][2].tolist() == list(range(1000, 3000))
    assert np.flatnonzero(split.arrays["audio"][5]).tolist() == list(range(750, 1250))


def test_stereo_is_mixed(table: Path) -> None:
    left = tone(0.25, RATE)
    soundfile.write(table.parent / "a.wav", np.stack([left, np.zeros_like(left)], axis=1), RATE)
    split = Manifest(csv=str(table), **SMALL).splits()["train"]  # type: ignore[arg-type]
    assert np.abs(split.arrays["audio"][0] - left * 16384).max() < 3


def test_the_pack_follows_the_csv_and_the_options(table: Path) -> None:
    Manifest(csv=str(table), **SMALL).splits()  # type: ignore[arg-type]
    for name in ("a.png", "b.jpg", "d.npy"):  # proof that a fresh pack is enough: the raw files are gone
        (table.parent / name).rename(table.parent / f"away-{name}")
    assert len(Manifest(csv=str(table), **SMALL).splits()["test"]) == 4  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"line 2: there is no file .*a\.png"):
        Manifest(csv=str(table), **{**SMALL, "image_size": 16}).splits()  # type: ignore[arg-type]
    for name in ("a.png", "b.jpg", "d.npy"):
        (table.parent / f"away-{name}").rename(table.parent / name)
    bigger = Manifest(csv=str(table), **{**SMALL, "image_size": 16}).splits()  # type: ignore[arg-type]
    assert bigger["train"].arrays["image"].shape[1:] == (3, 16, 16)
    table.write_text(table.read_text() + "s14,test,dog,a.wav,\n")
    assert len(Manifest(csv=str(table), **SMALL).splits()["test"]) == 5  # type: ignore[arg-type]


def test_one_modality_is_enough(table: Path) -> None:
    rows = [line.rsplit(",", 1)[0] for line in table.read_text().splitlines() if not line.startswith("s12")]
    table.write_text("\n".join(rows) + "\n")
    data = Manifest(csv=str(table), **SMALL)  # type: ignore[arg-type]
    assert [modality.name for modality in data.modalities] == ["audio"]
    assert list(data.transforms()) == ["audio"]
    assert data.splits()["test"].present.shape == (3, 1)


def test_the_order_of_the_classes_can_be_given(table: Path) -> None:
    data = Manifest(csv=str(table), classes=["dog", "cat", "newt"], **SMALL)  # type: ignore[arg-type]
    assert data.task.classes == ("dog", "cat", "newt")
    assert data.splits()["test"].targets.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("target,audio", "label,audio", "unknown column 'label'"),
        ("audio,image", "audio,imgae", r"unknown column 'imgae' \(did you mean 'image'\?\)"),
        ("id,split", "split,split", "two columns 'split'"),
        ("s3,", "s2,", "line 5: the id 's2' is used in line 4 already"),
        ("s4,train", "s4,trian", r"line 6: unknown split 'trian' \(did you mean 'train'\?\)"),
        ("s4,train,dog", "s4,train,", "line 6: the cell of target is empty"),
        ("s4,train,dog", "s4,train,dog,cat", "line 6 has 6 cells, but there are 5 columns"),
        ("s13,test,dog,a.wav", "s13,test,dog,", "line 15: 's13' names no file of any modality"),
        ("s13,test,dog,a.wav", "s13,test,dog,a.mp3", "line 15: a.mp3 is no audio file that can be read"),
        ("s13,test,dog,a.wav", "s13,test,dog,no.wav", "line 15: there is no file .*no.wav"),
        ("s13,test,dog,a.wav", "s13,test,dog,d.npy", r"line 15: .*d.npy can't be used \(it is uint8 \(10, 20, 3\)"),
        ("s12,test,cat,,a.png", "s12,test,cat,,c.npy", r"line 14: .*c.npy can't be used \(it is int16 \(2000,\)"),
        (",test,", ",train,", "no test rows"),
        (",train,", ",test,", "no train rows"),
        (",cat,", ",dog,", "has 1 class"),
        ("s4,train", 's4,"train', "this is no CSV table"),
    ],
)
def test_mistakes_in_the_table_are_named(table: Path, old: str, new: str, message: str) -> None:
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message):
        Manifest(csv=str(table), **SMALL).splits()  # type: ignore[arg-type]
    assert not table.with_name("t.csv.packed").exists()


def test_missing_columns_are_named(table: Path) -> None:
    table.write_text("id,target,audio\ns1,cat,a.wav\n")
    with pytest.raises(UserError, match="no column 'split'"):
        Manifest(csv=str(table)).splits()
    table.write_text("id,split,target\ns1,train,cat\n")
    with pytest.raises(UserError, match="no modality; add a column audio or image"):
        Manifest(csv=str(table)).splits()
    table.write_text("")
    with pytest.raises(UserError, match="is empty"):
        Manifest(csv=str(table)).splits()
    with pytest.raises(UserError, match=r"none\.csv can't be read"):
        Manifest(csv=str(table.parent / "none.csv")).splits()


@pytest.mark.parametrize("name", ["a.wav", "b.flac", "c.npy", "a.png", "b.jpg", "d.npy"])
def test_a_truncated_file_is_named_with_its_line(table: Path, name: str) -> None:
    file = table.parent / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    line = {"a": 2, "b": 3, "c": 4, "d": 4}[name[0]]
    with pytest.raises(UserError, match=f"line {line}: .*{name} can't be used"):
        Manifest(csv=str(table), **SMALL).splits()  # type: ignore[arg-type]


def test_a_file_that_is_repaired_is_enough_to_go_on(table: Path) -> None:
    good = (table.parent / "b.jpg").read_bytes()
    (table.parent / "b.jpg").write_text("broken")
    data = Manifest(csv=str(table), **SMALL)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"line 3: .*b.jpg can't be used"):
        data.splits()
    (table.parent / "b.jpg").write_bytes(good)
    assert len(data.splits()["test"]) == 4


def test_deep_grey_images_are_refused(table: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(table.parent / "a.png")
    with pytest.raises(UserError, match=r"line 2: .*a.png can't be used \(it has more than 8 bits"):
        Manifest(csv=str(table), **SMALL).splits()  # type: ignore[arg-type]


def test_labels_and_classes_must_agree(table: Path) -> None:
    with pytest.raises(UserError, match=r"line 2: 'dog' is not among the classes \(did you mean 'dgo'\?\)"):
        Manifest(csv=str(table), classes=["cat", "dgo"], **SMALL).splits()  # type: ignore[arg-type]
    with pytest.raises(UserError, match="names 'cat' twice"):
        Manifest(csv=str(table), classes=["cat", "dog", "cat"], **SMALL).splits()  # type: ignore[arg-type]


def test_an_out_folder_of_other_files_is_left_alone(table: Path) -> None:
    with pytest.raises(UserError, match="holds files that are no packed data"):
        Manifest(csv=str(table), out=str(table.parent), **SMALL).splits()  # type: ignore[arg-type]
    assert table.exists()


def test_options_are_checked(table: Path) -> None:
    with pytest.raises(UserError, match="choose at least 1 pixel"):
        Manifest(csv=str(table), image_size=0)
    with pytest.raises(UserError, match="between 0 and 1"):
        Manifest(csv=str(table), validation_share=1.0)


@pytest.mark.parametrize(
    ("old", "new", "classes", "message"),
    [
        (",cat,", ",dog,", None, "has 1 class"),
        ("s0,", "s0,", ["cat", "newt"], "'dog' is not among the classes"),
        ("s13,test,dog", "s13,test,dgo", None, r"line 15: no train row has the class 'dgo' \(did you mean 'dog'\?\)"),
    ],
)
def test_the_classes_are_checked_before_anything_is_packed(
    table: Path, old: str, new: str, classes: list[str] | None, message: str
) -> None:
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        Manifest(csv=str(table), classes=classes, **SMALL).prepare()  # type: ignore[arg-type]
    assert not table.with_name("t.csv.packed").exists()


def test_a_class_without_training_rows_may_be_listed(table: Path) -> None:
    table.write_text(table.read_text().replace("s13,test,dog", "s13,test,newt"))
    data = Manifest(csv=str(table), classes=["cat", "dog", "newt"], **SMALL)  # type: ignore[arg-type]
    assert data.splits()["test"].targets.tolist() == [1, 0, 0, 2]


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
@pytest.mark.parametrize("quote", ["", '"'])
def test_other_separators_are_named(table: Path, mark: str, name: str, quote: str) -> None:
    table.write_text(table.read_text().replace(",", f"{quote}{mark}{quote}"))
    with pytest.raises(UserError, match=f"separates its columns by {name}; save it with commas"):
        Manifest(csv=str(table), **SMALL).prepare()  # type: ignore[arg-type]


def test_a_modality_that_no_training_sample_has_is_named(table: Path) -> None:
    lines = table.read_text().splitlines()
    lines = [line.rpartition(",")[0] + "," if ",train," in line else line for line in lines]
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match="no image file in any train row; name some or remove the column image"):
        Manifest(csv=str(table), **SMALL).prepare()  # type: ignore[arg-type]


def test_the_workers_reach_the_packing(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    monkeypatch.setattr(manifest, "pack", lambda *given: seen.extend(given))
    Manifest(csv=str(table), **SMALL).prepare(3)  # type: ignore[arg-type]
    assert seen[-1] == 3


def test_where_a_relative_path_was_looked_for_is_said(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table.parent)
    with pytest.raises(UserError) as caught:
        Manifest(csv="none.csv").prepare()
    assert f"looked for from {table.parent}; check the path" in str(caught.value)
    (table.parent / "a.png").unlink()
    with pytest.raises(UserError) as caught:
        Manifest(csv="t.csv", **SMALL).prepare()  # type: ignore[arg-type]
    assert f"there is no file a.png, looked for from {table.parent}; correct" in str(caught.value)


def ramp(height: int, width: int) -> np.ndarray:
    return np.arange(height)[:, None] * 2 + np.arange(width)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Four training scenes and a test scene in colour, depth and infrared; label maps of floor, hole and no label."""
    for number in range(5):
        pixels = 40 + ramp(24, 32) + number
        labels = np.where(pixels < 80, 0, np.where(pixels < 100, 1, 255)).astype(np.uint8)
        Image.fromarray(np.repeat(pixels[..., None], 3, axis=2).astype(np.uint8)).save(tmp_path / f"rgb{number}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"ir{number}.png")
        depth = (pixels * 100).astype(np.uint16)
        depth[:2] = 0
        Image.fromarray(depth).save(tmp_path / f"depth{number}.png")
        Image.fromarray(labels).save(tmp_path / f"labels{number}.png")
    rows = [f"s{n},{'test' if n == 4 else 'train'},labels{n}.png,rgb{n}.png,depth{n}.png,ir{n}.png\n" for n in range(5)]
    (tmp_path / "s.csv").write_text("id,split,target,rgb,depth,ir\n" + "".join(rows))
    return tmp_path / "s.csv"


def segmented(table: Path, **options: object) -> Manifest:
    given = {"task": "segmentation", "classes": ["floor", "hole"], "image_size": (24, 32)} | options
    return Manifest(csv=str(table), **given)  # type: ignore[arg-type]


def test_rgbd_folders_are_read_for_segmentation(scenes: Path) -> None:
    data = segmented(scenes)
    splits = data.splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 3, "val": 1, "test": 1}
    assert [(one.name, one.kind, one.shape) for one in data.modalities] == [
        ("rgb", "image", (3, 24, 32)),
        ("depth", "depth", (1, 24, 32)),
        ("ir", "image", (1, 24, 32)),
    ]
    assert data.task.classes == ("floor", "hole")
    batch = splits["test"].__getitems__([0])
    assert list(batch.inputs) == ["rgb", "depth", "ir"]
    assert batch.present.tolist() == [[True, True, True]]
    pixels = 44 + ramp(24, 32)
    assert np.array_equal(batch.target[0].numpy(), np.where(pixels < 80, 0, np.where(pixels < 100, 1, 255)))
    assert np.array_equal(batch.inputs["ir"][0, 0].numpy(), pixels)
    assert np.array_equal(batch.inputs["rgb"][0, 1].numpy(), pixels)
    # Depth is a multiple of the median of what was measured; what wasn't is 0, before and after the normalisation.
    expected = pixels / np.median(pixels[2:])
    expected[:2] = 0
    assert np.abs(batch.inputs["depth"][0, 0].numpy() - expected).max() < 1e-3
    seen = data.transforms()["depth"](batch.inputs["depth"], None)
    assert not seen[0, 0, :2].any()
    assert np.abs(seen[0, 0, 2:].numpy() - (expected[2:] - 1) / 0.5).max() < 1e-2
    assert splits["train"].digest() != splits["val"].digest()


def test_training_cuts_pictures_depth_and_labels_alike(scenes: Path) -> None:
    data = segmented(scenes)
    index = torch.arange(30)
    batch = data.splits()["test"].__getitems__([0] * 30)
    draws = Draws(0, 0, index)
    transforms = data.transforms()
    grey = transforms["ir"](batch.inputs["ir"], draws) * 63.75 + 127.5
    assert torch.allclose(transforms["rgb"](batch.inputs["rgb"], draws)[:, :1] * 63.75 + 127.5, grey, atol=1e-3)
    labels = transforms["target"](batch.target, draws)
    assert labels.shape == (30, 24, 32)
    assert (grey[:, 0][labels == 0] < 82).all()
    assert (grey[:, 0][labels == 255] > 97).all()
    depth = transforms["depth"](batch.inputs["depth"], draws)
    measured = depth != 0
    relative = depth * 0.5 + 1
    assert (relative * float(np.median((44 + ramp(24, 32))[2:])) - grey)[measured].abs().max() < 3
    assert len({round(float(corner), 1) for corner in grey[:, 0, 0, 0]}) > 10


def test_label_maps_are_resized_to_the_nearest_pixel(scenes: Path) -> None:
    split = segmented(scenes, image_size=12).splits()["test"]
    batch = split.__getitems__([0])
    assert batch.target.shape == (1, 12, 12)
    assert set(batch.target.unique().tolist()) == {0, 1, 255}


def test_depth_and_infrared_do_for_classes_too(scenes: Path) -> None:
    text = scenes.read_text()
    for number in range(5):
        text = text.replace(f"labels{number}.png", "dry" if number % 2 else "wet")
    scenes.write_text(text)
    np.save(scenes.parent / "metres.npy", np.where(ramp(24, 32) > 3, 1.5, np.nan))
    scenes.write_text(scenes.read_text().replace("depth4.png", "metres.npy"))
    data = Manifest(csv=str(scenes), image_size=24)
    splits = data.splits()
    batch = splits["test"].__getitems__([0])
    assert batch.target.tolist() == [1]
    for modality in data.modalities:
        for draws in (None, Draws(0, 0, batch.index)):  # a class may depend on left and right: nothing is mirrored
            seen = data.transforms()[modality.name](batch.inputs[modality.name], draws)
            assert tuple(seen.shape) == (1, *modality.shape)
            assert torch.equal(seen, data.transforms()[modality.name](batch.inputs[modality.name], None))
    assert set(batch.inputs["depth"].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("labels2.png", np.full((24, 32), 7, np.uint8), r"line 4: .*labels2.png can't be used \(it holds the label 7"),
        ("labels2.png", np.zeros((24, 32, 3), np.uint8), "line 4: .*labels2.png can't be used .*one number for each"),
        ("labels2.png", np.zeros((24, 32), np.uint16), "line 4: .*it holds uint16, not 8-bit labels"),
        ("depth1.png", np.zeros((24, 32), np.uint16), r"line 3: .*depth1.png can't be used \(no pixel is above 0"),
        ("depth1.png", np.zeros((24, 32, 3), np.uint8), "line 3: .*depth1.png can't be used .*one number for each"),
        ("ir3.png", np.zeros((24, 32), np.uint16), "line 5: .*ir3.png can't be used .*more than 8 bits"),
    ],
)
def test_unfit_maps_are_named(scenes: Path, name: str, array: np.ndarray, message: str) -> None:
    Image.fromarray(array).save(scenes.parent / name)
    with pytest.raises(UserError, match=message):
        segmented(scenes).splits()
    assert not scenes.with_name("s.csv.packed").exists()


def test_segmentation_asks_for_what_it_needs(scenes: Path) -> None:
    with pytest.raises(UserError, match="needs classes for segmentation: name them"):
        Manifest(csv=str(scenes), task="segmentation")
    with pytest.raises(UserError, match="classes has 1 class"):
        segmented(scenes, classes=["floor"]).splits()
    text = scenes.read_text()
    scenes.write_text(text.replace("labels2.png", "hole"))
    with pytest.raises(UserError, match="line 4: the target 'hole' names no label map"):
        segmented(scenes).splits()
    scenes.write_text(text.replace("labels2.png", "nothing.png"))
    with pytest.raises(UserError, match=r"line 4: there is no file .*nothing\.png"):
        segmented(scenes).splits()
    lines = text.splitlines()
    scenes.write_text("\n".join([lines[0], lines[1], lines[5]]) + "\n")
    with pytest.raises(UserError, match="one train row, too few to carve"):
        segmented(scenes).splits()


def test_val_rows_are_used_for_segmentation(scenes: Path) -> None:
    scenes.write_text(scenes.read_text().replace("s3,train", "s3,val").replace("rgb3.png", ""))
    splits = segmented(scenes).splits()
    assert splits["val"].ids == ["s3"]
    assert splits["val"].present.tolist() == [[False, True, True]]


def test_segmentation_from_the_command_line(mmlab: Command, scenes: Path) -> None:
    flags = f"--csv {scenes} --task segmentation --classes [floor,hole] --image_size [24,32]"
    assert "test: 1 sample" in mmlab(f"prepare Manifest {flags}")
    assert "needs classes" in mmlab(f"prepare Manifest --csv {scenes} --task segmentation", code=2)
