import pytest
import torch

from mmlab.draws import Draws
from mmlab.methods.controlled_noise import ControlledNoise, draw_levels
from mmlab.types import Modality

AUDIO = Modality("audio", "audio", (1, 40, 30), (-5.0,), (2.0,))
IMAGE = Modality("image", "image", (3, 40, 30), (120.0, 110.0, 100.0), (60.0, 50.0, 40.0), 0.0, 255.0)
FLOW = Modality("flow", "flow", (2, 3, 40, 30), (0.0, -1.0), (17.0, 18.0), -127.0, 127.0)
FREE = Modality("depth", "depth", (1, 40, 30), (4.0,), (2.0,))
VECTOR = Modality("vector", "vector", (400,), (3.0,), (0.5,))
SEQUENCE = Modality("sequence", "sequence", (50, 3), (1.0, 2.0, 3.0), (1.0, 10.0, 100.0))
TEXT = Modality("text", "text", (2, 7))


def noisy(modality, raw, level, epoch=0):
    """Normalised inputs, what noise of a level makes of them, and the same in raw units."""
    behind = 0 if modality.kind in ("vector", "sequence") else len(modality.shape) - 1
    mean, std = (torch.tensor(each).view(-1, *[1] * behind) for each in (modality.mean, modality.std))
    clean = (torch.as_tensor(raw, dtype=torch.float32).expand(8, *modality.shape) - mean) / std
    draws = Draws(3, epoch, torch.arange(8))
    changed = ControlledNoise((modality,))({modality.name: clean}, torch.full((8, 1), level, dtype=torch.uint8), draws)
    return clean, changed[modality.name], changed[modality.name] * std + mean


@pytest.mark.parametrize("modality", [AUDIO, IMAGE, FLOW, FREE, VECTOR, SEQUENCE])
def test_level_1_is_the_same_bits(modality):
    clean = torch.randn(8, *modality.shape, generator=torch.Generator().manual_seed(0))
    levels = torch.tensor([1, 2, 1, 11, 1, 1, 5, 1], dtype=torch.uint8)
    draws = Draws(3, 0, torch.arange(8))
    changed = ControlledNoise((modality,))({modality.name: clean}, levels[:, None], draws)[modality.name]
    assert torch.equal((changed == clean).flatten(1).all(dim=1), levels == 1)


@pytest.mark.parametrize("level", [2, 6, 10])
def test_sound_gets_noise_of_the_level_in_raw_units(level):
    _, _, raw = noisy(AUDIO, -3.0, level)
    assert (raw + 3).std() == pytest.approx(level, rel=0.05)
    assert (raw + 3).mean() == pytest.approx(0, abs=0.1 * level)


def test_sound_is_cut_above_only_and_replaced_at_11():
    _, _, raw = noisy(AUDIO, -3.0, 11)
    assert raw.max() == pytest.approx(255, abs=1e-3)
    assert raw.min() < -500
    other = noisy(AUDIO, 50.0, 11)[2]
    torch.testing.assert_close(other, raw, atol=1e-3, rtol=1e-5)  # nothing of the sound is left


@pytest.mark.parametrize("level", [2, 5])
def test_pictures_get_noise_of_the_squared_level_shared_by_the_channels(level):
    _, _, raw = noisy(IMAGE, 128.0, level)
    change = raw - 128
    assert change.std() == pytest.approx(level**2, rel=0.05)
    torch.testing.assert_close(change[:, :1].expand_as(change), change, atol=1e-2, rtol=0)
    torch.testing.assert_close(raw, raw.round(), atol=1e-3, rtol=0)


def test_pictures_are_cut_at_both_ends_and_replaced_at_11():
    dark, _, raw = noisy(IMAGE, 3.0, 5)
    assert raw.min() > -1e-3
    assert raw.max() < 150  # nothing wraps around to bright
    pure = noisy(IMAGE, 128.0, 11)[2]
    torch.testing.assert_close(pure, noisy(IMAGE, 3.0, 11)[2], atol=1e-3, rtol=0)
    extreme = (pure < 1).float().mean() + (pure > 254).float().mean()
    assert extreme > 0.95
    assert raw.shape == dark.shape


