"""Which release a file of Visual Genome is of: another one gives another vocabulary.

Release 1.0 says `id` where later ones say `image_id` and `object_id`; only release 1.4 says which
objects were merged. With older objects and relationships sg2im's rules keep 260 object names and
66 predicates in place of 178 and 45.
"""

from collections.abc import Iterable
from itertools import chain
from typing import Any

from msgspec import UNSET

from pipeline.errors import DatasetError
from pipeline.visual_genome.layout import DOWNLOAD, RELEASE, Kind
from pipeline.visual_genome.shapes import (
    AnyEntry,
    End,
    ListedObject,
    ObjectsEntry,
    RelationshipsEntry,
)


class ReleaseCheck:
    """Look at every entry of a file, then finish; DatasetError names the release found."""

    def __init__(self, where: str, kind: Kind, folder: str) -> None:
        self._where, self._kind, self._folder = where, kind, folder
        self._seen_objects = self._seen_merged = False

    def look_at_value(self, value: Any) -> None:
        """As it stands in the file, before its form is checked."""
        if isinstance(value, dict) and "image_id" not in value and "id" in value:
            raise self._wrong("1.0 (it says 'id' where later ones say 'image_id')")

    def look_at_entry(self, entry: AnyEntry) -> None:
        if not self._seen_merged:
            objects = list(_objects_of(entry))
            self._seen_objects |= bool(objects)
            self._seen_merged = any(o.merged_object_ids is not UNSET for o in objects)

    def finish(self) -> None:
        if RELEASE[self._kind] == "1.4" and self._seen_objects and not self._seen_merged:
            own = (
                "; of photos of your own, merely in Visual Genome's form, give the objects "
                '"merged_object_ids": [], which says that none was merged'
            )
            raise self._wrong("1.2 (no object has 'merged_object_ids')", own)

    def _wrong(self, release: str, otherwise: str = "") -> DatasetError:
        return DatasetError(
            f"{self._where} is of release {release}, but release {RELEASE[self._kind]} is needed: "
            f"{DOWNLOAD.format(folder=self._folder)}{otherwise}"
        )


def _objects_of(entry: AnyEntry) -> Iterable[ListedObject | End]:
    if isinstance(entry, ObjectsEntry):
        return entry.objects
    if isinstance(entry, RelationshipsEntry):
        return chain.from_iterable((r.subject, r.object) for r in entry.relationships)
    return ()
