"""A COCO or COCO-Stuff folder -> the photos that pass sg2im's filter, with their objects.

The folder holds annotations/instances_{train,val}2017.json, annotations/stuff_{train,val}2017.json
and the photos in train2017/ and val2017/. A folder of one's own in that form will do; its stuff
files may be missing where photos without stuff are asked for.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.coco_file import (
    LEFT_OUT_CATEGORY,
    MIN_AREA,
    PHOTO_FOLDERS,
    Gathered,
    Kind,
    Reading,
    read_file,
)
from pipeline.errors import DatasetError, UserError
from pipeline.progress import progress
from pipeline.scene import (
    GEOMETRIC,
    IMAGE,
    IN_IMAGE,
    SPLITS,
    AnnotatedPhoto,
    Dataset,
    Split,
    Vocabulary,
)

KINDS: tuple[Kind, ...] = ("instances", "stuff")  # things are numbered before stuff

MIN_OBJECTS, MAX_OBJECTS = 3, 8  # in a photo (sg2im)
VALIDATION_PHOTOS = 1024  # the first of val2017 that pass; the others are for testing

DOWNLOADS = (
    "download train2017.zip and val2017.zip from images.cocodataset.org/zips, "
    "annotations_trainval2017.zip and stuff_annotations_trainval2017.zip from "
    "images.cocodataset.org/annotations, and unzip all four in {folder}, which then holds "
    "train2017/, val2017/, annotations/instances_{{train,val}}2017.json and "
    "annotations/stuff_{{train,val}}2017.json"
)


def read_coco(folder: Path, *, require_stuff: bool = True, limit: int | None = None) -> Dataset:
    """
    require_stuff  leave out photos without any stuff annotation, as sg2im does
    limit          take only the first so many that pass, in each of train2017 and val2017
    """
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit} photos leaves nothing; give at least 1")
    files = _annotation_files(folder, require_stuff)
    reading = Reading()
    for kind, photo_folder, path in progress(
        files, "reading annotations", total=len(files), unit="files"
    ):
        read_file(reading, kind, photo_folder, path)
    passed = {name: _passing(reading.photos[name], require_stuff) for name in PHOTO_FOLDERS}
    counts = {name: _counts(reading.photos[name], require_stuff) for name in PHOTO_FOLDERS}
    if not passed["train2017"]:
        raise _nothing_left(folder, counts, require_stuff)
    photos = _split(*(passed[name][:limit] for name in PHOTO_FOLDERS))
    return Dataset(
        name="coco",
        folder=str(folder),
        vocabulary=_vocabulary(reading.categories),
        photos=photos,
        inputs=dict(sorted(reading.inputs.items())),
        protocol={
            "rules": _rules(require_stuff, limit),
            "counts": counts,
            "splits": {s: sum(p.photo.split == s for p in photos) for s in SPLITS},
        },
    )


def _annotation_files(folder: Path, require_stuff: bool) -> list[tuple[Kind, str, Path]]:
    remedy = DOWNLOADS.format(folder=folder)
    for path in (folder, folder / "annotations", *(folder / name for name in PHOTO_FOLDERS)):
        if not path.is_dir():
            raise DatasetError(f"there is no folder {path}: {remedy}")
    files = []
    for kind in KINDS:
        for photo_folder in PHOTO_FOLDERS:
            path = folder / "annotations" / f"{kind}_{photo_folder}.json"
            if path.is_file():
                files.append((kind, photo_folder, path))
            elif kind == "instances":
                raise DatasetError(f"there is no file {path}: {remedy}")
            elif require_stuff:
                raise DatasetError(
                    f"there is no file {path}: {remedy}; or pass --no-require-stuff to take photos "
                    f"without stuff"
                )
    return files


def _passing(photos: Mapping[int, Gathered], require_stuff: bool) -> list[Gathered]:
    """In file order, which is what sg2im's split of val2017 goes by."""
    return [p for p in _considered(photos, require_stuff) if _has_right_number(p)]


