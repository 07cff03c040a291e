"""What is in a photo's file beside its pixels: what stands in a decoder's way, and what it is."""

import re

START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN = b"\xff\xd8", 0xD9, 0xDA
PNG = b"\x89PNG\r\n\x1a\n"
# Of a PNG's chunks, those that say what its pixels are; the first frame's, where it has several.
PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT")

_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_MARKER_AFTER_SCAN = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)

# By the first bytes: files that people name .jpg, and that Pillow or we do not read.
_KINDS = (
    (rb".{4}ftyp(avif|avis|hei[cfmsx]|hev[cmsx]|mif1|msf1)", "an AVIF (or HEIC) photo"),
    (rb".{4}ftyp", "a video"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL photo"),
    (rb"\0\0\0\x0cjP|\xff\x4f\xff\x51", "a JPEG 2000 photo"),
    (rb"8BPS", "a Photoshop file"),
    (rb"%PDF", "a PDF"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!DOCTYPE svg|<svg)", "an SVG drawing"),
)
_NO_PHOTOS = (
    (rb"$", "an empty file"),
    (rb"\s*<(!doctype html|html|head|body)", "a web page"),
    (rb"\s*(<\?xml|\{)", "an answer of a server"),
    (rb"version https://git-lfs", "a pointer of Git LFS (`git lfs pull` gets the file)"),
    (rb"PK\x03\x04", "a zip"),
)


def what_it_is(data: bytes) -> str | None:
    """Of a file that cannot be decoded: what it is and what to do; None where that is unknown."""
    for pattern, name in _KINDS:
        if re.match(pattern, data, re.DOTALL):
            return f"{name}, which is not read: convert it to JPEG or PNG"
    for pattern, name in _NO_PHOTOS:
        if re.match(pattern, data[:512], re.DOTALL | re.IGNORECASE):
            return f"{name}, no photo: put the photo in its place"
    return None


def without_strays(jpeg: bytes) -> bytes:
    """A JPEG without bytes that lie between its segments, as some cameras write them: decoders skip
    them and warn. What follows a scan stays as it is: there it may be damaged pixels."""
    kept, at, in_scan = [jpeg[:2]], 2, False
    while marker := (_MARKER_AFTER_SCAN if in_scan else _MARKER).search(jpeg, at):
        if in_scan:
            kept.append(jpeg[at : marker.start()])
        code, start = marker[1][0], marker.start()
        if code == END_OF_IMAGE:
            return b"".join([*kept, jpeg[start:]])
        at = marker.end() + int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
        kept.append(jpeg[start:at])
        in_scan = code == START_OF_SCAN
    return b"".join([*kept, jpeg[at:]])


def only_pixels(png: bytes) -> bytes:
    """A PNG without text, profiles, times and whatever else lies beside its pixels."""
    kept, at = [png[: len(PNG)]], len(PNG)
    while at + 12 <= len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] in PIXEL_CHUNKS:
            kept.append(png[at:end])
        at = end
    return b"".join(kept)
