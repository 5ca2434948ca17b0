import pytest
import torch

from mmlab.evaluation.logit_shares import logit_shares
from mmlab.types import Prediction

NAMES = ("audio", "image")
EVERY = torch.ones(50, 2, dtype=torch.bool)


def parts() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(50, 4, generator=generator), torch.randn(50, 4, generator=generator)


def test_by_hand() -> None:
    audio = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    image = torch.tensor([[0.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    # fused [3, 1, 0] and [2, 1, -1]: margins of audio 3 and 0, of image -1 and 1
    shares = logit_shares(Prediction(audio + image, {"audio": audio, "image": image}), NAMES, EVERY[:2])
    assert shares == pytest.approx({"audio": 1.5 / 2.5, "image": 1.0 / 2.5})


def test_a_modality_that_says_nothing_has_no_share() -> None:
    audio, _ = parts()
    says_nothing = torch.full((50, 4), 7.0)
    shares = logit_shares(Prediction(audio + 7.0, {"audio": audio, "image": says_nothing}), NAMES, EVERY)
    assert shares == pytest.approx({"audio": 1.0, "image": 0.0})


def test_weights_count_where_the_logits_alone_are_no_sum() -> None:
    audio, image = parts()
    weights = torch.rand(50, 2, generator=torch.Generator().manual_seed(1))
    fused = weights[:, :1] * audio + weights[:, 1:] * image
    unimodal = {"audio": audio, "image": image}
    weighted = logit_shares(Prediction(fused, unimodal, weights), NAMES, EVERY)
    scaled = {"audio": weights[:, :1] * audio, "image": weights[:, 1:] * image}
    assert weighted == pytest.approx(logit_shares(Prediction(fused, scaled), NAMES, EVERY))
    # Where they are a sum already (weights of features, say), weights don't count again.
    again = logit_shares(Prediction(fused, scaled, weights), NAMES, EVERY)
    assert again == pytest.approx(weighted)


def test_a_bias_is_nobody_s_and_a_head_of_all_modalities_is_the_rest() -> None:
    audio, image = parts()
    unimodal = {"audio": audio, "image": image}
    biased = logit_shares(Prediction(audio + image + 0.1 * torch.arange(4), unimodal), NAMES, EVERY)
    assert biased is not None
    assert biased.keys() == set(NAMES)
    joint = torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
    with_rest = logit_shares(Prediction((audio + image + joint) / 3, unimodal, EVERY / 3), NAMES, EVERY)
    assert with_rest is not None
    assert with_rest.keys() == {*NAMES, "rest"}
    assert sum(with_rest.values()) == pytest.approx(1.0)
    assert min(with_rest.values()) > 0.2


def test_incomplete_samples_don_t_count() -> None:
    audio, image = parts()
    unimodal = {"audio": audio, "image": image}
    some = EVERY.clone()
    some[10:, 1] = False
    fused = torch.where(some[:, 1:], audio + image, audio)
    first = {name: logits[:10] for name, logits in unimodal.items()}
    expected = logit_shares(Prediction((audio + image)[:10], first), NAMES, EVERY[:10])
    assert logit_shares(Prediction(fused, unimodal), NAMES, some) == pytest.approx(expected)


def test_what_is_no_sum_has_none() -> None:
    audio, image = parts()
    assert logit_shares(Prediction(audio * image, {"audio": audio, "image": image}), NAMES, EVERY) is None
    assert logit_shares(Prediction(audio, {"audio": audio}), NAMES, EVERY) is None
    assert logit_shares(Prediction(audio + image, {"audio": audio, "image": image}), NAMES, ~EVERY) is None
