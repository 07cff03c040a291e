"""Annotation files of COCO-Stuff's shape and size, drawn at random: what parsing is timed on."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

WIDTH, HEIGHT = 640, 480  # px
FULL_SIZE = 118_287  # photos of train2017
THINGS_PER_PHOTO, STUFF_PER_PHOTO = 860_001 / FULL_SIZE, 750_000 / FULL_SIZE
VAL_SHARE = 5_000 / FULL_SIZE  # of the training photos' number
SHAPES = 400  # drawn once and used over and over

Shape = tuple[str, list[float]]  # a segmentation as JSON, its box x y w h px


def write_coco_like(folder: Path, photos: int, seed: int = 0) -> None:
    """instances_* and stuff_* of train2017 and val2017 in `folder`, with no photo."""
    random = np.random.default_rng(seed)
    outlines = [_outline(random) for _ in range(SHAPES)]
    regions = [_region(random) for _ in range(SHAPES)]
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    for name, count, first in (
        ("train2017", photos, 1),
        ("val2017", max(round(photos * VAL_SHARE), 1), 1_000_001),
    ):
        (folder / name).mkdir(exist_ok=True)
        ids = [first + 4 * i for i in range(count)]
        for kind, per_photo, shapes, categories in (
            ("instances", THINGS_PER_PHOTO, outlines, range(1, 81)),
            ("stuff", STUFF_PER_PHOTO, regions, range(92, 184)),
        ):
            rows = _rows(random, ids, round(per_photo * count), shapes, categories)
            path = folder / "annotations" / f"{kind}_{name}.json"
            _write(path, [_photo(name, i) for i in ids], rows, _categories(kind, categories))


def _outline(random: np.random.Generator) -> Shape:
    """A polygon of about as many corners as COCO's have."""
    width, height = np.clip(random.exponential(110, 2) + 8, 8, (WIDTH, HEIGHT))
    x, y = random.uniform(0, WIDTH - width), random.uniform(0, HEIGHT - height)
    angles = np.sort(random.uniform(0, 2 * np.pi, int(random.integers(8, 40))))
    corners = np.stack(
        [np.cos(angles) * width + 2 * x + width, np.sin(angles) * height + 2 * y + height]
    )
    polygon = (corners.T / 2).round(2).ravel().tolist()
    return json.dumps([polygon]), [round(float(v), 2) for v in (x, y, width, height)]


def _region(random: np.random.Generator) -> Shape:
    """A blotch as run lengths, about as long as COCO-Stuff's: 1.3 kB."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    waves = (
        random.normal() * np.sin(columns / random.uniform(25, 150) + random.uniform(0, 6))
        + random.normal() * np.cos(rows / random.uniform(25, 150) + random.uniform(0, 6))
        for _ in range(4)
    )
    height = np.sum(list(waves), axis=0)
    mask = height > np.quantile(height, random.uniform(0.5, 0.97))
    encoded = rle.encode(np.asfortranarray(mask, np.uint8))
    segmentation = {"counts": encoded["counts"].decode("ascii"), "size": [HEIGHT, WIDTH]}
    return json.dumps(segmentation), [float(v) for v in rle.toBbox(encoded)]


def _photo(folder: str, image_id: int) -> str:
    file = f"{image_id:012d}.jpg"
    return json.dumps(
        {
            "license": 3,
            "file_name": file,
            "coco_url": f"http://images.cocodataset.org/{folder}/{file}",
            "height": HEIGHT,
            "width": WIDTH,
            "date_captured": "2013-11-14 17:02:52",
            "flickr_url": f"http://farm9.staticflickr.com/8186/{image_id}_4e622c8349_z.jpg",
            "id": image_id,
        }
    )


def _rows(
    random: np.random.Generator,
    ids: Sequence[int],
    count: int,
    shapes: Sequence[Shape],
    categories: Sequence[int],
) -> Iterator[str]:
    photo = np.sort(random.integers(0, len(ids), count))
    category, shape = random.integers(0, len(categories), count), random.integers(0, SHAPES, count)
    for i in range(count):
        segmentation, box = shapes[shape[i]]
        yield (
            f'{{"segmentation": {segmentation}, "area": {box[2] * box[3] / 2:.4f}, "iscrowd": 0, '
            f'"image_id": {ids[photo[i]]}, "bbox": {box}, "category_id": '
            f'{categories[category[i]]}, "id": {i + 1}}}'
        )


def _categories(kind: str, numbers: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {"supercategory": kind, "id": n, "name": "other" if n == 183 else f"{kind} {n}"}
        for n in numbers
    ]


def _write(
    path: Path, photos: Sequence[str], rows: Iterator[str], categories: list[dict[str, Any]]
) -> None:
    """In COCO's own order of keys: the categories stand last."""
    licences = [{"id": 3, "url": "http://creativecommons.org/licenses/by-nc-nd/2.0/"}]
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"info": {{}}, "licenses": {json.dumps(licences)}, "images": [')
        file.write(", ".join(photos))
        file.write('], "annotations": [')
        for i, row in enumerate(rows):
            file.write(f", {row}" if i else row)
        file.write(f'], "categories": {json.dumps(categories)}}}\n')
