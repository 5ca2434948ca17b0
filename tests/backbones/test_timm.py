import pytest
import timm
import torch
import torch.nn.functional as F

from mmlab.backbones.timm import TimmBackbone
from mmlab.errors import UserError

MODELS = {
    "resnet10t": (2, (33, 48), (2, 2)),
    "convnext_atto": (1, (32, 64), (1, 2)),
    "mobilenetv3_small_050": (3, (32, 32), (1, 1)),
    "vit_tiny_patch16_224": (3, (48, 32), (3, 2)),
    "mixer_s16_224": (1, (64, 32), (4, 2)),
    "swin_tiny_patch4_window7_224": (2, (64, 32), (2, 1)),
}


@pytest.mark.parametrize("name", MODELS)
def test_maps_features_and_gradients(name):
    torch.manual_seed(0)
    channels, size, grid = MODELS[name]
    net = TimmBackbone(name, channels, size)
    assert net.training
    x = torch.randn(2, channels, *size)
    maps = net.maps(x)
    assert maps.shape == (2, 1, net.width, *grid)
    net(x).square().sum().backward()
    # A parameter without a gradient would stop distributed training.
    assert not [key for key, parameter in net.named_parameters() if parameter.grad is None]


def test_patches_lie_where_they_were():
    net = TimmBackbone("mixer_s16_224", 1, (64, 32)).eval()
    net.model.blocks = torch.nn.Identity()  # without mixing, a patch's features depend on that patch alone
    x = torch.zeros(1, 1, 64, 32)
    blank = net.maps(x)
    x[0, 0, 32:48, 16:] = 1.0  # the patch in row 2, column 1
    changed = (net.maps(x) - blank).abs().sum(dim=2)[0, 0] > 1e-6
    assert changed.nonzero().tolist() == [[2, 1]]


def test_frames_are_encoded_one_by_one():
    net = TimmBackbone("resnet10t", 3, (32, 32)).eval()
    clips = torch.randn(2, 3, 4, 32, 32)
    maps = net.maps(clips)
    assert maps.shape == (2, 4, 512, 1, 1)
    torch.testing.assert_close(maps[1, 2], net.maps(clips[1:, :, 2])[0, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("grid", [(3, 1), (2, 2), (1, 1)])
def test_a_grid_keeps_its_cells_apart(grid):
    net = TimmBackbone("resnet10t", 3, (160, 128), grid=grid).eval()
    x = torch.randn(2, 3, 160, 128)
    maps = net.picture_maps(x)
    pooled = F.adaptive_avg_pool2d(maps, grid)
    assert maps.shape[2:] == (5, 4)
    assert net.width == 512 * grid[0] * grid[1]
    torch.testing.assert_close(net(x), pooled.flatten(2).transpose(1, 2).flatten(1))
    plain = TimmBackbone("resnet10t", 3, (160, 128)).eval()
    plain.load_state_dict(net.state_dict())  # the grid adds nothing to a checkpoint
    torch.testing.assert_close(plain(x), maps.mean(dim=(2, 3)), rtol=0, atol=0)


def test_a_grid_of_a_clip_is_the_mean_of_its_frames():
    net = TimmBackbone("resnet10t", 3, (64, 64), grid=(2, 1)).eval()
    clips = torch.randn(2, 3, 4, 64, 64)
    each = torch.stack([net(clips[:, :, frame]) for frame in range(4)])
    torch.testing.assert_close(net(clips), each.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_building_leaves_batch_statistics_alone():
    net = TimmBackbone("resnet10t", 1, (32, 32))
    running = [value for key, value in net.state_dict().items() if key.endswith("running_mean")]
    assert running
    assert all(value.abs().max() == 0 for value in running)


def test_a_size_that_the_model_cannot_take():
    with pytest.raises(UserError, match=r"vit_tiny_patch16_224 can't encode inputs of 1 x 8 x 8 .*another input size"):
        TimmBackbone("vit_tiny_patch16_224", 1, (8, 8))


def test_pretrained_weights_that_do_not_exist():
    without = next(name for name in timm.list_models("resnet*") if not timm.list_models(f"{name}.*", pretrained=True))
    with pytest.raises(UserError, match=f"{without} can't be built .*set pretrained to false"):
        TimmBackbone(without, 3, (32, 32), pretrained=True)
