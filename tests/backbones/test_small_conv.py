import pytest
import torch
import torch.nn.functional as F

from mmlab.backbones.small_conv import SmallConvNet
from mmlab.errors import UserError


@pytest.mark.parametrize(("high", "wide"), [(8, 8), (28, 28), (33, 9)])
def test_shapes(high, wide):
    net = SmallConvNet((2, high, wide), width=4)
    x = torch.randn(3, 2, high, wide)
    assert net.width == 32
    assert net.maps(x).shape == (3, 1, 32, -(-high // 8), -(-wide // 8))
    assert net(x).shape == (3, 32)


def test_frames_are_encoded_one_by_one():
    # In double precision: the normalisation of so small maps enlarges what rounding leaves in single precision.
    net = SmallConvNet((3, 5, 8, 8), width=4).double()
    clips = torch.randn(2, 3, 5, 8, 8, dtype=torch.float64)
    maps = net.maps(clips)
    assert maps.shape == (2, 5, 32, 1, 1)
    torch.testing.assert_close(maps[1, 3], net.maps(clips[1:, :, 3])[0, 0])


def test_features_know_the_order_in_time_and_the_place():
    net = SmallConvNet((1, 8, 16, 32), width=4)
    clip = torch.randn(1, 1, 8, 16, 32)
    assert (net(clip) - net(clip.flip(2))).abs().max() > 1e-3
    assert (net(clip) - net(clip.flip(4))).abs().max() > 1e-3


def test_a_sample_does_not_depend_on_its_batch():
    net = SmallConvNet((1, 12, 12), width=4).train()
    x = torch.randn(6, 1, 12, 12)
    torch.testing.assert_close(torch.cat([net(x[:1]), net(x[1:])]), net(x))


def test_features_tell_inputs_apart_at_the_smallest_size():
    features = SmallConvNet((1, 8, 8), width=4)(torch.randn(2, 1, 8, 8))
    assert (features[0] - features[1]).abs().max() > 0.01


@pytest.mark.parametrize("width", [0, 6, -4])
def test_a_width_that_cannot_be_is_refused(width):
    with pytest.raises(UserError, match="multiple of 4"):
        SmallConvNet((1, 8, 8), width=width)


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 2, 5), (12, 4, 6)])
def test_the_grid_averages_as_adaptive_pooling_does(size):
    net = SmallConvNet((1, size[0], 8 * size[1], 8 * size[2]), width=4)
    maps = torch.randn(2, size[0], 5, *size[1:])
    coarse = torch.einsum("btdhw,xt,yh,zw->bdxyz", maps, net.bins_t, net.bins_h, net.bins_w)
    torch.testing.assert_close(coarse, F.adaptive_avg_pool3d(maps.transpose(1, 2), coarse.shape[2:]))
