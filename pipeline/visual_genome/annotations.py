"""All of Visual Genome's annotation files -> what they say of the photos that are large enough."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from pipeline.checks import url
from pipeline.scene import IMAGE, IN_IMAGE, Photo, Split, Vocabulary
from pipeline.splits import own_split
from pipeline.visual_genome.attributes import Attributed, read_attributes
from pipeline.visual_genome.entries import Source
from pipeline.visual_genome.layout import PhotoPlaces, annotation_file, check_files, photo_file
from pipeline.visual_genome.lists import read_aliases, read_splits
from pipeline.visual_genome.names import NamePool, count_names, most_first
from pipeline.visual_genome.objects import Kept, Listed, ObjectFilter, read_objects
from pipeline.visual_genome.protocol import Tally
from pipeline.visual_genome.relations import Link, RelationReader, normaliser
from pipeline.visual_genome.rules import VisualGenomeRules
from pipeline.visual_genome.shapes import PhotoEntry

Of = TypeVar("Of")


@dataclass(frozen=True, slots=True)
class Annotations:
    """By photo's id; a photo may be missing from any but `photos`."""

    photos: Mapping[int, Photo]  # those large enough
    vocabulary: Vocabulary
    attribute_names: frozenset[str]
    objects: ObjectFilter
    listed: Mapping[int, Listed]
    kept: Mapping[int, Kept]
    links: Mapping[int, list[Link]]
    attributed: Mapping[int, Attributed]


def read_annotations(source: Source, rules: VisualGenomeRules, tally: Tally) -> Annotations:
    """Each file once, from front to back; names are counted over training photos."""
    check_files(source.folder, with_splits=rules.splits == "sg2im")
    photos = _read_photos(source, rules, tally)
    aliases = read_aliases(source.folder, "objects", source.inputs)
    names = NamePool(lambda *at: source.where("objects", *at), lambda n: aliases.get(n, n))
    listed = read_objects(source, photos, names)
    counts = count_names(objects.names for objects in _train(listed, photos))
    kept_names = names.frequent(most_first(counts), rules.min_object_count)
    objects = ObjectFilter(kept_names, rules.min_box_px)
    kept = {image_id: objects.keep(of_photo) for image_id, of_photo in listed.items()}

    words = NamePool(lambda *at: source.where("attributes", *at))
    attributed = read_attributes(source, photos, words)
    counts = count_names(of_photo.attributes for of_photo in _train(attributed, photos))
    attribute_names = words.frequent(counts, rules.min_attribute_count)

    aliases_of_predicates = read_aliases(source.folder, "relationships", source.inputs)
    predicates = NamePool(
        lambda *at: source.where("relationships", *at), normaliser(aliases_of_predicates)
    )
    links = RelationReader(predicates, rules.predicate_names).read(source, photos, kept)
    counts = Counter(link.predicate for of_photo in _train(links, photos) for link in of_photo)
    kept_predicates = predicates.frequent(counts, rules.min_relation_count)
    return Annotations(
        photos=photos,
        vocabulary=Vocabulary((IMAGE, *kept_names), (IN_IMAGE, *kept_predicates)),
        attribute_names=frozenset(attribute_names),
        objects=objects,
        listed=listed,
        kept=kept,
        links=links,
        attributed=attributed,
    )


def _train(of_photos: Mapping[int, Of], photos: Mapping[int, Photo]) -> Iterator[Of]:
    """Those of training photos, in file order."""
    return (of for image_id, of in of_photos.items() if photos[image_id].split == "train")


def _read_photos(source: Source, rules: VisualGenomeRules, tally: Tally) -> dict[int, Photo]:
    splits = read_splits(source.folder, source.inputs) if rules.splits == "sg2im" else None
    entries = dict(source.entries("image_data", PhotoEntry))
    if splits is None:
        splits = {image_id: own_split(image_id) for image_id in entries}
    where = source.folder.where(annotation_file(source.folder, "image_data"))
    photos, places = {}, PhotoPlaces(source.folder)
    for image_id, split in splits.items():
        tally.add("photos_listed", split)
        if (entry := entries.get(image_id)) is None:
            tally.add("photos_not_in_image_data", split)
        elif min(entry.width, entry.height) >= rules.min_photo_px:
            tally.add("photos_large_enough", split)
            file = places.find(photo_file(entry.url, f"{where}, photo {image_id}"))
            photos[image_id] = _photo(image_id, entry, split, file)
    return photos


def _photo(image_id: int, entry: PhotoEntry, split: Split, file: str) -> Photo:
    return Photo(
        image_id=image_id,
        file=file,
        width=entry.width,
        height=entry.height,
        split=split,
        licence="",  # Visual Genome states none
        source_url=url(entry.url),
    )
