"""Dense optical flow between two pictures, and its 8-bit form. Needs OpenCV (the extra ``video``)."""

from __future__ import annotations

import numpy as np

from mmlab.errors import UserError

BOUND = 20.0  # pixels


def require_opencv() -> None:
    """Checks that OpenCV is there, before hours of decoding.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise UserError('Optical flow needs OpenCV, which is not installed: run pip install "mmlab[video]".') from error


def dense_flow(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Where each pixel of a picture goes: OpenCV's DIS at its medium preset (Kroeger et al., ECCV 2016).

    Args:
        first: (H, W, 3) uint8, RGB, at least 16 x 16.
        second: likewise, the next picture.

    Returns:
        (2, H, W) float32, u (to the right) and v (down), in pixels.
    """
    import cv2

    before, after = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (first, second))
    # DIS cuts the picture into one stripe for each thread: with more, the result would depend on the machine.
    cv2.setNumThreads(1)
    # An object of its own for each call: it keeps buffers that threads must not share.
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return method.calc(before, after, np.zeros((*before.shape, 2), np.float32)).transpose(2, 0, 1)


def flow_to_bytes(flow: np.ndarray) -> np.ndarray:
    """Flow as the usual extractors of TV-L1 flow store it: -20 to 20 pixels are 0 to 255, what is beyond is clipped.

    No motion is 127.5, which is stored as 128.

    Args:
        flow: of any shape, in pixels.

    Returns:
        uint8 of the same shape.
    """
    return np.rint((flow.clip(-BOUND, BOUND) + BOUND) * (255 / (2 * BOUND))).astype(np.uint8)


def scale_flow_bytes(flow: np.ndarray, factor: float) -> np.ndarray:
    """Flow bytes of a picture that was resized: displacements grow with it, around no motion at 127.5.

    Args:
        flow: uint8 of any shape, one component.
        factor: new over old size along that component.

    Returns:
        uint8 of the same shape.
    """
    if factor == 1:
        return flow
    return np.rint(127.5 + (flow.astype(np.float32) - 127.5) * factor).clip(0, 255).astype(np.uint8)