def _considered(photos: Mapping[int, Gathered], require_stuff: bool) -> Iterator[Gathered]:
    return (p for p in photos.values() if p.has_stuff or not require_stuff)


def _has_right_number(photo: Gathered) -> bool:
    return MIN_OBJECTS <= len(photo.objects) <= MAX_OBJECTS


def _split(train: list[Gathered], held_out: list[Gathered]) -> tuple[AnnotatedPhoto, ...]:
    """train, val, test, each by rising id."""
    if len(held_out) >= 2 * VALIDATION_PHOTOS:
        num_val = VALIDATION_PHOTOS
    else:  # a small set: half each, the same halves whatever the order in the file
        held_out = sorted(held_out, key=_image_id)
        num_val = (len(held_out) + 1) // 2
    parts = (train, held_out[:num_val], held_out[num_val:])
    return tuple(
        _annotated(photo, split)
        for split, part in zip(SPLITS, parts, strict=True)
        for photo in sorted(part, key=_image_id)
    )


def _image_id(photo: Gathered) -> int:
    return photo.photo.image_id


def _annotated(gathered: Gathered, split: Split) -> AnnotatedPhoto:
    return AnnotatedPhoto(replace(gathered.photo, split=split), tuple(gathered.objects))


def _vocabulary(categories: Mapping[int, str]) -> Vocabulary:
    names = (categories[number] for number in sorted(categories))
    objects = (IMAGE, *(name for name in names if name != LEFT_OUT_CATEGORY))
    return Vocabulary(objects, (IN_IMAGE, *GEOMETRIC))


def _counts(photos: Mapping[int, Gathered], require_stuff: bool) -> dict[str, int]:
    """Before and after each filter, in the order in which they apply."""
    considered = list(_considered(photos, require_stuff))
    passed = [p for p in considered if _has_right_number(p)]
    return {
        "photos": len(photos),
        "annotations": sum(p.num_annotations for p in photos.values()),
        "objects_large_enough": sum(len(p.objects) for p in photos.values()),
        "photos_with_stuff": sum(p.has_stuff for p in photos.values()),
        "photos_considered": len(considered),
        "photos_with_too_few_objects": sum(len(p.objects) < MIN_OBJECTS for p in considered),
        "photos_with_too_many_objects": sum(len(p.objects) > MAX_OBJECTS for p in considered),
        "photos_passed": len(passed),
        "objects_passed": sum(len(p.objects) for p in passed),
    }


def _rules(require_stuff: bool, limit: int | None) -> dict[str, Any]:
    return {
        "require_stuff": require_stuff,
        "object_area_above": MIN_AREA,
        "objects_per_photo": [MIN_OBJECTS, MAX_OBJECTS],
        "category_left_out": LEFT_OUT_CATEGORY,
        "limit_per_folder": limit,
        "validation": f"the first {VALIDATION_PHOTOS} of val2017 that pass, in file order; with "
        f"fewer than {2 * VALIDATION_PHOTOS}, the first half by id; the others are the test split",
        "relations": "each object and one other, drawn from the photo's id",
    }


def _nothing_left(
    folder: Path, counts: Mapping[str, Mapping[str, int]], require_stuff: bool
) -> DatasetError:
    train = counts["train2017"]
    hint = (
        "--no-require-stuff takes photos without stuff too"
        if require_stuff and train["photos_considered"] < train["photos"]
        else "are these whole annotation files?"
    )
    return DatasetError(
        f"{folder}: none of the {train['photos']:,} photos of train2017 passes the filter: "
        f"{train['photos_with_stuff']:,} have stuff; of the {train['photos_considered']:,} "
        f"considered, {train['photos_with_too_few_objects']:,} have fewer than {MIN_OBJECTS} and "
        f"{train['photos_with_too_many_objects']:,} more than {MAX_OBJECTS} objects over "
        f"{MIN_AREA:.0%} of the photo ({train['objects_large_enough']:,} such objects in all); "
        f"{hint}"
    )
