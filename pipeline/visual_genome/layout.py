"""Where a Visual Genome folder keeps its annotation files and its photos."""

import re
from pathlib import PurePosixPath
from typing import Literal, get_args

from pipeline.checks import show, stays_inside
from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError
from pipeline.visual_genome.rules import flag

Kind = Literal["image_data", "objects", "attributes", "relationships"]
Aliased = Literal["objects", "relationships"]

RELEASE: dict[Kind, str] = {  # the one that sg2im's counts belong to
    "image_data": "1.2",
    "objects": "1.4",
    "attributes": "1.2",
    "relationships": "1.4",
}
ALIASES: dict[Aliased, str] = {
    "objects": "object_alias.txt",
    "relationships": "relationship_alias.txt",
}
SPLITS_FILE = "vg_splits.json"

PHOTO_FOLDERS = "VG_100K/ and VG_100K_2/ (images.zip and images2.zip)"
DOWNLOAD = "download it from visualgenome.org's dataset pages and put it in {folder}, zipped or not"


def check_files(folder: DataFolder, *, with_splits: bool) -> None:
    """DatasetError for a file that is missing: before a minute goes into reading the others."""
    for kind in RELEASE:
        annotation_file(folder, kind)
    for names in get_args(Aliased):
        alias_file(folder, names)
    if with_splits:
        splits_file(folder)


def annotation_file(folder: DataFolder, kind: Kind) -> str:
    """`objects.json`, or `objects_v1_4.json`; DatasetError where there is neither."""
    plain, release = f"{kind}.json", RELEASE[kind]
    versioned = f"{kind}_v{release.replace('.', '_')}.json"
    for file in (versioned, plain):
        if folder.has(file):
            return file
    others = [n for n in folder.names(".", ".json") if re.match(rf"{kind}_v\d", n)]
    there = f" (only {others[0]}, of another release)" if others else ""
    raise _missing(folder, f"{plain}{there}", f"release {release} is needed: ")


def alias_file(folder: DataFolder, kind: Aliased) -> str:
    if not folder.has(file := ALIASES[kind]):
        raise _missing(folder, file, "it comes with release 1.4: ")
    return file


def splits_file(folder: DataFolder) -> str:
    if not folder.has(SPLITS_FILE):
        raise DatasetError(
            f"there is no file {folder.path / SPLITS_FILE}: take sg2im/data/vg_splits.json from "
            f"sg2im's repository (github.com/google/sg2im) and put it in {folder}; or pass "
            f"{flag('splits')} own to split all photos by their ids"
        )
    return SPLITS_FILE


def require_folder(folder: DataFolder) -> None:
    if not folder.path.is_dir():
        raise DatasetError(
            f"there is no folder {folder}: put there what visualgenome.org's dataset pages offer, "
            f"{', '.join(f'{kind} {release}' for kind, release in RELEASE.items())}, the two alias "
            f"lists and {PHOTO_FOLDERS}, zipped or not"
        )


def _missing(folder: DataFolder, file: str, what: str) -> DatasetError:
    where = f"there is no file {folder.path}/{file}"
    return DatasetError(f"{where}: {what}{DOWNLOAD.format(folder=folder)}")


def photo_file(url: str, where: str) -> str:
    """`VG_100K_2/1.jpg`, the last two parts of a photo's address; `where` begins a message."""
    parts = url.split("/")[-2:]
    if len(parts) < 2 or not all(p not in ("", ".") and stays_inside(p) for p in parts):
        raise DatasetError(f"{where}: its url {show(url)} does not end in FOLDER/FILE")
    return "/".join(parts)


class PhotoPlaces:
    """Finds the folders of the photos: right in the data folder or below images/."""

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._place_of: dict[str, str] = {}

    def find(self, file: str) -> str:
        """Where `VG_100K/2.jpg` lies; DatasetError where there is no such folder at all."""
        parent = str(PurePosixPath(file).parent)
        if parent not in self._place_of:
            places = (parent, f"images/{parent}")
            there = [place for place in places if self._folder.has_folder(place)]
            if not there:
                raise DatasetError(
                    f"there is no folder {self._folder.path / parent}: photos lie in "
                    f"{PHOTO_FOLDERS}; {DOWNLOAD.format(folder=self._folder)}"
                )
            self._place_of[parent] = there[0]
        return f"{self._place_of[parent]}/{PurePosixPath(file).name}"
