"""Parts of self-contained HTML pages: the templates' environment, images as data URIs."""

import base64
import errno
import io
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from PIL import Image

from pipeline.crop import Pixels
from pipeline.errors import UserError
from pipeline.wording import counted

TEMPLATES = Path(__file__).parent / "templates"


class EmbeddedImage(NamedTuple):
    """An image embedded in the page."""

    url: str  # data:image/png;base64,...
    width: int  # px
    height: int  # px


def check_place(path: Path) -> None:
    """UserError where no page can be written at `path`: asked before the work that it shows."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}; name another file with --out"
        ) from error


def environment() -> jinja2.Environment:
    """Where templates are found. Every value is escaped: names come from datasets and files."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["counted"] = counted
    return environment


def png(pixels: Pixels) -> EmbeddedImage:
    """Lossless; pixels (H, W, 3) uint8."""
    return _embedded(Image.fromarray(pixels), "png", optimize=True)


def jpeg(image: Image.Image, quality: int = 88) -> EmbeddedImage:
    return _embedded(image, "jpeg", quality=quality)


def _embedded(image: Image.Image, format: str, **settings: Any) -> EmbeddedImage:
    file = io.BytesIO()
    image.save(file, format, **settings)
    text = base64.b64encode(file.getvalue()).decode()
    return EmbeddedImage(f"data:image/{format};base64,{text}", image.width, image.height)
