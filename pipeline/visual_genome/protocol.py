"""What a number obtained on Visual Genome's scenes must be quoted with."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

from pipeline.protocol import Protocol, state
from pipeline.scene import SPLITS, AnnotatedPhoto, Split, Vocabulary
from pipeline.visual_genome.cap import MOST_OBJECTS
from pipeline.visual_genome.entries import Source
from pipeline.visual_genome.rules import (
    MOST_ATTRIBUTES,
    OBJECTS_PER_PHOTO,
    RELATIONS_PER_PHOTO,
    VisualGenomeRules,
    flag,
)

What = Literal[  # in the order in which the filters apply
    "photos_listed",
    "photos_not_in_image_data",
    "photos_large_enough",
    "photos_not_in_objects",
    "objects_listed",
    "objects_of_a_kept_name",
    "objects_large_enough",
    "photos_with_too_few_objects",
    "photos_with_too_many_objects",
    "photos_not_in_relationships",
    "photos_with_too_few_relations",
    "photos_with_too_many_relations",
    "photos_passed",
    "objects_passed",
    "relations_passed",
    "photos_within_limit",
    "objects_after_the_cap",
    "relations_after_the_cap",
]

LITERATURE = {
    "train": (62_565, "sg2im"),
    "val": (5_506, "sg2im"),
    "test": (5_088, "sg2im; LayoutDiffusion has 5,097"),
    "objects": (178, "sg2im"),
    "relations": (45, "sg2im"),
}


WITHOUT_EFFECT = ("object_cap", "min_attribute_count")  # on what the literature counts


class Tally:
    """Counts before and after each filter, by split."""

    def __init__(self) -> None:
        self._counts = {what: {str(s): 0 for s in SPLITS} for what in get_args(What)}

    def add(self, what: What, split: Split, count: int = 1) -> None:
        self._counts[what][split] += count

    def counts(self) -> dict[str, dict[str, int]]:
        return {what: dict(by_split) for what, by_split in self._counts.items()}


def state_protocol(
    photos: Sequence[AnnotatedPhoto],
    vocabulary: Vocabulary,
    tally: Tally,
    source: Source,
    rules: VisualGenomeRules,
    limit: int | None,
    notes: Sequence[str],
) -> Protocol:
    """`notes` are on what the photos show, after those on the files."""
    return state(
        f"Visual Genome, splits {rules.splits}",
        photos,
        vocabulary,
        rules=_stated(rules, limit),
        counts=tally.counts(),
        literature=LITERATURE,
        not_compared=_why_not_compared(rules, limit),
        notes=[*_notes(tally, source), *notes],
    )


def _stated(rules: VisualGenomeRules, limit: int | None) -> dict[str, Any]:
    drawn = MOST_OBJECTS + (rules.object_cap == "sg2im")
    return {
        **asdict(rules),
        "objects_per_photo": list(OBJECTS_PER_PHOTO),
        "relations_per_photo": list(RELATIONS_PER_PHOTO),
        "attributes_per_object_at_most": MOST_ATTRIBUTES,
        "objects_in_a_scene": f"those in relationships, if more than {MOST_OBJECTS} then {drawn} "
        f"of them, if fewer then others up to {MOST_OBJECTS}; drawn once, from the photo's id",
        "limit": limit,
    }


def _why_not_compared(rules: VisualGenomeRules, limit: int | None) -> str:
    own = asdict(VisualGenomeRules())
    changed = [
        flag(name)
        for name, value in asdict(rules).items()
        if value != own[name] and name not in WITHOUT_EFFECT
    ]
    changed += ["--limit"] if limit is not None else []
    return f"other rules are in force ({', '.join(changed)})" if changed else ""


def _notes(tally: Tally, source: Source) -> Iterator[str]:
    for file, places in source.without_id.items():
        first = f"the first is entry {places[0]:,}"
        yield f"{file}: entries without image_id, left out: {len(places):,}; {first}"
    for file, image_ids in source.listed_twice.items():
        first = f"the first is photo {image_ids[0]}"
        yield f"{file}: photos listed again, the later list stands: {len(image_ids):,}; {first}"
    counts = tally.counts()
    missing_from: tuple[What, ...] = (
        "photos_not_in_image_data",
        "photos_not_in_objects",
        "photos_not_in_relationships",
    )
    for what in missing_from:
        if missing := sum(counts[what].values()):
            file = what.removeprefix("photos_not_in_")
            yield f"photos of the splits without an entry in {file}, left out: {missing:,}"
