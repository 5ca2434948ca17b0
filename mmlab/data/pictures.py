"""Pictures from files of any origin. Used only while data are prepared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from mmlab.data.packing import BadSample


def read_picture(file: Path, name: str, formats: tuple[str, ...], mode: Literal["RGB", "L"] = "RGB") -> Image.Image:
    """A picture in its own size; of an animation the first frame.

    Args:
        file: to read.
        name: what messages call it.
        formats: that are decoded, by Pillow's names; the content tells the format, whatever the file is called.
        mode: RGB, or L for grey.

    Raises:
        BadSample: if the file is absent, has none of these formats, can't be decoded, or has more than 8 bits for each
            channel.
    """
    if not os.path.isfile(file):  # False for a name that is too long, too
        raise BadSample(f"there is no image {name}")
    try:
        with Image.open(file, formats=formats) as image:
            if image.mode[0] in "IF":  # conversion would cut 16-bit grey levels at 255
                raise BadSample(f"{name} has more than 8 bits for each channel")
            return image.convert(mode)
    except UnidentifiedImageError as error:
        raise BadSample(f"{name} is no {' or '.join(formats)} image") from error
    # PIL raises SyntaxError on broken png files.
    except (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadSample(f"{name} can't be decoded: {error}") from error


def nearest(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A plane of numbers that must not be mixed (labels, depth) in another size: of each new pixel the nearest one.

    Distances are between the pixels' centres, as in Pillow's resizing of pictures; half-way it is the second pixel.

    Args:
        plane: (h, w).
        size: (height, width) of the result.
    """
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, plane.shape, strict=True))
    return plane[rows[:, None], columns]
