"""Which scenes are in and why: rules, counts, hashes, and what the literature counted."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.scene import SPLITS, AnnotatedPhoto, Vocabulary
from pipeline.splits import split_hash


@dataclass(frozen=True, kw_only=True)
class Known:
    """A count of the literature beside ours."""

    what: str
    known: int
    found: int
    source: str

    def __str__(self) -> str:
        agreement = "agrees" if self.known == self.found else f"differs, here {self.found:,}"
        return f"{self.what} {self.known:,} ({self.source}): {agreement}"


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What a number obtained on these scenes must be quoted with."""

    title: str
    rules: Mapping[str, Any]
    counts: Mapping[str, Mapping[str, int]]  # filter -> split or photo folder -> count, in order
    splits: Mapping[str, int]  # photos
    split_hash: str
    vocabulary: Mapping[str, int]  # objects, relations: numbers of names, without our two nodes
    vocabulary_hash: str
    known: tuple[Known, ...]
    not_compared: str  # why `known` is empty; "" where it is not
    notes: tuple[str, ...] = ()  # defects of the files that were met


def state(
    title: str,
    photos: Sequence[AnnotatedPhoto],
    vocabulary: Vocabulary,
    *,
    rules: Mapping[str, Any],
    counts: Mapping[str, Mapping[str, int]],
    literature: Mapping[str, tuple[int, str]],
    not_compared: str = "",
    notes: Sequence[str] = (),
) -> Protocol:
    """`literature`: `train`, `val`, `test`, `objects` or `relations` -> count and its source."""
    counted: dict[str, int] = {
        **{s: sum(p.photo.split == s for p in photos) for s in SPLITS},
        "objects": len(vocabulary.objects) - 1,
        "relations": len(vocabulary.predicates) - 1,
    }
    known = (
        Known(what=what, known=count, found=counted[what], source=source)
        for what, (count, source) in literature.items()
    )
    return Protocol(
        title=title,
        rules=rules,
        counts=counts,
        splits={s: counted[s] for s in SPLITS},
        split_hash=split_hash(photos),
        vocabulary={name: counted[name] for name in ("objects", "relations")},
        vocabulary_hash=vocabulary_hash(vocabulary),
        known=() if not_compared else tuple(known),
        not_compared=not_compared,
        notes=tuple(notes),
    )


def vocabulary_hash(vocabulary: Vocabulary) -> str:
    """SHA-256 of the names in their order."""
    text = json.dumps(vocabulary.to_json(), ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def lines(protocol: Protocol) -> list[str]:
    """As a build prints it."""
    columns = list(dict.fromkeys(c for counts in protocol.counts.values() for c in counts))
    widths = [max(len(c), 11) for c in columns]
    said = [f"protocol: {protocol.title}"]
    said += [
        f"  {rule.replace('_', ' ')}: {_text(value)}" for rule, value in protocol.rules.items()
    ]
    said.append(" " * 36 + "".join(f"{c:>{w + 2}}" for c, w in zip(columns, widths, strict=True)))
    for what, counts in protocol.counts.items():
        cells = (f"{counts[c]:,}" if c in counts else "" for c in columns)
        row = "".join(f"{cell:>{w + 2}}" for cell, w in zip(cells, widths, strict=True))
        said.append(f"  {_row_name(what):<34}{row}".rstrip())
    splits = ", ".join(f"{count:,} {split}" for split, count in protocol.splits.items())
    names = ", ".join(f"{count:,} {kind}" for kind, count in protocol.vocabulary.items())
    said += [
        f"  scenes: {splits}; split hash {protocol.split_hash[:16]}",
        f"  names: {names}; vocabulary hash {protocol.vocabulary_hash[:16]}",
    ]
    said += [f"  literature: {known}" for known in protocol.known]
    if protocol.not_compared:
        said.append(f"  not compared with the literature: {protocol.not_compared}")
    return said + [f"  note: {note}" for note in protocol.notes]


def _row_name(what: str) -> str:
    """`photos_with_too_few_objects` -> `left out: too few objects`."""
    return what.replace("photos_with_too_", "left out: too ").replace("_", " ")


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_text(v) for v in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
