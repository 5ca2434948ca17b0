from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch

from mmlab.data.moods import NOT, OPINIONS, Moods, _hadamard, melody, rated, sentence, smiles
from mmlab.data.sentiment import sentiment_targets
from mmlab.draws import Draws
from mmlab.errors import UserError
from mmlab.types import Classification, Sentiment

STRENGTHS = {"text": 1.2, "audio": 0.8, "vision": 0.6}


def tiny(**options) -> Moods:
    return Moods(**{"train_size": 60, "val_size": 12, "test_size": 24, **options})


def read_part(name: str, steps: np.ndarray) -> float:
    """The part of the score that one sample's steps (length, D) carry, each by what the docstring says of it."""
    if name == "text":
        words = (torch.from_numpy(steps) @ _hadamard().T).argmax(dim=1).tolist()
        pairs = zip([None, *words], words, strict=False)
        said = sum(OPINIONS[word] * (-1 if before == NOT else 1) for before, word in pairs if word < len(OPINIONS))
        return said / (3 * 0.625) ** 0.5
    if name == "audio":
        return float(np.polyfit(np.linspace(0, 1, len(steps)), steps[:, 0], 1)[0])
    return 2**0.5 * (2 * float((steps[:, 0] > 0).mean()) - 1)


def read(split, name: str) -> np.ndarray:
    return np.array([read_part(name, one[one[:, -1] == 1][:, :-1]) for one in split.arrays[name]])


def test_splits_fit_the_spec() -> None:
    data = tiny()
    splits = data.splits()
    spec = data.spec(len(splits["train"]))
    assert {name: len(split) for name, split in splits.items()} == {"train": 60, "val": 12, "test": 24}
    assert spec.names == ("text", "audio", "vision")
    assert spec.task == Sentiment(-3.0, 3.0, "mosi")
    batch = splits["train"].__getitems__(list(range(60)))
    for modality in spec.modalities:
        assert modality.ragged
        for draws in (None, Draws(0, 0, batch.index)):
            out = data.transforms()[modality.name](batch.inputs[modality.name], draws)
            assert out.shape[2:] == modality.shape[1:]
            assert out.dtype == torch.float32
        longest = batch.inputs[modality.name][..., -1].sum(dim=1).max().item()
        assert batch.inputs[modality.name].shape[1] == longest <= modality.shape[0]


def test_steps_come_first_and_padding_is_0() -> None:
    for array in tiny().splits()["train"].arrays.values():
        belongs = array[..., -1]
        assert set(np.unique(belongs)) == {0.0, 1.0}
        assert (np.diff(belongs, axis=1) <= 0).all()
        assert not array[belongs == 0].any()
        lengths = belongs.sum(axis=1)
        assert 1 < lengths.min() < lengths.max()


def test_the_score_is_the_sum_of_what_the_modalities_show() -> None:
    split = tiny(train_size=300, text_noise=0, audio_noise=0, vision_noise=0).splits()["train"]
    mood = sum(strength * read(split, name) for name, strength in STRENGTHS.items())
    assert np.abs(mood).max() > 3 == split.targets.max()
    assert (split.targets == 0).any()
    fifths = 5 * split.targets
    assert np.abs(fifths - fifths.round()).max() < 1e-5
    # Half-way between two fifths the last bit decides.
    clear = np.abs(5 * mood % 1 - 0.5) > 1e-3
    assert clear.mean() > 0.9
    np.testing.assert_allclose(split.targets[clear], np.clip(np.round(5 * mood[clear]) / 5, -3, 3), atol=1e-6)


def test_the_default_noise_hides_little() -> None:
    noisy = tiny(train_size=200).splits()["train"]
    clean = tiny(train_size=200, text_noise=0, audio_noise=0, vision_noise=0).splits()["train"]
    assert np.array_equal(noisy.targets, clean.targets)
    for name in STRENGTHS:
        assert np.corrcoef(read(noisy, name), read(clean, name))[0, 1] > 0.98
    louder = tiny(train_size=200, audio_noise=2.0).splits()["train"]
    assert np.corrcoef(read(louder, "audio"), read(clean, "audio"))[0, 1] < 0.8


