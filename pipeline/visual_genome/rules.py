"""Which photos, objects and relationships of Visual Genome are in."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal, get_args

from pipeline.options import option

VgSplits = Literal["sg2im", "own"]
ObjectCap = Literal["sg2im", "9"]
PredicateNames = Literal["sg2im", "mended"]

OBJECTS_PER_PHOTO = (3, 30)  # kept ones; photos with fewer or more are out (sg2im)
RELATIONS_PER_PHOTO = (1, 30)
MOST_ATTRIBUTES = 30  # of an object


@dataclass(frozen=True, kw_only=True)
class VisualGenomeRules:
    """sg2im's by default; ValueError, with the flag, where they make no sense."""

    splits: Annotated[
        VgSplits, option("VG: the photos of vg_splits.json, or all, split by their ids")
    ] = "sg2im"
    object_cap: Annotated[
        ObjectCap,
        option("VG: of more than 9 related objects, 10 as in sg2im, or 9", "vg-object-cap"),
    ] = "sg2im"
    predicate_names: Annotated[
        PredicateNames,
        option(
            "VG: predicates of val and test as they stand, as in sg2im, or normalised too",
            "vg-predicate-names",
        ),
    ] = "sg2im"
    min_object_count: Annotated[
        int,
        option(
            "VG: objects of a name in training photos, for the name to be kept",
            "vg-min-object-count",
        ),
    ] = 2000
    min_attribute_count: Annotated[
        int,
        option(
            "VG: training objects with an attribute, for it to be kept", "vg-min-attribute-count"
        ),
    ] = 2000
    min_relation_count: Annotated[
        int,
        option(
            "VG: training relationships of a predicate, for it to be kept", "vg-min-relation-count"
        ),
    ] = 500
    min_box_px: Annotated[
        int, option("VG: width and height of an object, at least", "vg-min-box-px")
    ] = 32
    min_photo_px: Annotated[
        int, option("VG: shorter side of a photo, at least", "vg-min-photo-px")
    ] = 200

    def __post_init__(self) -> None:
        choices = {"splits": VgSplits, "object_cap": ObjectCap, "predicate_names": PredicateNames}
        for name, choice in choices.items():
            if (value := getattr(self, name)) not in get_args(choice):
                among = " or ".join(get_args(choice))
                raise ValueError(f"{flag(name)} must be {among}, but is {value!r}")
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("min_") and value < 1:
                raise ValueError(f"{flag(field.name)} must be at least 1, but is {value}")


def flag(rule: str) -> str:
    """The command-line flag of a rule."""
    return "--splits" if rule == "splits" else "--vg-" + rule.replace("_", "-")
