"""From raw waveforms to spectrograms: batched, on the device that the waveforms are on.

Every class here is a transform: it takes int16 waveforms (B, samples) and the batch's draws (None in evaluation) and
gives (B, 1, F, T) float32. ``shape`` is (1, F, T).
"""

from __future__ import annotations

import math

import torch
import torchaudio
from torch import Tensor
from torchaudio.compliance.kaldi import get_mel_banks

from mmlab.draws import Draws

_LEAST = 1e-7  # is added before the logarithm of magnitude or density
FLOOR = math.log(_LEAST)
"""The smallest value of both log spectrograms, before they are standardised."""


def waveform(raw: Tensor) -> Tensor:
    """Int16 samples as float32 in [-1, 1)."""
    return raw.to(torch.float32) / 32768.0


class LogMel:
    """Normalised log-mel spectrogram: (ln(mel power + 1e-6) - mean) / std, centred Hann frames.

    Args:
        sample_rate: in hertz.
        samples: length of a waveform.
        n_fft: length of a frame, in samples.
        hop: from one frame to the next, in samples.
        mels: number of mel bands.
        mean: of the log-mel values over the training data.
        std: likewise.
    """

    def __init__(
        self, sample_rate: int, samples: int, n_fft: int, hop: int, mels: int, mean: float = 0.0, std: float = 1.0
    ) -> None:
        self.shape = (1, mels, samples // hop + 1)
        self._mel = torchaudio.transforms.MelSpectrogram(sample_rate, n_fft, hop_length=hop, n_mels=mels)
        self._mean, self._std = mean, std

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, samples) int16 to (B, 1, mels, T)."""
        self._mel = self._mel.to(raw.device)
        log_power = torch.log(self._mel(waveform(raw)) + 1e-6)
        return ((log_power - self._mean) / self._std)[:, None]


class LogSpectrogram:
    """Log magnitude of the short-time Fourier transform of a window of the clip: ln(abs(STFT) + 1e-7).

    Frames are centred (the ends are padded by reflection) and Hann-weighted. Training takes a random window of
    the clip, evaluation the middle one.

    Args:
        samples: length of a waveform.
        n_fft: length of a frame, in samples.
        hop: from one frame to the next, in samples.
        window_samples: length of the window that is cut from the clip, in samples; at most ``samples``.
        mean: subtracted from the log magnitudes.
        std: divides them.
        standardise: whether each window is then brought to mean 0 and standard deviation 1 over all its values.
    """

    def __init__(
        self,
        samples: int,
        n_fft: int,
        hop: int,
        window_samples: int,
        mean: float = 0.0,
        std: float = 1.0,
        standardise: bool = False,
    ) -> None:
        self.shape = (1, n_fft // 2 + 1, window_samples // hop + 1)
        self._spare = samples - window_samples
        self._steps = torch.arange(window_samples)
        self._magnitude = torchaudio.transforms.Spectrogram(n_fft, hop_length=hop, power=1.0)
        self._mean, self._std = mean, std
        self._standardise = standardise

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, samples) int16 to (B, 1, n_fft // 2 + 1, T)."""
        self._steps = self._steps.to(raw.device)
        self._magnitude = self._magnitude.to(raw.device)
        if draws is None:
            start = torch.full((len(raw), 1), self._spare // 2, device=raw.device)
        else:
            start = (draws.uniform("audio/window") * (self._spare + 1)).long().clamp(max=self._spare)
        window = raw.gather(1, start + self._steps)
        scaled = (torch.log(self._magnitude(waveform(window)) + _LEAST) - self._mean) / self._std
        return (standardised(scaled) if self._standardise else scaled)[:, None]


def log_power_density(wave: Tensor, taper: Tensor) -> Tensor:
    """Log power spectral density at 16 kHz, equal to the defaults of ``scipy.signal.spectrogram``.

    Frames of 512 samples with hop 159, unpadded, each freed of its mean and tapered; one-sided density.

    Args:
        wave: (B, samples) at 16 kHz.
        taper: (512,), see :func:`tukey`.

    Returns:
        (B, 257, (samples - 512) // 159 + 1): ln(density + 1e-7).
    """
    frames = wave.unfold(1, 512, 159)
    spectrum = torch.fft.rfft((frames - frames.mean(dim=2, keepdim=True)) * taper)
    density = spectrum.abs().square() / (16000 * taper.square().sum())
    # The inner bins stand for their negative frequencies too.
    density[:, :, 1:-1] *= 2
    return torch.log(density + _LEAST).transpose(1, 2)


def tukey(length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Periodic Tukey window of which a quarter, an eighth at each end, is a cosine slope; (length,)."""
    place = torch.arange(length, dtype=dtype)
    from_edge = torch.minimum(place, length - place) / (length / 8)
    return 0.5 - 0.5 * torch.cos(math.pi * from_edge.clamp(max=1.0))


class DensitySpectrogram:
    """Log power spectral density of 16 kHz sound, as DI-MML uses it for CREMA-D and AVE.

    48,000 samples give 257 x 299, 160,000 give 257 x 1004.

    Args:
        samples: length of a waveform.
        standardise: whether each clip is brought to mean 0 and standard deviation 1 over all its values.
    """

    def __init__(self, samples: int, standardise: bool) -> None:
        self.shape = (1, 257, (samples - 512) // 159 + 1)
        self._standardise = standardise
        self._taper = tukey(512)

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, samples) int16 to (B, 1, 257, T)."""
        self._taper = self._taper.to(raw.device)
        density = log_power_density(waveform(raw), self._taper)
        if self._standardise:
            density = standardised(density)
        return density[:, None]


def standardised(values: Tensor) -> Tensor:
    """Each sample (B, F, T) with its own mean 0 and its own population standard deviation 1."""
    std, mean = torch.std_mean(values, dim=(1, 2), correction=0, keepdim=True)
    return (values - mean) / (std + 1e-9)


class FilterBank:
    """Kaldi's log-mel filter bank of 1024 frames, as OGM-GE uses it for Kinetics-Sounds.

    128 bands from 20 Hz up, 25 ms Hanning frames every 10 ms, the clip's mean subtracted from the waveform, cut
    or filled with zeros to 1024 frames, then (x - mean) / std.

    Args:
        samples: length of a waveform.
        sample_rate: in hertz.
        mean: subtracted from the log energies.
        std: divides them.
    """

    bands = 128
    frames = 1024

    def __init__(self, samples: int, sample_rate: int, mean: float, std: float) -> None:
        self.shape = (1, self.bands, self.frames)
        self._length, self._hop = sample_rate * 25 // 1000, sample_rate // 100
        self._n_fft = 2 ** math.ceil(math.log2(self._length))
        # Longer clips are cut before the transform: what lies behind the last frame is never looked at.
        self._samples = min(samples, self._length + self._hop * (self.frames - 1))
        self._hann = torch.hann_window(self._length, periodic=False)
        banks, _ = get_mel_banks(self.bands, self._n_fft, sample_rate, 20.0, 0.0, 100.0, -500.0, 1.0)
        self._banks = torch.nn.functional.pad(banks, (0, 1)).T  # Kaldi has no band at the Nyquist frequency
        self._mean, self._std = mean, std

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        """(B, samples) int16 to (B, 1, 128, 1024)."""
        self._hann, self._banks = self._hann.to(raw.device), self._banks.to(raw.device)
        wave = waveform(raw)
        wave = (wave - wave.mean(dim=1, keepdim=True))[:, : self._samples]
        frames = wave.unfold(1, self._length, self._hop)
        frames = frames - frames.mean(dim=2, keepdim=True)
        before = torch.cat((frames[..., :1], frames[..., :-1]), dim=2)
        power = torch.fft.rfft((frames - 0.97 * before) * self._hann, n=self._n_fft).abs().square()
        energies = torch.log((power @ self._banks).clamp(min=torch.finfo(torch.float32).eps))
        filled = torch.nn.functional.pad(energies, (0, 0, 0, self.frames - energies.shape[1]))
        return ((filled - self._mean) / self._std).transpose(1, 2)[:, None]
