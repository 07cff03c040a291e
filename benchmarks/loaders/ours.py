"""This project's two loaders; and the copy of a bank's scenes that the others read."""

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bank.bank import Bank
from benchmarks.loaders.scenes import IMAGE_NODE, Batch, SceneCopy
from model.batch import SceneBatch, scene_batch
from model.config import Loader
from model.loader import training_batches
from model.offer import selectable
from model.recipes import paper
from pipeline.options import write_json
from pipeline.pack import SceneSample
from pipeline.scene import IMAGE, IN_IMAGE, Vocabulary

KINDS: tuple[Loader, ...] = ("resident", "stream")


def write_copy(bank: Bank, folder: Path) -> None:
    """The training scenes as arrays, one row a scene, an object or a triple; their patches, one row
    a patch, and behind them one of zeros."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = [bank.scene(int(image_id)) for image_id in bank.scene_ids("train")]
    ids = np.sort(np.concatenate([sample.patch_ids for sample in samples]))
    save = partial(_save, folder)
    save("image_ids", np.array([sample.image_id for sample in samples]))
    save("images", np.stack([sample.image for sample in samples]))
    words = bank.vocabulary
    save("objects", np.array([words.object_index(o) for s in samples for o in s.objects]))
    save("boxes", np.concatenate([sample.boxes for sample in samples]))
    save("rows", np.searchsorted(ids, np.concatenate([s.patch_ids for s in samples])))
    save("object_bounds", np.cumsum([0, *(len(sample.objects) for sample in samples)]))
    triples = [_triples(sample, words) for sample in samples]
    save("triples", np.concatenate(triples))
    save("triple_bounds", np.cumsum([0, *map(len, triples)]))
    save("patch_ids", ids)
    save("patches", _with_padding(bank.patches(ids)))
    save("cooccurrence", _with_padding(bank.cooccurrence(ids)))
    candidates = bank.candidates(ids)
    rows = np.searchsorted(ids, candidates.ids)
    save("candidates", np.where(candidates.ids < 0, -1, rows))
    save("valid", selectable(bank, candidates))
    about = {"bank": str(bank.path), "image_category": words.object_index(IMAGE)}
    write_json(folder / "about.json", {**about, "in_image": words.predicate_index(IN_IMAGE)})


def _save(folder: Path, name: str, array: NDArray[np.generic]) -> None:
    np.save(folder / f"{name}.npy", array)


def _triples(sample: SceneSample, words: Vocabulary) -> NDArray[np.int64]:
    relations = [(s, words.predicate_index(name), o) for s, name, o in sample.triples]
    in_image = words.predicate_index(IN_IMAGE)
    return np.array(relations + [(o, in_image, IMAGE_NODE) for o in range(len(sample.objects))])


def _with_padding(rows: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.concatenate([rows, np.zeros_like(rows[:1])])


def convert(copy: SceneCopy, kind: str) -> None:
    """The bank is read; `resident` keeps a folder in the cache, and writes it before it begins."""
    next(batches(copy, 1, 1, 0, kind))


def batches(
    copy: SceneCopy, batch_size: int, candidates: int, workers: int, kind: Loader
) -> Generator[Batch, None, None]:
    config = paper()
    rule = replace(config.retrieval, candidates=candidates)
    loaded = training_batches(
        Bank.open(Path(copy.about["bank"])),
        partial(scene_batch, rule=rule, seed=config.seed),
        block_shards=config.block_shards,
        batch_size=batch_size,
        seed=config.seed,
        kind=kind,
        workers=workers,
    )
    with closing(loaded):
        yield from map(_named, loaded)


def _named(batch: SceneBatch) -> Batch:
    return {
        "image_ids": batch.image_ids,
        "images": batch.images,
        "nodes": batch.graph.nodes,
        "triples": batch.graph.triples,
        "object_image": batch.graph.object_image,
        "boxes": batch.boxes,
        "true_patches": batch.true_patches,
        "true_cooccurrence": batch.true_cooccurrence,
        "valid": batch.candidates.valid,
        "patches": batch.candidates.patches,
        "cooccurrence": batch.candidates.cooccurrence,
    }
