"""Two vocabularies, or a graph and a vocabulary: which names does one not know?"""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.errors import UserError, suggestion
from pipeline.scene import SceneGraph, Vocabulary

SHOWN = 12  # names in a line


class Differences(NamedTuple):
    """The names that only one of two vocabularies has, each in the order of the one that has it."""

    unknown_objects: tuple[str, ...]  # only the other has them
    unknown_predicates: tuple[str, ...]
    unused_objects: tuple[str, ...]  # the other has not
    unused_predicates: tuple[str, ...]


def compare_vocabularies(ours: Vocabulary, theirs: Vocabulary) -> Differences:
    """By name: places and order do not matter."""
    return Differences(
        _only(theirs.objects, ours.objects),
        _only(theirs.predicates, ours.predicates),
        _only(ours.objects, theirs.objects),
        _only(ours.predicates, theirs.predicates),
    )


def _only(these: Sequence[str], those: Sequence[str]) -> tuple[str, ...]:
    known = set(those)
    return tuple(name for name in these if name not in known)


def check_names(graph: SceneGraph, vocabulary: Vocabulary, whose: str) -> None:
    """UserError that lists every name of the graph that `whose` vocabulary does not have."""
    used = (_only(graph.objects, vocabulary.objects), [r.predicate for r in graph.relations])
    unknown = dict.fromkeys([*used[0], *_only(used[1], vocabulary.predicates)])
    if not unknown:
        return
    first = next(iter(unknown))
    known = vocabulary.objects if first in graph.objects else vocabulary.predicates
    hint = suggestion(first, list(known[1:]))
    raise UserError(f"{whose} does not know {listed(list(unknown))}; of {first!r}: {hint}")


def listed(names: Sequence[str]) -> str:
    """`'a', 'b' and 3 more`: every name, or as many as a line bears."""
    shown = [repr(name) for name in names[:SHOWN]]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
