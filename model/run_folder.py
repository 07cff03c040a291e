"""A run's folder: its number, its one writer, the config with which it begins. A module that loads
in no time."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from model.config import RunConfig, from_json
from pipeline.errors import UserError
from pipeline.lock import lock

Config = TypeVar("Config", bound=RunConfig)

CONFIG = "config.json"


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
    with (run / "lock").open("w") as file:
        if not lock(file, run):
            raise RunError(f"another training is writing {run}; wait for it, or name another --out")
        yield


def read_run(run: Path) -> tuple[RunConfig, Path]:
    """Any run's config and the bank it was trained on."""
    path = run / CONFIG
    if not path.is_file():
        raise RunError(f"{run} is not a run: it has no {CONFIG}; runs are made by model.train")
    try:
        value = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise RunError(f"{path}, line {error.lineno}: not valid JSON") from error
    try:
        return from_json(value["train"]), Path(value["bank"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path} is not a run's config ({type(error).__name__}: {error})") from error


def read_config(run: Path, kind: type[Config]) -> tuple[Config, Path]:
    """`read_run` where only a run of that kind will do; RunError for another."""
    config, bank = read_run(run)
    if not isinstance(config, kind):
        raise RunError(
            f"{run} is a run of {config.network} (recipe {config.recipe}); here a run of "
            f"{kind.network} is needed, e.g. of recipe {kind.small_recipe}"
        )
    return config, bank
