"""The version, which pyproject.toml alone states."""

import tomllib
from importlib import metadata
from pathlib import Path

NAME = "retrievegan"


def _version() -> str:
    """As pyproject.toml beside the code says; of an installed copy, as its metadata says."""
    try:
        project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    except OSError:
        return metadata.version(NAME)
    return str(project["project"]["version"])


__version__ = _version()
