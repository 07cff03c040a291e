"""quality.arrow: how much of its box each patch's object covers, and how large the box was.

The table is optional and in neither digest. A mask is the one that the scene stores: 16x16 cells
over the box. In a scene with masks an object without one of its own is stored as filling its box
(pipeline/pack.py), so its share is 1; in a scene without masks every share is unknown.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bank.contents import Contents
from bank.table import column, read_table, sound, whole_column, write_sorted
from pipeline.pack import SceneSample

QUALITY_FILE = "quality.arrow"
QUALITY = pa.schema(
    [
        ("patch_id", pa.int64()),
        ("mask_share", pa.float32()),  # of the box's area; null where unknown
        ("width_px", pa.float32()),  # of the box, in pixels of its photo
        ("height_px", pa.float32()),
    ]
)
BOX = ("x0", "y0", "x1", "y1", "source_width", "source_height")


class Quality(NamedTuple):
    """What is known of patches; all of one shape."""

    mask_share: NDArray[np.float32]  # of the box's area that the mask covers; NaN where unknown
    width_px: NDArray[np.float32]  # of the box, in pixels of its photo
    height_px: NDArray[np.float32]


def quality_rows(contents: Contents, image_ids: NDArray[np.int64]) -> pa.Table:
    """Rows of quality.arrow for the patches of some scenes (at least one), by rising patch id.

    The scenes' pictures are not read. BankError where a scene cannot be read.
    """
    samples = list(contents.iterate(image_ids, image=False))
    ids = np.concatenate([sample.patch_ids for sample in samples])
    shares = np.concatenate([mask_shares(sample) for sample in samples])
    order = np.argsort(ids)
    boxes = contents.table.select(BOX).take(pa.array(contents.patches.rows(ids[order])))
    widths, heights = box_sides(boxes)
    known = pa.array(shares[order], from_pandas=True)  # NaN becomes null
    return pa.table([ids[order], known, widths, heights], schema=QUALITY)


def mask_shares(sample: SceneSample) -> NDArray[np.float32]:
    """(n,) in [0, 1], the share of each object's box that its mask covers; NaN without masks."""
    if sample.masks is None:
        return np.full(len(sample.patch_ids), np.nan, np.float32)
    shares: NDArray[np.float32] = sample.masks.mean((1, 2), dtype=np.float32)
    return shares


def box_sides(table: pa.Table) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Widths and heights (B,) of the boxes in rows of patches.arrow, in pixels of their photos."""
    across = (column(table, "x1") - column(table, "x0")) * column(table, "source_width")
    down = (column(table, "y1") - column(table, "y0")) * column(table, "source_height")
    # Boxes are float32: a box of 64 px may come out as 63.9999.
    return across.round(2).astype(np.float32), down.round(2).astype(np.float32)


def join_quality(path: Path, parts: Sequence[Path]) -> None:
    """Tables of blocks of scenes (at least one) -> quality.arrow, a column in memory at a time."""
    write_sorted(path, pa.concat_tables([read_table(p, QUALITY.names) for p in parts]), "patch_id")


def read_quality(path: Path) -> tuple[NDArray[np.int64], Quality]:
    """Patch ids (B,) and what is known of them (B,); ids and sides stay on disk until used."""
    table = read_table(path, QUALITY.names)
    with sound(str(path)):
        shares = whole_column(table, "mask_share").to_numpy(zero_copy_only=False)
    sides = (column(table, name) for name in ("width_px", "height_px"))
    return column(table, "patch_id"), Quality(shares, *sides)
