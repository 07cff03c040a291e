"""Where a COCO-format dataset keeps its annotation files and its photos."""

from typing import Literal, NamedTuple

from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError

Role = Literal["train", "held out", "all"]  # all: split by the photos' ids
OFFICIAL: dict[str, Role] = {"train2017": "train", "val2017": "held out"}

ID_LISTS = {  # of the 2017 stuff challenge, which annotated 40K of the training photos
    "train2017": "annotations/deprecated-challenge2017/train-ids.txt",
    "val2017": "annotations/deprecated-challenge2017/val-ids.txt",
}

DOWNLOADS = (
    "download train2017.zip and val2017.zip from images.cocodataset.org/zips, "
    "annotations_trainval2017.zip and stuff_annotations_trainval2017.zip from "
    "images.cocodataset.org/annotations, and put all four in {folder}; unpacked or not, it then "
    "holds train2017/, val2017/, annotations/instances_{{train,val}}2017.json and "
    "annotations/stuff_{{train,val}}2017.json"
)


class Part(NamedTuple):
    """Photos that lie together, and the files that annotate them."""

    name: str  # "train2017"
    role: Role
    photos: str  # folder of the photos
    instances: str
    stuff: str | None  # None where there is no such file


def parts_of(folder: DataFolder, require_stuff: bool) -> list[Part]:
    """The official two, or those that a folder of one's own has; DatasetError where files lack."""
    remedy = DOWNLOADS.format(folder=folder)
    if not folder.path.is_dir():
        raise DatasetError(f"there is no folder {folder}: {remedy}")
    names = OFFICIAL if require_stuff else _names(folder)
    return [_part(folder, name, role, require_stuff, remedy) for name, role in names.items()]


def _names(folder: DataFolder) -> dict[str, Role]:
    """The official ones where they are all there; else any `annotations/instances_NAME.json`."""
    found = [
        file.removeprefix("instances_").removesuffix(".json")
        for file in folder.names("annotations", ".json")
        if file.startswith("instances_")
    ]
    if not found or OFFICIAL.keys() & set(found):
        return OFFICIAL
    roles = {name: _role(name) for name in found}
    if "train" in roles.values() or "all" in roles.values():
        return roles
    raise DatasetError(
        f"{folder}/annotations: of {', '.join(f'instances_{name}.json' for name in found)} none is "
        f"for training; name one instances_train.json"
    )


def _role(name: str) -> Role:
    if name.lower().startswith("train"):
        return "train"
    return "held out" if name.lower().startswith(("val", "test")) else "all"


def _part(folder: DataFolder, name: str, role: Role, require_stuff: bool, remedy: str) -> Part:
    instances, stuff = (f"annotations/{kind}_{name}.json" for kind in ("instances", "stuff"))
    photos = (name, f"images/{name}", *(() if name in OFFICIAL else ("images",)))
    there = next((place for place in photos if folder.has_folder(place)), None)
    if there is None:
        raise DatasetError(f"there is no folder {folder.path / name}: {remedy}")
    if not folder.has(instances):
        raise DatasetError(f"there is no file {folder.path / instances}: {remedy}")
    if folder.has(stuff):
        return Part(name, role, there, instances, stuff)
    if require_stuff:
        raise DatasetError(
            f"there is no file {folder.path / stuff}: {remedy}; or pass --no-require-stuff to take "
            f"photos without stuff"
        )
    return Part(name, role, there, instances, None)


def listed_ids(folder: DataFolder, part: str) -> frozenset[int]:
    """The photos that the deprecated 40K edition of COCO-Stuff annotates."""
    file = ID_LISTS[part]
    try:
        text = folder.read(file).decode("ascii")
        return frozenset(int(word) for word in text.split())
    except OSError as error:
        raise DatasetError(
            f"{folder.where(file)} cannot be read: --edition deprecated-40k needs the id lists "
            f"that stuff_annotations_trainval2017.zip holds; put that zip in {folder}"
        ) from error
    except ValueError as error:
        raise DatasetError(
            f"{folder.where(file)} is no list of photo ids ({error}); take it anew from "
            f"stuff_annotations_trainval2017.zip"
        ) from error
