"""How much a fused decision relies on each modality.

Source: Wei, Zhang, Chen, He, Duan, "Unbiased Dynamic Multimodal Fusion", CVPR 2026 Findings: the magnitude as its
released code has it, the change under dropout as third-party notes give the paper's text, which was out of our reach.
"""

from __future__ import annotations

from torch import Tensor


def logit_magnitude(unimodal: Tensor) -> Tensor:
    """The released code's: the sum over classes of the size of each modality's own logits.

    Args:
        unimodal: (M, B, C).

    Returns:
        (M, B).
    """
    return unimodal.abs().sum(dim=2)


def dropout_change(fused: Tensor, without: Tensor) -> Tensor:
    """The paper's: the L1 distance between the fused logits and those without a modality.

    Args:
        fused: (B, C).
        without: (M, B, C), each with one modality left out.

    Returns:
        (M, B).
    """
    return (fused - without).abs().sum(dim=2)
