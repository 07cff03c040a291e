"""A seed -> Visual Genome files of any size, an entry's bytes and numbers as in the published ones.

Random words and boxes; names, predicates and attributes are as unevenly frequent as people's are.
Full size: 108,077 photos, 3.8 million objects, 2.3 million relationships.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

FULL_SIZE = 108_077  # photos

OBJECTS, RELATIONS = 35, 21  # of a photo, on average
ATTRIBUTED = 0.5  # share of objects that have any
NUM_NAMES, NUM_PREDICATES, NUM_ATTRIBUTES = 80_000, 36_000, 45_000
NAMED_IN_RELATIONS = 0.9  # share of ends that have one `name`, not `names` and what was merged

Row = dict[str, Any]


def write_vg_like(folder: Path, photos: int, seed: int) -> None:
    (folder / "VG_100K").mkdir(parents=True)
    random = np.random.default_rng(seed)
    ids = np.sort(random.permutation(photos * 20)[:photos] + 1).tolist()
    files = {
        name: (folder / f"{name}.json").open("w", encoding="utf-8")
        for name in ("image_data", "objects", "relationships", "attributes")
    }
    for number, image_id in enumerate(ids):
        for name, entry in _entries(image_id, random).items():
            files[name].write(("[" if number == 0 else ", ") + json.dumps(entry))
    for file in files.values():
        file.write("]")
        file.close()
    _write_small_files(folder, ids)


def _write_small_files(folder: Path, ids: list[int]) -> None:
    first, second = len(ids) * 8 // 10, len(ids) * 9 // 10
    splits = {"train": ids[:first], "val": ids[first:second], "test": ids[second:]}
    (folder / "vg_splits.json").write_text(json.dumps(splits), "utf-8")
    names = "".join(f"{_word('name', i)},{_word('name', i + 1)}\n" for i in range(0, 7000, 2))
    (folder / "object_alias.txt").write_text(names, "utf-8")
    names = "".join(f"{_word('to', i)},{_word('to', i + 1)}\n" for i in range(0, 8000, 2))
    (folder / "relationship_alias.txt").write_text(names, "utf-8")


def _word(kind: str, rank: int) -> str:
    return f"{kind} {rank}" if rank % 5 == 0 else f"{kind}{rank}"


def _ranks(random: np.random.Generator, most: int, size: int) -> list[int]:
    """Rank r is drawn in proportion to about (r + 5) to the power of -1.3: seven in ten objects
    have one of the 178 most frequent names."""
    reach = 1 - (1 + most / 5) ** -0.3
    drawn = 5 * ((1 - reach * random.random(size)) ** (-1 / 0.3) - 1)
    return [int(rank) for rank in np.minimum(drawn, most - 1)]


def _entries(image_id: int, random: np.random.Generator) -> dict[str, Row]:
    objects = _objects(image_id, random)
    return {
        "image_data": _photo(image_id, random),
        "objects": {"image_id": image_id, "objects": objects},
        "relationships": {"relationships": _relations(objects, random), "image_id": image_id},
        "attributes": {"image_id": image_id, "attributes": _attributed(objects, random)},
    }


def _photo(image_id: int, random: np.random.Generator) -> Row:
    url = f"https://cs.stanford.edu/people/rak248/VG_100K/{image_id}.jpg"
    width, height = random.integers(190, 1024, 2).tolist()
    ids = {"coco_id": None, "flickr_id": int(random.integers(1 << 32))}
    return {"width": width, "url": url, "height": height, "image_id": image_id, **ids}


def _objects(image_id: int, random: np.random.Generator) -> list[Row]:
    count = int(random.poisson(OBJECTS))
    sides = (10 * np.exp(random.random((count, 2)) * np.log(50))).astype(int).tolist()
    places = random.integers(0, 500, (count, 2)).tolist()
    merged = (random.random(count) < 0.1).tolist()
    return [
        {
            "synsets": [f"{_word('name', rank).replace(' ', '_')}.n.01"],
            "h": height,
            "object_id": image_id * 1000 + number,
            "merged_object_ids": [image_id * 1000 + 999] if also else [],
            "names": [_word("name", rank)],
            "w": width,
            "y": y,
            "x": x,
        }
        for number, (rank, (width, height), (x, y), also) in enumerate(
            zip(_ranks(random, NUM_NAMES, count), sides, places, merged, strict=True)
        )
    ]


def _relations(objects: list[Row], random: np.random.Generator) -> list[Row]:
    if not objects:
        return []
    count = int(random.poisson(RELATIONS))
    ends = random.integers(0, len(objects), (count, 2)).tolist()
    named = (random.random((count, 2)) < NAMED_IN_RELATIONS).tolist()
    ranks = _ranks(random, NUM_PREDICATES, count)
    return [
        {
            "predicate": _word("to", rank),
            "object": _end(objects[o], named_o),
            "relationship_id": number,
            "synsets": ["along.r.01"],
            "subject": _end(objects[s], named_s),
        }
        for number, (rank, (s, o), (named_s, named_o)) in enumerate(
            zip(ranks, ends, named, strict=True)
        )
    ]


def _end(thing: Row, named: bool) -> Row:
    if not named:
        return thing
    rest = {k: v for k, v in thing.items() if k not in ("names", "merged_object_ids")}
    return {"name": thing["names"][0], **rest}


def _attributed(objects: list[Row], random: np.random.Generator) -> list[Row]:
    chosen = (random.random(len(objects)) < ATTRIBUTED).tolist()
    ranks = iter(_ranks(random, NUM_ATTRIBUTES, 2 * len(objects)))
    rows = []
    for thing, has_any in zip(objects, chosen, strict=True):
        row = {k: v for k, v in thing.items() if k != "merged_object_ids"}
        if has_any:
            row["attributes"] = [_word("kind", next(ranks)), _word("kind", next(ranks))]
        rows.append(row)
    return rows
