"""webdataset's own pipeline over the bank's own tars: its decoder, its shuffle buffer."""

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds

from benchmarks.loaders.scenes import IMAGE_NODE, Batch, Scene, SceneCopy

SHUFFLED = 1000  # samples in the buffer, as in webdataset's README


class ToScene:
    """A decoded sample -> a scene, whose words become numbers."""

    def __init__(self, copy: SceneCopy) -> None:
        words = json.loads((Path(copy.about["bank"]) / "vocabulary.json").read_text("utf-8"))
        self.objects = {name: place for place, name in enumerate(words["objects"])}
        self.predicates = {name: place for place, name in enumerate(words["predicates"])}
        self.in_image = copy.about["in_image"]
        self.patch_ids = copy.array("patch_ids")

    def __call__(self, sample: dict[str, Any]) -> Scene:
        graph = sample["json"]
        objects = graph["objects"]
        triples = [(s, self.predicates[name], o) for s, name, o in graph["triples"]]
        triples += [(o, self.in_image, IMAGE_NODE) for o in range(len(objects))]
        return Scene(
            graph["image_id"],
            sample["npy"],
            np.array([self.objects[name] for name in objects]),
            np.array(graph["boxes"], np.float32).reshape(-1, 4),
            np.array(triples),
            np.searchsorted(self.patch_ids, graph["patch_ids"]),
        )


def convert(copy: SceneCopy) -> None:
    """The bank's tars are read."""


def batches(copy: SceneCopy, batch_size: int, candidates: int, workers: int) -> Iterator[Batch]:
    tars = sorted(str(path) for path in Path(copy.about["bank"]).glob("scenes/train-*.tar"))
    dataset = (
        wds.WebDataset(tars, shardshuffle=len(tars), select_files=_is_wanted)
        .shuffle(SHUFFLED)
        .decode()
        .map(ToScene(copy))
        .batched(batch_size, collation_fn=copy.collate(candidates))
    )
    loader = wds.WebLoader(
        dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0
    )
    for _ in count():
        yield from loader


def _is_wanted(name: str) -> bool:
    return not name.endswith(".masks.npy")
