import sys

import numpy as np
import pytest

from mmlab.data.optical_flow import dense_flow, flow_to_bytes, require_opencv, scale_flow_bytes
from mmlab.errors import UserError


def scene(right: float, down: float) -> np.ndarray:
    """(64, 80, 3): a smooth texture, moved."""
    rows, columns = np.mgrid[0:64, 0:80]
    x, y = columns - right, rows - down
    waves = np.sin(x / 3) + np.sin(y / 2.5) + np.sin((x + y) / 7)
    return np.repeat((128 + 40 * waves).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize(("right", "down"), [(2.0, 0.0), (0.0, -3.0), (1.5, 1.0)])
def test_the_flow_is_the_motion(right: float, down: float) -> None:
    pytest.importorskip("cv2")
    flow = dense_flow(scene(0, 0), scene(right, down))
    assert flow.shape == (2, 64, 80)
    inside = np.median(flow[:, 8:-8, 8:-8], axis=(1, 2))
    np.testing.assert_allclose(inside, (right, down), atol=0.15)


def test_bytes_are_forty_pixels_wide() -> None:
    flow = np.array([-50, -20, -10, 0, 10, 20, 50], dtype=np.float32)
    assert flow_to_bytes(flow).tolist() == [0, 0, 64, 128, 191, 255, 255]
    back = flow_to_bytes(np.linspace(-20, 20, 1001)).astype(float) * 40 / 255 - 20
    assert np.abs(back - np.linspace(-20, 20, 1001)).max() <= 20 / 255 + 1e-9


def test_displacements_grow_with_the_picture() -> None:
    flow = np.array([0, 100, 127, 128, 200, 255], dtype=np.uint8)
    assert scale_flow_bytes(flow, 0.5).tolist() == [64, 114, 127, 128, 164, 191]
    assert scale_flow_bytes(flow, 2).tolist() == [0, 72, 126, 128, 255, 255]
    assert scale_flow_bytes(flow, 1) is flow


def test_missing_opencv_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r'needs OpenCV, .* pip install "mmlab\[video\]"'):
        require_opencv()
