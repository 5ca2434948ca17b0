import numpy as np
import pytest
import torch

from mmlab.data.keypad import COLUMNS, KEYS, ROWS, Keypad, picture, sound
from mmlab.draws import Draws
from mmlab.errors import UserError


def tiny(**options) -> Keypad:
    return Keypad(train_size=30, val_size=12, test_size=24, **options)


def test_splits_fit_the_spec():
    data = tiny()
    splits = data.splits()
    spec = data.spec(len(splits["train"]))
    assert {name: len(split) for name, split in splits.items()} == {"train": 30, "val": 12, "test": 24}
    assert spec.names == ("audio", "image")
    assert spec.task.outputs == 12
    batch = splits["train"].__getitems__([3, 1])
    assert batch.inputs["audio"].dtype == torch.int16
    assert batch.inputs["image"].dtype == torch.uint8
    for modality, transform in zip(spec.modalities, data.transforms().values(), strict=True):
        for draws in (None, Draws(0, 0, batch.index)):
            out = transform(batch.inputs[modality.name], draws)
            assert out.shape == (2, *modality.shape)
            assert out.dtype == torch.float32
    assert splits["val"].ids[1] == "val-00001"
    assert np.bincount(splits["test"].targets).tolist() == [2] * 12


def test_inputs_are_normalised():
    data = Keypad(train_size=120, val_size=12, test_size=12)
    arrays = data.splits()["train"].arrays
    for name, transform in data.transforms().items():
        out = transform(torch.from_numpy(arrays[name]), None)
        assert abs(out.mean().item()) < 0.1
        assert abs(out.std().item() - 1) < 0.1


def test_data_depend_on_their_seed_and_a_larger_set_begins_with_the_smaller():
    base, again, larger, other = tiny(), tiny(), Keypad(40, 12, 24), tiny(data_seed=1)
    one = base.splits()
    for name in ("audio", "image"):
        array = one["train"].arrays[name]
        assert np.array_equal(array, again.splits()["train"].arrays[name])
        assert np.array_equal(array, larger.splits()["train"].arrays[name][:30])
        assert (array[:12] != one["val"].arrays[name]).any(axis=-1).all(axis=tuple(range(1, array.ndim - 1))).all()
        assert not np.array_equal(array, other.splits()["train"].arrays[name])


def test_the_tones_are_those_of_the_key():
    keys = torch.arange(120) % 12
    waves = sound(keys, 40.0, Draws(0, 0, torch.arange(120))).double()
    time = torch.arange(2000, dtype=torch.float64) / 8000

    def strongest(pitches):
        waved = torch.exp(-2j * torch.pi * torch.tensor(pitches, dtype=torch.float64)[:, None] * time)
        return (waves.to(waved.dtype) @ waved.T).abs().argmax(dim=1)

    assert torch.equal(strongest(ROWS), keys // 3)
    assert torch.equal(strongest(COLUMNS), keys % 3)


@pytest.mark.parametrize("snr", [-6.0, 0.0, 10.0])
def test_the_audio_snr_is_what_it_says(snr):
    keys, draws = torch.arange(48) % 12, Draws(0, 0, torch.arange(48))
    # The same draws nearly without noise show the gain and where the tones sound.
    clean = sound(keys, 60.0, draws).double()
    noisy = sound(keys, snr, draws).double()
    level = noise = 10 ** (-snr / 20)
    residual = noisy * (1 + level**2) ** 0.5 - clean
    sounding = torch.nn.functional.max_pool1d(clean.abs(), 41, 1, 20) > clean.abs().amax(dim=1, keepdim=True) * 0.2
    signal = torch.stack([one[on].square().mean() for one, on in zip(clean, sounding, strict=True)])
    noise = residual.square().mean(dim=1)
    assert (10 * torch.log10(signal / noise) - snr).mean().abs() < 0.6


def test_the_image_snr_weakens_the_image():
    keys, draws = torch.arange(48) % 12, Draws(0, 0, torch.arange(48))
    clean = picture(keys, 60.0, draws).double().flatten(1)
    for snr in (-10.0, 0.0, 10.0):
        noisy = picture(keys, snr, draws).double().flatten(1)
        pairs = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(clean, noisy, strict=True)]
        # Clean means glyph and clutter; the clutter adds to the glyph's variance, hence to the correlation.
        glyph_alone = (1 + 10 ** (-snr / 10)) ** -0.5
        assert glyph_alone - 0.05 < torch.stack(pairs).mean() < min(glyph_alone + 0.2, 1.0)


def test_pictures_of_one_key_are_alike_and_of_two_differ():
    keys = torch.arange(480) % 12
    pictures = picture(keys, 20.0, Draws(0, 0, torch.arange(480))).double().flatten(1)
    means = torch.stack([pictures[:240][keys[:240] == key].mean(dim=0) for key in range(12)])
    means = means - means.mean(dim=0)
    nearest = torch.corrcoef(torch.cat((means, pictures[240:] - pictures.mean(dim=0))))[12:, :12].argmax(dim=1)
    # Chance is 1/12; the nearest class mean is right far more often.
    assert (nearest == keys[240:]).double().mean() > 0.4


def test_too_small_a_split_is_refused():
    with pytest.raises(UserError, match=rf"val_size is 5.*{len(KEYS)} or more"):
        Keypad(val_size=5)


def test_details_name_the_variant():
    assert tiny(image_snr=3.0).details() == {"image_snr": 3.0, "audio_snr": -11.0, "data_seed": 0}


def test_there_is_no_twin():
    with pytest.raises(UserError, match="no raw layout"):
        tiny().write_synthetic()
