"""The toy world as Visual Genome files: the photos of `pipeline.toy.coco`, described in words."""

import json
from collections.abc import Iterator, Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.toy.scenes import HEIGHT, WIDTH
from pipeline.toy.wording import NAMES, PREDICATES, Link, Said, alias_lines, describe
from pipeline.toy.world import (
    WORLD,
    DrawnPhoto,
    Folder,
    World,
    draw_photos,
    stream_of,
    write_jpeg,
    write_world,
)
from pipeline.visual_genome.rules import VisualGenomeRules

# sg2im's thresholds are for a hundred thousand photos of some 800 px: a toy photo has 160 x 128,
# and a name that a hundredth of 1,600 photos show is a frequent one.
TOY_RULES = VisualGenomeRules(
    min_object_count=20,
    min_attribute_count=20,
    min_relation_count=20,
    min_box_px=14,
    min_photo_px=100,
)

PHOTO_FOLDERS = ("VG_100K", "VG_100K_2")
WORDING = 3  # the random stream of what is said of a photo; painting uses those before
FIRST_OBJECT_ID = 1_000_001
FILES = (
    "image_data.json",
    "objects.json",
    "relationships.json",
    "attributes.json",
    "object_alias.txt",
    "relationship_alias.txt",
    "vg_splits.json",
)


class Entries(NamedTuple):
    """What the four large files say of one photo."""

    image_data: dict[str, Any]
    objects: dict[str, Any]
    relationships: dict[str, Any]
    attributes: dict[str, Any]


def write_toy_visual_genome(
    folder: Path, *, train_photos: int = 1600, val_photos: int = 1200, seed: int = 0
) -> None:
    """The same photos as `write_toy` draws, and the same care for what is in `folder`."""
    world = World(WORLD, train_photos, val_photos, seed)
    write_world(folder, world, lambda partial: _write(partial, world), _is_whole)


def _is_whole(folder: Path) -> bool:
    try:
        splits = json.loads((folder / "vg_splits.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    photos = chain.from_iterable((folder / name).glob("*.jpg") for name in PHOTO_FOLDERS)
    return all((folder / name).is_file() for name in FILES) and (
        {int(photo.stem) for photo in photos} == {*chain.from_iterable(splits.values())}
    )


def _write(folder: Path, world: World) -> Mapping[int, int]:
    """All files; returns image id -> style."""
    for name in PHOTO_FOLDERS:
        (folder / name).mkdir()
    entries, styles, ids = [], {}, count(FIRST_OBJECT_ID)
    by_split: dict[Folder, list[int]] = {}
    for split in world.photos:
        by_split[split] = []
        for drawn in draw_photos(world, split):
            write_jpeg(folder / _photo_file(drawn), drawn.pixels)
            styles[drawn.image_id] = drawn.style
            by_split[split].append(drawn.image_id)
            entries.append(_entries(drawn, world.seed, ids))
    entries.sort(key=lambda e: e.image_data["image_id"])
    for name in Entries._fields:
        _write_json(folder / f"{name}.json", [getattr(e, name) for e in entries])
    (folder / "object_alias.txt").write_text(alias_lines(NAMES), "utf-8")
    (folder / "relationship_alias.txt").write_text(alias_lines(PREDICATES), "utf-8")
    _write_json(folder / "vg_splits.json", _splits(by_split))
    return styles


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value) + "\n", "utf-8")


def _splits(by_folder: Mapping[Folder, list[int]]) -> dict[str, list[int]]:
    """Of the validation photos the first half by id, as of the COCO files; the rest is test."""
    train, held_out = sorted(by_folder["train"]), sorted(by_folder["val"])
    middle = (len(held_out) + 1) // 2
    return {"train": train, "val": held_out[:middle], "test": held_out[middle:]}


def _photo_file(drawn: DrawnPhoto) -> str:
    return f"{PHOTO_FOLDERS[drawn.image_id % 2]}/{drawn.image_id}.jpg"


def _entries(drawn: DrawnPhoto, seed: int, ids: Iterator[int]) -> Entries:
    said, links = describe(drawn.objects, stream_of(drawn, seed, WORDING))
    rows = [_row(s, next(ids)) for s in said]
    image = {
        "image_id": drawn.image_id,
        "width": WIDTH,
        "height": HEIGHT,
        "url": f"https://example.org/toy/{_photo_file(drawn)}",
        "coco_id": None,
        "flickr_id": None,
    }
    photo = {"image_id": drawn.image_id}
    return Entries(
        image,
        {**photo, "objects": [{**row, "merged_object_ids": []} for row in rows]},
        {**photo, "relationships": [_relation(link, rows, next(ids)) for link in links]},
        {**photo, "attributes": [_attributed(r, s) for r, s in zip(rows, said, strict=True)]},
    )


def _row(said: Said, object_id: int) -> dict[str, Any]:
    x, y, width, height = said.box_px
    synsets = [f"{said.names[-1].replace(' ', '_')}.n.01"]
    names = list(said.names)
    box = {"x": x, "y": y, "w": width, "h": height}
    return {"object_id": object_id, "names": names, "synsets": synsets, **box}


def _relation(link: Link, rows: list[dict[str, Any]], number: int) -> dict[str, Any]:
    """As in release 1.4, some ends have one `name` and others `names` and what was merged."""
    subject, object = dict(rows[link.subject]), rows[link.object]
    return {
        "relationship_id": number,
        "predicate": link.predicate,
        "synsets": [],
        "subject": {"name": subject.pop("names")[-1], **subject},
        "object": {**object, "merged_object_ids": []},
    }


def _attributed(row: dict[str, Any], said: Said) -> dict[str, Any]:
    """Objects without attributes lack the key, as in release 1.2."""
    return {**row, "attributes": list(said.attributes)} if said.attributes else row
