"""Files of weights, known by their SHA-256, and the libraries that an extra brings."""

import hashlib
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch

from pipeline.errors import UserError
from pipeline.output import log

FOLDER = "RETRIEVEGAN_WEIGHTS"  # the environment variable that names a folder with such files


class Weights(NamedTuple):
    """A file of weights that is there, and what it holds."""

    path: Path
    sha256: str  # 64 hex digits


def digest(path: Path) -> Weights:
    """The file with its SHA-256; UserError where there is none."""
    if not path.is_file():
        raise UserError(f"{path} is no file; name the file with the weights")
    with path.open("rb") as file:
        return Weights(path, hashlib.file_digest(file, "sha256").hexdigest())


def pinned(path: Path, sha256: str) -> Weights:
    """The file with its SHA-256; UserError where that is another one."""
    weights = digest(path)
    if weights.sha256 != sha256:
        raise UserError(
            f"{path} has SHA-256 {weights.sha256}, but {sha256} was expected; "
            f"fetch the file again, or name the right one"
        )
    return weights


@contextmanager
def filling(network: str, file: Path) -> Iterator[None]:
    """Inside, a network is filled with a file's weights: UserError where it holds others, or what
    would run as it is opened."""
    try:
        yield
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"{file} does not hold the weights of {network} ({reason}); name the right file"
        ) from error


@dataclass(frozen=True)
class Published:
    """A file of weights that a publisher offers."""

    names: tuple[str, ...]  # under which it is found; the first is what torch.hub calls it
    address: str
    sha256: str

    def open(self, place: Path | None) -> Weights:
        """The file as `find` finds it. Another one is taken, and told apart by its SHA-256, unless
        it has a published one's name: then UserError."""
        file = self.find(place)
        return pinned(file, self.sha256) if file.name in self.names else digest(file)

    def find(self, place: Path | None) -> Path:
        """The file: `place` itself, or in that folder; None: in the folder that the environment
        names, in torch.hub's, or fetched into that. UserError where it is in none."""
        if place is not None and not place.is_dir():
            return place
        downloads = Path(torch.hub.get_dir()) / "checkpoints"
        named = os.environ.get(FOLDER)
        folders = [place] if place else [*([Path(named)] if named else []), downloads]
        files = (folder / name for folder in folders for name in self.names)
        if found := next((file for file in files if file.is_file()), None):
            return found
        if place is not None:
            raise UserError(f"{place} has no {self.names[0]}; put it there, from {self.address}")
        return self._fetch(downloads / self.names[0])

    def _fetch(self, file: Path) -> Path:
        log.info(f"fetching {self.address}")
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(self.address, str(file), self.sha256)
        except (OSError, RuntimeError) as error:  # RuntimeError: it has another SHA-256
            raise UserError(
                f"{file.name} is not on this machine and cannot be fetched from {self.address} "
                f"({error}); put it into a folder, and let {FOLDER} name that folder"
            ) from error
        return file


def library(name: str, extra: str) -> ModuleType:
    """The module of that name; UserError where the extra that brings it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise UserError(
            f"{name} is not installed; extra {extra} has it: pip install '.[{extra}]'"
        ) from error
