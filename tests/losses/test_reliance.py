import torch

from mmlab.losses.reliance import dropout_change, logit_magnitude


def test_the_magnitude_is_a_sum_over_classes():
    unimodal = torch.tensor([[[1.0, -2.0], [0.0, 0.5]], [[3.0, 0.0], [-1.0, -1.0]]])
    assert logit_magnitude(unimodal).tolist() == [[3.0, 0.5], [3.0, 2.0]]


def test_the_change_is_a_distance_from_the_fused_logits():
    fused = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    without = torch.stack([fused, torch.tensor([[0.0, 3.0], [0.0, 2.0]])])
    assert dropout_change(fused, without).tolist() == [[0.0, 0.0], [3.0, 0.0]]
