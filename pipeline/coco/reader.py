"""A COCO or COCO-Stuff folder -> the photos that pass sg2im's filter, with their objects.

The folder holds what cocodataset.org offers, unpacked or as the zips that it comes in. A folder of
one's own photos in that form will do; its stuff files may be missing where photos without stuff
are asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pipeline.boxes import empty_masks_note
from pipeline.coco.file import (
    MIN_AREA,
    Gathered,
    Kind,
    Reading,
    annotated_object,
    read_file,
)
from pipeline.coco.layout import Part, is_official, listed_ids, parts_of
from pipeline.data_folder import DataFolder
from pipeline.dataset import Dataset
from pipeline.errors import DatasetError, UserError
from pipeline.licences import Accepted
from pipeline.options import option
from pipeline.progress import progress
from pipeline.protocol import Protocol, state
from pipeline.scene import (
    GEOMETRIC,
    IMAGE,
    IN_IMAGE,
    SPLITS,
    AnnotatedPhoto,
    Split,
    Vocabulary,
)
from pipeline.splits import TRAIN_FRACTION, VAL_FRACTION, own_split
from pipeline.twice import listed_twice_note
from pipeline.wording import counted

# COCO-Stuff's name for all that is neither thing nor named stuff.
LEFT_OUT_CATEGORY = "other"

KINDS: tuple[Kind, ...] = ("instances", "stuff")  # things are numbered before stuff

MIN_OBJECTS, MAX_OBJECTS = 3, 8  # in a photo (sg2im)
VALIDATION_PHOTOS = 1024  # the first of val2017 that pass
TEST_PHOTOS = 2048  # the last, by one of the two readings

Edition = Literal["full", "deprecated-40k"]
TestRule = Literal["remainder", "last-2048", "half"]

# What others counted after the same filter.
LITERATURE: dict[Edition, dict[str, tuple[int, str]]] = {
    "full": {
        "train": (72_623, "ashual/scene_generation on GitHub, issue 6"),
        "val": (1_024, "sg2im, whose TRAINING.md takes the first so many"),
        "test": (2_048, "sg2im, on the deprecated edition"),
    },
    "deprecated-40k": {
        "train": (24_972, "sg2im, Layout2Im, LostGAN, as CompVis/Frido on GitHub, issue 10, says"),
        "val": (1_024, "sg2im"),
        "test": (2_048, "sg2im"),
    },
}


@dataclass(frozen=True, kw_only=True)
class CocoRules:
    """Which photos of a COCO folder are in, and in which split."""

    require_stuff: Annotated[bool, option("COCO: only photos with stuff, as sg2im")] = True
    edition: Annotated[
        Edition, option("COCO-Stuff: all 118K photos' stuff, or the 40K of sg2im's time")
    ] = "full"
    test_rule: Annotated[
        TestRule,
        option(
            "COCO: test photos are all but the first 1,024 of val2017, or its last 2,048; or the "
            "second half by id, of which the first half is for validation"
        ),
    ] = "remainder"
    licences: Annotated[
        tuple[str, ...],
        option("COCO: only photos under these, e.g. cc-by cc-by-sa; 'unknown': not stated"),
    ] = ()


def read_coco(
    folder: DataFolder | Path, rules: CocoRules | None = None, *, limit: int | None = None
) -> Dataset:
    """`limit`: take only the first so many that pass, in each folder of photos."""
    rules, folder = rules or CocoRules(), _as_folder(folder)
    if limit is not None and limit < 1:
        raise UserError(f"a limit of {limit} photos leaves nothing; give at least 1")
    parts = parts_of(folder, rules.require_stuff)
    _check_rules(rules, parts, folder)
    reading = _read(folder, parts, rules)
    keep = Filter(rules)
    keep.licences.check(
        p.photo.licence for photos in reading.photos.values() for p in photos.values()
    )
    passed = {part: keep.passing(reading.photos[part.name]) for part in parts}
    counts = _by_filter({p.name: keep.counts(reading.photos[p.name], limit) for p in parts})
    photos = _split({part: some[:limit] for part, some in passed.items()}, rules)
    if not any(photo.photo.split == "train" for photo in photos):
        raise _nothing_left(reading, counts, parts, rules)
    vocabulary = _vocabulary(reading)
    notes = [*reading.boxes.notes(), *empty_masks_note(photos), *listed_twice_note(photos, folder)]
    return Dataset(
        name="coco",
        folder=str(folder),
        vocabulary=vocabulary,
        photos=photos,
        inputs=dict(sorted(reading.inputs.items())),
        protocol=_protocol(photos, vocabulary, counts, parts, rules, limit, notes),
    )


def _as_folder(folder: DataFolder | Path) -> DataFolder:
    return folder if isinstance(folder, DataFolder) else DataFolder(folder)


def _check_rules(rules: CocoRules, parts: Sequence[Part], folder: DataFolder) -> None:
    """DatasetError for a rule that only COCO's own photos can follow."""
    for name in ("edition", "test_rule"):
        value = getattr(rules, name)
        if value != getattr(CocoRules(), name) and not is_official(parts):
            raise DatasetError(
                f"--{name.replace('_', '-')} {value} is of COCO's own photos, but {folder} holds "
                f"others ({parts[0].instances}): leave it out"
            )


