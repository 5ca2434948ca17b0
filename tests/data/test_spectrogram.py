import math

import pytest
import torch
import torchaudio

from mmlab.data.spectrogram import (
    DensitySpectrogram,
    FilterBank,
    LogMel,
    LogSpectrogram,
    tukey,
    waveform,
)
from mmlab.draws import Draws


def sound(batch: int, samples: int) -> torch.Tensor:
    noise = torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))
    return (noise * 3000).to(torch.int16)


def batch_draws(batch: int, epoch: int = 0) -> Draws:
    return Draws(0, epoch, torch.arange(batch))


def test_tukey_power():
    assert tukey(512, torch.float64).square().sum().item() == pytest.approx(432.0, abs=1e-10)


@pytest.mark.parametrize(
    ("transform", "samples", "shape"),
    [
        (DensitySpectrogram(48000, False), 48000, (1, 257, 299)),
        (DensitySpectrogram(160000, True), 160000, (1, 257, 1004)),
        (LogSpectrogram(160000, 256, 128, 80000), 160000, (1, 129, 626)),
        (LogMel(8000, 8000, 256, 125, 40), 8000, (1, 40, 65)),
        (LogMel(8000, 3840, 256, 120, 40), 3840, (1, 40, 33)),
        (FilterBank(160000, 16000, -4.503877, 10.282552), 160000, (1, 128, 1024)),
        (FilterBank(176000, 16000, 0.0, 1.0), 176000, (1, 128, 1024)),
    ],
)
def test_shapes_and_independence(transform, samples, shape):
    raw = sound(2, samples)
    both = transform(raw, None)
    assert transform.shape == shape
    assert both.shape == (2, *shape)
    assert both.dtype == torch.float32
    torch.testing.assert_close(both[1:], transform(raw[1:], None), rtol=1e-4, atol=1e-4)


def test_waveform_range():
    raw = torch.tensor([[-32768, 0, 16384, 32767]], dtype=torch.int16)
    torch.testing.assert_close(waveform(raw), torch.tensor([[-1.0, 0.0, 0.5, 32767 / 32768]]))


def test_density_standardises_each_clip():
    raw = torch.cat((sound(1, 4000), sound(1, 4000) // 4))
    density = DensitySpectrogram(4000, True)(raw, None)
    torch.testing.assert_close(density.mean(dim=(1, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(density.std(dim=(1, 2, 3), correction=0), torch.ones(2), atol=1e-4, rtol=0)


def test_log_mel_finds_the_pitch_and_normalises():
    time = torch.arange(4000) / 8000
    tones = torch.stack([torch.sin(2 * math.pi * pitch * time) for pitch in (300.0, 3000.0)])
    raw = (tones * 20000).to(torch.int16)
    plain = LogMel(8000, 4000, 256, 125, 40)(raw, None)
    low, high = plain.mean(dim=3)[:, 0].argmax(dim=1).tolist()
    assert low < 15 < 30 < high
    torch.testing.assert_close(LogMel(8000, 4000, 256, 125, 40, -3.0, 2.0)(raw, None), (plain + 3.0) / 2.0)


def test_log_mel_floor_is_silence():
    quiet = LogMel(8000, 2000, 256, 125, 40)(torch.zeros(1, 2000, dtype=torch.int16), None)
    torch.testing.assert_close(quiet, torch.full_like(quiet, math.log(1e-6)))


def test_log_spectrogram_equals_stft_of_the_middle():
    raw = sound(1, 3000)
    middle = waveform(raw[:, 500:2500])
    window = torch.hann_window(256)
    magnitude = torch.stft(middle, 256, 128, window=window, center=True, return_complex=True).abs()
    expected = torch.log(magnitude + 1e-7)[:, None]
    torch.testing.assert_close(LogSpectrogram(3000, 256, 128, 2000)(raw, None), expected, rtol=1e-4, atol=1e-4)


def test_log_spectrogram_standardises_each_clip():
    raw = torch.cat((sound(1, 4000), sound(1, 4000) // 4))
    plain = LogSpectrogram(4000, 256, 128, 4000)(raw, None)
    seen = LogSpectrogram(4000, 256, 128, 4000, standardise=True)(raw, None)
    mean, std = plain.mean(dim=(1, 2, 3), keepdim=True), plain.std(dim=(1, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(seen, (plain - mean) / std, rtol=1e-4, atol=1e-4)


def test_log_spectrogram_training_window_is_drawn():
    # The amplitude rises along the clip, so that the loudness of the window tells where it lies.
    ramp = torch.linspace(1, 30000, 4000).repeat(64, 1)
    raw = (ramp * torch.sign(sound(64, 4000).float())).to(torch.int16)
    transform = LogSpectrogram(4000, 256, 128, 1000)
    first = transform(raw, batch_draws(64)).mean(dim=(1, 2, 3))
    again = transform(raw, batch_draws(64)).mean(dim=(1, 2, 3))
    later = transform(raw, batch_draws(64, epoch=1)).mean(dim=(1, 2, 3))
    middle = transform(raw, None).mean(dim=(1, 2, 3))
    torch.testing.assert_close(first, again)
    assert (first - later).abs().max() > 0.1
    assert first.min() < middle.mean() - 0.3
    assert first.max() > middle.mean() + 0.3


@pytest.mark.parametrize("samples", [16000, 5000])
def test_filter_bank_equals_kaldi(samples):
    raw = sound(2, samples)
    batched = FilterBank(samples, 16000, -4.5, 10.0)(raw, None)
    for one, bank in zip(waveform(raw), batched, strict=True):
        kaldi = torchaudio.compliance.kaldi.fbank(
            (one - one.mean())[None],
            htk_compat=True,
            sample_frequency=16000,
            use_energy=False,
            window_type="hanning",
            num_mel_bins=128,
            dither=0.0,
            frame_shift=10,
        )
        filled = torch.nn.functional.pad(kaldi, (0, 0, 0, 1024 - len(kaldi)))
        torch.testing.assert_close(bank[0].T, (filled + 4.5) / 10.0, rtol=1e-4, atol=1e-4)
