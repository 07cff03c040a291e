"""The staging folder of a build: locked for one build at a time, and swapped in when it is whole.

A new bank is built in its own folder. A finished bank is never changed in place: its next version
is built in `work/next`, as if that were a bank of its own, and then takes the bank's place.
"""

import os
import shutil
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bank.errors import BankError
from bank.manifest import NAME, is_finished, read_manifest
from jobs.stages.receipts import WORK
from pipeline.errors import DISK_ERRORS
from pipeline.files import PARTIAL, put_in_place
from pipeline.lock import lock

KEPT = "what was finished is kept: run the command again when that is mended"


@contextmanager
def building(bank: Path) -> Iterator[Path]:
    """Lock the folder for this build; BankError where others use it or it holds other files."""
    _check_ours(bank)
    try:
        (bank / WORK).mkdir(parents=True, exist_ok=True)
        with (bank / WORK / "lock").open("w") as file:
            if not lock(file, bank):
                raise BankError(
                    f"another build is writing {bank}; wait for it, or name another --out"
                )
            _remove_attempts(bank)
            swap_in(bank)
            try:
                with _staying(bank, file.fileno()):
                    yield bank.resolve()
            finally:
                if not next_version(bank).is_dir():
                    _clear_work(bank)
    except OSError as error:
        if error.errno is None or error.errno not in DISK_ERRORS:
            raise
        where, why = error.filename or bank, os.strerror(error.errno)
        raise BankError(f"cannot write {where}: {why}; {KEPT}") from error


def _remove_attempts(bank: Path) -> None:
    """Files that killed builds left half-written."""
    for folder in (bank, next_version(bank)):
        shutil.rmtree(folder / WORK / "tmp", ignore_errors=True)
        for path in folder.glob(f"*{PARTIAL}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def _staying(bank: Path, lock: int) -> Iterator[None]:
    """BankError where the folder is another one, or none, at the end: a mount that was lost. What
    was written since then lies under the mount, or nowhere."""
    try:
        yield
    except Exception as error:
        if _is_gone(bank, lock):
            raise BankError(_gone(bank)) from error
        raise
    if _is_gone(bank, lock):
        raise BankError(_gone(bank))


def _is_gone(bank: Path, lock: int) -> bool:
    try:
        return not os.path.samestat(os.fstat(lock), (bank / WORK / "lock").stat())
    except OSError:
        return True


def _gone(bank: Path) -> str:
    return (
        f"{bank} was taken away while it was being written (its disk unmounted, or the folder "
        f"moved); bring it back: {KEPT}"
    )


def _check_ours(bank: Path) -> None:
    if bank.exists() and not bank.is_dir():
        raise BankError(f"--out {bank} is a file; name a folder")
    ours = (bank / WORK).is_dir() or is_finished(bank)
    if bank.is_dir() and not ours and any(bank.iterdir()):
        raise BankError(
            f"--out {bank} holds other files and no bank; name a folder that is new or empty"
        )


def next_version(bank: Path) -> Path:
    """The staging folder of a finished bank's next version."""
    return bank / WORK / "next"


def swap_in(bank: Path) -> None:
    """Put a finished next version in the bank's place; nothing happens where there is none.

    Its manifest is the last to move, and until then all of this can be done again: where this is
    killed, the next command finishes it.
    """
    staged = next_version(bank)
    if not is_finished(staged):
        with suppress(OSError):
            staged.rmdir()  # where it is empty, no more than this was left to do
        return
    manifest = read_manifest(staged)
    (bank / NAME).unlink(missing_ok=True)
    for path in manifest.files:
        if (staged / path).exists():
            _move(staged / path, bank / path)
    _remove_other_files(bank, set(manifest.files))
    for left in staged.iterdir():  # records of the build, second links
        if left.name != NAME:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    _move(staged / NAME, bank / NAME)
    staged.rmdir()


def _move(source: Path, target: Path) -> None:
    """Where both are links to one file nothing moves, which is right too."""
    put_in_place(source, target)


def _remove_other_files(bank: Path, files: Container[str]) -> None:
    """What the next version does not have; a page about the bank is out of date as well."""
    (bank / "report.html").unlink(missing_ok=True)
    for folder in ("patches", "scenes", "index"):
        for path in sorted((bank / folder).rglob("*"), reverse=True):  # contents before folders
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path.relative_to(bank).as_posix() not in files:
                path.unlink()
    for path in bank.iterdir():
        if path.suffix in (".arrow", ".safetensors") and path.name not in files:
            path.unlink()


def tidy(bank: Path) -> None:
    """Finish the last steps of a killed build; a half-built next version stays."""
    if is_finished(next_version(bank)) or (is_finished(bank) and (bank / WORK).is_dir()):
        with building(bank):
            pass


def _clear_work(bank: Path) -> None:
    """Plans, rows and receipts: of use until the manifest is there."""
    if is_finished(bank):
        shutil.rmtree(bank / WORK, ignore_errors=True)
