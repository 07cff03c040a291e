"""Where the files of a bank are, for those who read them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from bank.errors import BankError
from pipeline.address import Location


class Files(Protocol):
    """A bank's files by their names, `patches/train-00000/data.mdb`: here (`Folder`), or brought
    here from an address as they are asked for (bank/mirror.py)."""

    @property
    def place(self) -> Location:
        """Where the bank lies, as its user knows it."""

    @property
    def folder(self) -> Path:
        """Where its files lie, or will, under their names."""

    def file(self, name: str) -> Path:
        """The path of one of them, which is here now. It may be missing where the manifest does not
        name it; BankError where it cannot be had."""

    def fetch(self, names: Iterable[str]) -> None:
        """Have them here, all at once: how much that is is said first."""

    def refetch(self, name: str, error: BankError) -> Path:
        """For a file that was found damaged or gone: have it anew, or raise `error`."""


class Folder:
    """A bank on this machine."""

    def __init__(self, folder: Path) -> None:
        self.place = self.folder = folder.resolve()

    def file(self, name: str) -> Path:
        return self.folder / name

    def fetch(self, names: Iterable[str]) -> None:
        """All are here."""

    def refetch(self, name: str, error: BankError) -> Path:
        raise error
