"""A Visual Genome folder -> the photos that pass sg2im's filter, with objects and relationships.

The folder holds what visualgenome.org offers, unpacked or as the zips that it comes in, and
sg2im's vg_splits.json.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from pipeline.boxes import BoxTally
from pipeline.data_folder import DataFolder
from pipeline.dataset import Dataset
from pipeline.errors import DatasetError, UserError
from pipeline.scene import SPLITS, AnnotatedObject, AnnotatedPhoto, Photo, Relation, Split
from pipeline.twice import listed_twice_note
from pipeline.visual_genome.annotations import Annotations, read_annotations
from pipeline.visual_genome.attributes import frequent_ones
from pipeline.visual_genome.cap import drawn_objects
from pipeline.visual_genome.entries import Source
from pipeline.visual_genome.layout import require_folder
from pipeline.visual_genome.objects import BoxPx, Kept
from pipeline.visual_genome.protocol import Tally, What, state_protocol
from pipeline.visual_genome.relations import Link
from pipeline.visual_genome.rules import (
    OBJECTS_PER_PHOTO,
    RELATIONS_PER_PHOTO,
    ObjectCap,
    VisualGenomeRules,
    flag,
)


@dataclass(frozen=True, slots=True)
class Passed:
    """A photo that is in, with all that is in force of its annotations."""

    photo: Photo
    kept: Kept
    links: Sequence[Link]


def read_visual_genome(
    folder: DataFolder, rules: VisualGenomeRules | None = None, limit: int | None = None
) -> Dataset:
    """`limit`: only the first so many that pass, of the training photos and of all others."""
    rules = rules or VisualGenomeRules()
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit} photos leaves nothing; give at least 1")
    require_folder(folder)
    source, tally = Source(folder), Tally()
    annotations = read_annotations(source, rules, tally)
    passed = _within(limit, list(_passing(annotations, tally)))
    if not any(p.photo.split == "train" for p in passed):
        raise _nothing_left(folder, tally, rules, annotations)
    photos = tuple(_annotated(p, annotations, rules.object_cap) for p in passed)
    _tally_scenes(photos, tally)
    boxes = ((p.photo, o.object_index, o.box_px) for p in photos for o in p.objects)
    notes = [*_notes_on(boxes), *listed_twice_note(photos, folder)]
    return Dataset(
        name="vg",
        folder=str(folder),
        vocabulary=annotations.vocabulary,
        photos=photos,
        inputs=dict(sorted(source.inputs.items())),
        protocol=state_protocol(photos, annotations.vocabulary, tally, source, rules, limit, notes),
    )


def _passing(annotations: Annotations, tally: Tally) -> Iterator[Passed]:
    """By rising id within each split."""
    predicates = frozenset(annotations.vocabulary.predicates[1:])
    photos = annotations.photos.values()
    for photo in sorted(photos, key=lambda p: (SPLITS.index(p.split), p.image_id)):
        kept = annotations.kept.get(photo.image_id)
        if kept is None:
            tally.add("photos_not_in_objects", photo.split)
            continue
        links = annotations.links.get(photo.image_id, [])
        known = [link for link in links if link.predicate in predicates]
        listed = annotations.listed[photo.image_id]
        tally.add("objects_listed", photo.split, len(listed.ids))
        tally.add("objects_of_a_kept_name", photo.split, kept.num_named)
        tally.add("objects_large_enough", photo.split, kept.num_large)
        if photo.image_id not in annotations.links:
            tally.add("photos_not_in_relationships", photo.split)
        outcome = _outcome(len(kept.places), len(known))
        tally.add(outcome, photo.split)
        if outcome == "photos_passed":
            tally.add("objects_passed", photo.split, len(kept.places))
            tally.add("relations_passed", photo.split, len(known))
            yield Passed(photo, kept, known)


def _outcome(num_objects: int, num_relations: int) -> What:
    (fewest_objects, most_objects), (fewest, most) = OBJECTS_PER_PHOTO, RELATIONS_PER_PHOTO
    if num_objects < fewest_objects:
        return "photos_with_too_few_objects"
    if num_objects > most_objects:
        return "photos_with_too_many_objects"
    if num_relations < fewest:
        return "photos_with_too_few_relations"
    return "photos_passed" if num_relations <= most else "photos_with_too_many_relations"


def _within(limit: int | None, passed: list[Passed]) -> list[Passed]:
    """Of the training photos, and of the others whatever their split, those of the lowest ids."""
    train = [p for p in passed if p.photo.split == "train"]
    others = sorted((p for p in passed if p.photo.split != "train"), key=_image_id)
    allowed = {_image_id(p) for p in (*train[:limit], *others[:limit])}
    return [p for p in passed if _image_id(p) in allowed]


def _image_id(passed: Passed) -> int:
    return passed.photo.image_id


def _annotated(passed: Passed, annotations: Annotations, cap: ObjectCap) -> AnnotatedPhoto:
    """The scene's objects, and the relationships that remain between them."""
    photo, kept = passed.photo, passed.kept.places
    ends = [(link.subject, link.object) for link in passed.links]
    drawn = drawn_objects(photo.image_id, len(kept), ends, cap)
    here = frozenset(drawn)
    relations = tuple(
        Relation(kept[link.subject], link.predicate, kept[link.object])
        for link in passed.links
        if link.subject in here and link.object in here
    )
    return AnnotatedPhoto(photo, _annotated_objects(passed, drawn, annotations), relations)


