"""A bank as lines of numbers, and as one page with contact sheets that needs no other file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bank.bank import Bank
from bank.duplicates import WHAT_IS_NEAR
from bank.shards import close_shards
from bank.statistics import (
    CategoryCount,
    DuplicateCount,
    Statistics,
)
from jobs.show.page import EmbeddedImage, environment, jpeg
from pipeline.address import Location
from pipeline.crop import Pixels
from pipeline.licences import short_name
from pipeline.options import to_json
from pipeline.progress import progress
from pipeline.wording import counted

# What keeps the page under 30 MB, whatever the bank holds.
MOST_PICTURES = 7200  # patches shown
MOST_PER_CATEGORY, LEAST_PER_CATEGORY = 48, 12
MOST_CATEGORIES = 2000  # rows; the most frequent
MOST_BYTES = 22_000_000  # of all sheets, as text
MOST_TEXT = 300  # characters of a text from a dataset
MOST_LICENCES = 30
CELL = 64  # px, side of a patch in a sheet
ACROSS = 12
QUALITY = 80
SHOWN_ELSEWHERE = ("files", "shards", "counts", "left_out")  # of the manifest, or too long


class Credit(NamedTuple):
    """What the page shows of the patch under the pointer."""

    patch: str  # its id: JavaScript's numbers are too short
    photo: str
    licence: str
    url: str  # "" where there is none that may be followed


class Sheet(NamedTuple):
    """Patches of one category as one picture, `ACROSS` in a row."""

    picture: EmbeddedImage
    credits: tuple[Credit, ...]


class CategoryEntry(NamedTuple):
    counts: CategoryCount
    sheet: Sheet | None


def lines(path: Location, bank: Bank, statistics: Statistics) -> list[str]:
    """The numbers, short."""
    train, val, test = statistics.splits
    held = sum(c.patches > 0 for c in statistics.categories)
    tenth, median, most = statistics.side_px
    recalls = [c.recall for c in statistics.categories if c.recall is not None]
    ranked = sorted(statistics.categories, key=lambda c: -c.patches)[:held]
    return [
        f"{path}: {counted(statistics.patches, 'patch')} of {counted(held, 'category')} from "
        f"{counted(statistics.photos, 'photo')} (train {train:,}, val {val:,}, test {test:,})",
        f"by category: {_listed([f'{c.name} {c.patches:,}' for c in ranked])}",
        f"boxes: median side {median:.0f} px (10 % under {tenth:.0f}, 10 % over {most:.0f}); "
        f"{_percent(statistics.enlarged)} have a side under the patch's {bank.patch_size} px, "
        f"{_percent(statistics.wholly_enlarged)} both",
        f"masks cover: {_masks(statistics)}",
        f"licences: {_listed([f'{name} {n:,}' for name, n in _short_licences(statistics)])}",
        f"equal patches: {_duplicates(statistics.equal)}",
        f"equal or near duplicates: {_duplicates(statistics.alike)}; "
        f"{statistics.flat:,} too flat to compare",
        f"no patch at all: {_listed([c.name for c in statistics.empty])}",
        f"fewer than {statistics.candidates} training patches: "
        f"{_listed([f'{c.name} {c.splits[0]}' for c in statistics.thin])}; "
        f"{_percent(statistics.fallback)} of all candidates are of another category",
        f"index recall: {min(recalls, default=1):.4f} at least, "
        f"{sum(r == 1 for r in recalls):,} of {counted(len(recalls), 'category')} exact",
        f"left out: {_listed([f'{f.times:,} {f.reason}' for f in statistics.failures])}",
    ]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def _listed(names: Sequence[str], most: int = 8) -> str:
    """The first few, and how many more."""
    if not names:
        return "none"
    more = len(names) - most
    return ", ".join(_short(n) for n in names[:most]) + (f" and {more:,} more" if more > 0 else "")


def _masks(statistics: Statistics) -> str:
    shares = statistics.mask_shares
    if shares is None:
        return "unknown for every patch"
    tenth, median, most = map(_percent, shares.quantiles)
    return (
        f"median {median} of the box (10 % under {tenth}, 10 % over {most}); "
        f"unknown for {counted(shares.unknown, 'patch')}"
    )


def _duplicates(count: DuplicateCount) -> str:
    return (
        f"{count.anywhere:,} ({count.other_photo:,} in another photo; {count.in_training:,} of "
        f"val and test in train)"
    )


def _short_licences(statistics: Statistics) -> list[tuple[str, int]]:
    """Patches by a licence's short name."""
    counts: dict[str, int] = {}
    for licence, patches, _ in statistics.licences:
        counts[short_name(licence)] = counts.get(short_name(licence), 0) + patches
    return list(counts.items())


