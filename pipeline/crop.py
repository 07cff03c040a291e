"""A photo file -> pixels -> one square patch per object, and the photo at the bank's image size."""

import io
import math
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.data_folder import DamagedMemberError, DataFolder, NoPlainFileError
from pipeline.errors import DatasetError
from pipeline.photo_bytes import PNG, START_OF_IMAGE, only_pixels, what_it_is, without_strays
from pipeline.resizer import Resizer
from pipeline.scene import Box

Pixels = NDArray[np.uint8]

MAX_PIXELS = 50_000_000  # what a decoder may be asked to fill: 150 MB; COCO's largest has 0.4 M
MAX_BYTES = 200_000_000  # of a photo file
# Formats whose decoders neither call another program nor follow references to other files.
OTHER_FORMATS = ("PNG", "WEBP", "BMP", "GIF", "TIFF", "JPEG", "PPM")
# A JPEG colour space that libjpeg-turbo turns into RGB; CMYK and YCCK go to Pillow.
TURBO_COLOURS = ("YCbCr", "RGB", "Gray", "GRAY")
MAX_SCANS = 200  # of a JPEG; usual are at most 20, and each costs a pass over all of its pixels
ORIENTATION, ON_ITS_SIDE = 0x0112, (5, 6, 7, 8)  # EXIF


class PhotoError(Exception):
    """One photo that cannot be used: it costs that photo, not the build."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason  # a short code for failures.jsonl
        self.detail = detail


def read_photo(folder: DataFolder, file: str, never_there: Collection[str] = ()) -> bytes:
    """The file's bytes. Only a file that is not there or was packed badly is the photo's fault: a
    lost mount, a forbidden folder or a failing disk must stop the build, not thin out its content.

    never_there    folders that were missing, or empty, when the build began: their photos are
                   missing, too
    """
    try:
        if folder.size(file) > MAX_BYTES:
            raise PhotoError("photo_too_large", f"more than {MAX_BYTES:,} bytes")
        return folder.read(file)
    except DamagedMemberError as error:
        raise PhotoError("photo_unreadable", "damaged in its zip") from error
    except IsADirectoryError as error:
        raise PhotoError("photo_missing", "a folder in its place") from error
    except NoPlainFileError as error:
        raise PhotoError("photo_missing", "a pipe, socket or device in its place") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        parent = str(PurePosixPath(file).parent)
        if parent in never_there:
            raise PhotoError("photo_missing", f"no folder {parent}, or an empty one") from error
        if not folder.has_entries(parent):
            raise DatasetError(
                f"the folder {folder.path / parent} is gone, or empty now; put the photos back (or "
                f"mount their disk) and run the command again"
            ) from error
        raise PhotoError("photo_missing", "no such file") from error
    except OSError as error:
        raise DatasetError(
            f"cannot read {folder.where(file)}: {error.strerror or error}; mend this and run the "
            f"command again"
        ) from error


def photo_size(data: bytes) -> tuple[int, int]:
    """Width and height of a photo file's pixels as they are stored, from its header; PhotoError
    where it has none, or they are too many to decode."""
    with _opened(data) as image:
        size = _unturned_size(image)
        _check_size(data, *size, size)
        return size


def decode_photo(data: bytes, size_wh: tuple[int, int]) -> Pixels:
    """A photo file's bytes as (H, W, 3) uint8 RGB; PhotoError where it is not what its annotation
    says.

    The size is read from the header and compared before a single pixel is decoded. Pixels stay as
    they are stored: COCO's and Visual Genome's boxes follow those, so an EXIF rotation is not
    carried out. Transparency is dropped, of several frames the first counts, and 16-bit values
    give their higher byte.
    """
    if data.startswith(START_OF_IMAGE):
        return _decode_jpeg(data, size_wh)
    if data.startswith(PNG):
        return _decode_png(data, size_wh)
    return _decode_other(data, size_wh)


def _check_size(data: bytes, width: int, height: int, size_wh: tuple[int, int]) -> None:
    if width * height > MAX_PIXELS:
        raise PhotoError("photo_too_large", f"{width} x {height} px, allowed are {MAX_PIXELS:,}")
    if (width, height) != size_wh:
        detail = f"{width} x {height} px, annotated as {size_wh[0]} x {size_wh[1]}"
        if (height, width) == size_wh and _is_turned(data):
            detail += ": its size after its EXIF rotation, but boxes must follow the stored pixels"
        raise PhotoError("photo_wrong_size", detail)


def _is_turned(data: bytes) -> bool:
    """Whether its EXIF data ask for a quarter turn."""
    try:
        with _opened(data) as image:
            return image.getexif().get(ORIENTATION) in ON_ITS_SIDE
    except PhotoError:  # it is of the wrong size all the same
        return False


def _decode_jpeg(data: bytes, size_wh: tuple[int, int]) -> Pixels:
    try:
        return _decode_strictly(data, size_wh)
    except PhotoError as error:
        if "extraneous bytes before marker" not in error.detail:
            raise
    return _decode_strictly(without_strays(data), size_wh)


def _decode_strictly(data: bytes, size_wh: tuple[int, int]) -> Pixels:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise _unreadable(str(error)) from error
    _check_size(data, width, height, size_wh)
    if (scans := _count_scans(data)) > MAX_SCANS:
        raise PhotoError("photo_unreadable", f"a JPEG of {scans} scans, allowed are {MAX_SCANS}")
    if colours not in TURBO_COLOURS:
        return _decode_other(data, size_wh)
    try:
        # strict: libjpeg only warns of a file cut short and fills the rest with grey.
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except ValueError as error:
        raise _unreadable(str(error)) from error
    return pixels


def _count_scans(data: bytes) -> int:
    """`data.count(b"\\xff\\xda")`, in a quarter of its time."""
    values = np.frombuffer(data, np.uint8)
    return int(np.count_nonzero((values[:-1] == 0xFF) & (values[1:] == 0xDA)))


def _decode_png(data: bytes, size_wh: tuple[int, int]) -> Pixels:
    """Where it cannot be read whole, its pixels alone: Pillow reads no text of a megabyte, and
    nothing at all where a text's checksum is wrong."""
    try:
        return _decode_other(data, size_wh)
    except PhotoError as error:
        if error.reason != "photo_unreadable":
            raise
        try:
            return _decode_other(only_pixels(data), size_wh)
        except PhotoError:
            raise error from None