def _annotated_objects(
    passed: Passed, drawn: Sequence[int], annotations: Annotations
) -> tuple[AnnotatedObject, ...]:
    image_id, kept = passed.photo.image_id, passed.kept
    listed = annotations.listed[image_id]
    attributed = annotations.attributed.get(image_id)
    attributes = attributed.by_object() if attributed else {}
    return tuple(
        AnnotatedObject(
            object_index=kept.places[position],
            category=annotations.objects.name_at(listed, kept.taken_from[position]),
            box_px=listed.box(kept.taken_from[position]),
            attributes=frequent_ones(
                attributes.get(listed.ids[kept.places[position]], ()), annotations.attribute_names
            ),
        )
        for position in drawn
    )


def _notes_on(boxes: Iterable[tuple[Photo, int, BoxPx]]) -> list[str]:
    """A line where they are not like Visual Genome's; each with its photo and place."""
    tally = BoxTally("Visual Genome", beyond_px=2, accepted=0.01)
    for photo, place, box in boxes:
        tally.add(box, photo, partial("photo {}, objects[{}]".format, photo.image_id, place))
    return tally.notes()


def _tally_scenes(photos: Sequence[AnnotatedPhoto], tally: Tally) -> None:
    for photo in photos:
        split: Split = photo.photo.split
        tally.add("photos_within_limit", split)
        tally.add("objects_after_the_cap", split, len(photo.objects))
        tally.add("relations_after_the_cap", split, len(photo.relations or ()))


def _nothing_left(
    folder: DataFolder, tally: Tally, rules: VisualGenomeRules, annotations: Annotations
) -> DatasetError:
    train = {what: counts["train"] for what, counts in tally.counts().items()}
    if not train["photos_listed"]:
        hint = f"no photo was drawn for training: give more, or {flag('splits')} sg2im"
    elif notes := _notes_on(
        (annotations.photos[image_id], place, listed.box(place))
        for image_id, listed in annotations.listed.items()
        for place in range(len(listed.ids))
    ):
        hint = "; ".join(notes)
    else:
        hint = (
            "are these whole files? for small ones lower --vg-min-object-count and "
            "--vg-min-relation-count"
        )
    return DatasetError(
        f"{folder}: none of the {train['photos_listed']:,} training photos passes the filter: "
        f"{train['photos_large_enough']:,} are at least {rules.min_photo_px} px; of their "
        f"{train['objects_listed']:,} objects {train['objects_large_enough']:,} have a frequent "
        f"name and are at least {rules.min_box_px} px; "
        f"{train['photos_with_too_few_objects']:,} photos keep fewer than {OBJECTS_PER_PHOTO[0]} "
        f"and {train['photos_with_too_many_objects']:,} more than {OBJECTS_PER_PHOTO[1]} objects, "
        f"{train['photos_with_too_few_relations']:,} no relationship and "
        f"{train['photos_with_too_many_relations']:,} more than {RELATIONS_PER_PHOTO[1]}; {hint}"
    )
