from __future__ import annotations

import gc
import weakref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from mmlab.backbones.shared import once, shared_features
from mmlab.backbones.small_conv import SmallConvNet


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        return inputs * 2

    maps = forward


def test_an_input_is_encoded_once_by_each_encoder() -> None:
    first, second, inputs = Counting(), Counting(), torch.ones(3)
    with torch.no_grad(), shared_features():
        assert once(first, inputs) is once(first, inputs)
        once(second, inputs)
        once(first, inputs.clone())
        assert once(first.maps, inputs) is once(first.maps, inputs)
    assert (first.calls, second.calls) == (3, 1)


def test_nothing_is_remembered_outside_or_with_gradients() -> None:
    encoder, inputs = Counting(), torch.ones(3)
    with torch.no_grad():
        once(encoder, inputs)
        once(encoder, inputs)
        for _ in range(2):
            with shared_features():
                once(encoder, inputs)
    with torch.enable_grad(), shared_features():
        once(encoder, inputs)
        once(encoder, inputs)
    assert encoder.calls == 6


def test_features_go_with_their_input() -> None:
    encoder = Counting()
    with torch.no_grad(), shared_features():
        features = once(encoder, torch.ones(1 << 16))
        kept = weakref.ref(features)
        del features
        gc.collect()
        assert kept() is None
        for _ in range(50):  # a new tensor may lie where the old one lay, and isn't taken for it
            inputs = torch.rand(7)
            torch.testing.assert_close(once(encoder, inputs), inputs * 2)
    assert encoder.calls == 51


def test_a_grid_encodes_what_is_new_and_nothing_twice(mmlab, tiny: str) -> None:
    mmlab(f"fit --model LateFusion {tiny} --wandb.mode off --trainer.max_epochs 1 --test false --run_dir run")
    calls = 0

    def count(module: nn.Module, *_: object) -> None:
        nonlocal calls
        calls += isinstance(module, SmallConvNet)

    hook = register_module_forward_hook(count)
    try:
        mmlab("robustness --run run --corruptions gaussian,blur,missing --severities 0,5,10")
    finally:
        hook.remove()
    # In each of 3 batches: both as they are; at two severities both with noise, the image blurred, both with gaps.
    assert calls == 3 * (2 + 2 * (2 + 1 + 2))