def _decode_other(data: bytes, size_wh: tuple[int, int]) -> Pixels:
    with _opened(data) as image:
        _check_size(data, *_unturned_size(image), size_wh)
        return np.array(_eight_bits(image).convert("RGB"))


def _unturned_size(image: Image.Image) -> tuple[int, int]:
    """Width and height as stored. Pillow turns TIFF files, unlike all others: the size that it says
    at once, the pixels on loading; without their EXIF entry, it leaves the pixels as they are."""
    width, height = image.size
    if isinstance(image, TiffImageFile):
        image.getexif().pop(ORIENTATION, None)
        if image.tag_v2.get(ORIENTATION) in ON_ITS_SIDE:
            return height, width
    return width, height


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """With Pillow; PhotoError for all that goes wrong until it is closed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's hints about odd files; we check for ourselves
        try:
            with Image.open(io.BytesIO(data), formats=OTHER_FORMATS) as image:
                yield image
        except PhotoError:
            raise
        except Image.DecompressionBombError as error:
            raise PhotoError("photo_too_large", str(error)) from error
        except UnidentifiedImageError as error:
            raise _unreadable(what_it_is(data) or _first_line(error)) from error
        # Its readers meet damage with KeyError, struct.error, TypeError and more of the kind.
        except Exception as error:
            raise _unreadable(_first_line(error)) from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits by its higher byte, as Pillow itself does in colour: its `convert` would
    make all above 255 white. PhotoError where nothing says what is white."""
    wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if wide:
        pixels = np.asarray(image.copy())  # of an unturned TIFF only the copy knows the size
        return Image.fromarray((pixels.astype(np.int64) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise PhotoError("photo_unreadable", f"its pixels are 32-bit numbers (mode {image.mode})")
    return image


def _first_line(error: BaseException) -> str:
    # "cannot identify image file <_io.BytesIO object at 0x7f..>" differs from run to run.
    return (str(error).splitlines() or [type(error).__name__])[0].split(" <_io")[0]


def _unreadable(message: str) -> PhotoError:
    cut = any(sign in message.lower() for sign in ("premature", "truncated", "end of file"))
    return PhotoError("photo_cut_short" if cut else "photo_unreadable", message)


def pixel_box(box: Box, width: int, height: int) -> tuple[int, int, int, int] | None:
    """left, top, right, bottom in whole pixels, at least one each way; None outside the photo."""
    if not all(map(math.isfinite, box)) or box.x1 < 0 or box.y1 < 0 or box.x0 >= 1 or box.y0 >= 1:
        return None
    left = min(max(round(box.x0 * width), 0), width - 1)
    top = min(max(round(box.y0 * height), 0), height - 1)
    right = min(max(round(box.x1 * width), left + 1), width)
    bottom = min(max(round(box.y1 * height), top + 1), height)
    return left, top, right, bottom


def cut_patches(
    photo: Pixels, boxes: Sequence[Box], patch_size: int, resizer: Resizer = "torch"
) -> Pixels:
    """(H, W, 3) and n boxes -> (n, patch_size, patch_size, 3): each box cut out, then resized.

    Cut first: Pillow's `resize(box=)` reads pixels outside the box (measured: up to 21 levels).
    """
    height, width = photo.shape[:2]
    patches = np.empty((len(boxes), patch_size, patch_size, 3), np.uint8)
    for i, box in enumerate(boxes):
        corners = pixel_box(box, width, height)
        if corners is None:
            raise ValueError(f"{box} lies outside the photo")
        left, top, right, bottom = corners
        patches[i] = resize_photo(photo[top:bottom, left:right], patch_size, resizer)
    return patches


def resize_photo(photo: Pixels, image_size: int, resizer: Resizer = "torch") -> Pixels:
    """(H, W, 3) -> (image_size, image_size, 3): antialiased bilinear, proportions given up."""
    whole = np.ascontiguousarray(photo)  # of rows with gaps torch would make a slower copy
    if resizer == "pillow":
        image = Image.fromarray(whole)
        return np.asarray(image.resize((image_size, image_size), Image.Resampling.BILINEAR))
    import torch  # here: what reads or crops photos by Pillow does without it

    # (1, 3, H, W), channels last. Permuted first, it would have strides that torch does not know
    # for channels last: the same pixels, by two copies more.
    pixels = torch.from_numpy(whole)[None].permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(
        pixels, size=(image_size, image_size), mode="bilinear", antialias=True
    )
    out: Pixels = resized[0].permute(1, 2, 0).contiguous().numpy()
    return out
