import math

import pytest
import torch
import torch.nn.functional as F

from mmlab.errors import UserError
from mmlab.fusion.crossmodal import CrossmodalBlock, CrossmodalFusion

WIDTHS = {"text": 3, "audio": 5, "vision": 4}
LENGTHS = {"text": 4, "audio": 7, "vision": 1}


def fusion_of(names, heads=2, layers=2, kernel=3):
    widths = {name: WIDTHS[name] for name in names}
    return CrossmodalFusion(widths, 7, 2, 4, heads, layers, kernel, 0.0).double().eval()


def sequences_of(names, samples=5):
    """Sequences of different lengths, behind whose ends there is noise."""
    sequences = {}
    for m, name in enumerate(names):
        generator = torch.Generator().manual_seed(m)
        steps = torch.randn(samples, LENGTHS[name], WIDTHS[name], generator=generator, dtype=torch.float64)
        length = torch.arange(samples) % LENGTHS[name] + 1
        sequences[name] = (steps, torch.arange(LENGTHS[name]) < length[:, None])
    return sequences


def test_a_block_equals_a_loop():
    """Every sample, head and step of its own."""
    width, heads = 4, 2
    block = CrossmodalBlock(width, heads, 0.0).double().eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    target, source = torch.randn(3, 2, width).double(), torch.randn(3, 5, width).double()
    belongs = torch.tensor([[True] * 5, [True, True, False, False, False], [False] * 5])
    queries, keys, values = block.attention.in_proj_weight.chunk(3)
    offsets = block.attention.in_proj_bias.chunk(3)
    got = block(target, source, belongs)
    for b in range(3):
        normed = block.norm_source(source[b])
        for t in range(2):
            query = queries @ block.norm_target(target[b, t]) + offsets[0]
            heard = torch.zeros(width, dtype=torch.float64)
            for h in range(heads):
                part = slice(2 * h, 2 * h + 2)
                own = [s for s in range(5) if belongs[b, s]]
                scores = [query[part] @ (keys @ normed[s] + offsets[1])[part] / math.sqrt(2) for s in own]
                total = sum(score.exp() for score in scores)
                for s, score in zip(own, scores, strict=True):
                    heard[part] += score.exp() / total * (values @ normed[s] + offsets[2])[part]
            if own:
                heard = block.attention.out_proj.weight @ heard + block.attention.out_proj.bias
            hidden = block.norm_hidden(block.norm_target(target[b, t]) + heard)
            first, last = block.feed_forward[0], block.feed_forward[2]
            expected = hidden + last(F.relu(first(hidden)))
            torch.testing.assert_close(got[b, t], expected)


@pytest.mark.parametrize("names", [("text", "audio"), ("text", "audio", "vision")])
@pytest.mark.parametrize("kernel", [1, 3])
def test_padding_does_not_matter(names, kernel):
    fusion, sequences = fusion_of(names, kernel=kernel), sequences_of(names)
    before = fusion(sequences)
    assert before.shape == (5, 2)
    other = {
        name: (torch.where(mask[..., None], steps, torch.full_like(steps, 9.0)), mask)
        for name, (steps, mask) in sequences.items()
    }
    torch.testing.assert_close(fusion(other), before, rtol=1e-12, atol=1e-12)
    few = {name: (steps[:3], mask[:3]) for name, (steps, mask) in sequences.items()}  # of three steps at most
    shorter = {name: (steps[:, :3], mask[:, :3]) for name, (steps, mask) in few.items()}
    torch.testing.assert_close(fusion(shorter), fusion(few), rtol=1e-12, atol=1e-12)


def test_a_batch_is_its_samples():
    fusion, sequences = fusion_of(WIDTHS), sequences_of(WIDTHS)
    before = fusion(sequences)
    order = torch.tensor([3, 0, 4, 1, 2])
    turned = fusion({name: (steps[order], mask[order]) for name, (steps, mask) in sequences.items()})
    torch.testing.assert_close(turned, before[order], rtol=1e-12, atol=1e-12)
    for b in range(5):
        alone = fusion({name: (steps[b : b + 1], mask[b : b + 1]) for name, (steps, mask) in sequences.items()})
        torch.testing.assert_close(alone, before[b : b + 1], rtol=1e-12, atol=1e-12)


def test_order_in_time_counts_in_every_modality():
    fusion, sequences = fusion_of(WIDTHS, kernel=1), sequences_of(WIDTHS)
    before = fusion(sequences)
    for name in ("text", "audio"):
        steps, mask = sequences[name]
        turned = steps.clone()
        turned[3, :2] = steps[3, :2].flip(0)
        after = fusion(sequences | {name: (turned, mask)})
        assert (after[3] - before[3]).abs().max() > 1e-6
        torch.testing.assert_close(after[:3], before[:3], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("missing", WIDTHS)
def test_a_missing_modality_adds_nothing_and_gets_no_gradient(missing):
    fusion, sequences = fusion_of(WIDTHS), sequences_of(WIDTHS)
    steps, mask = sequences[missing]
    steps = steps.clone().requires_grad_()
    gone = fusion(sequences | {missing: (steps, torch.zeros_like(mask))})
    assert gone.isfinite().all()
    gone.square().sum().backward()
    assert steps.grad.count_nonzero() == 0
    assert all(parameter.grad.isfinite().all() for parameter in fusion.parameters())
    other = fusion(sequences | {missing: (torch.randn(5, 3, WIDTHS[missing]).double(), torch.zeros(5, 3).bool())})
    torch.testing.assert_close(other, gone, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(fusion(sequences), gone)


def test_nothing_at_all_is_still_a_number():
    sequences = {name: (steps, torch.zeros_like(mask)) for name, (steps, mask) in sequences_of(WIDTHS).items()}
    logits = fusion_of(WIDTHS)(sequences)
    assert logits.isfinite().all()
    torch.testing.assert_close(logits, logits[:1].expand(5, -1))


def test_how_many_parameters():
    def block(d):
        return 3 * 2 * d + 4 * d * (d + 1) + 4 * d * (d + 1) + d * (4 * d + 1)

    width, layers, kernel, outputs = 4, 3, 5, 2
    fusion = CrossmodalFusion(WIDTHS, 7, outputs, width, 2, layers, kernel, 0.0)
    convolutions = sum(width * (kernel * values + 1) for values in WIDTHS.values())
    transformers = layers * (6 * block(width) + 3 * block(2 * width))
    joint = 3 * 2 * width
    head = 2 * joint * (joint + 1) + outputs * (joint + 1)
    assert sum(parameter.numel() for parameter in fusion.parameters()) == convolutions + transformers + head


@pytest.mark.parametrize(
    ("names", "width", "heads", "layers", "kernel", "words"),
    [
        (("text",), 4, 2, 1, 1, "only text"),
        (WIDTHS, 4, 3, 1, 1, "width 4 with 3 heads"),
        (WIDTHS, 3, 3, 1, 1, "even width"),
        (WIDTHS, 4, 2, 1, 2, "kernel 2"),
        (WIDTHS, 4, 0, 1, 1, "heads 0"),
        (WIDTHS, 4, 2, 0, 1, "layers 0"),
    ],
)
def test_what_can_not_be_is_refused(names, width, heads, layers, kernel, words):
    with pytest.raises(UserError, match=words):
        CrossmodalFusion({name: WIDTHS[name] for name in names}, 7, 2, width, heads, layers, kernel, 0.0)
