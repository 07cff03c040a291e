"""A Visual Genome folder -> the entries of its JSON files, a photo's each, checked."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from pipeline.checks import BROKEN
from pipeline.data_folder import DataFolder
from pipeline.errors import DatasetError
from pipeline.json_file import decoded
from pipeline.progress import progress
from pipeline.visual_genome.layout import Kind, annotation_file
from pipeline.visual_genome.release import ReleaseCheck
from pipeline.visual_genome.shapes import (
    AttributesEntry,
    ObjectsEntry,
    PhotoEntry,
    RelationshipsEntry,
    shaped,
)

Entry = TypeVar("Entry", PhotoEntry, ObjectsEntry, RelationshipsEntry, AttributesEntry)


@dataclass
class Source:
    """The folder, and what reading it has brought to light so far."""

    folder: DataFolder
    inputs: dict[str, str] = field(default_factory=dict)  # file -> SHA-256
    without_id: dict[str, list[int]] = field(default_factory=dict)  # file -> places of entries
    listed_twice: dict[str, list[int]] = field(default_factory=dict)  # file -> photos' ids

    def entries(self, kind: Kind, shape: type[Entry]) -> Iterator[tuple[int, Entry]]:
        """(photo's id, its entry) in file order; one without the id is left out and noted.

        DatasetError for an entry of another form, with file, photo and place, for a file of
        another release and for one that is not whole.
        """
        file = annotation_file(self.folder, kind)
        where = self.folder.where(file)
        release = ReleaseCheck(where, kind, str(self.folder))
        decode, seen = msgspec.json.Decoder(shape, strict=False).decode, set[int]()
        listed = self._listed(file, where)
        for place, raw in enumerate(progress(listed, file, len(listed), "photo")):
            at = f"{where}, entry {place},"
            entry = decoded(raw, decode, at)
            if not isinstance(entry, shape) or entry.image_id is UNSET:
                value = decoded(raw, msgspec.json.decode, at)
                release.look_at_value(value)
                entry = shaped(value, shape, f"{where}, {_photo_of(value)}entry {place}")
            release.look_at_entry(entry)
            if entry.image_id is UNSET:
                self.without_id.setdefault(file, []).append(place)
                continue
            if entry.image_id in seen:
                self.listed_twice.setdefault(file, []).append(entry.image_id)
            seen.add(entry.image_id)
            yield entry.image_id, entry
        release.finish()

    def _listed(self, file: str, where: str) -> list[Any]:
        """The file's entries, raw: it is read whole, and parsed one by one."""
        decode = msgspec.json.Decoder(list[msgspec.Raw]).decode
        value = decoded(self.folder.read_input(file, self.inputs), decode, where)
        if not isinstance(value, list):
            raise DatasetError(f"{where} holds no list, as Visual Genome's files do; {BROKEN}")
        return value

    def where(self, kind: Kind, image_id: int, place: int) -> str:
        """How a message names an item of a photo's list."""
        file = self.folder.where(annotation_file(self.folder, kind))
        return f"{file}, photo {image_id}, {kind}[{place}]"


def _photo_of(value: Any) -> str:
    image_id = value.get("image_id") if isinstance(value, dict) else None
    return f"photo {image_id}, " if type(image_id) is int else ""
