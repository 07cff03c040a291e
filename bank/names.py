"""Names in a bank that came from somewhere: hostile until they have been looked at.

What they name is written below a folder here, asked for at an address, and opened.
"""

import re
import unicodedata
from collections.abc import Iterable
from itertools import accumulate

from pipeline.checks import UNFIT
from pipeline.files import PARTIAL

MOST_PART = 200  # bytes; a file system takes 255, of which `.partial` needs some
MOST_WHOLE = 1000
# Of addresses (`pipe:`, `C:`), of Windows' paths, of shells.
FORBIDDEN = re.compile(r'[\\:*?"<>|]')


def fault_of_names(names: Iterable[str]) -> str | None:
    """What is wrong with the first of these paths that is no good, or does not go with those before
    it on every file system; None where all are fine."""
    files, folders = dict[str, str](), dict[str, str]()  # as some file systems see them -> as here
    for name in names:
        if fault := _fault(name):
            return f"it names a file {name[:100]!r}, which {fault}"
        *above, own = accumulate(_folded(name).split("/"), "{}/{}".format)
        others = (files.get(own), folders.get(own), *(files.get(folder) for folder in above))
        if other := next(filter(None, others), None):
            return f"it names files {other[:100]!r} and {name[:100]!r}, which cannot both be there"
        files[own] = name
        folders.update(dict.fromkeys(above, name))
    return None


def is_part(name: object) -> bool:
    """Whether it can be the name of one file or folder, and of nothing else."""
    return isinstance(name, str) and "/" not in name and _fault(name) is None


def _fault(name: str) -> str | None:
    if name.startswith("/"):
        return "begins at the root"
    if UNFIT.search(name):
        return "has control characters"
    if found := FORBIDDEN.search(name):
        return f"has a {found[0]!r}"
    parts = name.split("/")
    if not all(parts):
        return "has an empty part"
    if any(part.startswith("..") or part == "." for part in parts):
        return "leads elsewhere"
    if name.endswith(PARTIAL):
        return "ends as what is not whole"
    if len(name.encode()) > MOST_WHOLE or any(len(part.encode()) > MOST_PART for part in parts):
        return "is too long"
    return None


def _folded(name: str) -> str:
    """Equal for names that are one on some file systems."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
