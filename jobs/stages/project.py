"""Where this project lies: what a stage starts as a process of its own, or compares, is there."""

import functools
import hashlib
import os
from pathlib import Path

PROJECT = Path(__file__).parents[2]
MAKING = (
    "pipeline",
    "bank",
    "model",
    "jobs/stages",
)  # folders of the code that banks are made with


def search_path() -> str:
    """PYTHONPATH for a process that imports this project from any working folder."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join([str(PROJECT), *filter(None, inherited)])


@functools.cache
def own_code_digest() -> str:
    """Of this process, once: it does not see later edits either."""
    return code_digest(PROJECT)


def code_digest(project: Path) -> str:
    """SHA-256 of the code that banks are made with."""
    digest = hashlib.sha256()
    for path in sorted(p for folder in MAKING for p in project.glob(f"{folder}/**/*.py")):
        digest.update(path.relative_to(project).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
