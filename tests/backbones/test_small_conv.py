import pytest
import torch

from mmlab.backbones.small_conv import SmallConvNet
from mmlab.errors import UserError


@pytest.mark.parametrize(("high", "wide"), [(8, 8), (28, 28), (33, 9)])
def test_shapes(high, wide):
    net = SmallConvNet(channels=2, width=4)
    x = torch.randn(3, 2, high, wide)
    assert net.width == 32
    assert net.maps(x).shape == (3, 1, 32, -(-high // 8), -(-wide // 8))
    torch.testing.assert_close(net(x), net.maps(x).mean(dim=(1, 3, 4)))


def test_frames_are_encoded_one_by_one():
    net = SmallConvNet(channels=3, width=4)
    clips = torch.randn(2, 3, 5, 8, 8)
    maps = net.maps(clips)
    assert maps.shape == (2, 5, 32, 1, 1)
    torch.testing.assert_close(maps[1, 3], net.maps(clips[1:, :, 3])[0, 0])
    torch.testing.assert_close(net(clips)[1], torch.stack([net(clips[1:, :, t])[0] for t in range(5)]).mean(dim=0))


def test_a_sample_does_not_depend_on_its_batch():
    net = SmallConvNet(channels=1, width=4).train()
    x = torch.randn(6, 1, 12, 12)
    torch.testing.assert_close(torch.cat([net(x[:1]), net(x[1:])]), net(x))


def test_features_tell_inputs_apart_at_the_smallest_size():
    features = SmallConvNet(channels=1, width=4)(torch.randn(2, 1, 8, 8))
    assert (features[0] - features[1]).abs().max() > 0.01


@pytest.mark.parametrize("width", [0, 6, -4])
def test_a_width_that_cannot_be_is_refused(width):
    with pytest.raises(UserError, match="multiple of 4"):
        SmallConvNet(channels=1, width=width)