def test_flow_is_a_picture_of_its_own_range_with_a_field_for_each_frame():
    _, _, raw = noisy(FLOW, 0.0, 3)
    assert raw.std() == pytest.approx(9 * 254 / 255, rel=0.05)
    assert not torch.equal(raw, raw.round())
    torch.testing.assert_close(raw[:, 0], raw[:, 1], atol=1e-3, rtol=0)
    assert not torch.allclose(raw[:, :, 0], raw[:, :, 1])
    pure = noisy(FLOW, 0.0, 11)[2]
    assert pure.min() == pytest.approx(-127, abs=1e-3)
    assert pure.max() == pytest.approx(127, abs=1e-3)


@pytest.mark.parametrize("modality", [FREE, VECTOR])
def test_other_values_get_a_share_of_their_deviation(modality):
    for level in (2, 7):
        _, _, raw = noisy(modality, 3.0, level)
        assert (raw - 3).std() == pytest.approx(0.3 * (level - 1) * modality.std[0], rel=0.05)
    pure = noisy(modality, 3.0, 11)[2]
    torch.testing.assert_close(pure, noisy(modality, 9.0, 11)[2], atol=1e-4, rtol=0)
    assert pure.std() == pytest.approx(3 * modality.std[0], rel=0.05)


def test_each_channel_of_a_sequence_has_its_own_deviation():
    _, _, raw = noisy(SEQUENCE, 0.0, 6)
    torch.testing.assert_close(raw.flatten(0, 1).std(dim=0), 1.5 * torch.tensor(SEQUENCE.std), rtol=0.15, atol=0)


def test_text_is_left_as_it_is():
    tokens = torch.arange(14).view(1, 2, 7)
    noise = ControlledNoise((TEXT,))
    assert noise({"text": tokens}, torch.full((1, 1), 9), Draws(0, 0, torch.arange(1)))["text"] is tokens
    assert not noise.reaches(TEXT)


def test_samples_epochs_and_modalities_have_noise_of_their_own():
    first = noisy(AUDIO, 0.0, 5)[1]
    assert not torch.allclose(first[0], first[1])
    assert not torch.allclose(first, noisy(AUDIO, 0.0, 5, epoch=1)[1])
    assert torch.equal(first, noisy(AUDIO, 0.0, 5)[1])
    twin = Modality("twin", "audio", AUDIO.shape)
    inputs = {"audio": torch.zeros(8, *AUDIO.shape), "twin": torch.zeros(8, *AUDIO.shape)}
    both = ControlledNoise((AUDIO, twin))(inputs, torch.full((8, 2), 5), Draws(3, 0, torch.arange(8)))
    # Deviations of 5 in units of 2 and of 1.
    assert not torch.allclose(both["audio"] * 2, both["twin"], atol=1e-3)
    assert both["twin"].std() == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize("samples", [1, 3, 7, 1001])
def test_of_an_odd_number_the_smaller_half_is_clean(samples):
    # With so many modalities, nothing but the half has level 1 throughout.
    levels = draw_levels(samples, 40, seed=4)
    assert (levels == 1).all(dim=1).sum() == samples // 2


@pytest.mark.parametrize("samples", [1000, 1001])
def test_half_of_the_samples_are_clean_and_the_others_have_levels_from_1_to_11(samples):
    levels = draw_levels(samples, 3, seed=4)
    assert levels.shape == (samples, 3)
    clean = (levels == 1).all(dim=1).sum()
    assert samples // 2 <= clean <= samples // 2 + 10  # 1 in 1331 of the others has three ones by chance
    counts = torch.bincount(levels.flatten().long())
    assert counts[0] == 0
    assert len(counts) == 12
    assert counts[2:].min() > 1500 / 11 * 0.7
    assert torch.equal(levels, draw_levels(samples, 3, seed=4))
    assert not torch.equal(levels, draw_levels(samples, 3, seed=5))
