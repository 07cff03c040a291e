"""What a dataset has that a finished bank lacks, and what forbids adding it."""

from collections.abc import Collection, Container, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bank.contents import read_vocabulary
from bank.errors import BankError
from bank.manifest import Manifest, differences
from bank.table import column, digest_column
from jobs.stages.copy_shards import read_failures, read_photos
from pipeline import codec
from pipeline.dataset import Dataset
from pipeline.plan import annotation_digest
from pipeline.scene import AnnotatedPhoto
from pipeline.wording import counted


class Addition(NamedTuple):
    """What is to be cut into new shards."""

    photos: tuple[AnnotatedPhoto, ...]
    failed: frozenset[int]  # image ids among them of photos that could not be used before
    changed: frozenset[int]  # ... of photos whose annotations or split have changed
    taken: Mapping[str, int]  # by split, how many shard numbers are in use


def find_addition(
    bank: Path,
    manifest: Manifest,
    dataset: Dataset,
    quarantine: Collection[int],
    *,
    new: bool,
    failed: bool,
) -> Addition:
    """The photos that are new or have changed, those that failed, or both; BankError where the bank
    has photos or names that the dataset lacks.
    """
    _check_vocabulary(bank, dataset)
    photos = {p.photo.image_id: p for p in dataset.photos}
    table = read_photos(bank)
    known = column(table, "image_id").tolist()
    _check_none_gone(bank, known, photos)
    retried = frozenset(_failed(bank)) if failed else frozenset()
    fresh, changed = frozenset[int](), frozenset[int]()
    if new:
        fresh = frozenset(photos.keys() - set(known) - set(quarantine))
        digests = zip(known, digest_column(table, "annotation_sha256"), strict=True)
        differ = (i for i, then in digests if annotation_digest(photos[i]) != then.tobytes())
        changed = frozenset(differ) - retried
    chosen = tuple(photos[i] for i in sorted(fresh | retried | changed))
    return Addition(chosen, retried, changed, _numbers_in_use(manifest.shards))


def check_addable(
    bank: Path,
    manifest: Manifest,
    recipe: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    new: bool,
) -> None:
    """BankError where what is asked for would not give one bank with what is there."""
    asked = dict(recipe)
    if new:  # more photos need not mean more of the same file
        asked["limit"] = manifest.recipe.get("limit")
        inputs = manifest.inputs
    else:  # mended photos may have other sizes
        inputs = {**inputs, "photos": manifest.inputs["photos"]}
    changes = differences(manifest, asked, inputs)
    ours = codec.answers_with(recipe["resizer"])
    if differing := codec.differing(ours, manifest.codec):
        changes.append(f"this machine's codec answers otherwise ({', '.join(differing)})")
    if changes:
        raise BankError(
            f"{bank} cannot be added to: {'; '.join(changes)}. It was left as it is; ask for the "
            f"same, or build it anew with --mode overwrite"
        )


def _check_vocabulary(bank: Path, dataset: Dataset) -> None:
    has, asked = read_vocabulary(bank / "vocabulary.json"), dataset.vocabulary
    if has != asked:
        names = set(has.objects + has.predicates) ^ set(asked.objects + asked.predicates)
        raise BankError(
            f"{bank} cannot be added to: its vocabulary is not that of the photos that are read "
            f"now (names only one has: {len(names)}, e.g. {min(names, default='their order')}); "
            f"build it anew with --mode overwrite"
        )


def _check_none_gone(bank: Path, known: list[int], photos: Container[int]) -> None:
    if gone := [i for i in known if i not in photos]:
        raise BankError(
            f"{bank} cannot be added to: it has {counted(len(gone), 'photo')} that are not read "
            f"now, e.g. {gone[0]}; take them out with `python -m jobs.edit_bank {bank} "
            f"--remove-photo {gone[0]}`, or build it anew with --mode overwrite"
        )


def _failed(bank: Path) -> list[int]:
    """Photos whose files could not be used."""
    rows = read_failures(bank)
    return [r.image_id for r in rows if r.object_index is None and r.reason.startswith("photo_")]


def _numbers_in_use(shards: Collection[str]) -> dict[str, int]:
    used: dict[str, int] = {}
    for shard in shards:
        split, number = shard.rsplit("-", 1)
        used[split] = max(used.get(split, 0), int(number) + 1)
    return used
