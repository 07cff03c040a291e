"""Where this project lies: what a stage starts as a process of its own, or compares, is there."""

import hashlib
import os
from pathlib import Path

PROJECT = Path(__file__).parents[2]
# Folders of the code that a bank is made with, and that networks are trained with.
MAKING = ("pipeline", "bank", "model", "jobs/stages")
TRAINING = ("model",)


def search_path() -> str:
    """PYTHONPATH for a process that imports this project from any working folder."""
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join([str(PROJECT), *filter(None, inherited)])


def code_digest(project: Path, folders: tuple[str, ...] = MAKING) -> str:
    """SHA-256 of the code in these folders."""
    digest = hashlib.sha256()
    for path in sorted(p for folder in folders for p in project.glob(f"{folder}/**/*.py")):
        digest.update(path.relative_to(project).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
