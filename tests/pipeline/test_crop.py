import io
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pipeline import crop
from pipeline.crop import (
    PhotoError,
    cut_patches,
    decode_photo,
    pixel_box,
    read_photo,
    resize_photo,
)
from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError
from pipeline.scene import Box

W, H = 60, 40


def noise(height=H, width=W):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def jpeg(pixels, quality=90):
    return simplejpeg.encode_jpeg(pixels, quality=quality, colorspace="RGB")


def read_and_decode(path: Path, size=(W, H)):
    return decode_photo(
        read_photo(DataFolder(path.parent.parent), f"{path.parent.name}/{path.name}"), size
    )


def reason_of(path: Path, size=(W, H)) -> str:
    with pytest.raises(PhotoError) as caught:
        read_and_decode(path, size)
    return caught.value.reason


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(jpeg(noise()))
    return path


def test_a_jpeg_decodes_to_the_pixels_that_libjpeg_turbo_gives(photo):
    pixels = read_and_decode(photo, (W, H))
    assert pixels.shape == (H, W, 3)
    assert np.array_equal(pixels, simplejpeg.decode_jpeg(photo.read_bytes()))


def test_a_grey_jpeg_has_three_equal_channels(tmp_path):
    Image.fromarray(noise()[..., 0]).save(tmp_path / "grey.jpg")
    pixels = read_and_decode(tmp_path / "grey.jpg", (W, H))
    assert pixels.shape == (H, W, 3)
    assert np.array_equal(pixels[..., 0], pixels[..., 2])


@pytest.mark.parametrize(("mode", "suffix"), [("CMYK", "jpg"), ("P", "gif"), ("RGBA", "png")])
def test_other_colours_and_formats_come_out_as_rgb(tmp_path, mode, suffix):
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(noise()).convert(mode).save(path)
    assert read_and_decode(path, (W, H)).shape == (H, W, 3)


@pytest.mark.parametrize("kept", [0.3, 0.8, 0.99])
def test_a_jpeg_cut_short_is_not_filled_with_grey(photo, kept):
    data = photo.read_bytes()
    photo.write_bytes(data[: int(len(data) * kept)])
    assert reason_of(photo) == "photo_cut_short"


def test_a_jpeg_cut_short_is_noticed_even_where_an_end_marker_follows(photo):
    data = photo.read_bytes()
    photo.write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    assert simplejpeg.decode_jpeg(photo.read_bytes(), strict=False).shape == (H, W, 3)
    assert reason_of(photo) in ("photo_cut_short", "photo_unreadable")


def test_a_png_cut_short_is_noticed(tmp_path):
    out = io.BytesIO()
    Image.fromarray(noise()).save(out, "PNG")
    path = tmp_path / "photo.png"
    path.write_bytes(out.getvalue()[: len(out.getvalue()) // 2])
    assert reason_of(path) == "photo_cut_short"


@pytest.mark.parametrize("data", [b"", b"not a photo", b"\xff\xd8\xff", b"GIF89a"])
def test_a_file_that_is_no_photo_says_so(photo, data):
    photo.write_bytes(data)
    assert reason_of(photo) in ("photo_unreadable", "photo_cut_short")


def test_the_words_for_a_bad_photo_are_the_same_in_every_run(photo):
    photo.write_bytes(b"not a photo")
    with pytest.raises(PhotoError) as caught:
        read_and_decode(photo, (W, H))
    assert "0x" not in caught.value.detail


def test_a_missing_photo_costs_that_photo(tmp_path):
    (tmp_path / "other.jpg").touch()
    assert reason_of(tmp_path / "none.jpg") == "photo_missing"


def test_a_missing_folder_stops_the_build(tmp_path):
    with pytest.raises(DatasetError, match=r"folder .*gone"):
        read_and_decode(tmp_path / "unmounted" / "none.jpg", (W, H))


def test_a_photo_turned_on_its_side_is_of_the_wrong_size(photo):
    assert reason_of(photo, (H, W)) == "photo_wrong_size"


def test_a_huge_photo_is_refused_before_its_pixels_are_decoded(tmp_path, monkeypatch):
    path = tmp_path / "huge.png"
    Image.new("1", (30_000, 30_000)).save(path)  # 13 kB on disk, 2.7 GB of RGB
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("was decoded"))
    assert reason_of(path, (30_000, 30_000)) == "photo_too_large"


def test_a_huge_jpeg_is_refused_before_its_pixels_are_decoded(photo, monkeypatch):
    monkeypatch.setattr(crop, "MAX_PIXELS", W * H - 1)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *_, **__: pytest.fail("was decoded"))
    assert reason_of(photo) == "photo_too_large"


def test_boxes_are_whole_pixels_inside_the_photo():
    assert pixel_box(Box(0, 0, 1, 1), W, H) == (0, 0, W, H)
    assert pixel_box(Box(0.5, 0.5, 0.5001, 0.5001), W, H) == (30, 20, 31, 21)
    assert pixel_box(Box(0.9999, 0.9999, 1, 1), W, H) == (W - 1, H - 1, W, H)
    assert pixel_box(Box(-0.5, -0.5, 1.5, 1.5), W, H) == (0, 0, W, H)
    assert pixel_box(Box(1.0, 0, 1.5, 1), W, H) is None
    assert pixel_box(Box(float("nan"), 0, 1, 1), W, H) is None


@pytest.mark.parametrize("resizer", ["torch", "pillow"])
def test_a_patch_sees_nothing_outside_its_box(resizer):
    photo = np.full((H, W, 3), 255, np.uint8)
    photo[10:20, 15:30] = 7  # a dark box on a white photo
    patches = cut_patches(photo, [Box(15 / W, 10 / H, 30 / W, 20 / H)], 16, resizer)
    assert patches.shape == (1, 16, 16, 3)
    assert (patches == 7).all()


def test_both_resizers_agree_within_one_level():
    photo = noise(113, 170)
    box = [Box(0.1, 0.2, 0.9, 0.7)]
    by_torch = cut_patches(photo, box, 32, "torch").astype(int)
    assert np.abs(by_torch - cut_patches(photo, box, 32, "pillow")).max() <= 1


@pytest.mark.parametrize("resizer", ["torch", "pillow"])
def test_shrinking_averages_instead_of_skipping_pixels(resizer):
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(resize_photo(stripes, 8, resizer).astype(int) - 127).max() <= 16
