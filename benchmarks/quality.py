"""Which patches are worth offering: what --min-coverage and --min-side leave out, and whether it
looks less like its category.

python -m benchmarks.quality --bank bank/coco --out candidates.png --categories sky-other grass

A patch that shows its category has patches of that category among those of other photos that look
most like it, as EfficientNet-lite0 (extra `scores`) sees them. Their share, less the mean of the
category, is told by coverage and by side, for categories of enough patches; the error is that of a
mean of independent patches. Prints Markdown. The picture has two rows for each of a few training
objects: its true patch and its nearest candidates, then those of the quality asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from model.config import MinQuality, RetrievalConfig
from pipeline.options import option, run

COVERAGES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0)
SIDES = (0, 32, 48, 64, 96, 192, 100_000)  # px
NEAREST = 5  # looked at
FEW = 8  # patches; smaller categories are left out of the shares
ROW = 10  # candidates in the picture
OBJECTS = 3  # of each category in the picture


@dataclass(frozen=True, kw_only=True)
class QualityOptions:
    bank: Annotated[Path, option("built bank, with masks")]
    out: Annotated[Path | None, option("PNG of candidates without and with the quality")] = None
    categories: Annotated[tuple[str, ...], option("of the picture")] = ("sky-other", "grass")
    min_coverage: Annotated[float, option("of the picture")] = 0.3
    min_side: Annotated[int, option("px, of the picture")] = 48


def main(options: QualityOptions) -> None:
    from bank.bank import Bank
    from model.offer import left_out

    bank = Bank.open(options.bank)
    asked = MinQuality(options.min_coverage, options.min_side)
    each = [MinQuality(coverage) for coverage in COVERAGES[1:-1]]
    each += [MinQuality(side=side) for side in SIDES[1:-2]]
    for minimum in (*each, asked):
        rule = RetrievalConfig(min_coverage=minimum.coverage, min_side=minimum.side)
        print(f"- {left_out(bank, rule)}")
    excess, counted = own_category(bank)
    quality = bank.quality(bank.patch_ids)
    side = np.minimum(quality.width_px, quality.height_px)
    for name, values, bounds in (
        ("coverage", quality.mask_share, COVERAGES),
        ("side", side, SIDES),
    ):
        print_shares(name, excess[counted], values[counted], bounds)
    if options.out is not None:
        picture(bank, options.categories, asked).save(options.out)


def own_category(bank: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of each patch, the share of its category among the most alike, less the category's mean (B,);
    and whether its category has enough patches (B,)."""
    import torch
    from torch.nn import functional as F

    from model.scores.extractors import open_extractor

    extractor = open_extractor("efficientnet-lite0", None, torch.device("cpu"))
    units = F.normalize(extractor.features(bank.patches(bank.patch_ids)).vectors, dim=1)
    alike = (units @ units.T).numpy()
    photos = bank.contents.photos_of_patches
    alike[photos[:, None] == photos] = -2  # of one photo: last
    names = bank.table["category"].to_numpy()
    _, codes, sizes = np.unique(names, return_inverse=True, return_counts=True)
    nearest = np.argsort(-alike, axis=1)[:, :NEAREST]
    share = (codes[nearest] == codes[:, None]).mean(1)
    means = np.bincount(codes, share) / sizes
    return share - means[codes], sizes[codes] >= FEW


def print_shares(
    name: str, excess: np.ndarray, values: np.ndarray, bounds: Sequence[float]
) -> None:
    print(f"\n| {name} | patches | of its category among the {NEAREST} most alike, less the mean |")
    print("|---|---:|---:|")
    for low, high in pairwise(bounds):
        last = high == bounds[-1]
        some = excess[(values >= low) & ((values < high) | last)]
        if len(some):
            error = some.std() / len(some) ** 0.5
            to = " and more" if last else f" to {high:g}"
            print(f"| {low:g}{to} | {len(some):,} | {some.mean():+.3f} ± {error:.3f} |")


def picture(bank: Any, categories: Sequence[str], asked: MinQuality) -> Any:
    """Two rows for each of some objects: its true patch, then its nearest candidates."""
    from PIL import Image

    from jobs.show.sheets import CELL, sheet
    from model.offer import selectable, stored_offer

    names = bank.table["category"].to_numpy()
    cells, labels = [], []
    for category in categories:
        ids = bank.patch_ids[
            (names == category) & np.isin(bank.patch_ids >> 16, bank.scene_ids("train"))
        ]
        for patch in ids[np.linspace(0, len(ids) - 1, min(OBJECTS, len(ids))).astype(int)]:
            for minimum in (MinQuality(), asked):
                offered, (below,) = stored_offer(bank, patch[None], ROW, minimum)
                shown = np.where(selectable(bank, offered), offered.ids, -1)[0]
                row = np.r_[patch, shown]
                share, width, height = bank.quality(row)
                sides = np.minimum(width, height)
                for pixels, identity, s, px in zip(
                    bank.patches(row), row, share, sides, strict=True
                ):
                    cell = (
                        Image.fromarray(pixels)
                        if identity >= 0
                        else Image.new("RGB", (1, 1), "white")
                    )
                    cells.append(cell.resize((CELL, CELL)))
                    labels.append(f"{s:.2f}, {px:.0f} px" if identity >= 0 else "")
                title = minimum.flags or "any"
                labels[-len(row)] = f"{category}: {title}" + (" (falls short)" if below else "")
    return sheet(cells, labels, across=ROW + 1)


if __name__ == "__main__":
    run(main, QualityOptions, __doc__)