def test_no_modality_shows_the_part_of_another() -> None:
    weaker = tiny(audio_strength=0, vision_strength=0).splits()["train"]
    base = tiny().splits()["train"]
    for name in STRENGTHS:
        assert np.array_equal(weaker.arrays[name], base.arrays[name])
    draws = Draws(0, 0, torch.arange(20_000))
    parts = torch.stack([make(draws, 0.0)[1] for make in (sentence, melody, smiles)])
    torch.testing.assert_close(parts.corrcoef(), torch.eye(3), rtol=0, atol=0.02)


def test_the_parts_are_as_strong_as_they_say_and_bound_the_error_as_documented() -> None:
    draws = Draws(0, 0, torch.arange(20_000))
    made = {"text": sentence, "audio": melody, "vision": smiles}
    parts = {name: strength * made[name](draws, 0.0)[1] for name, strength in STRENGTHS.items()}
    for name, part in parts.items():
        assert part.mean().abs() < 0.02
        assert part.std().item() == pytest.approx(STRENGTHS[name], rel=0.02)
    scores = rated(sum(parts.values()))
    documented = dict(re.findall(r"^ +([a-z, ]+?) +(\d[.\d]*)$", Moods.__doc__ or "", re.MULTILINE))
    assert len(documented) == 8
    for size in range(4):
        for known in itertools.combinations(parts, size):
            # The other parts are as often above 0 as below: the median is what is known.
            median = rated(sum((parts[name] for name in known), start=torch.zeros(len(scores))))
            bound = (scores - median).abs().mean().item()
            assert bound == pytest.approx(float(documented[", ".join(known) or "nothing"]), abs=0.015)
            for guess in (median - 0.2, median + 0.2):
                assert (scores - guess).abs().mean() > bound


def test_data_depend_on_their_seed_and_a_larger_set_begins_with_the_smaller() -> None:
    one, again, larger, other = (tiny(**options).splits() for options in ({}, {}, {"train_size": 90}, {"data_seed": 1}))
    assert one["train"].digest() == again["train"].digest()
    assert np.array_equal(one["train"].targets, larger["train"].targets[:60])
    assert not np.array_equal(one["train"].targets, other["train"].targets)
    assert not np.array_equal(one["train"].targets[:12], one["val"].targets)
    for name in STRENGTHS:
        assert np.array_equal(one["train"].arrays[name], again["train"].arrays[name])
        assert np.array_equal(one["train"].arrays[name], larger["train"].arrays[name][:60])
        assert not np.array_equal(one["train"].arrays[name], other["train"].arrays[name])


def test_the_tasks() -> None:
    scores = tiny(train_size=300).splits()["train"].targets
    assert scores.dtype == np.float32
    for task in ("binary", "seven"):
        data = tiny(train_size=300, task=task)
        assert isinstance(data.task, Classification)
        targets = data.splits()["train"].targets
        assert np.array_equal(targets, sentiment_targets(scores, task, "mosi"))
        assert targets.max() == len(data.task.classes) - 1


def test_details_say_what_each_modality_carries() -> None:
    details = tiny().details()
    assert details["share"] == {"text": 0.5902, "audio": 0.2623, "vision": 0.1475}
    assert details["strength"] == STRENGTHS
    assert details["noise"] == {"text": 0.3, "audio": 0.1, "vision": 0.5}
    assert details["data_seed"] == 0
    assert details["variant"] is None
    assert tiny(task="binary").details()["variant"] == "binary"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"audio_strength": -1.0}, "audio_strength is -1.0; give a number of 0 or more"),
        ({"vision_noise": float("nan")}, "vision_noise is nan"),
        ({"text_strength": 0, "audio_strength": 0, "vision_strength": 0}, "all 0.*above 0"),
        ({"val_size": 0}, "val_size is 0.*1 or more"),
    ],
)
def test_options_that_make_no_sense(options, says) -> None:
    with pytest.raises(UserError, match=says):
        tiny(**options)
