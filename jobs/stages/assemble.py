"""Shards that have been cut -> the bank's tables, vocabulary.json and failures.jsonl."""

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from bank.contents import write_vocabulary
from bank.errors import BankError
from bank.files import canonical_json
from bank.table import PATCHES, PHOTOS, SCENES, read_table, write_sorted
from jobs.stages.cutting import read_shard_failures
from jobs.stages.receipts import WORK
from pipeline.checks import clip
from pipeline.files import write_bytes
from pipeline.scene import LeftOut, Vocabulary

QUARANTINED = "quarantined"
KINDS = ("patches", "scenes", "photos")  # tables of a shard


class Assembled(NamedTuple):
    """What the shards of a bank say, joined."""

    left_out: tuple[LeftOut, ...]
    files: tuple[Path, ...]  # that were written


def assemble(
    bank: Path, shards: Sequence[str], vocabulary: Vocabulary, quarantine: Iterable[int] = ()
) -> Assembled:
    """Join what the shards say, in an order that does not depend on them.

    quarantine    image ids that are in no shard
    """
    rows = bank / WORK / "shards"
    left_out = [LeftOut(i, None, QUARANTINED, "by --quarantine or edit_bank") for i in quarantine]
    left_out += (row for name in shards for row in read_shard_failures(bank, name))
    left_out.sort(key=lambda r: (r.image_id, -1 if r.object_index is None else r.object_index))
    tables = {kind: [rows / f"{name}.{kind}.arrow" for name in shards] for kind in KINDS}
    patches, scenes, photos = (
        bank / name for name in ("patches.arrow", "scenes.index.arrow", "photos.arrow")
    )
    names, failures = bank / "vocabulary.json", bank / "failures.jsonl"
    write_bytes(failures, b"".join(_line(row) for row in left_out))
    if not _merge(patches, tables["patches"], PATCHES, "patch_id"):
        raise BankError(_none_usable(left_out, failures))
    _merge(scenes, tables["scenes"], SCENES, "image_id")
    _merge(photos, tables["photos"], PHOTOS, "image_id")
    write_vocabulary(names, vocabulary)
    return Assembled(tuple(left_out), (patches, scenes, photos, names, failures))


def _none_usable(left_out: Sequence[LeftOut], failures: Path) -> str:
    if not left_out:
        return "not one photo could be used (there is none): is --data right?"
    row = next((r for r in left_out if r.reason not in (QUARANTINED, "box_outside")), left_out[0])
    return (
        f"not one photo could be used ({count_reasons(left_out)}), e.g. image {row.image_id}, "
        f"{row.reason}: {clip(row.detail)}; all are in {failures}: mend them and run the "
        f"command again, or give another --data"
    )


def _merge(path: Path, parts: Sequence[Path], schema: pa.Schema, key: str) -> int:
    """The shards' tables of one kind -> the bank's, by rising key; how many rows it has."""
    tables = [read_table(part, schema.names) for part in parts] or [schema.empty_table()]
    write_sorted(path, pa.concat_tables(tables).select(schema.names), key)
    return sum(table.num_rows for table in tables)


def _line(row: LeftOut) -> bytes:
    value = {
        "image_id": row.image_id,
        "object_index": row.object_index,
        "reason": row.reason,
        "detail": row.detail,
    }
    return canonical_json(value) + b"\n"


def count_reasons(left_out: Sequence[LeftOut]) -> str:
    """E.g. `2 photo_missing, 1 box_outside`."""
    counts = Counter(row.reason for row in left_out)
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items()))


def remove_other_shards(bank: Path, shards: Sequence[str]) -> None:
    """Shards that an earlier, unfinished build with other settings left behind."""
    for folder in (bank / "patches").glob("*"):
        if folder.name not in shards:
            shutil.rmtree(folder)
    for tar in (bank / "scenes").glob("*"):
        if tar.stem not in shards or tar.suffix != ".tar":
            tar.unlink()
