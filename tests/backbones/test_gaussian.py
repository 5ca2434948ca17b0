import pytest
import torch
import torch.nn.functional as F

from mmlab.backbones.gaussian import GatheredBatchNorm, GaussianHead


def alone(rows, gradient):
    return rows


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    return 3 + 2 * torch.randn(6, 2, 4, 3, 5, dtype=torch.float64, generator=generator)


EVERY = torch.ones(6, dtype=torch.bool)


def norm():
    module = GatheredBatchNorm(4).double()
    torch.nn.init.uniform_(module.weight)
    torch.nn.init.uniform_(module.bias)
    return module


def test_complete_samples_of_one_process_are_torch_s_normalisation(maps):
    ours = norm()
    theirs = torch.nn.BatchNorm2d(4).double()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    one, other = maps.clone().requires_grad_(), maps.clone().requires_grad_()
    for _ in range(2):
        found, expected = ours(one, EVERY, alone), theirs(other.flatten(0, 1)).view_as(maps)
        torch.testing.assert_close(found, expected)
    for moments in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(ours, moments), getattr(theirs, moments))
    for result, leaf in ((found, one), (expected, other)):
        F.cosine_similarity(result, maps, dim=1).sum().backward()
        assert leaf.grad.abs().max() > 0
    torch.testing.assert_close(one.grad, other.grad)
    torch.testing.assert_close(ours.eval()(maps, EVERY, alone), theirs.eval()(maps.flatten(0, 1)).view_as(maps))


def test_samples_without_the_modality_do_not_count(maps):
    has = torch.tensor([True, False, True, True, False, True])
    ours, few = norm(), norm()
    few.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(maps, has, alone)[has], few(maps[has], EVERY[has], alone))
    for name, buffer in ours.named_buffers():
        torch.testing.assert_close(buffer, few.get_buffer(name))
    before = {name: buffer.clone() for name, buffer in ours.named_buffers()}
    assert ours(maps, ~EVERY, alone).isfinite().all()
    for name, buffer in ours.named_buffers():
        assert torch.equal(buffer, before[name])


@pytest.mark.parametrize("missing", [False, True])
def test_a_batch_split_over_processes_is_the_same_batch(maps, missing):
    has = torch.tensor([True, False, True, True, False, False]) | torch.tensor(not missing)
    whole = norm()
    rows = []
    whole(maps, has, lambda own, gradient: rows.append(own) or own)

    class Known(Exception):
        pass

    def statistics(own, gradient):
        rows.append(own)
        raise Known

    for process in range(2):
        with pytest.raises(Known):
            whole(maps[process::2], has[process::2], statistics)
    _, *shares = rows
    module = norm()
    module.load_state_dict(
        {name: tensor for name, tensor in whole.state_dict().items() if "running" not in name}, False
    )
    expected = norm()
    expected.load_state_dict(module.state_dict())
    parts = [module(maps[process::2], has[process::2], lambda own, gradient: torch.cat(shares)) for process in range(2)]
    result = expected(maps, has, alone)
    for process, part in enumerate(parts):
        torch.testing.assert_close(part, result[process::2])


def test_the_head_gives_a_mean_and_a_positive_deviation(maps):
    head = GaussianHead(4)
    with torch.autocast("cpu", torch.bfloat16):
        mean, std = head(maps.float(), EVERY, alone)
    assert mean.shape == std.shape == maps.shape
    assert mean.dtype == std.dtype == torch.float32
    assert (std > 0).all()
    # The normalised logarithm of the variance has mean 0 and variance 1 at the start, channel by channel.
    torch.testing.assert_close((2 * std.log()).mean(dim=(0, 1, 3, 4)), torch.zeros(4), atol=1e-4, rtol=0)
    assert not torch.allclose(mean, std)


def test_a_sample_without_the_modality_is_standard_normal(maps):
    head = GaussianHead(4).double()
    for has in (torch.arange(6) > 1, ~EVERY):
        mean, std = head(maps, has, alone)
        assert (mean[~has] == 0).all()
        assert (std[~has] == 1).all()
        head.zero_grad()
        (mean + std).sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_the_bias_that_the_normalisation_takes_away_gets_no_noise_for_gradient(maps):
    head = GaussianHead(4)
    mean, std = head(maps.float(), EVERY, alone)
    (mean.square() * std).sum().backward()
    assert (head.convolution.bias.grad == 0).all()
    assert (head.convolution.weight.grad != 0).any()


def test_features_without_a_place_are_a_linear_layer():
    head = GaussianHead(4).eval()
    features = torch.randn(6, 4)
    mean, std = head(features[:, None, :, None, None], EVERY, alone)
    both = F.linear(features, head.convolution.weight.flatten(1), head.convolution.bias) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(mean.flatten(1), both[:, :4])
    torch.testing.assert_close(std.flatten(1), (both[:, 4:] / 2).exp())
