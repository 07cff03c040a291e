"""A dataset -> shards: fixed runs of photos, each in a file that a worker can read on its own."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipeline.dataset import Dataset
from pipeline.errors import DatasetError
from pipeline.scene import MAX_IMAGE_ID, MAX_OBJECT_INDEX, SPLITS, AnnotatedPhoto


@dataclass(frozen=True)
class Shard:
    """A run of photos of one split, by rising id."""

    name: str  # e.g. "train-00000"
    photos: tuple[AnnotatedPhoto, ...]


def plan_shards(
    dataset: Dataset, photos_per_shard: int, taken: Mapping[str, int] | None = None
) -> Iterator[Shard]:
    """Cut each split, sorted by image id, into runs of `photos_per_shard` photos.

    `taken` says of a split up to which number, exclusive, its shards have names already.
    """
    check_ids(dataset)
    for split in SPLITS:
        photos = sorted(
            (p for p in dataset.photos if p.photo.split == split), key=lambda p: p.photo.image_id
        )
        first = (taken or {}).get(split, 0)
        for number, start in enumerate(range(0, len(photos), photos_per_shard), first):
            yield Shard(f"{split}-{number:05d}", tuple(photos[start : start + photos_per_shard]))


def check_ids(dataset: Dataset) -> None:
    """Patch ids consist of image ids and object numbers: both must fit, and be unique."""
    times = Counter(p.photo.image_id for p in dataset.photos)
    for image_id, count in times.items():
        if count > 1:
            raise DatasetError(
                f"{dataset.name}: image id {image_id} belongs to {count} photos; ids must be "
                f"unique over all splits"
            )
        if not 0 <= image_id <= MAX_IMAGE_ID:
            raise DatasetError(
                f"{dataset.name}: image id {image_id} is not between 0 and {MAX_IMAGE_ID}"
            )
    for photo in dataset.photos:
        numbers = [o.object_index for o in photo.objects]
        if len(set(numbers)) != len(numbers) or max(numbers, default=0) > MAX_OBJECT_INDEX:
            raise DatasetError(
                f"{dataset.name}: image {photo.photo.image_id} has object numbers that repeat or "
                f"exceed {MAX_OBJECT_INDEX}"
            )


def write_plan(path: Path, shard: Shard) -> None:
    """The shard as JSON, written to a path that has its name already."""
    path.write_bytes(msgspec.json.encode(shard.photos))


def read_plan(path: Path) -> tuple[AnnotatedPhoto, ...]:
    return msgspec.json.decode(path.read_bytes(), type=tuple[AnnotatedPhoto, ...])


def annotation_digest(photo: AnnotatedPhoto) -> bytes:
    """SHA-256 of all that a plan says of a photo."""
    read_back = msgspec.json.decode(msgspec.json.encode(photo), type=AnnotatedPhoto)
    return hashlib.sha256(msgspec.json.encode(read_back)).digest()