def _read(folder: DataFolder, parts: Sequence[Part], rules: CocoRules) -> Reading:
    left_out = LEFT_OUT_CATEGORY if is_official(parts) else None
    reading = Reading(folder, {part.name: {} for part in parts}, left_out)
    for kind in KINDS:
        for part in parts:
            if kind == "stuff" and part.stuff is None:
                continue
            listed = None
            if kind == "stuff" and rules.edition == "deprecated-40k":
                listed = listed_ids(folder, part, reading.inputs)
            read_file(reading, kind, part, listed)
    return reading


class Filter:
    """Which photos are in, and how many each rule leaves."""

    def __init__(self, rules: CocoRules) -> None:
        self.require_stuff, self.licences = rules.require_stuff, Accepted(rules.licences)

    def passing(self, photos: Mapping[int, Gathered]) -> list[Gathered]:
        """In file order, which is what sg2im's split of val2017 goes by."""
        return [p for p in self._considered(photos) if _has_right_number(p)]

    def counts(self, photos: Mapping[int, Gathered], limit: int | None) -> dict[str, int]:
        """Before and after each filter, in the order in which they apply."""
        considered = list(self._considered(photos))
        passed = [p for p in considered if _has_right_number(p)]
        return {
            "photos": len(photos),
            "annotations": sum(p.num_annotations for p in photos.values()),
            "objects_large_enough": sum(len(p.objects) for p in photos.values()),
            "photos_with_stuff": sum(p.has_stuff for p in photos.values()),
            "photos_with_accepted_licence": sum(
                p.photo.licence in self.licences for p in photos.values()
            ),
            "photos_considered": len(considered),
            "photos_with_too_few_objects": sum(len(p.objects) < MIN_OBJECTS for p in considered),
            "photos_with_too_many_objects": sum(len(p.objects) > MAX_OBJECTS for p in considered),
            "photos_passed": len(passed),
            "objects_passed": sum(len(p.objects) for p in passed),
            "photos_within_limit": len(passed[:limit]),
            "objects_within_limit": sum(len(p.objects) for p in passed[:limit]),
        }

    def _considered(self, photos: Mapping[int, Gathered]) -> Iterator[Gathered]:
        return (
            p
            for p in photos.values()
            if (p.has_stuff or not self.require_stuff) and p.photo.licence in self.licences
        )


def _has_right_number(photo: Gathered) -> bool:
    return MIN_OBJECTS <= len(photo.objects) <= MAX_OBJECTS


