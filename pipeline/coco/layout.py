"""Where a COCO-format dataset keeps its annotation files and its photos."""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError

Role = Literal["train", "held out", "all"]  # all: split by the photos' ids
OFFICIAL: dict[str, Role] = {"train2017": "train", "val2017": "held out"}

WHOLE_DATASET = re.compile(r".+/annotations/instances_[^/]+\.json")

ID_LISTS = {  # of the 2017 stuff challenge, which annotated 40K of the training photos
    "train2017": "annotations/deprecated-challenge2017/train-ids.txt",
    "val2017": "annotations/deprecated-challenge2017/val-ids.txt",
}

MOST_BYTES = 64_000_000  # of an id list

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
    places: tuple[str, ...]  # folders where the photos may lie
    instances: str
    stuff: str | None  # None where there is no such file

    def photos(self, folder: DataFolder, files: Sequence[str]) -> str:
        """The place where some of these files are; the likeliest where none of them is."""
        with_files = (
            place for place in self.places if any(folder.has(_join(place, f)) for f in files)
        )
        return next(with_files, self.places[0])


def _join(place: str, file: str) -> str:
    return str(PurePosixPath(place, file))


def is_official(parts: Sequence[Part]) -> bool:
    return {part.name for part in parts} == OFFICIAL.keys()


def parts_of(folder: DataFolder, require_stuff: bool) -> list[Part]:
    """The official two, or those that a folder of one's own has; DatasetError where files lack."""
    if not folder.path.is_dir():
        raise DatasetError(f"there is no folder {folder}: {DOWNLOADS.format(folder=folder)}")
    return [_part(folder, name, role, require_stuff) for name, role in _names(folder).items()]


def _names(folder: DataFolder) -> dict[str, Role]:
    """The official ones where one of them is there or nothing is; else any
    `annotations/instances_NAME.json`. DatasetError for other exports' layouts."""
    files = folder.names("annotations", ".json")
    names = [f.removeprefix("instances_")[:-5] for f in files if f.startswith("instances_")]
    if OFFICIAL.keys() & set(names):
        return OFFICIAL
    if not files:
        if other := _other_layout(folder):
            raise DatasetError(other)
        return OFFICIAL
    if not names:
        raise DatasetError(
            f"{folder.path / 'annotations'} holds {', '.join(files[:3])}, but no "
            f"instances_NAME.json: give COCO's instances files such names, e.g. "
            f"instances_train.json"
        )
    roles = {name: _role(name) for name in names}
    if "train" in roles.values() or "all" in roles.values():
        return roles
    listed = ", ".join(f"instances_{name}.json" for name in names)
    raise DatasetError(
        f"{folder.path / 'annotations'}: of {listed} none is for training; name one "
        f"instances_train.json"
    )


def _other_layout(folder: DataFolder) -> str:
    """What to do about annotations that lie elsewhere, or photos that have none; "" where the
    folder holds neither."""
    if any(folder.has_folder(name) for name in OFFICIAL) or not folder.has_anything():
        return ""
    files = [f for f in folder.find(".json") if not f.startswith(".")]
    if below := next((f for f in files if WHOLE_DATASET.fullmatch(f)), None):
        place = PurePosixPath(below).parents[1]
        unpacked = (folder.path / below).exists()
        unpack = "" if unpacked else f"unpack {folder.where(below)}, and "
        return f"{folder} holds all in a folder {place}/: {unpack}give --data {folder.path / place}"
    if files:
        listed = ", ".join(
            f"{folder.where(f)} must be annotations/instances_{name}.json"
            for f, name in zip(files[:3], _names_for(files), strict=False)
        )
        more = f", and {len(files) - 3:,} more likewise" if len(files) > 3 else ""
        return (
            f"{folder} has its annotations in another place than COCO: {listed}{more}; the photos "
            f"of instances_NAME.json lie in NAME/ or images/"
        )
    return (
        f"{folder} has no annotation file: put COCO's instances file there as "
        f"annotations/instances_train.json, its photos in train/ or images/"
    )


def _names_for(files: Sequence[str]) -> list[str]:
    """NAME for each: by the folder or the file's own name where these say a split."""
    names = []
    for file in files:
        words = re.findall("[a-z]+", file.lower())
        role = next(
            (s for s in ("train", "val", "test") if any(w.startswith(s) for w in words)), ""
        )
        names.append(role or ("train" if len(files) == 1 else PurePosixPath(file).stem))
    return names if len(set(names)) == len(names) else [str(i) for i in range(1, len(names) + 1)]


def _role(name: str) -> Role:
    if name.lower().startswith("train"):
        return "train"
    return "held out" if name.lower().startswith(("val", "test")) else "all"


def _part(folder: DataFolder, name: str, role: Role, require_stuff: bool) -> Part:
    official = name in OFFICIAL
    remedy = f": {DOWNLOADS.format(folder=folder)}" if official else ""
    instances, stuff = (f"annotations/{kind}_{name}.json" for kind in ("instances", "stuff"))
    places = tuple(place for place in (name, f"images/{name}") if folder.has_folder(place))
    if not official:
        places = (*places, "images", ".")
    elif not places:
        raise DatasetError(f"there is no folder {folder.path / name}{remedy}")
    if not folder.has(instances):
        raise DatasetError(f"there is no file {folder.path / instances}{remedy}")
    if not folder.has(stuff):
        if require_stuff:
            raise DatasetError(
                f"there is no file {folder.path / stuff}{remedy}; pass --no-require-stuff to take "
                f"photos without stuff"
            )
        stuff = ""
    return Part(
        name, role, places if official else (*places, "images", "."), instances, stuff or None
    )


def listed_ids(folder: DataFolder, part: Part, inputs: dict[str, str]) -> frozenset[int]:
    """The photos that the deprecated 40K edition of COCO-Stuff annotates."""
    file = ID_LISTS[part.name]
    if not folder.has(file):
        raise DatasetError(
            f"there is no file {folder.path / file}: --edition deprecated-40k needs the id lists "
            f"that stuff_annotations_trainval2017.zip holds; put that zip in {folder}"
        )
    try:
        text = folder.read_input(file, inputs, MOST_BYTES).decode("ascii")
        return frozenset(int(word) for word in text.split())
    except ValueError as error:
        raise DatasetError(
            f"{folder.where(file)} is no list of photo ids ({error}); take it anew from "
            f"stuff_annotations_trainval2017.zip"
        ) from error
