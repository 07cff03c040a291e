"""A dataset -> the shards of a bank: plan them, then cut those that are not there yet."""

import hashlib
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from bank.errors import BankError
from bank.files import FileDigest, canonical_json
from jobs.stages.attempts import CrashingPhoto
from jobs.stages.cluster import results
from jobs.stages.cutting import (
    CrashingShard,
    CropOptions,
    CutShard,
    ShardTask,
    cut_shard,
    read_shard_failures,
)
from jobs.stages.receipts import WORK, receipt_path
from jobs.stages.workforce import Workforce
from pipeline import codec
from pipeline.checks import clip
from pipeline.data_folder import DataFolder
from pipeline.dataset import Dataset
from pipeline.errors import DatasetError
from pipeline.plan import plan_shards, write_plan
from pipeline.progress import progress
from pipeline.scene import SPLITS, AnnotatedPhoto


def plan(
    dataset: Dataset,
    bank: Path,
    photos_per_shard: int,
    options: CropOptions,
    *,
    quarantine: Collection[int] = (),
    taken: Mapping[str, int] | None = None,
    never_there: Collection[str] = (),
) -> list[ShardTask]:
    """Write a file per shard for the workers to read; returns a task for each.

    quarantine    image ids that no worker may touch; the other photos keep their shards
    taken         by split, how many shard numbers are in use already
    never_there   folders whose photos are missing: `absent_folders` of the whole dataset
    """
    folder = bank / WORK / "plan"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    photos = Path(dataset.folder).resolve()  # a worker's own folder may be another
    answers = codec.answers_with(options.resizer)
    tasks = []
    for shard in plan_shards(dataset, photos_per_shard, taken):
        path = folder / f"{shard.name}.json"
        allowed = tuple(p for p in shard.photos if p.photo.image_id not in quarantine)
        write_plan(path, replace(shard, photos=allowed))
        gone = tuple(sorted({_folder_of(p) for p in allowed} & set(never_there)))
        tasks.append(ShardTask(shard.name, path, photos, bank, options, answers, gone))
    return tasks


def absent_folders(dataset: Dataset) -> set[str]:
    """Folders that photos are said to lie in, but that are not there, or empty: of a few photos
    they are those photos' fault, as a file name that leads nowhere is. DatasetError where most of a
    split lies in them, or where a link leads nowhere: then something is not mounted.
    """
    folder = DataFolder(Path(dataset.folder))
    absent = {f for f in {_folder_of(p) for p in dataset.photos} if not folder.has_entries(f)}
    for split in SPLITS:
        photos = [p for p in dataset.photos if p.photo.split == split]
        without = [p for p in photos if _folder_of(p) in absent]
        unlinked = [p for p in without if folder.has_broken_link(_folder_of(p))]
        if unlinked or 2 * len(without) > len(photos):
            example = (unlinked or without)[0].photo.file
            raise DatasetError(
                f"{len(without):,} of the {len(photos):,} photos for {split} lie in folders that "
                f"are not there, or empty, e.g. {folder.path / clip(example)}; put the photos "
                f"there (or mount their disk), or mend the names in the annotations, and run the "
                f"command again"
            )
    return absent


def _folder_of(photo: AnnotatedPhoto) -> str:
    return str(PurePosixPath(photo.photo.file).parent)


def forget_failed(tasks: list[ShardTask]) -> None:
    """Let shards with photos that could not be used be cut again."""
    for task in tasks:
        if (task.bank / WORK / "shards" / f"{task.name}.failures.json").is_file():
            failed = read_shard_failures(task.bank, task.name)
            if any(row.object_index is None for row in failed):
                receipt_path(task.bank, task.stage).unlink(missing_ok=True)


def cut(tasks: list[ShardTask], workforce: Workforce) -> dict[str, CutShard]:
    """Every shard by name, in the order of the names.

    BankError where photos crash the process that decodes them, once all other shards are cut.
    """
    done: dict[str, CutShard] = {}
    crashing: list[CrashingPhoto] = []
    finished = results(cut_shard, tasks, workforce.workers, workforce.scheduler)
    for shard in progress(finished, "patches", len(tasks), "shard"):
        if isinstance(shard, CrashingShard):
            crashing += shard.photos
            continue
        if shard.name in done and done[shard.name].receipt.outputs != shard.receipt.outputs:
            raise BankError(f"{shard.name} was made twice and came out differently")
        done[shard.name] = shard
    if crashing:
        raise BankError(_crash_message(sorted(crashing)))
    return {name: done[name] for name in sorted(done)}


def _crash_message(photos: list[CrashingPhoto]) -> str:
    named = ", ".join(f"{p.image_id} ({p.file}: {p.signal})" for p in photos)
    ids = " ".join(str(p.image_id) for p in photos)
    if len(photos) == 1:
        what, mend = "a photo crashes the process that decodes it", "replace the file, or leave it"
    else:
        what = f"{len(photos)} photos crash the process that decodes them"
        mend = "replace the files, or leave them"
    return (
        f"{what}, tried alone: {named}. The other shards are kept; {mend} out with "
        f"--quarantine {ids}, and run the command again"
    )


def content_files(shards: Mapping[str, CutShard]) -> dict[str, FileDigest]:
    """The shards' files that stay in the bank."""
    return {
        path: digest
        for shard in shards.values()
        for path, digest in shard.receipt.outputs.items()
        if not path.startswith(f"{WORK}/")
    }


def photos_digest(dataset: Dataset) -> str:
    """SHA-256 over the photos' names and sizes: notices a photo that was mended or replaced."""
    digest = hashlib.sha256()
    folder = DataFolder(Path(dataset.folder))
    for annotated in dataset.photos:
        stamp = folder.stamp(annotated.photo.file)
        digest.update(canonical_json([annotated.photo.file, stamp and stamp[0]]))
    return digest.hexdigest()
