from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFile

from mmlab.data.packing import BadSample
from mmlab.data.pictures import nearest, read_picture


def test_a_picture_has_its_own_size_and_the_mode_that_is_asked_for(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    file = tmp_path / "called.jpg"
    Image.fromarray(colours).save(file, format="PNG")
    np.testing.assert_array_equal(np.asarray(read_picture(file, "a", ("JPEG", "PNG"))), colours)
    grey = np.asarray(read_picture(file, "a", ("PNG",), "L"))
    np.testing.assert_allclose(grey, colours @ np.array([0.299, 0.587, 0.114]), atol=0.51)


@pytest.mark.parametrize("name", ["nothing.png", "folder.png", "link.png", "x" * 5000])
def test_an_absent_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("gone.png")
    with pytest.raises(BadSample, match=r"^there is no image a$"):
        read_picture(tmp_path / name, "a", ("PNG",))


def test_other_formats_are_not_decoded(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png", format="BMP")
    with pytest.raises(BadSample, match=r"^x/a is no PNG or JPEG image$"):
        read_picture(tmp_path / "a.png", "x/a", ("PNG", "JPEG"))


@pytest.mark.parametrize("levels", [np.uint16, np.int32, np.float32])
def test_more_than_8_bits_are_refused(tmp_path: Path, levels: type) -> None:
    Image.fromarray(np.full((4, 4), 4000, levels)).save(tmp_path / "a", format="TIFF")
    with pytest.raises(BadSample, match=r"^a has more than 8 bits for each channel$"):
        read_picture(tmp_path / "a", "a", ("TIFF",))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF"])
def test_what_is_cut_off_can_t_be_decoded(tmp_path: Path, format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    file = tmp_path / "a"
    Image.fromarray(noise).save(file, format=format)
    file.write_bytes(file.read_bytes()[:-900])
    with pytest.raises(BadSample, match=r"^a can't be decoded: "):
        read_picture(file, "a", (format,))


@pytest.mark.parametrize("error", [EOFError, SyntaxError, ValueError, OSError])
def test_every_error_of_a_decoder_is_a_bad_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.png")

    def load(image: ImageFile.ImageFile) -> None:
        raise error("broken")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load, raising=False)
    with pytest.raises(BadSample, match=r"^a can't be decoded: broken$"):
        read_picture(tmp_path / "a.png", "a", ("PNG",))


@pytest.mark.parametrize("size", [(8, 8), (4, 6), (3, 20), (11, 5)])
def test_the_nearest_pixel_is_the_one_whose_centre_is(size: tuple[int, int]) -> None:
    plane = np.arange(8 * 12, dtype=np.uint16).reshape(8, 12)
    expected = F.interpolate(torch.from_numpy(plane.astype(np.float64))[None, None], size, mode="nearest-exact")
    found = nearest(plane, size)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected[0, 0].numpy())
