"""A run's folder: the config with which it begins. A module that loads in no time."""

import json
from pathlib import Path
from typing import TypeVar

from model.config import RunConfig, from_json
from pipeline.errors import UserError

Config = TypeVar("Config", bound=RunConfig)

CONFIG = "config.json"


class RunError(UserError):
    """A run folder that cannot be used as it is."""


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
