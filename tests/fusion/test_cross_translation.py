import pytest
import torch
from torch import nn

from mmlab.fusion.cross_translation import CrossTranslation


def alone(rows, gradient=False):
    return rows


def streams(count=2, shape=(5, 6), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for _ in range(count)]


def every(samples, count):
    return torch.ones(samples, count, dtype=torch.bool)


def made(widths, translated=4, maps=False, norm="batch", shared=True):
    torch.manual_seed(0)
    return CrossTranslation(widths, translated, maps, norm, shared)


def test_two_streams_by_their_definition():
    module, (fa, fr) = made([6, 6]), streams()
    ta, tr = (
        lambda f, t=t: torch.relu(nn.functional.batch_norm(t.layer(f), None, None, training=True))
        for t in module.translators
    )
    joint, (ja, jr) = module([fa, fr], every(5, 2), alone)
    torch.testing.assert_close(joint, torch.cat(((ta(fa) + ta(fr)) / 2, (tr(fr) + tr(fa)) / 2), dim=1))
    torch.testing.assert_close(ja, torch.cat((ta(fa), tr(fa)), dim=1))
    torch.testing.assert_close(jr, torch.cat((ta(fr), tr(fr)), dim=1))


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(("maps", "norm"), [(False, "batch"), (True, "batch"), (True, "group")])
def test_the_joint_one_is_the_mean_of_the_streams(count, maps, norm):
    given = streams(count, (5, 8, 3, 2) if maps else (5, 8))
    joint, each = made([8] * count, maps=maps, norm=norm)(given, every(5, count), alone)
    assert joint.shape == (5, 4 * count, *given[0].shape[2:])
    torch.testing.assert_close(joint, torch.stack(each).mean(dim=0))


def test_equal_streams_all_give_the_joint_one():
    (feature,) = streams(1)
    joint, each = made([6, 6])([feature, feature], every(5, 2), alone)
    assert all(torch.equal(own, joint) for own in each)


def test_streams_with_their_translators_may_be_exchanged():
    module, (one, other) = made([6, 6]), streams()
    joint, _ = module([one, other], every(5, 2), alone)
    module.translators = nn.ModuleList(reversed(module.translators))
    exchanged, _ = module([other, one], every(5, 2), alone)
    torch.testing.assert_close(exchanged, joint.roll(4, dims=1))


def test_each_call_is_a_batch_of_its_own():
    module, given = made([6, 6]), streams()
    apart = made([6, 6])
    module(given, every(5, 2), alone)
    translator, twin = module.translators[0], apart.translators[0]
    expected = torch.zeros(4)
    for stream in given:
        expected = 0.9 * expected + 0.1 * twin.layer(stream).mean(dim=0)
    torch.testing.assert_close(translator.norm.running_mean, expected)
    shifted, _ = made([6, 6])([given[0], given[1] + 100.0], every(5, 2), alone)
    torch.testing.assert_close(shifted, apart(given, every(5, 2), alone)[0], rtol=1e-3, atol=1e-3)


def test_a_stream_that_a_sample_lacks_changes_nothing():
    module, given = made([6, 6]), streams()
    has = every(5, 2)
    has[1, 0] = has[3, 1] = False
    joint, each = module(given, has, alone)
    torch.testing.assert_close(joint[1], each[1][1])
    torch.testing.assert_close(joint[3], each[0][3])
    given[0][1], given[1][3] = 7.0, -7.0
    again, _ = module(given, has, alone)
    torch.testing.assert_close(again, joint)
    none, _ = module(given, torch.zeros_like(has), alone)
    assert (none == 0).all()


def test_without_sharing_each_stream_has_its_own_translator_alone():
    module, given = made([6, 6], shared=False), streams()
    joint, each = module(given, every(5, 2), alone)
    assert each == []
    expected = [
        translate(stream, every(5, 2)[:, 0], alone) for translate, stream in zip(module.translators, given, strict=True)
    ]
    torch.testing.assert_close(joint, torch.cat(expected, dim=1))


@pytest.mark.parametrize("maps", [False, True])
def test_unequal_widths_are_brought_to_the_largest(maps):
    shape = (3, 2) if maps else ()
    given = [torch.randn(5, 4, *shape), torch.randn(5, 8, *shape)]
    joint, _ = made([4, 8], maps=maps)(given, every(5, 2), alone)
    assert joint.shape == (5, 8, *shape)
    assert not [each for each in made([8, 8]).projections if list(each.parameters())]


def test_translators_start_apart():
    one, other = made([6, 6]).translators
    assert not torch.equal(one.layer.weight, other.layer.weight)


def test_half_precision():
    module = made([6, 6])
    with torch.autocast("cpu", torch.bfloat16):
        joint, _ = module(streams(), every(5, 2), alone)
    assert joint.dtype == torch.float32
    assert joint.isfinite().all()
