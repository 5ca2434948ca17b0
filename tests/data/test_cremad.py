import csv
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mmlab.data.cremad import CLASSES, CREMAD
from mmlab.data.packing import open_packed
from mmlab.data.video import write_video
from mmlab.draws import Draws
from mmlab.errors import UserError

pytest.importorskip("av")
SMALL = {"frame_side": 24, "image_size": 16}
FLAGS = "--frame_side 24 --image_size 16"


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a synthetic twin, packed for every recipe."""
    root = tmp_path_factory.mktemp("cremad") / "root"
    data = CREMAD(root=str(root), **SMALL)
    data.write_synthetic()
    data.prepare(workers=2)
    CREMAD(root=str(root), recipe="udml", **SMALL).prepare(workers=2)
    return root


@pytest.fixture
def copy(twin: Path, tmp_path: Path) -> Path:
    shutil.copytree(twin, tmp_path / "root")
    return tmp_path / "root"


def rows(file: Path) -> list[list[str]]:
    return list(csv.reader(file.read_text().splitlines()))


def test_the_common_lists_and_the_carved_validation_part(twin: Path) -> None:
    splits = CREMAD(root=str(twin), **SMALL).splits()
    assert {name: len(split) for name, split in splits.items()} == {"train": 42, "val": 6, "test": 24}
    listed = rows(twin / "train.csv")
    assert sorted([*splits["train"].ids, *splits["val"].ids]) == sorted(name for name, _ in listed)
    assert sorted(splits["val"].targets.tolist()) == [0, 1, 2, 3, 4, 5]
    assert splits["test"].ids == [name for name, _ in rows(twin / "test.csv")]
    assert [CLASSES[label] for label in splits["test"].targets] == [emotion for _, emotion in rows(twin / "test.csv")]
    other = CREMAD(root=str(twin), split_seed=1, **SMALL).splits()
    assert other["val"].ids != splits["val"].ids
    assert other["test"].digest() == splits["test"].digest()


def test_the_official_protocol_selects_on_the_test_list(twin: Path) -> None:
    splits = CREMAD(root=str(twin), protocol="official", **SMALL).splits()
    assert len(splits["train"]) == 48
    assert splits["val"].digest() == splits["test"].digest()


def test_no_speaker_is_in_two_parts(twin: Path) -> None:
    data = CREMAD(root=str(twin), split="speakers", **SMALL)
    splits = data.splits()
    speakers = {name: {clip[:4] for clip in split.ids} for name, split in splits.items()}
    assert sorted(len(names) for names in speakers.values()) == [1, 1, 2]
    assert len(set.union(*speakers.values())) == 4
    assert splits["train"].digest() == data.splits()["train"].digest()
    draws = {CREMAD(root=str(twin), split="speakers", split_seed=s, **SMALL).splits()["test"].ids[0] for s in range(9)}
    assert len(draws) > 1


def test_the_speakers_are_drawn_in_tenths(copy: Path) -> None:
    for folder, ending in (("AudioWAV", "wav"), ("VideoFlash", "flv")):
        file = copy / folder / f"1001_IEO_NEU_XX.{ending}"
        for actor in range(1005, 1021):
            shutil.copy(file, file.with_name(f"{actor}_IEO_NEU_XX.{ending}"))
    data = CREMAD(root=str(copy), split="speakers", **SMALL)
    data.prepare(workers=2)
    speakers = {name: len({clip[:4] for clip in split.ids}) for name, split in data.splits().items()}
    assert speakers == {"train": 16, "val": 2, "test": 2}


@pytest.mark.parametrize(
    ("options", "shape", "frames"),
    [
        ({"recipe": "di_mml"}, (1, 257, 299), 3),
        ({"recipe": "udml"}, (1, 257, 188), 1),
        ({"recipe": "dmrnet"}, (1, 257, 188), 1),
        ({"recipe": "di_mml", "standardise": True}, (1, 257, 299), 3),
    ],
)
def test_what_the_encoders_see(twin: Path, options: dict, shape: tuple[int, int, int], frames: int) -> None:
    data = CREMAD(root=str(twin), **options, **SMALL)
    batch = data.splits()["train"].__getitems__([3, 1])
    draws = Draws(0, 0, batch.index)
    audio, visual = data.modalities
    assert (audio.name, audio.shape) == ("audio", shape)
    assert (visual.name, visual.shape) == ("visual", (3, frames, 16, 16))
    for modality in data.modalities:
        transform = data.transforms()[modality.name]
        for seen in (transform(batch.inputs[modality.name], None), transform(batch.inputs[modality.name], draws)):
            assert tuple(seen.shape[1:]) == modality.shape
            assert seen.dtype == torch.float32
            assert seen.isfinite().all()
    seen = data.transforms()["audio"](batch.inputs["audio"], None)
    if data.standardise:
        assert audio.low is None
        torch.testing.assert_close(seen.mean(dim=(1, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
        torch.testing.assert_close(seen.std(dim=(1, 2, 3), correction=0), torch.ones(2), atol=1e-4, rtol=0)
    else:
        assert audio.low == math.log(1e-7)
        assert seen.min() >= audio.low - 1e-5
        assert seen.max() > audio.low + 5


def test_sound_is_repeated_and_cut(twin: Path) -> None:
    short, long = "1001_IEO_HAP_XX", "1001_DFA_HAP_XX"
    train = CREMAD(root=str(twin), protocol="official", **SMALL).splits()["train"]
    packed = train.__getitems__([train.ids.index(short), train.ids.index(long)]).inputs["audio"].numpy()
    for name, clip in zip((short, long), packed, strict=True):
        wave, rate = soundfile.read(twin / "AudioWAV" / f"{name}.wav", dtype="int16")
        assert rate == 16_000
        np.testing.assert_array_equal(clip, np.tile(wave, 3)[:48_000])


def test_sound_of_the_other_recipes_is_resampled(twin: Path) -> None:
    data = CREMAD(root=str(twin), recipe="udml", protocol="official", **SMALL)
    split = data.splits()["train"]
    batch = split.__getitems__([split.ids.index("1002_DFA_SAD_XX")])
    wave = batch.inputs["audio"]
    assert wave.shape == (1, 66_150)
    spectrum = np.abs(np.fft.rfft(wave[0].numpy()))
    assert spectrum.argmax() / 3 == pytest.approx(440, abs=1)  # 66,150 samples are 3 s
    magnitude = torch.stft(wave / 32768, 512, 353, window=torch.hann_window(512), return_complex=True).abs()
    expected = torch.log(magnitude + 1e-7)
    torch.testing.assert_close(data.transforms()["audio"](wave, None)[:, 0], expected, rtol=1e-4, atol=1e-4)
    standardised = CREMAD(root=str(twin), recipe="dmrnet", **SMALL).transforms()["audio"](wave, None)[:, 0]
    expected = (expected - expected.mean()) / expected.std(correction=0)
    torch.testing.assert_close(standardised, expected, rtol=1e-3, atol=1e-3)


def test_three_frames_of_short_and_long_clips(copy: Path) -> None:
    ramp = np.linspace(20, 220, 45)
    for name, seconds in (("1001_IEO_NEU_XX", 1.5), ("1001_DFA_NEU_XX", 4.5)):
        levels = ramp[: round(seconds * 10)].astype(np.uint8)
        frames = np.broadcast_to(levels[:, None, None, None], (len(levels), 48, 64, 3)).copy()
        write_video(copy / "VideoFlash" / f"{name}.flv", frames, 10, np.zeros(16_000, np.int16), 16_000)
    data = CREMAD(root=str(copy), protocol="official", **SMALL)
    data.prepare(workers=2)
    train = data.splits()["train"]
    visual = train.__getitems__([train.ids.index("1001_IEO_NEU_XX"), train.ids.index("1001_DFA_NEU_XX")]).inputs[
        "visual"
    ]
    assert visual.shape == (2, 3, 3, 24, 24)
    seen = visual.float().mean(dim=(2, 3, 4)).numpy()
    # Two seconds have begun, at frames 0 and 10, and 5 is the farthest from both; of five, the evenly spaced ones.
    np.testing.assert_allclose(seen[0], ramp[[0, 5, 10]], atol=6)
    np.testing.assert_allclose(seen[1], ramp[[0, 20, 40]], atol=6)


def test_one_frame_is_random_in_training_and_the_middle_one_in_evaluation(twin: Path) -> None:
    data = CREMAD(root=str(twin), recipe="udml", **SMALL)
    levels = torch.tensor([20, 120, 220], dtype=torch.uint8)
    raw = levels.view(1, 3, 1, 1, 1).expand(60, 3, 3, 24, 24)
    visual = data.transforms()["visual"]
    means = data.modalities[1].mean
    stds = data.modalities[1].std
    red = visual(raw, None)[:, 0, 0] * stds[0] + means[0]
    torch.testing.assert_close(red, torch.full_like(red, 120), atol=1e-2, rtol=0)
    drawn = visual(raw, Draws(0, 0, torch.arange(60)))[:, 0, 0, 8, 8] * stds[0] + means[0]
    assert sorted(set(drawn.round().tolist())) == [20, 120, 220]


def test_noise_on_training_frames(twin: Path) -> None:
    raw = torch.full((8, 3, 3, 24, 24), 128, dtype=torch.uint8)
    clean, noisy = (CREMAD(root=str(twin), frame_noise=noise, **SMALL).transforms()["visual"] for noise in (0.0, 0.2))
    draws = Draws(0, 0, torch.arange(8))
    torch.testing.assert_close(noisy(raw, None), clean(raw, None), atol=0, rtol=0)
    stds = torch.tensor(CREMAD().modalities[1].std).view(3, 1, 1, 1)
    noise = (noisy(raw, draws) - clean(raw, draws)) * stds / 255
    assert noise.mean().abs() < 0.01
    torch.testing.assert_close(noise.std(dim=(0, 2, 3, 4)), torch.full((3,), 0.2), rtol=0.05, atol=0)
    assert (noise[:, 0] - noise[:, 1]).std() > 0.2
    assert (noise[:, :, 0] - noise[:, :, 1]).std() > 0.2
    torch.testing.assert_close(noisy(raw[3:5], Draws(0, 0, torch.arange(3, 5))), noisy(raw, draws)[3:5])
    assert not torch.equal(noisy(raw, Draws(0, 1, torch.arange(8))), noisy(raw, draws))


def test_bad_clips_are_left_out_and_named(copy: Path) -> None:
    def file(name: str, modality: str = "visual") -> Path:
        folder, ending = {"audio": ("AudioWAV", "wav"), "visual": ("VideoFlash", "flv")}[modality]
        return copy / folder / f"{name}.{ending}"

    file("1001_IEO_NEU_XX").unlink()
    file("1001_IEO_HAP_XX", "audio").unlink()
    file("1001_IEO_SAD_XX").write_text("not a video")
    still = np.zeros((2, 48, 64, 3), np.uint8)
    write_video(file("1001_TIE_FEA_XX"), still, 10, np.zeros(16_000, np.int16), 16_000)
    shutil.copy(file("1001_IEO_DIS_XX"), file("1001_IEO_JOY_XX"))
    data = CREMAD(root=str(copy), **SMALL)
    data.prepare(workers=2)
    meta = open_packed(copy / "packed-24px-16000Hz-3s", "CREMAD", "").meta
    assert {entry["id"]: entry["reason"].split(":")[0] for entry in meta["bad"]} == {
        "1001_IEO_NEU_XX": "there is no VideoFlash/1001_IEO_NEU_XX.flv",
        "1001_IEO_HAP_XX": "there is no AudioWAV/1001_IEO_HAP_XX.wav",
        "1001_IEO_SAD_XX": "can't be decoded",
        "1001_TIE_FEA_XX": "2 of the 3 video frames that are needed",
        "1001_IEO_JOY_XX": "its name is not <actor>_<sentence>_<emotion>_<level>",
    }
    # The lists still name them.
    assert {name: len(split) for name, split in data.splits().items()} == {"train": 39, "val": 6, "test": 23}


@pytest.mark.parametrize(
    ("part", "text", "message"),
    [
        ("train", "1001_IEO_NEU_YY,NEU\n", r"train.csv, line 1: there is no clip '1001_IEO_NEU_YY' \(did you mean '1"),
        ("train", "1001_IEO_NEU_XX,HAP\n", "line 1: 1001_IEO_NEU_XX is listed as 'HAP', but its name says NEU"),
        ("train", "id,emotion\n1001_IEO_NEU_XX,NEU\n", r"line 1: there is no clip 'id'; .*the list has no header line"),
        ("train", "id,emotion,level\n", "line 1: 3 columns where two are expected; .* without a header line"),
        ("train", "1001_IEO_NEU_XX\n", "line 1: 1 columns where two are expected"),
        ("train", "\n1001_IEO_NEU_XX,NEU\n1001_IEO_NEU_XX,NEU\n", "line 3: .* listed already in .*train.csv, line 2"),
        ("test", "1001_IEO_NEU_XX,NEU\n", "test.csv, line 1: 1001_IEO_NEU_XX is listed already in .*train.csv, line 1"),
        ("test", "\n", "test.csv names no usable clip"),
        ("train", "1001_IEO_NEU_XX,NEU\n1001_IEO_HAP_XX,HAP\n", "too few to carve a validation split"),
    ],
)
def test_lists_are_checked(twin: Path, tmp_path: Path, part: str, text: str, message: str) -> None:
    file = tmp_path / f"{part}.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        CREMAD(root=str(twin), **{f"{part}_list": str(file)}, **SMALL).splits()


def test_lists_of_ones_own_may_begin_with_a_byte_order_mark(twin: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.csv"
    mine.write_text("1003_TIE_ANG_XX,ANG\n1001_TIE_NEU_XX,NEU\n", encoding="utf-8-sig")
    data = CREMAD(root=str(twin), test_list=str(mine), **SMALL)
    assert data.splits()["test"].ids == ["1003_TIE_ANG_XX", "1001_TIE_NEU_XX"]
    assert data.splits()["test"].targets.tolist() == [5, 0]
    assert data.details()["test_list_sha256"] != CREMAD(root=str(twin), **SMALL).details()["test_list_sha256"]
    mine.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is no UTF-8 text"):
        data.splits()


def test_what_a_result_says_of_its_data(twin: Path) -> None:
    details = CREMAD(root=str(twin), **SMALL).details()
    assert details["synthetic"] is True
    assert details["variant"] == "di_mml"
    assert len(str(details["train_list_sha256"])) == 64
    by_speaker = CREMAD(root="nowhere", recipe="udml", split="speakers").details()
    assert (by_speaker["variant"], by_speaker["synthetic"]) == ("udml, by speaker", False)
    assert by_speaker["train_list_sha256"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recipe": "udml", "audio_seconds": 10}, "belong to the recipe di_mml"),
        ({"recipe": "dmrnet", "standardise": False}, "belong to the recipe di_mml"),
        ({"frame_noise": -0.1}, "frame_noise is -0.1"),
        ({"frame_side": 0}, "at least 1 pixel"),
        ({"validation_share": 1.0}, "a share between 0 and 1"),
        ({"split": "speakers", "train_list": "mine.csv"}, "reads no lists"),
        ({"split": "speakers", "protocol": "official"}, "no official protocol"),
    ],
)
def test_options_that_make_no_sense(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        CREMAD(**options)


def test_what_is_missing_is_said(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no clips of CREMA-D"):
        CREMAD(root=str(tmp_path / "empty")).prepare()
    with pytest.raises(UserError, match=r"run: mmlab prepare CREMAD --root .*root --recipe dmrnet --frame_side 48"):
        CREMAD(root=str(copy), recipe="dmrnet", frame_side=48).splits()
    with pytest.raises(UserError, match="is not empty"):
        CREMAD(root=str(copy)).write_synthetic()
    (copy / "test.csv").unlink()
    with pytest.raises(UserError, match=r"test.csv can't be read .* set split to speakers"):
        CREMAD(root=str(copy), **SMALL).splits()
    with pytest.raises(UserError, match="has 4 actors, of whom 1 go to test and 4 to validation"):
        CREMAD(root=str(copy), split="speakers", validation_share=0.9, **SMALL).splits()


def test_the_real_command(mmlab) -> None:
    out = mmlab(f"prepare CREMAD --root r --synthetic --audio_seconds 10 {FLAGS}")
    assert "Packed 72 samples into r/packed-24px-16000Hz-10s" in out
    assert "train: 42 samples" in out
    again = mmlab(f"prepare CREMAD --root r --audio_seconds 10 --split speakers {FLAGS}")
    assert "prepared already" in again
    assert "val: 18 samples" in again
    data = CREMAD(root="r", audio_seconds=10, **SMALL)
    batch = data.splits()["test"].__getitems__([0])
    assert data.transforms()["audio"](batch.inputs["audio"], None).shape == (1, *data.modalities[0].shape)
    assert data.modalities[0].shape == (1, 257, 1004)
    assert "emotions" in mmlab("list datasets")
    assert "belong to the recipe di_mml" in mmlab("prepare CREMAD --root r --recipe udml --audio_seconds 10", code=2)
