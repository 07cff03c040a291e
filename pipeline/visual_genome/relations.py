"""relationships.json -> each photo's relationships between kept objects, and their predicates.

The published script normalises a predicate in place while it counts, which it does for training
photos and kept objects alone: elsewhere it compares the predicate as it stands in the file with
the vocabulary. That decides how many validation and test photos have a relationship at all.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from pipeline.scene import Photo
from pipeline.visual_genome.entries import Source
from pipeline.visual_genome.names import NamePool
from pipeline.visual_genome.objects import Kept
from pipeline.visual_genome.rules import PredicateNames
from pipeline.visual_genome.shapes import ListedRelation, RelationshipsEntry


class Link(NamedTuple):
    """A relationship between positions among a photo's kept objects."""

    subject: int
    predicate: str
    object: int


def normaliser(aliases: Mapping[str, str]) -> Callable[[str], str]:
    def normalise(predicate: str) -> str:
        plain = predicate.lower().strip()
        return aliases.get(plain, plain)

    return normalise


class RelationReader:
    """`pool` normalises predicates; with `mended` names, those of all photos."""

    def __init__(self, pool: NamePool, names: PredicateNames) -> None:
        self._pool, self._names = pool, names

    def read(
        self, source: Source, photos: Mapping[int, Photo], kept: Mapping[int, Kept]
    ) -> dict[int, list[Link]]:
        """Of `photos`, in file order; where one is listed twice, the later list stands."""
        links: dict[int, list[Link]] = {}
        for image_id, entry in source.entries("relationships", RelationshipsEntry):
            if image_id in kept:
                here = photos[image_id], kept[image_id]
                links[image_id] = list(self._between_kept(entry.relationships, *here))
        return links

    def _between_kept(
        self, relations: list[ListedRelation], photo: Photo, kept: Kept
    ) -> Iterable[Link]:
        position = kept.position
        for place, relation in enumerate(relations):
            subject = position.get(relation.subject.object_id)
            object = position.get(relation.object.object_id)
            if subject is not None and object is not None:
                (name,) = self._pool.add((relation.predicate,), photo.image_id, place)
                if photo.split != "train" and self._names == "sg2im":
                    name = relation.predicate
                yield Link(subject, name, object)
