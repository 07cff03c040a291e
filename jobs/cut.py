"""A dataset -> the shards of a bank: plan them, then cut those that are not there yet."""

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bank.cutting import CropRecipe, CutShard, ShardTask, cut_shard
from bank.errors import BankError
from bank.files import FileDigest, canonical_json
from bank.receipts import WORK
from jobs.cluster import results
from pipeline.data_folder import DataFolder
from pipeline.dataset import Dataset
from pipeline.plan import plan_shards, write_plan
from pipeline.progress import progress


@dataclass(frozen=True)
class Workforce:
    """Who does the work; it has no say in what comes out."""

    workers: int = 0  # processes; 0 is this one
    scheduler: str = ""  # address of a Dask scheduler


def plan(
    dataset: Dataset, bank: Path, photos_per_shard: int, recipe: CropRecipe
) -> list[ShardTask]:
    """Write a file per shard for the workers to read; what to tell each of them."""
    folder = bank / WORK / "plan"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    photos = Path(dataset.folder).resolve()  # a worker's own folder may be another
    tasks = []
    for shard in plan_shards(dataset, photos_per_shard):
        path = folder / f"{shard.name}.json"
        write_plan(path, shard)
        tasks.append(ShardTask(shard.name, path, photos, bank, recipe))
    return tasks


def cut(tasks: list[ShardTask], workforce: Workforce) -> dict[str, CutShard]:
    """Every shard by name, in the order of the names."""
    done: dict[str, CutShard] = {}
    finished = results(cut_shard, tasks, workforce.workers, workforce.scheduler)
    for shard in progress(finished, "patches", len(tasks), "shard"):
        if shard.name in done and done[shard.name].receipt.outputs != shard.receipt.outputs:
            raise BankError(f"{shard.name} was made twice and came out differently")
        done[shard.name] = shard
    return {name: done[name] for name in sorted(done)}


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
