"""Photos as they come: odd ones give the right pixels, bad ones a reason, and none stops or hangs.

Every usable photo shows the same four flat fields, so that a channel swapped, inverted, clipped or
turned is seen.
"""

import base64
import io
import os
import re
import struct
import subprocess
import sys
import textwrap
import threading
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from bank.shards import PatchStore
from bank.table import column, digest_column, read_table
from jobs.stages.cutting import CropOptions, ShardTask, cut_shard, read_shard_failures
from pipeline.crop import MAX_BYTES, MAX_SCANS, PhotoError, decode_photo, read_photo
from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError
from pipeline.photo_bytes import without_strays
from pipeline.plan import Shard, write_plan
from pipeline.scene import AnnotatedObject, AnnotatedPhoto, Photo

W, H = 48, 32
SIZE = (W, H)
FIELDS = ((200, 40, 40), (40, 180, 60), (50, 60, 200), (230, 210, 90))  # in reading order
BOXES = tuple((x, y, W // 2, H // 2) for y in (0, H // 2) for x in (0, W // 2))
LOSSY = 6  # levels that a JPEG of good quality may be off, amid a flat field


def pattern():
    pixels = np.zeros((H, W, 3), np.uint8)
    for (x, y, w, h), colour in zip(BOXES, FIELDS, strict=True):
        pixels[y : y + h, x : x + w] = colour
    return pixels


def image(mode="RGB"):
    return Image.fromarray(pattern()).convert(mode)


def palette():
    return image().convert("P", palette=Image.Palette.ADAPTIVE)


def saved(photo, form, **options):
    out = io.BytesIO()
    photo.save(out, form, **options)
    return out.getvalue()


def jpeg(**options):
    return saved(image(), "JPEG", **{"quality": 95, "subsampling": 0, **options})


def grey(factor=1):
    """(H, W) as Pillow makes grey of the fields."""
    return np.asarray(image("L")).astype(np.uint16) * factor


def png(width, height, bits, colour, data=b""):
    """A PNG by its parts; Pillow writes no 16-bit colour."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def wide_png(values, colour):
    rows = np.ascontiguousarray(values.astype(">u2").reshape(H, -1)).view(np.uint8)
    return png(W, H, 16, colour, b"".join(b"\0" + row.tobytes() for row in rows))


def half_transparent():
    pixels = np.array(image("RGBA"))
    pixels[:, : W // 2, 3] = 0
    return Image.fromarray(pixels)


def asking(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def turned(orientation, form="JPEG", **options):
    exif = asking(orientation)
    return jpeg(exif=exif) if form == "JPEG" else saved(image(), form, exif=exif, **options)


def ycck():
    """What libjpeg-turbo makes of CMYK: with Adobe's marker, hence inverted."""
    colours = np.ascontiguousarray(255 - np.asarray(image("CMYK")))
    return simplejpeg.encode_jpeg(
        colours, quality=95, colorspace="CMYK", colorsubsampling="444", fastdct=False
    )


def with_marker(data, old, new):
    at = data.index(old)
    return data[:at] + new + data[at + len(old) :]


# The fields as `cjpeg -arithmetic -quality 90` writes them: Pillow and simplejpeg cannot.
ARITHMETIC = base64.b64decode(
    """
    /9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsL
    EBYQERMUFRUVDA8XGBYUGBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU
    FBQUFBQUFBQUFBQUFBQUFBQUFBT/yQARCAAgADADASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwD/ANH/
    AOUCAisPNVjhpiEnCzy3xn6XY4tyLhOehL8jeFXa5qE2p+iw4AL+qdhjrJ7qQrVpzNqTL4TjtYaq/9k=
    """
)

COLOURED = {
    "JPEG": jpeg(),
    "progressive JPEG": jpeg(progressive=True),
    "JPEG with arithmetic coding": ARITHMETIC,
    "CMYK JPEG": saved(image("CMYK"), "JPEG", quality=95, subsampling=0),
    "YCCK JPEG": ycck(),
    "JPEG that asks to be mirrored": turned(2),
    "JPEG that asks for a quarter turn": turned(6),
    "PNG": saved(image(), "PNG"),
    "PNG that asks to stand on its head": turned(3, "PNG"),
    "WebP that asks to be mirrored": turned(4, "WEBP", lossless=True),
    "TIFF that asks for a quarter turn": turned(6, "TIFF"),
    "packed TIFF that asks to be mirrored": turned(5, "TIFF", compression="tiff_lzw"),
    "palette": saved(palette(), "PNG"),
    "palette with a transparent colour": saved(palette(), "PNG", transparency=0),
    "RGBA, half transparent": saved(half_transparent(), "PNG"),
    "WebP, half transparent": saved(half_transparent(), "WEBP", lossless=True, exact=True),
    "16-bit RGB PNG": wide_png(pattern().astype(np.uint16) * 257, 2),
    "16-bit RGBA PNG": wide_png(np.array(half_transparent()).astype(np.uint16) * 257, 6),
    "16-bit PPM": b"P6 %d %d 65535\n" % SIZE + (pattern().astype(">u2") * 257).tobytes(),
    "WebP": saved(image(), "WEBP", lossless=True),
    "BMP": saved(image(), "BMP"),
    "GIF": saved(palette(), "GIF"),
    "TIFF": saved(image(), "TIFF"),
    "TIFF of a JPEG": saved(image(), "TIFF", compression="jpeg", quality=95),
    "CMYK TIFF": saved(image("CMYK"), "TIFF"),
    "GIF of two frames": saved(
        palette(), "GIF", save_all=True, append_images=[Image.new("RGB", SIZE, "white")]
    ),
    "TIFF of two frames": saved(
        image(), "TIFF", save_all=True, append_images=[Image.new("RGB", SIZE, "white")]
    ),
}
GREY = {
    "grey JPEG": saved(image("L"), "JPEG", quality=95),
    "grey PNG": saved(image("L"), "PNG"),
    "grey PNG with transparency": saved(image("LA"), "PNG"),
    "16-bit grey PNG": wide_png(grey(257), 0),
    "16-bit grey PNG with transparency": wide_png(
        np.stack([grey(257), np.zeros((H, W), np.uint16)], 2), 4
    ),
    "16-bit TIFF": saved(Image.fromarray(grey(257)), "TIFF"),
    "16-bit TIFF that asks for a quarter turn": saved(
        Image.fromarray(grey(257)), "TIFF", exif=asking(8)
    ),
    "16-bit TIFF, packed": saved(Image.fromarray(grey(257)), "TIFF", compression="tiff_lzw"),
    "16-bit PGM": b"P5 %d %d 65535\n" % SIZE + grey(257).astype(">u2").tobytes(),
}


@pytest.mark.parametrize("name", COLOURED)
def test_an_odd_photo_of_colours_has_the_right_colours(name):
    off = np.abs(decode_photo(COLOURED[name], SIZE).astype(int) - pattern())
    assert off.shape == (H, W, 3)
    for x, y, w, h in BOXES:  # within the fields: at their edges colours of half size run over
        assert off[y + 4 : y + h - 4, x + 4 : x + w - 4].max() <= LOSSY


@pytest.mark.parametrize("name", GREY)
def test_an_odd_grey_photo_has_the_right_greys(name):
    off = decode_photo(GREY[name], SIZE).astype(int) - grey().astype(int)[..., None]
    assert np.abs(off).max() <= (LOSSY if "JPEG" in name else 0)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_a_photo_of_single_bits_is_black_and_white(form):
    bits = Image.fromarray(grey() > 100)
    expected = np.where(grey() > 100, 255, 0)[..., None]
    assert np.array_equal(decode_photo(saved(bits, form), SIZE), np.repeat(expected, 3, 2))


def reason(data, size=SIZE):
    with pytest.raises(PhotoError) as caught:
        decode_photo(data, size)
    assert "\n" not in caught.value.detail
    return caught.value.reason


HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"
FLOATS = Image.fromarray(grey().astype(np.float32) / 255)
UNREADABLE = {
    "a web page": HTML,
    "nothing": b"",
    "a JPEG's first bytes": b"\xff\xd8\xff",
    "a JPEG of 12 bits": with_marker(jpeg(), b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
    "a TIFF of 32-bit whole numbers": saved(Image.fromarray(grey().astype(np.int32)), "TIFF"),
    "a TIFF of fractions": saved(FLOATS, "TIFF"),
    "a PPM whose sizes are no numbers": b"P6 4x8 32 255\n" + bytes(W * H * 3),
    "a PDF": saved(image(), "PDF"),
    "a JPEG 2000": saved(image(), "JPEG2000"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_photo_of_ours_is_unreadable(name):
    assert reason(UNREADABLE[name]) in ("photo_unreadable", "photo_cut_short")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM"])
def test_a_photo_cut_short_is_left_out_in_any_format(form):
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
    whole = saved(Image.fromarray(noise), form)
    for kept in (0.2, 0.6, 0.9):
        assert reason(whole[: int(len(whole) * kept)]) in ("photo_cut_short", "photo_unreadable")


def strays(data, stray=b"\0"):
    """The JPEG with bytes before each of its segments but the first, one place at a time."""
    at = [m.start() for m in re.finditer(rb"\xff[\xc0-\xc4\xda\xdb\xdd\xe0-\xef\xfe]", data)]
    scans = [data.index(b"\xff\xda")] if b"\xff\xc2" not in data else []
    return [data[:i] + stray + data[i:] for i in at if not scans or i <= scans[0]]


@pytest.mark.parametrize("stray", [b"\0", b"\0\x01\x02", b"\xff\0", b"\xff\xff"])
@pytest.mark.parametrize("name", ["JPEG", "JPEG that asks for a quarter turn"])
def test_bytes_between_the_segments_of_a_jpeg_cost_nothing_since_its_pixels_are_whole(name, stray):
    whole = COLOURED[name]
    assert len(strays(whole)) > 4
    for odd in strays(whole, stray):
        assert np.array_equal(decode_photo(odd, SIZE), decode_photo(whole, SIZE))


def test_bytes_before_a_later_scans_tables_cost_nothing_and_those_after_a_scan_are_damage():
    whole = COLOURED["progressive JPEG"]
    first = whole.index(b"\xff\xda")
    tables = whole.index(b"\xff\xc4", first)  # right after the first scan's pixels
    scan = whole.index(b"\xff\xda", tables)  # after these tables
    odd = whole[:scan] + b"\0" + whole[scan:]
    assert np.array_equal(decode_photo(odd, SIZE), decode_photo(whole, SIZE))
    damaged = whole[:tables] + b"\1\2\3\4\5\6\7\x08" + whole[tables:]
    assert without_strays(damaged) == damaged
    assert reason(damaged) == "photo_unreadable"


def test_restart_markers_in_a_scan_end_no_scan():
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    whole = saved(Image.fromarray(noise), "JPEG", restart_marker_blocks=1)
    assert len(whole) > 1 << 16  # as far as a segment's length reaches, if it were one
    scan = whole.index(b"\xff\xda")
    assert b"\xff\xd1" in whole[scan:]
    assert without_strays(whole[:scan] + b"\0" + whole[scan:]) == whole


def test_a_jpeg_with_bytes_between_its_segments_is_left_out_where_it_is_cut_short_too():
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
    for odd in strays(saved(Image.fromarray(noise), "JPEG")):
        assert reason(odd[: len(odd) * 3 // 4]) == "photo_cut_short"


def chunk(kind, content, checksum=None):
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


LONG = zlib.compress(b" " * 5_000_000)
BESIDE = {
    "a long text": chunk(b"zTXt", b"Comment\0\0" + LONG),
    "a long text of many languages": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG),
    "a text with a wrong checksum": chunk(b"tEXt", b"Comment\0good", 1),
    "a time with a wrong checksum": chunk(b"tIME", bytes(7), 1),
    "a profile that is none": chunk(b"iCCP", b"x\0\0none"),
}


@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
@pytest.mark.parametrize("beside", BESIDE)
def test_what_lies_beside_the_pixels_of_a_png_costs_nothing(beside, before):
    for name in ("PNG", "palette", "RGBA, half transparent"):
        whole = COLOURED[name]
        at = whole.index(before) - 4
        odd = whole[:at] + BESIDE[beside] + whole[at:]
        assert np.array_equal(decode_photo(odd, SIZE), decode_photo(whole, SIZE))


def test_a_png_whose_pixels_are_damaged_is_left_out_whatever_lies_beside_them():
    damaged = bytearray(COLOURED["PNG"])
    damaged[damaged.index(b"IDAT") + 30] ^= 255
    for beside in ("a long text", "a text with a wrong checksum"):
        at = damaged.index(b"IDAT") - 4
        assert reason(bytes(damaged[:at] + BESIDE[beside] + damaged[at:])) == "photo_unreadable"


def iso(brand):
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1" + bytes(500)


KINDS = {
    "an AVIF (or HEIC) photo, which is not read: convert it to JPEG or PNG": [
        iso(b"avif"),
        iso(b"heic"),
        iso(b"mif1"),
    ],
    "a video, which is not read": [iso(b"isom"), iso(b"mp42")],
    "a JPEG XL photo, which is not read": [b"\xff\x0a" + bytes(99), b"\0\0\0\x0cJXL \r\n"],
    "a JPEG 2000 photo, which is not read": [UNREADABLE["a JPEG 2000"]],
    "a PDF, which is not read": [UNREADABLE["a PDF"]],
    "an SVG drawing, which is not read": [b"<svg xmlns='http://www.w3.org/2000/svg'/>"],
    "a web page, no photo": [HTML],
    "an empty file, no photo": [b""],
    "a pointer of Git LFS": [b"version https://git-lfs.github.com/spec/v1\noid sha256:0"],
    "cannot identify image file": [b"no photo at all"],
}


@pytest.mark.parametrize("said", KINDS)
def test_a_file_that_is_not_read_is_told_to_be_what_it_is_and_what_to_do(said):
    for data in KINDS[said]:
        with pytest.raises(PhotoError) as caught:
            decode_photo(data, SIZE)
        assert caught.value.reason == "photo_unreadable"
        assert caught.value.detail.startswith(said)


def test_a_turned_photo_is_taken_as_stored_and_one_annotated_as_turned_says_so():
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        assert decode_photo(turned(8, form), SIZE).shape == (H, W, 3)
        with pytest.raises(PhotoError) as caught:
            decode_photo(turned(8, form), (H, W))
        assert caught.value.reason == "photo_wrong_size"
        assert "after its EXIF rotation" in caught.value.detail
    for other in (turned(3), jpeg(), saved(image(), "PNG"), turned(3, "TIFF")):
        with pytest.raises(PhotoError) as caught:
            decode_photo(other, (H, W))
        assert caught.value.reason == "photo_wrong_size"
        assert "EXIF" not in caught.value.detail


def test_a_photo_whose_exif_data_are_damaged_is_still_only_of_the_wrong_size():
    damaged = with_marker(turned(6), b"Exif\0\0MM", b"Exif\0\0XX")
    assert reason(damaged, (H, W)) == "photo_wrong_size"


SIDE = 60_000


def huge():
    """Small files whose headers claim 3.6 thousand million pixels."""
    small_jpeg = jpeg()
    at = small_jpeg.index(b"\xff\xc0") + 5
    claimed = struct.pack(">HH", SIDE, SIDE)
    tall = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + 2 * (SIDE - 1).to_bytes(3, "little")
    webp = saved(image(), "WEBP", lossless=True)[12:]
    gif = saved(palette(), "GIF")
    tiff = saved(image(), "TIFF")
    for tag in (256, 257):
        old = struct.pack("<HHI", tag, 4 if struct.pack("<HH", tag, 4) in tiff else 3, 1)
        place = tiff.index(old) + len(old)
        tiff = tiff[:place] + struct.pack("<I", SIDE) + tiff[place + 4 :]
    bmp = saved(image(), "BMP")
    return {
        "JPEG": small_jpeg[:at] + claimed + small_jpeg[at + 4 :],
        "PNG": png(SIDE, SIDE, 8, 2),
        "GIF": gif[:6] + struct.pack("<HH", SIDE, SIDE) + gif[10:],
        "TIFF": tiff,
        "BMP": bmp[:18] + struct.pack("<ii", SIDE, SIDE) + bmp[26:],
        "PPM": b"P6 %d %d 255\n" % (SIDE, SIDE),
        "WEBP": b"RIFF" + struct.pack("<I", 4 + len(tall) + len(webp)) + b"WEBP" + tall + webp,
    }


@pytest.mark.parametrize("form", huge())
def test_a_photo_that_claims_to_be_huge_takes_no_memory(form, tmp_path):
    (tmp_path / "huge").write_bytes(huge()[form])
    # In a process of its own: the most memory that this one ever held says nothing of now.
    script = f"""
        import resource, sys
        from pathlib import Path
        from pipeline.crop import PhotoError, decode_photo
        data = Path(sys.argv[1]).read_bytes()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            decode_photo(data, ({SIDE}, {SIDE}))
        except PhotoError as error:
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            print(error.reason, grown < 50_000)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "huge")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split()[1:] == ["True"]
    assert done.stdout.split()[0] in (
        ("photo_too_large",) if form != "WEBP" else ("photo_too_large", "photo_unreadable")
    )


def test_a_photo_file_of_too_many_bytes_is_not_read(tmp_path, monkeypatch):
    with (tmp_path / "long.jpg").open("wb") as file:
        file.write(jpeg())
        file.truncate(MAX_BYTES + 1)
    monkeypatch.setattr(DataFolder, "read", lambda *_: pytest.fail("it is read"))
    with pytest.raises(PhotoError) as caught:
        read_photo(DataFolder(tmp_path), "long.jpg")
    assert caught.value.reason == "photo_too_large"


def test_a_jpeg_of_endless_scans_is_not_decoded():
    data = jpeg(progressive=True)
    first = data.index(b"\xff\xda")
    assert decode_photo(data, SIZE).shape == (H, W, 3)
    scans = data[first:-2]
    assert reason(data[:first] + scans * MAX_SCANS + data[-2:]) == "photo_unreadable"


# Through the build


def annotated(image_id, size=SIZE):
    photo = Photo(image_id, f"photos/{image_id}.jpg", *size, "train", "", "")
    objects = tuple(AnnotatedObject(i, "field", box, None) for i, box in enumerate(BOXES))
    return AnnotatedPhoto(photo, objects)


def cut(root, photos):
    plan = root / "bank/work/plan/train-00000.json"
    plan.parent.mkdir(parents=True, exist_ok=True)
    write_plan(plan, Shard("train-00000", photos))
    options = CropOptions(16, 8, "torch")
    return cut_shard(ShardTask("train-00000", plan, root / "data", root / "bank", options, {}))


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "data/photos").mkdir(parents=True)
    return tmp_path / "data/photos"


def test_files_named_for_another_format_give_the_patches_that_they_hold(tmp_path, photos):
    for image_id, name in enumerate(("PNG", "16-bit RGB PNG", "YCCK JPEG", "GIF", "WebP"), 1):
        (photos / f"{image_id}.jpg").write_bytes(COLOURED[name])

    done = cut(tmp_path, tuple(annotated(i) for i in range(1, 6)))

    assert done.receipt.counts == {"photos": 5, "scenes": 5, "patches": 20}
    table = read_table(tmp_path / "bank/work/shards/train-00000.patches.arrow")
    ids, digests = column(table, "patch_id"), digest_column(table, "pixels_sha256")
    shard_of = np.zeros(20, np.int32)
    store = PatchStore(tmp_path / "bank/patches", ids, shard_of, ["train-00000"], 8, digests)
    middles = store.read(ids)[:, 3:5, 3:5].reshape(5, 4, 4, 3).astype(int)
    assert np.abs(middles - np.array(FIELDS)[None, :, None]).max() <= LOSSY


def test_every_bad_photo_of_a_shard_costs_itself_and_says_why(tmp_path, photos):
    noise = np.random.default_rng(0).integers(0, 256, (H, W, 3), np.uint8)
    whole = saved(Image.fromarray(noise), "JPEG")
    bad = {
        2: ("photo_cut_short", lambda path: path.write_bytes(whole[: len(whole) // 2])),
        3: ("photo_unreadable", lambda path: path.write_bytes(HTML)),
        4: ("photo_unreadable", lambda path: path.write_bytes(b"")),
        5: ("photo_wrong_size", lambda path: path.write_bytes(COLOURED["PNG"])),
        6: ("photo_too_large", lambda path: path.write_bytes(huge()["PNG"])),
        7: ("photo_missing", lambda path: None),
        8: ("photo_missing", lambda path: path.mkdir()),
        9: ("photo_missing", lambda path: path.symlink_to(path.parent / "nowhere.jpg")),
        10: ("photo_missing", os.mkfifo),
        11: ("photo_missing", lambda path: path.symlink_to("/dev/zero")),
        12: ("photo_missing", lambda path: path.symlink_to(path)),
    }
    (photos / "1.jpg").write_bytes(COLOURED["JPEG"])
    for image_id, (_, make) in bad.items():
        make(photos / f"{image_id}.jpg")
    sizes = {5: (W + 1, H)}
    planned = tuple(annotated(i, sizes.get(i, SIZE)) for i in (1, *bad))

    # A pipe would wait for ever: in a thread, the test ends all the same.
    done = []
    thread = threading.Thread(target=lambda: done.append(cut(tmp_path, planned)), daemon=True)
    thread.start()
    thread.join(timeout=30)

    assert done, "it hangs"
    assert done[0].receipt.counts["scenes"] == 1
    left_out = {r.image_id: r.reason for r in read_shard_failures(tmp_path / "bank", "train-00000")}
    assert left_out == {image_id: why for image_id, (why, _) in bad.items()}


def test_a_photo_whose_checksum_in_its_zip_is_wrong_costs_itself(tmp_path):
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(tmp_path / "data/photos.zip", "w") as archive:
        for image_id in (1, 2):
            archive.writestr(f"photos/{image_id}.jpg", COLOURED["PNG"])
    data = bytearray((tmp_path / "data/photos.zip").read_bytes())
    data[data.index(b"IDAT") + 8] ^= 1
    (tmp_path / "data/photos.zip").write_bytes(data)

    done = cut(tmp_path, (annotated(1), annotated(2)))

    assert done.receipt.counts["scenes"] == 1
    (left_out,) = read_shard_failures(tmp_path / "bank", "train-00000")
    assert (left_out.image_id, left_out.reason) == (1, "photo_unreadable")
    assert "damaged in its zip" in left_out.detail


def test_a_photo_that_may_not_be_read_stops_with_a_line_since_content_must_not_depend_on_it(
    tmp_path, photos, monkeypatch
):
    (photos / "1.jpg").write_bytes(COLOURED["JPEG"])
    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(DatasetError, match=r"cannot read .*1\.jpg: Permission denied; mend this"):
        read_photo(DataFolder(tmp_path / "data"), "photos/1.jpg")


def forbidden(*_, **__):
    raise PermissionError(13, "Permission denied")
