"""Sheets of labelled images: patches, and the photos that they were cut from."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bank.bank import Bank
from bank.recipe import folder_of
from bank.table import read_table
from pipeline.checks import clip, stays_inside
from pipeline.crop import PhotoError, Pixels, decode_photo, read_photo
from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError, UserError

CELL = 96  # px, side of a patch in a sheet
GAP = 6  # px between cells
LINE = 14  # px, height of a line of text
TEXT_COLOUR = (40, 40, 40)
BOX_COLOUR = (220, 40, 60)
MOST_ACROSS = 8


class Source(NamedTuple):
    """The photo that a patch was cut from, and its credit."""

    patch_id: int
    category: str
    file: str  # of the photo, relative to the data folder
    licence: str
    source_url: str
    view: Image.Image  # the photo with the patch's box drawn
    original: bool  # False: that photo is not on this disk, the view is of the bank's copy


def sources_of(bank: Bank, patch_ids: Sequence[int], photos: Path | None) -> list[Source]:
    """The source of each patch. Where its photo is not in the folder `photos`, or is another than
    the patch was cut from, the view is of the bank's own, smaller copy."""
    sources = []
    rows = bank.rows(np.asarray(patch_ids, np.int64))
    digests = {} if photos is None else photo_digests(bank)
    for credit, row in zip(
        bank.credits(list(patch_ids)), bank.table.take(rows).to_pylist(), strict=True
    ):
        photo = (
            None
            if photos is None
            else _photo(photos, credit["file"], row, digests.get(credit["image_id"]))
        )
        original = photo is not None
        pixels = bank.scene(credit["image_id"]).image if photo is None else photo
        size = (row["source_width"], row["source_height"])
        sources.append(
            Source(
                credit["patch_id"],
                credit["category"],
                credit["file"],
                credit["licence"],
                credit["source_url"],
                _view(pixels, size, tuple(row[c] for c in ("x0", "y0", "x1", "y1"))),
                original,
            )
        )
    return sources


def photos_folder(bank: Bank, data: Path | None) -> Path | None:
    """`data`, or by default the folder of the bank's dataset; None if that is not on this disk."""
    if data is not None and not data.is_dir():
        raise UserError(f"--data {data}: there is no such folder; leave it out, or name another")
    folder = data or folder_of(bank.manifest.recipe)
    return folder if folder.is_dir() else None


def photo_digests(bank: Bank) -> dict[int, str]:
    """SHA-256 of the photos' files, by image id; none in banks of earlier versions."""
    path = bank.file("photos.arrow")
    if not path.is_file():
        return {}
    table = read_table(path, ("image_id", "sha256"))
    ids, digests = (table[name].to_pylist() for name in ("image_id", "sha256"))
    return {id_: d.hex() for id_, d in zip(ids, digests, strict=True) if d is not None}


def _photo(folder: Path, file: str, row: dict[str, int], sha256: str | None) -> Pixels | None:
    """The photo's pixels; None if the file is gone, is not the one with that SHA-256 (another
    dataset's photos have the same names), or cannot be decoded."""
    if not stays_inside(file):  # somebody else's bank may name any path
        return None
    try:
        data = read_photo(DataFolder(folder), file)
        if hashlib.sha256(data).hexdigest() != sha256:
            return None
        return decode_photo(data, (row["source_width"], row["source_height"]))
    except (PhotoError, DatasetError):
        return None


def _view(
    pixels: Pixels, size: tuple[int, int], box: tuple[float, ...], longest: int = 192
) -> Image.Image:
    """A photo with a box drawn into it, its longer side `longest` px. `size` restores the photo's
    aspect ratio: the bank's copy is square."""
    scale = longest / max(size)
    width, height = (max(1, round(side * scale)) for side in size)
    view = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    x0, y0, x1, y1 = box
    corners = [x0 * (width - 1), y0 * (height - 1), x1 * (width - 1), y1 * (height - 1)]
    draw = ImageDraw.Draw(view)
    draw.rectangle(corners, outline=(255, 255, 255), width=4)
    draw.rectangle(corners, outline=BOX_COLOUR, width=2)
    return view


def patch_sheet(patches: Pixels, labels: Sequence[str]) -> Image.Image:
    """Patches (n, P, P, 3), each over its label."""
    cells = [
        Image.fromarray(patch).resize((CELL, CELL), Image.Resampling.BICUBIC) for patch in patches
    ]
    return sheet(cells, labels)


def sheet(
    cells: Sequence[Image.Image], labels: Sequence[str], across: int = MOST_ACROSS
) -> Image.Image:
    """Images in rows of `across`, each over its label, whose lines are wrapped to its width."""
    font = ImageFont.load_default(size=11)
    width = max(cell.width for cell in cells)
    height = max(cell.height for cell in cells)
    wrapped = [_wrapped(label, font, width) for label in labels]
    lines = max(map(len, wrapped))
    across = min(len(cells), across)
    down = -(-len(cells) // across)
    step = (width + GAP, height + lines * LINE + GAP)
    page = Image.new("RGB", (across * step[0] + GAP, down * step[1] + GAP), "white")
    draw = ImageDraw.Draw(page)
    for i, (cell, label) in enumerate(zip(cells, wrapped, strict=True)):
        x, y = GAP + i % across * step[0], GAP + i // across * step[1]
        page.paste(cell, (x, y))
        for n, line in enumerate(label):
            draw.text((x, y + height + n * LINE), line, fill=TEXT_COLOUR, font=font)
    return page


def _wrapped(
    label: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[str]:
    """A label's lines, none wider than `width` px: broken between words, or within one that is
    wider by itself."""
    lines: list[str] = []
    for text in label.split("\n"):
        lines.append("")
        for word in clip(text).split(" "):
            longer = f"{lines[-1]} {word}" if lines[-1] else word
            if font.getlength(longer) <= width:
                lines[-1] = longer
                continue
            if lines[-1]:
                lines.append("")
            for letter in word:
                if font.getlength(lines[-1] + letter) > width:
                    lines.append("")
                lines[-1] += letter
    return lines
