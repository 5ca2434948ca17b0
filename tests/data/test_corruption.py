import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmlab.data.corruption import (
    Corruption,
    add_gaussian,
    blanked,
    check_severity,
    drop_modalities,
    salt_and_pepper,
    salt_and_pepper_mask,
)
from mmlab.data.image import Normalise
from mmlab.data.keypad import Keypad
from mmlab.errors import UserError
from mmlab.types import Batch, Modality

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "mnl" / "robustness_and_noise.json").read_text())
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 70.0)
BLANK = 7

IMAGE = Modality("image", "image", (3, 9, 11), MEAN, STD, 0.0, 255.0)
FRAMES = Modality("video", "frames", (3, 2, 5, 7), MEAN, STD, 0.0, 255.0)
DEPTH = Modality("depth", "depth", (1, 9, 11), (90.0,), (45.0,), 0.0, 255.0, noise=1.0)
AUDIO = Modality("audio", "audio", (1, 6, 13), (-10.0,), (5.0,), low=-14.0)
SEQUENCE = Modality("pose", "sequence", (5, 2), (1.0, 2.0), (3.0, 4.0))
TEXT = Modality("text", "text", (2, 40), low=0.0, high=50.0, blank=BLANK)
MODALITIES = (IMAGE, FRAMES, DEPTH, AUDIO, SEQUENCE, TEXT)
SEVERITIES = (1.0, 2.5, 5.0, 7.5, 10.0)
NAMES = ("gaussian", "salt_and_pepper", "blank_words", "missing")


def sentences(size: int) -> list[str]:
    generator = random.Random(1)
    words = ["a", "bird", "sang", "extraordinarily", "loudly", "over", "there", "today", "misunderstandings"]
    return [" ".join(generator.choices(words, k=generator.randint(1, 9))) for _ in range(size)]


def tokenised(texts: list[str], length: int) -> Tensor:
    """A tiny tokeniser: [CLS] is 1, every word is cut into pieces of three letters, ``_`` is a token of its own."""
    out = torch.zeros(len(texts), 2, length, dtype=torch.long)
    for row, text in enumerate(texts):
        pieces = [(1, 0)]
        for number, word in enumerate(text.split(), start=1):
            cut = [word[place : place + 3] for place in range(0, len(word), 3)]
            pieces += [(BLANK if piece == "_" else 10 + sum(piece.encode()) % 40, number) for piece in cut]
        out[row, :, : len(pieces)] = torch.tensor(pieces).T
    return out


