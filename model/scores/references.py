"""Features of the reference photos, kept in the cache by the hash of what they follow from."""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from bank.bank import Bank
from bank.files import json_digest
from model.scores.extractors import Extractor, PictureFeatures
from model.scores.pictures import photos
from model.scores.scenes import SCENES_AT_ONCE
from pipeline.cache import VARIABLE, cache_folder
from pipeline.errors import UserError
from pipeline.files import write_bytes
from pipeline.output import log
from pipeline.progress import progress


def pixels_digest(bank: Bank, image_ids: Sequence[int], px: int) -> str:
    """SHA-256 of the photos' pixels at that side, in their order."""
    digest = hashlib.sha256()
    for ids in _parts(image_ids, f"hashing photos at {px} px"):
        digest.update(photos(bank, ids, px).tobytes())
    return digest.hexdigest()


def photo_features(
    bank: Bank, image_ids: Sequence[int], px: int, digest: str, extractor: Extractor
) -> PictureFeatures:
    """What the extractor says of the photos at that side, whose `pixels_digest` is given."""
    key = json_digest(
        {
            "photos": digest,
            "extractor": extractor.describe(),
            "device": str(extractor.device),
            "threads": torch.get_num_threads(),
        }
    )
    path = cache_folder() / "photo-features" / f"{key}.safetensors"
    try:
        stored = load_file(path)
        return PictureFeatures(stored["vectors"], stored.get("logits"))
    except (OSError, SafetensorError, KeyError):  # not there yet, or cut short
        pass
    parts = [
        extractor.features(photos(bank, ids, px))
        for ids in _parts(image_ids, f"photos at {px} px, {extractor.name}")
    ]
    features = all_features(parts)
    named = {name: each for name, each in features._asdict().items() if each is not None}
    try:
        write_bytes(path, save(named))
    except (OSError, UserError) as error:
        log.warning(f"features of photos are not kept in the cache (${VARIABLE}): {error}")
    return features


def all_features(parts: Sequence[PictureFeatures]) -> PictureFeatures:
    """Of further pictures each."""
    vectors, logits = zip(*parts, strict=True)
    return PictureFeatures(torch.cat(vectors), None if logits[0] is None else torch.cat(logits))


def _parts(image_ids: Sequence[int], what: str) -> Iterator[Sequence[int]]:
    starts = range(0, len(image_ids), SCENES_AT_ONCE)
    parts = [image_ids[start : start + SCENES_AT_ONCE] for start in starts]
    return progress(parts, what, len(image_ids), "photo", size=len)
