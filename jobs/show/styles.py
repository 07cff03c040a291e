"""The hidden styles of a toy bank's photos, which scores alone read."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bank.bank import Bank
from bank.files import file_digest
from bank.recipe import folder_of
from pipeline.errors import UserError
from pipeline.scene import image_of

OUT_OF_RANGE = (RecursionError, OverflowError)  # JSON nested too deeply, or with an infinite number
MOST_STYLES = 1000  # in a file of styles; the toy world has twelve


def styles_file(path: Path | None, bank: Bank) -> Path | None:
    """The file of styles: the one that was named, or that of the bank's toy world where it lies in
    its default place; None where there is none."""
    if path is None:
        recipe = bank.manifest.recipe
        path = folder_of(recipe) / "styles.json"
        toy = recipe.get("dataset") == "toy"
        return path if toy and path.is_file() and not foreign_annotations(path, bank) else None
    if foreign := foreign_annotations(path, bank):
        raise UserError(
            f"{foreign} is not what {bank.path} was built from, so {path} is of another toy world; "
            f"give the styles.json of the bank's own photos"
        )
    return path


def read_styles(path: Path, bank: Bank) -> NDArray[np.int64]:
    """The style of each patch's photo, in the order of `bank.patch_ids`."""
    try:
        value = json.loads(path.read_text("utf-8"))["styles"]
        style_by_image = {int(image_id): int(style) for image_id, style in value.items()}
    except OSError as error:
        raise UserError(f"--styles {path} cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, *OUT_OF_RANGE) as error:
        raise UserError(
            f'{path} is no file of styles: it should read {{"styles": {{"<image id>": 3, ...}}}}'
        ) from error
    image_ids = image_of(bank.patch_ids)
    return np.array([_style_of(int(i), style_by_image, path) for i in image_ids], np.int64)


def _style_of(image_id: int, style_by_image: Mapping[int, int], path: Path) -> int:
    style = style_by_image.get(image_id, -1)
    if not 0 <= style < MOST_STYLES:
        raise UserError(
            f"{path} has no style for photo {image_id} of the bank; give the styles.json beside "
            f"the photos that the bank was cut from"
        )
    return style


def foreign_annotations(styles: Path, bank: Bank) -> Path | None:
    """An annotation file in the folder of the styles that the bank was not built from, if any.

    Two toy worlds can have the same image ids. Without this check the styles of one would be
    accepted for the other.
    """
    for name, digest in bank.manifest.inputs.items():
        annotations = styles.parent / name
        if annotations.is_file() and file_digest(annotations).sha256 != digest:
            return annotations
    return None
