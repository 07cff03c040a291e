"""mosaicml-streaming: MDS shards without compression, read by its StreamingDataset.

Importing it imports torchvision, whose compiled operators need CUDA's libraries: beside a torch
without these, two of their names have to be there, and nothing that is used here calls them.
"""

import shutil
from collections.abc import Iterator
from itertools import count
from typing import Any

import torch

from benchmarks.loaders.scenes import Batch, Collate, Scene, SceneCopy

_operators = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _operators.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import streaming  # noqa: E402
from streaming.base.util import clean_stale_shared_memory  # noqa: E402

FOLDER = "mds"
SHUFFLED_BLOCK = 1 << 18  # samples, its default; given, so that no warning is printed


class CollateStored:
    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, samples: list[dict[str, Any]]) -> Batch:
        return self.collate([Scene(**sample) for sample in samples])


def convert(copy: SceneCopy) -> None:
    scenes = copy.scenes()
    shape = ",".join(map(str, scenes.images.shape[1:]))
    columns = {
        "image_id": "int",
        "image": f"ndarray:uint8:{shape}",
        "objects": "ndarray:int64",
        "boxes": "ndarray:float32",
        "triples": "ndarray:int64",
        "patches": "ndarray:int64",
    }
    folder = copy.folder / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    with streaming.MDSWriter(out=str(folder), columns=columns) as writer:
        for scene in scenes:
            writer.write(scene._asdict())


def batches(copy: SceneCopy, batch_size: int, candidates: int, workers: int) -> Iterator[Batch]:
    clean_stale_shared_memory()  # of a run that was ended
    dataset = streaming.StreamingDataset(
        local=str(copy.folder / FOLDER),
        shuffle=True,
        shuffle_block_size=SHUFFLED_BLOCK,
        batch_size=batch_size,
    )
    loader = streaming.StreamingDataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=workers,
        collate_fn=CollateStored(copy.collate(candidates)),
        persistent_workers=workers > 0,
    )
    for _ in count():
        yield from loader
