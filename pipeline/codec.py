"""Which decoders and resizers this process has, and whether they answer as they should.

Decoders of other builds give other pixels for the same JPEG (libjpeg-turbo differs from libjpeg
from version 7 on), and a version number does not tell a patched build. So a build first decodes
two small JPEGs and resizes a pattern, and compares the pixels with what they should be.
"""

import functools
import hashlib
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import PIL
from PIL import features

from pipeline.crop import Pixels, decode_photo, resize_photo
from pipeline.resizer import Resizer

IMAGES = Path(__file__).parent / "known_answers"
SIZE = (37, 29)  # px, of both
SIDE = 16  # px, of what the pattern is resized to
# What simplejpeg 1.9.0 (libjpeg-turbo 3.1), Pillow 13.0.0 and torch 2.13.0 answer.
KNOWN_ANSWERS = {
    "JPEG": "8201a3083db5e4e0",
    "CMYK JPEG": "9423375cd20c293a",
    "resizer torch": "68cebd1a7ba7fd9f",
    "resizer pillow": "6d511251087ca36d",
}
PACKAGES = ("numpy", "torch", "simplejpeg", "lmdb", "pyarrow", "webdataset", "pycocotools")
FAISS = ("faiss-cpu", "faiss-gpu")


@functools.cache
def answers() -> Mapping[str, str]:
    """What this process makes of the known images: name -> 16 hex digits of its pixels' SHA-256."""
    column, row = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    noise = [column**2 * 7 + row**2 * 13, column * row * 5, column**3 + row * 91]
    pattern = (np.stack(noise, -1) % 256).astype(np.uint8)
    return {
        "JPEG": _digest(decode_photo((IMAGES / "colour.jpg").read_bytes(), SIZE)),
        "CMYK JPEG": _digest(decode_photo((IMAGES / "cmyk.jpg").read_bytes(), SIZE)),
        "resizer torch": _digest(resize_photo(pattern, SIDE, "torch")),
        "resizer pillow": _digest(resize_photo(pattern, SIDE, "pillow")),
    }


def _digest(pixels: Pixels) -> str:
    return hashlib.sha256(pixels.tobytes()).hexdigest()[:16]


def answers_with(resizer: Resizer) -> dict[str, str]:
    """Those that a bank of this resizer depends on."""
    return {
        n: a for n, a in answers().items() if not n.startswith("resizer") or n.endswith(resizer)
    }


def differing(ours: Mapping[str, str], others: Mapping[str, str]) -> list[str]:
    """The names of the answers that both have and that are not the same."""
    return [name for name in sorted(ours) if name in others and ours[name] != others[name]]


def versions() -> dict[str, str]:
    """Of all that decides a bank's bytes: package -> version."""
    by_package = {"python": platform.python_version(), pillow()[0]: pillow()[1]}
    for name in (*PACKAGES, *FAISS):
        try:
            by_package[name] = version(name)
        except PackageNotFoundError:
            continue
    turbo = features.version("libjpeg_turbo")
    by_package["libjpeg of pillow"] = f"turbo {turbo}" if turbo else str(features.version("jpg"))
    return dict(sorted(by_package.items()))


def pillow() -> tuple[str, str]:
    """Which of the two packages that provide `PIL` was imported, and its version.

    pip knows only which were installed; the later one has overwritten the other's files.
    """
    imported: str = PIL.__version__
    return ("pillow-simd" if ".post" in imported else "pillow"), imported


def machine() -> dict[str, str]:
    """What besides the versions decides the last bits of networks trained here."""
    import torch

    return {
        "processor": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
    }