def batch_of(size: int = 40, missing: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(0)
    present = torch.ones(size, len(MODALITIES), dtype=torch.bool)
    if missing:
        present = torch.rand(present.shape, generator=generator) < 0.8
        present[:, 0] |= ~present.any(dim=1)
    inputs = {}
    for position, modality in enumerate(MODALITIES):
        if modality.kind == "text":
            values = tokenised(sentences(size), 40)
        elif modality.high is not None:
            raw = torch.randint(0, 256, (size, *modality.shape), generator=generator)
            values = Normalise(modality.mean, modality.std)(raw, None)
        else:
            values = torch.randn((size, *modality.shape), generator=generator).clamp(min=-0.8)
        values[~present[:, position]] = 0
        inputs[modality.name] = values
    return Batch(inputs, torch.arange(size) % 3, present, torch.arange(100, 100 + size))


def part(batch: Batch, rows: Tensor) -> Batch:
    return Batch(
        {name: each[rows] for name, each in batch.inputs.items()},
        batch.target[rows],
        batch.present[rows],
        batch.index[rows],
    )


def raw(values: Tensor, modality: Modality) -> Tensor:
    channels = (-1, *[1] * (values.dim() - 2))
    return values * torch.tensor(modality.std).view(channels) + torch.tensor(modality.mean).view(channels)


def changed_rows(before: Tensor, after: Tensor) -> Tensor:
    return (before != after).flatten(1).any(dim=1)


# Reference numbers.


def case(name: str) -> dict[str, object]:
    return {
        key.removeprefix(f"{name}/"): value
        for section in ("inputs", "outputs")
        for key, value in GOLDEN[section].items()
        if key.startswith(f"{name}/")
    }


@pytest.mark.parametrize("name", ["gaussian_sev5", "gaussian_sev10"])
def test_gaussian_equals_the_reference_and_does_not_wrap_around(name):
    given = case(name)
    image, field = torch.tensor(given["image"]), torch.tensor(given["standard_normal_field"], dtype=torch.float64)
    std = 10 * given["severity"]
    noisy = add_gaussian(image, field, std, 0, 255, whole=True)
    assert noisy.tolist() == given["image_noisy"]
    wraps = (image + std * field < 0).any(dim=2).sum()
    assert wraps == given["n_pixels_where_released_code_wraps"] > 0


def test_salt_and_pepper_equals_the_reference():
    given = case("salt_pepper")
    mask = torch.tensor(given["mask_0pepper_1salt_2keep"])
    assert salt_and_pepper(torch.tensor(given["image"]), mask, 0, 255).tolist() == given["image_noisy"]


@pytest.mark.parametrize("name", ["text_sev5", "text_sev10"])
def test_blanked_words_equal_the_reference(name):
    given = case(name)
    hit = blanked(torch.tensor(given["uniform_draws"]), given["severity"]).tolist()
    words = ["_" if blank else word for word, blank in zip(given["words"], hit, strict=True)]
    assert words == given["words_noisy"]


def test_the_mask_has_both_kinds_at_their_bounds():
    u = torch.tensor([0.0, 0.0499, 0.05, 0.0999, 0.1, 0.9999])
    assert salt_and_pepper_mask(u).tolist() == [0, 0, 1, 1, 2, 2]


def test_gaussian_without_bounds_or_cut_only_adds():
    values, field = torch.tensor([-3.5, 300.25]), torch.tensor([-1.0, 2.0])
    assert add_gaussian(values, field, 0.5, None, None, whole=False).tolist() == [-4.0, 301.25]
    assert add_gaussian(values, field, 0.5, -3.0, None, whole=False).tolist() == [-3.0, 301.25]


# Every corruption.


@pytest.mark.parametrize("name", NAMES)
def test_severity_0_changes_no_bit(name):
    batch = batch_of()
    batch.inputs["image"] += 0.01  # pictures that were resized are not whole grey levels
    same = Corruption(name, MODALITIES)(batch, 0.0, 3)
    assert same is not batch
    assert all(same.inputs[modality] is batch.inputs[modality] for modality in batch.inputs)
    assert torch.equal(same.present, batch.present)


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_the_same_in_every_batch_and_nothing_is_written_in_place(name):
    corrupt, batch = Corruption(name, MODALITIES), batch_of()
    untouched = {key: each.clone() for key, each in batch.inputs.items()}
    whole = corrupt(batch, 5.0, 3)
    assert all(torch.equal(batch.inputs[key], each) for key, each in untouched.items())
    for rows in (torch.tensor([5]), torch.randperm(40)[:17], torch.arange(39, -1, -1), torch.arange(3, 34)):
        apart = corrupt(part(batch, rows), 5.0, 3)
        assert torch.equal(apart.present, whole.present[rows])
        for key in batch.inputs:
            assert torch.equal(apart.inputs[key], whole.inputs[key][rows]), key
    other = corrupt(batch, 5.0, 4)
    assert all((other.inputs[key] != whole.inputs[key]).any() for key in corrupt.touched)


@pytest.mark.parametrize("name", NAMES)
def test_only_what_is_touched_changes_and_what_lacks_stays_zero(name):
    corrupt, batch = Corruption(name, MODALITIES), batch_of()
    out = corrupt(batch, 10.0, 0)
    assert torch.equal(out.index, batch.index)
    assert torch.equal(out.target, batch.target)
    for position, modality in enumerate(MODALITIES):
        before, after = batch.inputs[modality.name], out.inputs[modality.name]
        assert (after is before) == (modality.name not in corrupt.touched)
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
        assert not after[~batch.present[:, position]].any()
        assert (after != before).any() == (modality.name in corrupt.touched)


def test_touched_names_what_can_change():
    def touched(name):
        return Corruption(name, MODALITIES).touched

    everything = tuple(modality.name for modality in MODALITIES)
    assert touched("gaussian") == touched("missing") == everything
    assert touched("salt_and_pepper") == ("image", "video", "depth", "text")
    assert touched("blank_words") == ("text",)


@pytest.mark.parametrize(
    ("name", "modalities"),
    [
        ("salt_and_pepper", (AUDIO, Modality("image", "image", (3, 4, 4), low=0.0))),
        ("blank_words", (AUDIO, Modality("text", "text", (2, 9)))),
        ("gaussian", (Modality("text", "text", (2, 9)),)),
        ("missing", (AUDIO,)),
    ],
)
def test_a_corruption_that_would_change_nothing_is_refused(name, modalities):
    with pytest.raises(UserError, match=rf"the corruption {name} needs .*{modalities[0].name} \("):
        Corruption(name, modalities)


@pytest.mark.parametrize(
    ("name", "severity"),
    [("gaussian", -1), ("gaussian", float("nan")), ("gaussian", float("inf")), *((name, 10.5) for name in NAMES[1:])],
)
def test_a_severity_without_meaning_is_refused(name, severity):
    with pytest.raises(UserError, match=f"severity of {name} is .*; choose 0"):
        check_severity(name, severity)


def test_severities_with_a_meaning_pass():
    check_severity("gaussian", 40)
    for name in NAMES:
        check_severity(name, 0)
        check_severity(name, 10)


# Gaussian.


def test_gaussian_pictures_have_the_right_spread_one_field_for_all_channels_and_stay_in_range():
    modality = Modality("image", "image", (3, 16, 16), MEAN, STD, 0.0, 255.0)
    grey = Normalise(MEAN, STD)(torch.full((2000, 3, 16, 16), 128), None)
    batch = Batch({"image": grey}, torch.zeros(2000), torch.ones(2000, 1, dtype=torch.bool), torch.arange(2000))
    corrupt = Corruption("gaussian", (modality,))
    out = corrupt(batch, 2.0, 0).inputs["image"]
    touched = changed_rows(grey, out)
    assert abs(touched.float().mean() - 0.5) < 0.04
    noise = raw(out[touched], modality) - 128
    torch.testing.assert_close(noise, noise.round(), atol=1e-3, rtol=0)
    assert (noise - noise[:, :1]).abs().max() < 1e-3
    # Cutting fractions moves the mean by half a level; a field of 20 levels is hardly ever clipped at 6.4 of them.
    assert abs(noise[:, 0].mean() + 0.5) < 0.2
    assert abs(noise[:, 0].std() - 20) < 0.2
    strong = raw(corrupt(batch, 10.0, 0).inputs["image"], modality)
    assert strong.min() > -1e-3
    assert strong.max() < 255 + 1e-3
    at_low, at_high = (strong < 0.5).float().mean(), (strong > 254.5).float().mean()
    # Of half the samples, a normal tail beyond 128 / 100 (10 %) each.
    assert abs(at_low - 0.05) < 0.01
    assert abs(at_high - 0.05) < 0.01


def test_gaussian_is_nested_in_severity():
    corrupt, batch = Corruption("gaussian", MODALITIES), batch_of(missing=False)
    outs = [corrupt(batch, severity, 1).inputs for severity in SEVERITIES]
    for modality in MODALITIES[:-1]:
        rows = [changed_rows(batch.inputs[modality.name], out[modality.name]) for out in outs]
        assert all(torch.equal(each, rows[0]) for each in rows)
    pose = batch.inputs["pose"]
    torch.testing.assert_close(outs[4]["pose"] - pose, 10 * (outs[0]["pose"] - pose), atol=1e-4, rtol=1e-4)


def test_gaussian_draws_frames_modalities_and_samples_apart():
    out = Corruption("gaussian", MODALITIES)(batch_of(200, missing=False), 10.0, 2)
    clean = batch_of(200, missing=False)
    noise = raw(out.inputs["video"], FRAMES) - raw(clean.inputs["video"], FRAMES)
    noise = noise[changed_rows(out.inputs["video"], clean.inputs["video"])]
    assert abs(torch.corrcoef(noise[:, 0].transpose(0, 1).flatten(1))[0, 1]) < 0.1
    assert abs(torch.corrcoef(torch.stack((noise[0::2][:40].flatten(), noise[1::2][:40].flatten())))[0, 1]) < 0.1
    coins = [changed_rows(out.inputs[each.name], clean.inputs[each.name]).float() for each in MODALITIES[:5]]
    correlation = torch.corrcoef(torch.stack(coins)) - torch.eye(5)
    assert correlation.abs().max() < 0.3


def test_gaussian_width_is_the_modalitys_own_if_it_has_one():
    depth = Normalise(DEPTH.mean, DEPTH.std)(torch.full((400, 1, 9, 11), 100), None)
    batch = Batch({"depth": depth}, torch.zeros(400), torch.ones(400, 1, dtype=torch.bool), torch.arange(400))
    out = Corruption("gaussian", (DEPTH,))(batch, 10.0, 0).inputs["depth"]
    noise = raw(out[changed_rows(depth, out)], DEPTH) - 100
    assert abs(noise.std() - 10) < 0.3


def test_gaussian_sound_has_its_width_in_normalised_units_and_its_floor():
    silence = torch.zeros(1000, *AUDIO.shape)
    batch = Batch({"audio": silence}, torch.zeros(1000), torch.ones(1000, 1, dtype=torch.bool), torch.arange(1000))
    out = Corruption("gaussian", (AUDIO,))(batch, 5.0, 0).inputs["audio"]
    noise = out[changed_rows(silence, out)]
    assert abs(len(noise) / 1000 - 0.5) < 0.06
    assert torch.isclose(noise.min(), torch.tensor(-0.8))  # (low - mean) / std
    above = noise[noise > -0.79]
    assert (noise > 0).float().mean() == pytest.approx(0.5, abs=0.01)
    assert noise[noise > 0].square().mean().sqrt() == pytest.approx(0.5, abs=0.01)
    assert len(above) / noise.numel() == pytest.approx(0.943, abs=0.01)  # a normal tail beyond 1.6


# Salt and pepper.


def test_salt_and_pepper_share_density_values_and_channels():
    modality = Modality("image", "image", (3, 12, 12), MEAN, STD, 0.0, 255.0)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(1, 255, (2000, 3, 12, 12), generator=generator)
    clean = Normalise(MEAN, STD)(pixels, None)
    ends = Normalise(MEAN, STD)(torch.tensor([0, 255])[:, None, None, None].expand(2, 3, 1, 1), None)
    batch = Batch({"image": clean}, torch.zeros(2000), torch.ones(2000, 1, dtype=torch.bool), torch.arange(2000))
    corrupt = Corruption("salt_and_pepper", (modality,))
    before = torch.zeros(2000, dtype=torch.bool)
    for severity in SEVERITIES:
        out = corrupt(batch, severity, 0).inputs["image"]
        touched = changed_rows(clean, out)
        assert (touched | ~before).all()  # nested
        before = touched
        assert abs(touched.float().mean() - 0.05 * severity) < 0.035
        pepper, salt = out[touched] == ends[0], out[touched] == ends[1]
        for kind in (pepper, salt):
            assert abs(kind.float().mean() - 0.05) < 0.006
            assert torch.equal(kind.any(dim=1), kind.all(dim=1))
        kept = ~(pepper | salt)
        assert torch.equal(out[touched][kept], clean[touched][kept])


def test_salt_and_pepper_has_a_mask_of_its_own_for_each_frame():
    out = Corruption("salt_and_pepper", MODALITIES)(batch_of(200, missing=False), 10.0, 0).inputs["video"]
    specks = raw(out, FRAMES).round() == 255
    specks = specks.all(dim=1) & (changed_rows(out, batch_of(200, missing=False).inputs["video"]))[:, None, None, None]
    assert specks[:, 0].sum() > 50
    assert (specks[:, 0] & specks[:, 1]).sum() < 0.3 * specks[:, 0].sum()


# Text.


@pytest.mark.parametrize("name", ["blank_words", "gaussian", "salt_and_pepper"])
@pytest.mark.parametrize("severity", SEVERITIES)
def test_blanked_words_equal_the_text_tokenised_again(name, severity):
    texts = sentences(300)
    tokens = tokenised(texts, 40)
    batch = Batch({"text": tokens}, torch.zeros(300), torch.ones(300, 1, dtype=torch.bool), torch.arange(300))
    out = Corruption(name, (TEXT,))(batch, severity, 5).inputs["text"]
    written, counted, blanks = [], 0, 0
    for text, row in zip(texts, out, strict=True):
        numbers = {int(number): int(token) for token, number in zip(*row, strict=True) if number}
        words = text.split()
        assert sorted(numbers) == list(range(1, len(words) + 1))
        words = ["_" if numbers[place] == BLANK else word for place, word in enumerate(words, start=1)]
        written.append(" ".join(words))
        counted, blanks = counted + len(words), blanks + words.count("_")
    assert torch.equal(out, tokenised(written, 40))
    assert blanks / counted == pytest.approx(severity / 20, abs=0.04)


def test_blanks_are_nested_and_do_not_depend_on_padding():
    corrupt, texts = Corruption("blank_words", (TEXT,)), sentences(100)
    present, index = torch.ones(100, 1, dtype=torch.bool), torch.arange(100)
    longest = int((tokenised(texts, 40)[:, 0] > 0).sum(dim=1).max())
    before = torch.zeros(100)
    for severity in SEVERITIES:
        short = corrupt(Batch({"text": tokenised(texts, longest)}, index, present, index), severity, 0).inputs["text"]
        long = corrupt(Batch({"text": tokenised(texts, 40)}, index, present, index), severity, 0).inputs["text"]
        assert torch.equal(short, long[:, :, :longest])
        assert not long[:, :, longest:].any()
        blanks = (long[:, 0] == BLANK).sum(dim=1)
        assert (blanks >= before).all()
        before = blanks
    words = torch.tensor([len(text.split()) for text in texts])
    assert set(torch.where(blanks == words, 1, torch.where(blanks == 0, 0, -1)).tolist()) == {0, 1}


def test_words_without_tokens_leave_gaps_in_the_numbers():
    tokens = torch.tensor([[1, 20, 21, 22], [0, 3, 3, 90]]).expand(64, 2, 4)
    batch = Batch({"text": tokens}, torch.zeros(64), torch.ones(64, 1, dtype=torch.bool), torch.arange(64))
    out = Corruption("blank_words", (TEXT,))(batch, 10.0, 0).inputs["text"]
    texts = {str(text) for text in out.tolist()}
    assert texts == {"[[1, 20, 21, 22], [0, 3, 3, 90]]", f"[[1, {BLANK}, {BLANK}, 0], [0, 3, 90, 0]]"}


# Missing modalities.


def test_missing_modalities_are_dropped_independently_and_one_is_left():
    present = torch.ones(6000, 3, dtype=torch.bool)
    u = torch.rand(6000, 3, generator=torch.Generator().manual_seed(0))
    before = present
    for severity in SEVERITIES:
        left = drop_modalities(present, u, severity)
        p = severity / 10
        assert left.any(dim=1).all()
        assert not (left & ~before).any()  # nested
        before = left
        # By symmetry, the one that is kept when all three were drawn adds a third of p cubed.
        assert (left.float().mean(dim=0) - (1 - p + p**3 / 3)).abs().max() < 0.02
    assert (left.sum(dim=1) == 1).all()


def test_missing_keeps_what_a_sample_has():
    present = torch.tensor([[True, False, True], [False, True, False], [False, False, False]])
    u = torch.tensor([[0.1, 0.9, 0.2], [0.0, 0.5, 0.6], [0.1, 0.2, 0.3]])
    assert drop_modalities(present, u, 10.0).tolist() == [[False, False, True], [False, True, False], [False] * 3]


def test_missing_inputs_are_zero():
    batch = batch_of()
    out = Corruption("missing", MODALITIES)(batch, 5.0, 0)
    assert (out.present.sum(dim=1) >= 1).all()
    assert out.present.sum() < batch.present.sum()
    for position, modality in enumerate(MODALITIES):
        has = out.present[:, position]
        after = out.inputs[modality.name]
        assert not after[~has].any()
        assert torch.equal(after[has], batch.inputs[modality.name][has])


def test_a_real_data_set_is_corrupted_within_its_bounds():
    data = Keypad(train_size=12, val_size=12, test_size=60)
    raws = data.splits()["test"].__getitems__(list(range(60)))
    inputs = {name: transform(raws.inputs[name], None) for name, transform in data.transforms().items()}
    out = Corruption("gaussian", data.modalities)(Batch(inputs, raws.target, raws.present, raws.index), 10.0, 0)
    for modality in data.modalities:
        after = raw(out.inputs[modality.name], modality)
        assert changed_rows(inputs[modality.name], out.inputs[modality.name]).sum() > 15
        assert after.min() >= modality.low - 1e-3
        assert modality.high is None or after.max() <= modality.high + 1e-3


@pytest.mark.parametrize("name", ["gaussian", "salt_and_pepper", "blank_words"])
def test_modalities_of_one_shape_have_draws_of_their_own(name):
    if name == "blank_words":
        pair = (TEXT, dataclasses.replace(TEXT, name="caption"))
        values = tokenised(["one two three four five six seven eight nine ten"] * 60, 40)
    else:
        pair = (IMAGE, dataclasses.replace(IMAGE, name="other"))
        values = torch.zeros(60, *IMAGE.shape)
    inputs = {modality.name: values for modality in pair}
    batch = Batch(inputs, torch.zeros(60), torch.ones(60, 2, dtype=torch.bool), torch.arange(60))
    first, second = Corruption(name, pair)(batch, 5.0, 0).inputs.values()
    both = changed_rows(values, first) & changed_rows(values, second)
    assert both.sum() > 2
    assert not (first[both] == second[both]).flatten(1).all(dim=1).any()


def test_a_draw_at_the_bound_blanks_nothing():
    assert blanked(torch.tensor([0.4, 0.5, 0.6]), 5.0).tolist() == [True, False, False]


def test_salt_and_pepper_leaves_sound_alone():
    bounded = dataclasses.replace(AUDIO, high=4.0)
    assert Corruption("salt_and_pepper", (IMAGE, bounded)).touched == ("image",)


def test_noise_does_not_shift_flow():
    flow = Modality("flow", "flow", (2, 3, 16, 16), (127.5,), (1.0,), 0.0, 255.0, noise=1.0)
    clean = torch.full((64, *flow.shape), 0.5)
    batch = Batch({"flow": clean}, torch.zeros(64), torch.ones(64, 1, dtype=torch.bool), torch.arange(64))
    noisy = Corruption("gaussian", (flow,))(batch, 1.0, 0).inputs["flow"]
    noise = (noisy - clean)[changed_rows(clean, noisy)]
    # 20,000 draws or more: a standard error of 0.007.
    assert noise.numel() / 2 > 20_000
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.03


def test_noise_leaves_the_length_of_a_ragged_sequence_and_what_fills_it_up() -> None:
    modality = Modality("voice", "sequence", (6, 4), ragged=True)
    lengths = torch.arange(200) % 4 + 1
    steps = (torch.arange(6) < lengths[:, None])[..., None].float()
    clean = torch.cat((3 * steps.expand(-1, -1, 3), steps), dim=2)

    def batch(inputs: torch.Tensor) -> Batch:
        present = torch.ones(200, 1, dtype=torch.bool)
        return Batch({"voice": inputs}, torch.zeros(200), present, torch.arange(200))

    corruption = Corruption("gaussian", (modality,))
    noisy = corruption(batch(clean), 5, 0).inputs["voice"]
    assert torch.equal(noisy[..., -1], clean[..., -1])
    assert not noisy[steps[..., 0] == 0].any()
    noise = (noisy - clean)[..., :-1][steps[..., 0] == 1]
    assert noise[noise != 0].std().item() == pytest.approx(0.5, rel=0.1)
    assert 0.35 < (noise != 0).double().mean() < 0.65
    shorter = corruption(batch(clean[:, :4]), 5, 0).inputs["voice"]  # as long as the longest
    assert torch.equal(shorter, noisy[:, :4])
