"""A handful of Visual Genome files that pass the filter, for tests to change."""

import json
from pathlib import Path
from typing import Any

from pipeline.data_folder import DataFolder
from pipeline.visual_genome.rules import VisualGenomeRules

SMALL_RULES = VisualGenomeRules(min_object_count=2, min_attribute_count=2, min_relation_count=2)
TRAIN, VAL, TEST = (1, 2, 3), (11, 12), (21, 22)
NAMES = ("tree", "man", "car", "dog")


def box(place: int) -> dict[str, int]:
    return {"x": 10 * place, "y": 5, "w": 40 + place, "h": 50}


def listed_object(image_id: int, place: int, name: str, **more: Any) -> dict[str, Any]:
    number = 1000 * image_id + place
    return {"object_id": number, "names": [name], "merged_object_ids": [], **box(place), **more}


def relation(image_id: int, subject: int, predicate: str, object: int) -> dict[str, Any]:
    return {
        "relationship_id": 1000 * image_id + object,
        "predicate": predicate,
        "subject": {"object_id": 1000 * image_id + subject, "name": "a name"},
        "object": {"object_id": 1000 * image_id + object, "merged_object_ids": []},
    }


def photo(image_id: int, **more: Any) -> dict[str, Any]:
    url = f"https://example.org/VG_100K/{image_id}.jpg"
    return {"image_id": image_id, "width": 800, "height": 600, "url": url, **more}


def files() -> dict[str, Any]:
    """Each photo has four objects of four names, and one relationship between the first two."""
    ids = (*TRAIN, *VAL, *TEST)
    return {
        "image_data.json": [photo(i) for i in ids],
        "objects.json": [
            {"image_id": i, "objects": [listed_object(i, p, n) for p, n in enumerate(NAMES)]}
            for i in ids
        ],
        "relationships.json": [
            {"image_id": i, "relationships": [relation(i, 0, "near", 1)]} for i in ids
        ],
        "attributes.json": [
            {"image_id": i, "attributes": [{"object_id": 1000 * i, "attributes": ["green"]}]}
            for i in ids
        ],
        "vg_splits.json": {"train": list(TRAIN), "val": list(VAL), "test": list(TEST)},
        "object_alias.txt": "man,men\n",
        "relationship_alias.txt": "near,next to\n",
    }


def write(folder: Path, content: dict[str, Any]) -> DataFolder:
    (folder / "VG_100K").mkdir(exist_ok=True)
    for name, value in content.items():
        if not isinstance(value, bytes):
            text = value if isinstance(value, str) else json.dumps(value)
            value = text.encode("utf-8")
        (folder / name).write_bytes(value)
    return DataFolder(folder)
