"""Which photo is in which split: a draw of our own, and a hash that names any split."""

import hashlib
from collections.abc import Iterable

from pipeline.scene import SPLITS, AnnotatedPhoto, Split

TRAIN_FRACTION, VAL_FRACTION = 0.8, 0.1  # of our own split; the rest is the test split


def own_split(image_id: int) -> Split:
    """The split of a photo that no official list names: a function of its id alone."""
    digest = hashlib.sha256(f"retrievegan split 1, photo {image_id}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < TRAIN_FRACTION:
        return "train"
    return "val" if place < TRAIN_FRACTION + VAL_FRACTION else "test"


def split_hash(photos: Iterable[AnnotatedPhoto]) -> str:
    """SHA-256 of lines such as `train 42`, by split, then by rising image id."""
    members = sorted((SPLITS.index(p.photo.split), p.photo.image_id) for p in photos)
    lines = "".join(f"{SPLITS[split]} {image_id}\n" for split, image_id in members)
    return hashlib.sha256(lines.encode()).hexdigest()
