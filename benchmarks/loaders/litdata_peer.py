"""litdata: chunks written by `optimize`, read by its StreamingDataset and StreamingDataLoader.

One-dimensional arrays have no header there, so all arrays are stored flat.
"""

from collections.abc import Iterator
from itertools import count
from typing import Any

import litdata
import numpy as np

from benchmarks.loaders.scenes import Batch, Collate, MappedScenes, Scene, SceneCopy

FOLDER = "litdata"


class Flat:
    """The place of a scene -> what is stored of it."""

    def __init__(self, scenes: MappedScenes) -> None:
        self.scenes = scenes

    def __call__(self, place: int) -> dict[str, Any]:
        flat = {
            name: np.ascontiguousarray(value).reshape(-1) if name != "image_id" else value
            for name, value in self.scenes[place]._asdict().items()
        }
        return {**flat, "side": self.scenes.images.shape[1]}


class CollateFlat:
    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, samples: list[dict[str, Any]]) -> Batch:
        return self.collate([_scene(**sample) for sample in samples])


def _scene(side: int, image: Any, boxes: Any, triples: Any, **parts: Any) -> Scene:
    return Scene(
        image=image.reshape(side, side, 3),
        boxes=boxes.reshape(-1, 4),
        triples=triples.reshape(-1, 3),
        **parts,
    )


def convert(copy: SceneCopy) -> None:
    litdata.optimize(
        Flat(copy.scenes()),
        list(range(len(copy))),
        str(copy.folder / FOLDER),
        chunk_bytes="64MB",
        num_workers=1,
        mode="overwrite",
        verbose=False,
    )


def batches(copy: SceneCopy, batch_size: int, candidates: int, workers: int) -> Iterator[Batch]:
    dataset = litdata.StreamingDataset(str(copy.folder / FOLDER), shuffle=True, drop_last=False)
    loader = litdata.StreamingDataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=CollateFlat(copy.collate(candidates)),
        persistent_workers=workers > 0,
    )
    for _ in count():
        yield from loader
