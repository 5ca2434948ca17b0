"""Weights of classes in a segmentation loss, from how often they occur."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mmlab.errors import UserError


def median_frequency_weights(maps: Iterable[np.ndarray], classes: int, ignore_index: int = 255) -> tuple[float, ...]:
    """``w_c = median(f) / f_c``, where f_c is how much of the maps that contain class c is of class c.

    Pixels without a label are no class's, but count in the size of their map.

    Source: Eigen and Fergus, ICCV 2015, in the form of ESANet (Seichter et al., ICRA 2021), which MMANet uses.

    Args:
        maps: (H, W) each, class indices from 0; read once, one after the other.
        classes: how many there are.
        ignore_index: the label of pixels that don't count.

    Returns:
        (classes,) weights, 1 for the class of median frequency.

    Raises:
        UserError: if a class never occurs, or a label is neither a class nor ``ignore_index``.
    """
    pixels = np.zeros(classes, dtype=np.int64)
    around = np.zeros(classes, dtype=np.int64)
    for number, labels in enumerate(maps):
        counts = np.bincount(labels.ravel(), minlength=classes)
        counts[ignore_index : ignore_index + 1] = 0
        if counts[classes:].any():
            raise UserError(
                f"label map {number} holds the label {classes + counts[classes:].argmax()}, but there are only the "
                f"classes 0 to {classes - 1} and {ignore_index} for no label: correct the map or the classes."
            )
        pixels += counts[:classes]
        around += np.where(counts[:classes] > 0, labels.size, 0)
    if not pixels.all():
        absent = ", ".join(str(each) for each in np.flatnonzero(pixels == 0))
        raise UserError(
            f"no training label map holds class {absent} (counted from 0), so there is no median-frequency weight for "
            "it: add images that show it, or leave the class out."
        )
    frequency = pixels / around
    return tuple((np.median(frequency) / frequency).tolist())