def _short(text: str, most: int = MOST_TEXT) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def render(bank: Bank, statistics: Statistics) -> str:
    """The page."""
    shown = show_categories(bank, statistics)
    facts = {
        "patches": f"{statistics.patches:,}",
        "photos": f"{statistics.photos:,}",
        "train / val / test": " / ".join(f"{n:,}" for n in statistics.splits),
        "enlarged in a direction": _percent(statistics.enlarged),
        "fallback candidates": _percent(statistics.fallback),
        "left out": f"{statistics.left_out:,}",
    }
    settings = {
        field.name.replace("_", " "): _rows(value)
        for field in fields(bank.manifest)
        if field.name not in SHOWN_ELSEWHERE
        and isinstance(value := getattr(bank.manifest, field.name), Mapping)
    }
    if edits := bank.manifest.edits:
        settings["edits"] = _rows({str(number): edit for number, edit in enumerate(edits, 1)})
    template = environment()
    template.filters.update(percent=_percent, short=_short, licence=short_name, anchor=anchor)
    return template.get_template("inspect_bank.html").render(
        bank=bank,
        statistics=statistics,
        facts=facts,
        categories=shown,
        unshown=sum(c.patches > 0 for c in statistics.categories) - len(shown),
        pictured=sum(category.sheet is not None for category in shown),
        pairs=_show_pairs(bank, statistics),
        settings=settings,
        near=WHAT_IS_NEAR,
        cell=CELL,
        most_licences=MOST_LICENCES,
        most_names=MOST_CATEGORIES,
    )


def _rows(values: Mapping[str, Any]) -> dict[str, str]:
    """Settings as they are shown: what is no text as JSON."""
    shown = {}
    for name, value in to_json(values).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        shown[_short(name)] = _short(text, 4 * MOST_TEXT)
    return shown


def show_categories(bank: Bank, statistics: Statistics) -> tuple[CategoryEntry, ...]:
    """The most frequent first, with sheets as far as the page has room."""
    ranked = sorted((c for c in statistics.categories if c.patches), key=lambda c: -c.patches)
    listed = ranked[:MOST_CATEGORIES]
    each = MOST_PICTURES // max(1, len(listed)) // ACROSS * ACROSS  # whole rows
    each = min(MOST_PER_CATEGORY, max(LEAST_PER_CATEGORY, each))
    room = MOST_BYTES
    shown: list[CategoryEntry] = []
    coded = bank.table.column("category").combine_chunks().dictionary_encode()
    codes = coded.indices.to_numpy()
    code_of = {name: code for code, name in enumerate(coded.dictionary.to_pylist())}
    for count in progress(listed, "contact sheets", len(listed), "category"):
        sheet = None
        if room > 0 and len(shown) * each < MOST_PICTURES:
            rows = np.flatnonzero(codes == code_of[count.name])
            some = np.linspace(0, len(rows) - 1, min(each, len(rows))).astype(int)
            sheet = make_sheet(bank, bank.patch_ids[rows[some]])
            room -= len(sheet.picture.url)
        shown.append(CategoryEntry(count, sheet if room > 0 else None))
    return tuple(shown)


def anchor(name: str) -> str:
    """What follows # in a link to a category: an id may hold no white space."""
    return "_".join(name.split())[:MOST_TEXT]


def _show_pairs(bank: Bank, statistics: Statistics) -> Sheet | None:
    """Near duplicates in two photos, one under the other."""
    if not statistics.pairs:
        return None
    rows = [
        statistics.pairs[start : start + ACROSS]
        for start in range(0, len(statistics.pairs), ACROSS)
    ]
    ids = []
    for row in rows:
        blank = [-1] * (ACROSS - len(row))  # a negative id is padding: a white cell
        ids += [a for a, _ in row] + blank + [b for _, b in row] + blank
    return make_sheet(bank, np.array(ids))


def make_sheet(bank: Bank, ids: NDArray[np.int64]) -> Sheet:
    """Patches as one JPEG, and whose they are."""
    pixels = bank.patches(ids)
    pixels[ids < 0] = 255
    picture = jpeg(Image.fromarray(tiled(pixels)), QUALITY)
    close_shards()
    credits = {row["patch_id"]: row for row in bank.credits(ids[ids >= 0].tolist())}
    return Sheet(picture, tuple(_credit(credits.get(patch)) for patch in ids.tolist()))


def _credit(row: Mapping[str, Any] | None) -> Credit:
    if row is None:
        return Credit("", "", "", "")
    url = row["source_url"]
    follow = url.startswith(("http://", "https://")) and len(url) <= MOST_TEXT
    return Credit(
        str(row["patch_id"]),
        _short(row["file"]),
        _short(short_name(row["licence"])),
        url if follow else "",
    )


def tiled(patches: Pixels) -> Pixels:
    """(n, patch_size, patch_size, 3) -> rows of ACROSS cells, or one row as long as needed."""
    if patches.shape[1] != CELL:
        size = (CELL, CELL)
        small = [Image.fromarray(patch).resize(size, Image.Resampling.BOX) for patch in patches]
        patches = np.stack([np.asarray(patch) for patch in small])
    across = min(ACROSS, len(patches))
    down = -(-len(patches) // across)
    cells = np.full((down * across, CELL, CELL, 3), 255, np.uint8)
    cells[: len(patches)] = patches
    rows = cells.reshape(down, across, CELL, CELL, 3).swapaxes(1, 2)
    return rows.reshape(down * CELL, across * CELL, 3)
