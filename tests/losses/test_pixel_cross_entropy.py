from __future__ import annotations

import torch
import torch.nn.functional as F

from mmlab.losses.pixel_cross_entropy import pixel_cross_entropy, shrunk
from mmlab.types import Segmentation


def test_weights_and_their_normaliser() -> None:
    task = Segmentation(("a", "b", "c"), 255, (0.5, 1.0, 2.0))
    logits, target = torch.randn(2, 3, 4, 5, dtype=torch.double), torch.randint(0, 3, (2, 4, 5))
    target[0, 1] = 255
    wanted = F.cross_entropy(logits, target, torch.tensor(task.weights, dtype=torch.double), ignore_index=255)
    torch.testing.assert_close(pixel_cross_entropy(logits, target, task), wanted)


def test_small_logits_see_the_nearest_labels() -> None:
    target = torch.arange(16).view(1, 4, 4)
    assert shrunk(target, (2, 2)).tolist() == [[[0, 2], [8, 10]]]
    task = Segmentation(tuple("abcdefghijklmnop"))
    logits = torch.randn(1, 16, 2, 2)
    wanted = F.cross_entropy(logits, shrunk(target, (2, 2)))
    torch.testing.assert_close(pixel_cross_entropy(logits, target, task), wanted)


def test_without_a_labelled_pixel_it_is_zero_and_so_is_its_gradient() -> None:
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((1, 3, 3), 255), Segmentation(("a", "b")))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()
