import pytest
import torch

from mmlab.errors import UserError
from mmlab.fusion.shares import ConcatShares, FiLMShares, GatedShares, SumShares

NAMES = ("audio", "visual", "depth")


def drawn(modalities=2, missing=False):
    generator = torch.Generator().manual_seed(0)
    features = {name: torch.randn(5, 4, generator=generator) for name in NAMES[:modalities]}
    present = torch.ones(5, modalities, dtype=torch.bool)
    present[0, 0] = present[1, 1] = not missing
    return features, present


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_the_shares_of_concatenation_sum_to_the_logits(modalities, missing):
    features, present = drawn(modalities, missing)
    head = ConcatShares(NAMES[:modalities], 4, 3)
    decision = head(features, present)
    whole = torch.cat([feature * present[:, [m]] for m, feature in enumerate(features.values())], dim=1)
    torch.testing.assert_close(decision.logits, head.classifier(whole))
    torch.testing.assert_close(decision.shares.sum(dim=0), decision.logits)
    if missing:
        torch.testing.assert_close(decision.shares[0, 0], head.classifier.bias / modalities)


@pytest.mark.parametrize("modalities", [2, 3])
def test_the_shares_of_a_sum_have_their_part_of_their_own_bias(modalities):
    features, present = drawn(modalities)
    head = SumShares(NAMES[:modalities], 4, 3)
    decision = head(features, present)
    whole = [layer(feature) for layer, feature in zip(head.classifiers, features.values(), strict=True)]
    torch.testing.assert_close(decision.logits, torch.stack(whole).sum(dim=0))
    rest = (1 - 1 / modalities) * torch.stack([layer.bias for layer in head.classifiers]).sum(dim=0)
    torch.testing.assert_close(decision.shares.sum(dim=0), decision.logits - rest)


def test_modulation_and_gate_are_mutual():
    features, present = drawn()
    audio, visual = features.values()
    head = FiLMShares(NAMES[:2], 4, 3)
    decision = head(features, present)
    (gamma, beta), (own_gamma, own_beta) = (head.modulation(f).split(4, dim=1) for f in (visual, audio))
    torch.testing.assert_close(decision.features, [gamma * audio + beta, own_gamma * visual + own_beta])
    torch.testing.assert_close(decision.logits, head.classifier(torch.cat(decision.features, dim=1)))
    gated = GatedShares(NAMES[:2], 4, 3)(features, present)
    torch.testing.assert_close(gated.features, [visual.sigmoid() * audio, audio.sigmoid() * visual])
    torch.testing.assert_close(gated.shares.sum(dim=0), gated.logits)


@pytest.mark.parametrize("head", [ConcatShares, SumShares, FiLMShares, GatedShares])
def test_what_stands_in_for_a_missing_modality_does_not_matter(head):
    features, present = drawn(missing=True)
    fusion = head(NAMES[:2], 4, 3)
    before = fusion(features, present).shares
    features["audio"][0] = 5.0
    torch.testing.assert_close(fusion(features, present).shares, before)


@pytest.mark.parametrize("head", [FiLMShares, GatedShares])
def test_mutual_heads_are_for_two_modalities(head):
    with pytest.raises(UserError, match="set fusion to concat or sum"):
        head(NAMES, 4, 3)


@pytest.mark.parametrize("head", [ConcatShares, SumShares])
def test_one_modality_is_refused(head):
    with pytest.raises(UserError, match="only audio"):
        head(NAMES[:1], 4, 3)
