import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmlab.data.packing import open_packed
from mmlab.data.ucf101 import RGB_TEST_MEAN, RGB_TEST_STD, UCF101, centre_offset, clip_places
from mmlab.data.ucf101_twin import CLASSES, STEPS
from mmlab.draws import Draws
from mmlab.errors import UserError

SMALL = {"frame_side": 32, "image_size": 24}
PACK = "packed-images-32px-3clips-rgb6"


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a prepared synthetic twin of pre-computed images."""
    root = tmp_path_factory.mktemp("ucf") / "root"
    data = UCF101(root=str(root), **SMALL)
    data.write_synthetic()
    data.prepare(workers=2)
    return root


@pytest.fixture
def few(twin: Path, tmp_path: Path) -> Path:
    """A root with the raw images of eight of the twin's videos and lists of those."""
    videos = {
        part: [f"{name}_g{group:02}_c{clip:02}" for name in ("Archery", "HandstandPushups") for group, clip in pairs]
        for part, pairs in (("train", ((2, 1), (2, 2), (3, 1))), ("test", ((1, 1),)))
    }
    root = tmp_path / "root"
    (root / "ucfTrainTestlist").mkdir(parents=True)
    (root / "ucfTrainTestlist" / "classInd.txt").write_text("1 Archery\n2 HandstandPushups\n")
    for part, names in videos.items():
        lines = [f"{name.split('_')[0]}/v_{name}.avi\n" for name in names]
        (root / "ucfTrainTestlist" / f"{part}list01.txt").write_text("".join(lines))
        for name in names:
            folder = f"v_{name}".replace("HandstandPushups", "HandStandPushups")
            for stream in ("jpegs_256", "tvl1_flow/u", "tvl1_flow/v"):
                shutil.copytree(twin / stream / folder, root / stream / folder)
    return root


