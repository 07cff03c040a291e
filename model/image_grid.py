"""Grids of patches and images, for a run's samples."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pipeline.crop import Pixels

GAP = 4  # px between cells


def _cell(pixels: Pixels, side: int) -> Image.Image:
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def images_side_by_side(columns: Sequence[Pixels], side: int = 128) -> Image.Image:
    """A row per scene, an image per column; each column (N, H, W, 3)."""
    shape = (len(columns) * (side + GAP), len(columns[0]) * (side + GAP))
    sheet = Image.new("RGB", shape, "white")
    for across, column in enumerate(columns):
        for down, image in enumerate(column):
            sheet.paste(_cell(image, side), (across * (side + GAP), down * (side + GAP)))
    return sheet


def patches_and_images(
    object_image: Sequence[int], patches: Pixels, columns: Sequence[Pixels], side: int = 128
) -> Image.Image:
    """A row per scene: its patches at half size, then one image per column.

    object_image (O,), patches (O, P, P, 3), each column (N, H, W, 3).
    """
    rows = len(columns[0])
    longest = max(np.bincount(object_image, minlength=rows))
    half = (side - GAP) // 2
    across = (longest + 1) // 2 * (half + GAP)
    width = across + len(columns) * (side + GAP)
    sheet = Image.new("RGB", (width, rows * (side + GAP)), "white")
    for row in range(rows):
        top = row * (side + GAP)
        for i, patch in enumerate(patches[np.asarray(object_image) == row]):
            at = (i // 2 * (half + GAP), top + i % 2 * (half + GAP))
            sheet.paste(_cell(patch, half), at)
        for i, column in enumerate(columns):
            sheet.paste(_cell(column[row], side), (across + i * (side + GAP), top))
    return sheet
