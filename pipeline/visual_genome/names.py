"""Names as they stand in Visual Genome's files -> those that occur often enough."""

from collections import Counter
from collections.abc import Callable, Iterable

from pipeline.checks import UNFIT, show
from pipeline.errors import DatasetError
from pipeline.scene import IMAGE, IN_IMAGE

Names = tuple[str, ...]  # of one object: its names, or its attributes


class NamePool:
    """Holds each combination of names once, normalised, and remembers where unfit ones were met.

    An unfit name (empty, with a line break, or one of our two nodes') is no error yet: of the
    names that people typed, only the frequent ones are used.
    """

    def __init__(
        self, where: Callable[[int, int], str], normalise: Callable[[str], str] | None = None
    ) -> None:
        """`where`: photo's id and place in its list -> how a message names them."""
        self._where, self._normalise = where, normalise
        self._pool: dict[Names, Names] = {}
        self._unfit: dict[str, str] = {}

    def add(self, names: Names, image_id: int, place: int) -> Names:
        pooled = self._pool.get(names)
        if pooled is None:
            pooled = tuple(map(self._normalise, names)) if self._normalise else names
            self._pool[names] = pooled
            for name in pooled:
                if not name or UNFIT.search(name) or name in (IMAGE, IN_IMAGE):
                    self._unfit.setdefault(name, self._where(image_id, place))
        return pooled

    def frequent(self, counts: Counter[str], least: int) -> list[str]:
        """Those counted at least so often, in the order of `counts`; DatasetError if one is
        unfit."""
        kept = [name for name, count in counts.items() if count >= least]
        for name in kept:
            if name in self._unfit:
                raise DatasetError(
                    f"{self._unfit[name]}: {show(name)} cannot be a name, yet it occurs "
                    f"{counts[name]:,} times; is this Visual Genome's own file?"
                )
        return kept


def count_names(lists: Iterable[Iterable[Names]]) -> Counter[str]:
    """In how many objects a name occurs; names in order of first appearance."""
    combinations: Counter[Names] = Counter()
    for names in lists:
        combinations.update(names)
    counts: Counter[str] = Counter()
    for combination, count in combinations.items():
        for name in dict.fromkeys(combination):
            counts[name] += count
    return counts


def most_first(counts: Counter[str]) -> Counter[str]:
    """Ties stay in their order."""
    return Counter(dict(counts.most_common()))