def frames(folder: Path, size: tuple[int, int], values: list[int], mode: str = "L") -> None:
    """Replaces a folder's images by plain ones of these grey levels."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, value in enumerate(values, 1):
        Image.new(mode, size, (value,) * 3 if mode == "RGB" else value).save(folder / f"Frame{number:06}.JPG")


def row_of(root: Path, video: str) -> tuple[np.ndarray, np.ndarray]:
    packed = open_packed(root / PACK, "UCF101", "")
    row = packed.rows[packed.ids.index(video)]
    return packed.arrays["flow"][row], packed.arrays["rgb"][row]


def test_places_of_clips() -> None:
    assert [centre_offset(frames) for frames in (1, 9, 10, 11, 29, 100)] == [0, 0, 0, 0, 9, 45]
    assert clip_places(29, 3)[:, 0].tolist() == [0, 9, 19]
    assert clip_places(100, 5)[:, 0].tolist() == [0, 22, 45, 68, 90]
    assert clip_places(29, 1).tolist() == [list(range(9, 19))]
    assert clip_places(4, 3).tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 0, 1]] * 3
    for n in range(1, 60):
        places = clip_places(n, 3)
        assert places.min() >= 0
        assert places.max() < n
        assert n < 10 or (np.diff(places, axis=1) == 1).all()


def test_the_command_prepares_the_twin(mmlab) -> None:
    out = mmlab("prepare UCF101 --root r --synthetic --frame_side 16 --image_size 16 --clips 1")
    assert "Packed 48 samples" in out
    flow = np.load("r/packed-images-16px-1clips-rgb6/flow.npy", mmap_mode="r", allow_pickle=False)
    assert flow.shape == (48, 1, 2, 10, 16, 21)
    assert "prepared already" in mmlab("prepare UCF101 --root r --split 2 --frame_side 16 --image_size 16 --clips 1")


def test_honest_splits_keep_groups_together(twin: Path) -> None:
    splits = UCF101(root=str(twin), **SMALL).splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 24, "val": 8, "test": 16}
    groups = {part: {name.rpartition("_c")[0] for name in split.ids} for part, split in splits.items()}
    assert not groups["train"] & groups["val"]
    assert {name.rpartition("_g")[2] for name in groups["test"]} == {"01", "04"}
    for split in splits.values():
        assert [f"v_{CLASSES[target]}" for target in split.targets] == [name.rpartition("_g")[0] for name in split.ids]
    batch = splits["train"].__getitems__([0, 5])
    assert batch.inputs["flow"].shape == (2, 3, 2, 10, 32, 42)
    assert batch.inputs["rgb"].shape == (2, 3, 3, 32, 42)
    assert batch.inputs["flow"].dtype == batch.inputs["rgb"].dtype == torch.uint8
    assert batch.present.all()


def test_the_official_protocol_selects_on_the_test_list(twin: Path) -> None:
    splits = UCF101(root=str(twin), protocol="official", **SMALL).splits()
    assert len(splits["train"]) == 32
    assert splits["val"].digest() == splits["test"].digest()


def test_the_three_splits_share_the_pack_and_test_lists_may_have_labels(twin: Path) -> None:
    splits = {number: UCF101(root=str(twin), split=number, **SMALL).splits() for number in (1, 2, 3)}  # type: ignore[arg-type]
    tests = {number: set(parts["test"].ids) for number, parts in splits.items()}
    assert [len(ids) for ids in tests.values()] == [16, 16, 16]
    assert len(set.union(*tests.values())) == 48
    assert UCF101(root=str(twin), split=2, **SMALL).details()["variant"] == "split 2"


def test_the_flow_that_is_packed_is_the_flow_of_the_files(twin: Path) -> None:
    # The twin's 48 x 64 pictures become 32 x 43: displacements shrink with them.
    for label, name in enumerate(CLASSES):
        flow, _ = row_of(twin, f"v_{name}_g02_c01")
        pixels = (flow.astype(float) - 127.5) * 40 / 255
        expected = np.array(STEPS[label]) * np.array([43 / 64, 32 / 48])
        np.testing.assert_allclose(pixels.mean(axis=(0, 2, 3, 4)), expected, atol=0.12)


def test_clips_and_the_picture_are_taken_from_their_places(few: Path) -> None:
    levels = [10 + 8 * number for number in range(23)]
    for stream, count, mode in (("tvl1_flow/u", 22, "L"), ("tvl1_flow/v", 22, "L"), ("jpegs_256", 23, "RGB")):
        # As large as what is stored: nothing is resized, so that levels stay.
        frames(few / stream / "v_Archery_g02_c01", (42, 32), levels[:count], mode)
    UCF101(root=str(few), **SMALL).prepare()
    flow, rgb = row_of(few, "v_Archery_g02_c01")
    for clip, offset in enumerate((0, 6, 12)):
        for component in range(2):
            np.testing.assert_allclose(flow[clip, component].mean(axis=(1, 2)), levels[offset : offset + 10], atol=1.5)
        np.testing.assert_allclose(rgb[clip].mean(), levels[offset + 6], atol=1.5)


def test_short_videos_are_repeated_and_pictures_brought_to_the_size_of_the_flow(few: Path) -> None:
    frames(few / "tvl1_flow/u" / "v_Archery_g02_c01", (21, 16), [100, 110, 120])
    frames(few / "tvl1_flow/v" / "v_Archery_g02_c01", (21, 16), [128, 128, 128])
    frames(few / "jpegs_256" / "v_Archery_g02_c01", (90, 70), [50, 90, 130, 170], "RGB")
    UCF101(root=str(few), **SMALL).prepare()
    flow, rgb = row_of(few, "v_Archery_g02_c01")
    # Twice as large: twice as far.
    doubled = [127.5 + 2 * (level - 127.5) for level in (100, 110, 120)]
    np.testing.assert_allclose(flow[0, 0].mean(axis=(1, 2)), (doubled * 4)[:10], atol=2.5)
    np.testing.assert_allclose(rgb.mean(axis=(1, 2, 3)), [50, 50, 50], atol=1.5)


def test_what_the_encoders_see(twin: Path) -> None:
    data = UCF101(root=str(twin), **SMALL)
    batch = data.splits()["train"].__getitems__(list(range(24)))
    assert [modality.name for modality in data.modalities] == ["flow", "rgb"]
    assert data.modalities[0].shape == (2, 10, 24, 24)
    draws = Draws(0, 0, batch.index)
    for modality in data.modalities:
        raw, transform = batch.inputs[modality.name], data.transforms()[modality.name]
        for seen in (transform(raw, None), transform(raw, draws)):
            assert tuple(seen.shape[1:]) == modality.shape
            assert seen.dtype == torch.float32
    flow = batch.inputs["flow"]
    centre = data.transforms()["flow"](flow, None)
    torch.testing.assert_close(centre, flow[:, 1, ..., 4:28, 9:33].float() - 127.5)
    trained = data.transforms()["flow"](flow, draws)
    mirrored = (draws.uniform("clip/flip") < 0.5)[:, 0]
    archery = batch.target == 1  # moves down, in the mirror too
    assert (trained[archery, 1].flatten(1).mean(dim=1) > 5).all()
    handstand = batch.target == 2  # moves to the right
    to_the_right = trained[handstand, 0].flatten(1).mean(dim=1) > 0
    assert torch.equal(to_the_right, ~mirrored[handstand])
    assert 0 < mirrored[handstand].sum() < handstand.sum()


def test_the_official_normalisation_is_that_of_the_test_pictures(twin: Path) -> None:
    data = UCF101(root=str(twin), normalisation="official", **SMALL)
    raw = data.splits()["test"].__getitems__([0, 1]).inputs["rgb"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (RGB_TEST_MEAN, RGB_TEST_STD))
    torch.testing.assert_close(data.transforms()["rgb"](raw, None), (raw[:, 0, :, 4:28, 9:33] - mean) / std)


def test_plain_videos_give_flow_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    root = tmp_path / "root"
    data = UCF101(root=str(root), source="videos", clips=1, **SMALL)
    data.write_synthetic()
    broken = root / "UCF-101" / "Archery" / "v_Archery_g01_c01.avi"
    broken.write_bytes(b"no video")
    gone, folder = (root / "UCF-101" / "YoYo" / f"v_YoYo_g{group:02}_c01.avi" for group in (1, 4))
    gone.unlink()
    gone.symlink_to("gone.avi")
    folder.unlink()
    folder.mkdir()
    twice = root / "UCF-101" / "archery" / "v_archery_g02_c01.avi"
    twice.parent.mkdir()
    twice.touch()
    data.prepare(workers=2)
    assert len(data.splits()["test"]) == 13
    packed = open_packed(root / "packed-videos-32px-1clips-rgb6", "UCF101", "")
    reasons = {entry["id"]: entry["reason"] for entry in packed.meta["bad"]}
    assert reasons["v_Archery_g01_c01"].startswith("can't be decoded")
    for file in (gone, folder):
        assert reasons[file.stem] == f"there is no file {file}"
    assert len(reasons) == 3
    for label, name in enumerate(CLASSES):
        row = packed.rows[packed.ids.index(f"v_{name}_g02_c01")]
        pixels = (packed.arrays["flow"][row].astype(float) - 127.5) * 40 / 255
        inside = np.median(pixels[..., 6:-6, 8:-8], axis=(0, 2, 3, 4))
        np.testing.assert_allclose(inside, np.array(STEPS[label]) * 2 / 3, atol=0.35)
    assert data.details()["variant"] == "split 1, DIS flow"
    twice.write_bytes(b"something")
    with pytest.raises(UserError, match=r"Archery/v_Archery_g02_c01.avi and .*archery/v_archery_g02_c01.avi are two"):
        data.prepare()
    with pytest.raises(UserError, match=r"no folder .*jpegs_256; .*, or add --source videos to use .*UCF-101"):
        UCF101(root=str(root), **SMALL).prepare()


def test_bad_videos_are_left_out_and_named(few: Path) -> None:
    u, v, rgb = few / "tvl1_flow" / "u", few / "tvl1_flow" / "v", few / "jpegs_256"
    (v / "v_Archery_g02_c01" / "frame000010.jpg").unlink()
    shutil.rmtree(rgb / "v_Archery_g02_c02")
    (u / "v_Archery_g03_c01" / "frame000003.jpg").write_bytes(b"no picture")
    frames(rgb / "v_HandStandPushups_g02_c01", (64, 48), [9, 9], "RGB")
    for folder in (u, v):
        shutil.rmtree(folder / "v_HandStandPushups_g02_c02")
        (folder / "v_HandStandPushups_g02_c02").mkdir()
    data = UCF101(root=str(few), protocol="official", **SMALL)
    data.prepare()
    reasons = {entry["id"]: entry["reason"] for entry in open_packed(few / PACK, "UCF101", "").meta["bad"]}
    assert reasons == {
        "v_Archery_g02_c01": "10 u and 9 v flow images",
        "v_Archery_g02_c02": f"there is no {rgb}/v_Archery_g02_c02",
        "v_Archery_g03_c01": "v_Archery_g03_c01/frame000003.jpg is no JPEG image",
        "v_HandstandPushups_g02_c01": "2 pictures for 10 flow images",
        "v_HandstandPushups_g02_c02": "no flow image",
    }
    assert data.splits()["train"].ids == ["v_HandstandPushups_g03_c01"]
    # What was missing is put there: the pack is made anew.
    frames(rgb / "v_Archery_g02_c02", (64, 48), [9] * 13, "RGB")
    data.prepare()
    assert len(data.splits()["train"]) == 2


def test_a_repaired_picture_is_packed_and_other_files_are_not_looked_at(
    few: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = few / "tvl1_flow" / "u" / "v_Archery_g03_c01" / "frame000003.jpg"
    whole = file.read_bytes()
    file.write_bytes(b"no picture")
    data = UCF101(root=str(few), **SMALL)
    data.prepare()
    assert "Packed 7 samples" in capsys.readouterr().out
    folder_time = file.parent.stat().st_mtime_ns
    file.write_bytes(whole)
    assert file.parent.stat().st_mtime_ns == folder_time
    data.prepare()
    assert "Packed 8 samples" in capsys.readouterr().out
    (file.parent / ".DS_Store").write_bytes(b"left by a file manager")
    (file.parent / "._frame000003.jpg").write_bytes(b"left by a file manager")
    data.prepare()
    assert "is prepared already" in capsys.readouterr().out


def test_pictures_are_ordered_by_their_numbers(few: Path) -> None:
    levels = [10 + 8 * number for number in range(13)]
    for stream, count, mode in (("tvl1_flow/u", 12, "L"), ("tvl1_flow/v", 12, "L"), ("jpegs_256", 13, "RGB")):
        folder = few / stream / "v_Archery_g02_c01"
        frames(folder, (42, 32), levels[:count], mode)
        for number, file in enumerate(sorted(folder.iterdir()), 1):
            file.rename(folder / f"frame{number}.jpeg")
    UCF101(root=str(few), **SMALL).prepare()
    flow, rgb = row_of(few, "v_Archery_g02_c01")
    np.testing.assert_allclose(flow[1, 0].mean(axis=(1, 2)), levels[1:11], atol=1.5)
    np.testing.assert_allclose(rgb[1].mean(), levels[7], atol=1.5)


def test_frames_that_are_not_numbered_from_1_without_a_gap_are_bad(few: Path) -> None:
    u, v, rgb = few / "tvl1_flow" / "u", few / "tvl1_flow" / "v", few / "jpegs_256"
    (u / "v_Archery_g02_c01" / "frame000003.jpg").unlink()
    (rgb / "v_Archery_g02_c02" / "frame000005.jpg").unlink()
    (rgb / "v_Archery_g02_c02" / "frame000005.jpg").symlink_to("gone.jpg")
    (v / "v_Archery_g03_c01" / "frame000010.jpg").rename(v / "v_Archery_g03_c01" / "frame4.jpg")
    (v / "v_HandStandPushups_g02_c01" / "frame000010.jpg").rename(v / "v_HandStandPushups_g02_c01" / "frame0.jpg")
    (u / "v_HandStandPushups_g02_c02" / "frame000010.jpg").rename(u / "v_HandStandPushups_g02_c02" / "last.jpg")
    UCF101(root=str(few), **SMALL).prepare()
    reasons = {entry["id"]: entry["reason"] for entry in open_packed(few / PACK, "UCF101", "").meta["bad"]}
    assert reasons == {
        "v_Archery_g02_c01": "frame 3 is missing in u",
        "v_Archery_g02_c02": "frame 5 is missing in jpegs_256",
        "v_Archery_g03_c01": "frame4.jpg in v is one too many: frames are numbered from 1, each once",
        "v_HandstandPushups_g02_c01": "frame0.jpg in v is one too many: frames are numbered from 1, each once",
        "v_HandstandPushups_g02_c02": "last.jpg in u has no number",
    }


def test_of_two_spellings_of_a_folder_the_one_that_holds_something_is_read(few: Path) -> None:
    u = few / "tvl1_flow" / "u"
    # On either side of the folder in the order of names.
    for name in ("v_ARCHERY_g02_c01", "v_archery_g02_c01"):
        (u / name).mkdir()
        (u / name / ".DS_Store").write_bytes(b"left by a file manager")
    data = UCF101(root=str(few), **SMALL)
    data.prepare()
    assert not open_packed(few / PACK, "UCF101", "").meta["bad"]
    shutil.copy(u / "v_Archery_g02_c01" / "frame000001.jpg", u / "v_archery_g02_c01")
    with pytest.raises(UserError, match=r"u/v_Archery_g02_c01 and .*u/v_archery_g02_c01 are two of one name"):
        data.prepare()


def test_pictures_are_brought_to_the_size_of_the_flow_bilinearly(few: Path) -> None:
    for stream, count, size, mode in (
        ("tvl1_flow/u", 10, (42, 32), "L"),
        ("tvl1_flow/v", 10, (42, 32), "L"),
        ("jpegs_256", 11, (90, 70), "RGB"),
    ):
        frames(few / stream / "v_Archery_g02_c01", size, [128] * count, mode)
    edges = np.zeros((70, 90, 3), np.uint8)
    edges[:, 40:] = 200
    file = few / "jpegs_256" / "v_Archery_g02_c01" / "Frame000007.JPG"
    Image.fromarray(edges).save(file)
    UCF101(root=str(few), **SMALL).prepare()
    with Image.open(file) as image:
        expected = np.asarray(image.resize((42, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(row_of(few, "v_Archery_g02_c01")[1][0], expected.transpose(2, 0, 1))


def test_evaluation_reads_the_middle_clip_only(twin: Path) -> None:
    data = UCF101(root=str(twin), **SMALL)
    splits, packed = data.splits(), open_packed(twin / PACK, "UCF101", "")
    for part in ("val", "test"):
        batch = splits[part].__getitems__([3, 0])
        rows = splits[part].rows[[3, 0]]
        for name, transform in data.transforms().items():
            whole = torch.from_numpy(packed.arrays[name][rows])
            assert batch.inputs[name].shape == (2, 1, *whole.shape[2:])
            assert torch.equal(transform(batch.inputs[name], None), transform(whole, None))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "trainlist01.txt",
            "Archry/v_Archery_g02_c01.avi 1\n",
            "line 1: classInd.txt has no class 'Archry' .did you mean",
        ),
        (
            "trainlist01.txt",
            "Archery/v_Archery_g02_c01.avi 2\n",
            "line 1: the label of Archery is 1 in classInd.txt, not 2",
        ),
        ("trainlist01.txt", "Archery/v_Archery.avi 1\n", "line 1: 'Archery/v_Archery.avi 1' is not"),
        ("trainlist01.txt", "Archery/v_Archery_g02_c01.avi 1\n" * 2, "line 2: v_Archery_g02_c01 is in line 1 already"),
        ("trainlist01.txt", "\n", "names no video"),
        ("testlist01.txt", "Archery/v_archery_g02_c01.avi\n", "share 1 videos .first: v_archery_g02_c01"),
        ("classInd.txt", "1 Archery\n3 YoYo\n", "line 2: '3 YoYo' is not '2 <class name>'"),
        ("classInd.txt", "1 Archery\n2 archery\n", "line 2: the class archery is there twice"),
        ("classInd.txt", "1 Archery\n", "names 1 classes"),
    ],
)
def test_lists_are_checked(few: Path, name: str, text: str, message: str) -> None:
    (few / "ucfTrainTestlist" / name).write_text(text)
    with pytest.raises(UserError, match=message):
        UCF101(root=str(few), **SMALL).prepare()


def test_lists_may_lie_in_the_root_and_their_hashes_are_kept(few: Path) -> None:
    before = UCF101(root=str(few), **SMALL).details()
    for file in (few / "ucfTrainTestlist").iterdir():
        shutil.move(file, few / file.name)
    (few / "ucfTrainTestlist").rmdir()
    assert UCF101(root=str(few), **SMALL).details() == before
    assert before["synthetic"] is False
    (few / "testlist01.txt").write_text("Archery/v_Archery_g01_c01.avi\n")
    after = UCF101(root=str(few), **SMALL).details()
    assert {key for key in before if before[key] != after[key]} == {"test_list_sha256"}


def test_a_list_of_videos_that_are_not_packed_is_refused(twin: Path, tmp_path: Path) -> None:
    shutil.copytree(twin / PACK, tmp_path / PACK)
    shutil.copytree(twin / "ucfTrainTestlist", tmp_path / "ucfTrainTestlist")
    with (tmp_path / "ucfTrainTestlist" / "trainlist01.txt").open("a") as file:
        file.write("Archery/v_Archery_g30_c01.avi 2\n")
    with pytest.raises(UserError, match=r"without 1 videos .*v_archery_g30_c01.*--frame_side 32 --image_size 24"):
        UCF101(root=str(tmp_path), **SMALL).splits()
    (tmp_path / "ucfTrainTestlist" / "classInd.txt").write_text("1 YoYo\n2 Archery\n")
    with pytest.raises(UserError, match="packed with other class names"):
        UCF101(root=str(tmp_path), **SMALL).splits()


def test_the_twin_says_that_it_is_one(twin: Path) -> None:
    data = UCF101(root=str(twin), **SMALL)
    assert data.details()["synthetic"] is True
    json.dumps(data.details())
    with pytest.raises(UserError, match="is not empty"):
        data.write_synthetic()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clips": 2}, "clips is 2; choose an odd number"),
        ({"rgb_frame": 10}, "rgb_frame is 10"),
        ({"frame_side": 128}, "image_size is 224, but pictures of 128"),
        ({"frame_side": 8, "image_size": 8}, "frame_side is 8"),
        ({"validation_share": 1.0}, "validation_share is 1.0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        UCF101(**options)  # type: ignore[arg-type]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    data = UCF101(root=str(tmp_path))
    with pytest.raises(UserError, match="not prepared; run: mmlab prepare UCF101 --root"):
        data.splits()
    with pytest.raises(UserError, match=r"The list .*classInd.txt can't be read .*official lists"):
        data.prepare()
