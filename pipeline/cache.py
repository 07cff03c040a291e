"""Where files are kept that can be made or fetched again. All of it may be deleted at any time."""

import os
from pathlib import Path

VARIABLE = "RETRIEVEGAN_CACHE"


def cache_folder() -> Path:
    """$RETRIEVEGAN_CACHE, or `retrievegan` in $XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retrievegan"
