import numpy as np
import pytest

from mmlab.data.class_weights import median_frequency_weights
from mmlab.errors import UserError


def test_only_the_maps_that_show_a_class_count_for_it() -> None:
    maps = [np.array([[0, 0, 0, 1], [255, 1, 255, 255]], np.uint8), np.array([[2, 2], [2, 1]], np.uint8)]
    # 3 of 8 pixels, 3 of 12, 3 of 4: the median is 3/8.
    assert median_frequency_weights(iter(maps), 3) == pytest.approx((1.0, 1.5, 0.5))


def test_what_has_no_weight_is_said() -> None:
    maps = [np.array([[0, 2]], np.uint8)]
    with pytest.raises(UserError, match=r"no training label map holds class 1, 3 \(counted from 0\)"):
        median_frequency_weights(maps, 4)
    with pytest.raises(UserError, match="label map 0 holds the label 2, but there are only the classes 0 to 1"):
        median_frequency_weights(maps, 2)
