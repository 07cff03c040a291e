"""Reading a bank shard by shard, as tasks: here, or in whatever processes a function puts to work.

A task is a module's function and a small record of paths and names; its result is small as well.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from bank.contents import TABLES, Contents
from bank.errors import BankError
from bank.files import FileDigest
from bank.manifest import Manifest, is_finished

Task = TypeVar("Task")
Result = TypeVar("Result")


class Results(Protocol):
    """Has tasks done."""

    def __call__(
        self, function: Callable[[Task], Result], tasks: Sequence[Task], /
    ) -> Iterator[Result]:
        """function(task) for every task, in any order."""


def here(function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
    """`Results` of this process, one after the other."""
    return map(function, tasks)


class Place(NamedTuple):
    """Where the tables of a bank lie, and which they are."""

    bank: Path  # absolute: a worker's own folder may be another
    patch_size: int  # px
    digests: tuple[FileDigest | None, ...]  # of TABLES, as recorded

    @classmethod
    def of(cls, bank: Path, manifest: Manifest) -> "Place":
        digests = tuple(manifest.files.get(name) for name in TABLES)
        return cls(bank.resolve(), manifest.recipe["patch_size"], digests)


@functools.lru_cache(maxsize=2)  # a bank, and the one whose next version it is
def contents_at(place: Place) -> Contents:
    """Opened once in each process, whose tasks all ask for the same: the tables of a large bank
    take a second."""
    return Contents(place.bank, place.patch_size)


def check_visible(bank: Path) -> None:
    """BankError where a worker on another machine has no such folder: not all is lost there."""
    if not is_finished(bank):
        raise BankError(
            f"a worker cannot see the bank {bank}: workers on other machines need it at the same "
            f"path as here"
        )
