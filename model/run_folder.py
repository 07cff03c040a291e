"""A run's folder: its number, its one writer, the config with which it begins. A module that loads
in no time."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from model.config import RunConfig, from_json
from pipeline.address import Address, Location, location
from pipeline.errors import UserError
from pipeline.lock import lock

Config = TypeVar("Config", bound=RunConfig)

CONFIG, LOCK, LOG = "config.json", "lock", "log.jsonl"


class RunError(UserError):
    """A run folder that cannot be used as it is."""


def new_run(runs: Path, name: str) -> Path:
    """A new folder runs/00001-coco, or of the next free number."""
    runs.mkdir(parents=True, exist_ok=True)
    while True:
        taken = [int(m[1]) for p in runs.iterdir() if (m := re.match(r"(\d{5})-", p.name))]
        folder = runs / f"{max(taken, default=0) + 1:05d}-{name}"
        with suppress(FileExistsError):  # another run was faster
            folder.mkdir()
            return folder


@contextmanager
def writing_alone(run: Path) -> Iterator[None]:
    """RunError where another process writes the run."""
    with (run / LOCK).open("w") as file:
        if not lock(file, run):
            raise RunError(f"another training is writing {run}; wait for it, or stop it")
        yield


class _Stored(msgspec.Struct):
    """config.json."""

    bank: str
    train: dict[str, Any]
    bank_digest: str | None = None  # its content; None in runs begun before it was stored


def _read(run: Path) -> _Stored:
    path = run / CONFIG
    if not path.is_file():
        raise RunError(f"{run} is not a run: it has no {CONFIG}; runs are made by model.train")
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Stored)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is not a run's config: {error}; was it edited?") from error


def read_run(run: Path) -> tuple[RunConfig, Location]:
    """Any run's config and the bank it was trained on."""
    stored = _read(run)
    try:
        return from_json(stored.train), location(stored.bank)
    except msgspec.MsgspecError as error:
        raise RunError(f"{run / CONFIG}, train: {error}; was it edited?") from error


def pin_of(run: Path, bank: Location) -> str | None:
    """The content digest that the run's bank must have where it is at an address. What a folder has
    is compared with the checkpoint's, or by `check_begun_on`."""
    return _read(run).bank_digest if isinstance(bank, Address) else None


def check_begun_on(digest: str, bank: Location, run: Path) -> None:
    """RunError where the run began on a bank with another content digest. Before the first
    checkpoint, which has its own, config.json alone says so."""
    begun = _read(run).bank_digest
    if begun not in (None, digest):
        raise RunError(
            f"{run} began on a bank with content digest {begun[:12]}..., but {bank} has "
            f"{digest[:12]}...; give the bank it began on"
        )


def read_config(run: Path, kind: type[Config]) -> tuple[Config, Location]:
    """`read_run` where only a run of that kind will do; RunError for another."""
    config, bank = read_run(run)
    if not isinstance(config, kind):
        raise RunError(
            f"{run} is a run of {config.network} (recipe {config.recipe}); here a run of "
            f"{kind.network} is needed, e.g. of recipe {kind.small_recipe}"
        )
    return config, bank