def _by_filter(by_part: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """part -> filter -> count, turned around."""
    filters = next(iter(by_part.values()))
    return {name: {part: counts[name] for part, counts in by_part.items()} for name in filters}


def _split(
    passed: Mapping[Part, Sequence[Gathered]], rules: CocoRules
) -> tuple[AnnotatedPhoto, ...]:
    """train, val, test, each by rising id."""
    by_split: dict[Split, list[Gathered]] = {split: [] for split in SPLITS}
    for part, photos in passed.items():
        for photo in photos if part.role != "held out" else ():
            split = own_split(photo.photo.image_id) if part.role == "all" else "train"
            by_split[split].append(photo)
    held_out = [p for part, photos in passed.items() if part.role == "held out" for p in photos]
    val, test = _halves(held_out, rules.test_rule)
    by_split["val"] += val
    by_split["test"] += test
    ordered = [(p, s) for s, photos in by_split.items() for p in sorted(photos, key=_image_id)]
    return tuple(
        _annotated(photo, split)
        for photo, split in progress(ordered, "segmentations", len(ordered), "photo")
    )


def _halves(held_out: list[Gathered], rule: TestRule) -> tuple[list[Gathered], list[Gathered]]:
    """Validation and test photos."""
    if rule == "half" or len(held_out) < 2 * VALIDATION_PHOTOS:
        # A small set is halved too. The halves are the same whatever the order in the file.
        held_out = sorted(held_out, key=_image_id)
        middle = (len(held_out) + 1) // 2
        return held_out[:middle], held_out[middle:]
    test = held_out[VALIDATION_PHOTOS:]
    return held_out[:VALIDATION_PHOTOS], test if rule == "remainder" else test[-TEST_PHOTOS:]


def _image_id(photo: Gathered) -> int:
    return photo.photo.image_id


def _annotated(gathered: Gathered, split: Split) -> AnnotatedPhoto:
    photo = replace(gathered.photo, split=split)
    return AnnotatedPhoto(photo, tuple(annotated_object(o, photo) for o in gathered.objects))


def _vocabulary(reading: Reading) -> Vocabulary:
    names = (name for _, name in sorted(reading.categories.items()))
    objects = (IMAGE, *(name for name in names if name != reading.left_out))
    return Vocabulary(objects, (IN_IMAGE, *GEOMETRIC))


def _protocol(
    photos: Sequence[AnnotatedPhoto],
    vocabulary: Vocabulary,
    counts: Mapping[str, Mapping[str, int]],
    parts: Sequence[Part],
    rules: CocoRules,
    limit: int | None,
    notes: Sequence[str],
) -> Protocol:
    official = is_official(parts)
    title = f"COCO-Stuff, edition {rules.edition}" if official else "photos of one's own, as COCO's"
    stated = {
        "require_stuff": rules.require_stuff,
        "licences": list(rules.licences) or "any",
        "object_area_above": MIN_AREA,
        "objects_per_photo": [MIN_OBJECTS, MAX_OBJECTS],
        "limit_per_folder": limit,
        "relations": "each object and one other, drawn from the photo's id",
        **(_official_rules(rules) if official else _own_rules(parts)),
    }
    return state(
        title,
        photos,
        vocabulary,
        rules=stated,
        counts=counts,
        literature=LITERATURE[rules.edition],
        not_compared=_why_not_compared(rules, limit, official),
        notes=notes,
    )


def _official_rules(rules: CocoRules) -> dict[str, Any]:
    if rules.test_rule == "half":
        split = {"validation": "the first half by id of val2017", "test": "the second half"}
    else:
        split = _first_photos(rules.test_rule)
    return {"edition": rules.edition, "category_left_out": LEFT_OUT_CATEGORY, **split}


def _first_photos(rule: TestRule) -> dict[str, str]:
    test = "its others" if rule == "remainder" else f"its last {TEST_PHOTOS:,}"
    few = f"with fewer than {2 * VALIDATION_PHOTOS:,}"
    return {
        "validation": f"the first {VALIDATION_PHOTOS:,} of val2017 that pass, in file order; "
        f"{few}, the first half by id",
        "test": f"{test} that pass; {few}, the second half",
    }


def _own_rules(parts: Sequence[Part]) -> dict[str, Any]:
    """How each file's photos are split."""
    how = {
        "train": "for training",
        "held out": "validation and test, half each by id",
        "all": (
            f"{TRAIN_FRACTION:.0%} for training, {VAL_FRACTION:.0%} validation, others test, by id"
        ),
    }
    return {part.name: how[part.role] for part in parts}


def _why_not_compared(rules: CocoRules, limit: int | None, official: bool) -> str:
    if not official:
        return "its photos are not COCO's"
    if not rules.require_stuff:
        return "photos without stuff are in (--no-require-stuff)"
    if rules.licences:
        return "only some licences are in (--licences)"
    if rules.test_rule == "half":
        return "half of val2017 is for validation (--test-rule half)"
    return "" if limit is None else "only the first photos are in (--limit)"


def _nothing_left(
    reading: Reading,
    counts: Mapping[str, Mapping[str, int]],
    parts: Sequence[Part],
    rules: CocoRules,
) -> DatasetError:
    names = [part.name for part in parts if part.role != "held out"]
    train = {what: sum(by_part[n] for n in names) for what, by_part in counts.items()}
    if train["photos_passed"]:
        hint = (
            "they were all drawn for validation or test: give more photos, or instances_train.json"
        )
    elif train["photos_with_accepted_licence"] < train["photos"]:
        hint = "--licences leaves out photos: accept more of them"
    elif rules.require_stuff and train["photos_considered"] < train["photos"]:
        hint = "--no-require-stuff takes photos without stuff too"
    else:
        hint = _why_none_passes([p for n in names for p in reading.photos[n].values()], reading)
    return DatasetError(
        f"{reading.folder}: of the {counted(train['photos'], 'photo')} of {' and '.join(names)}, "
        f"{train['photos_passed']:,} pass the filter and none is for training: "
        f"{train['photos_with_stuff']:,} have stuff; of the {train['photos_considered']:,} "
        f"considered, {train['photos_with_too_few_objects']:,} have fewer than {MIN_OBJECTS} and "
        f"{train['photos_with_too_many_objects']:,} more than {MAX_OBJECTS} objects over "
        f"{MIN_AREA:.0%} of the photo ({train['objects_large_enough']:,} such objects in all); "
        f"{hint}"
    )


def _why_none_passes(photos: Sequence[Gathered], reading: Reading) -> str:
    """Where the rules leave no photo: what these are like, and what to do."""
    if not photos:
        return "the files list no photo for training"
    if notes := reading.boxes.notes():
        return "; ".join(notes)
    if 2 * sum(len(p.objects) > MAX_OBJECTS for p in photos) > len(photos):
        return f"a scene has at most {MAX_OBJECTS}: annotate the larger things alone"
    annotations = [p.num_annotations for p in photos]
    least, most = min(annotations), max(annotations)
    if most < MIN_OBJECTS:
        each = f"{least}" if least == most else f"{least} to {most}"
        return f"the photos have {each} annotations each, and a scene needs {MIN_OBJECTS} objects"
    return (
        f"the photos have {sum(annotations) / len(photos):.1f} annotations each, and a scene needs "
        f"{MIN_OBJECTS} that are large enough"
    )
