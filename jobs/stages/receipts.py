"""What a finished stage leaves behind, so that a rerun of the build skips it."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bank.errors import BankError
from bank.files import FileDigest, canonical_json, file_digest
from pipeline.files import put_in_place, write_bytes

WORK = "work"  # what only an unfinished bank has


@dataclass(frozen=True)
class Receipt:
    """`stage` made `outputs` out of what `key` stands for."""

    stage: str
    key: str  # digest of everything that goes into the stage
    outputs: Mapping[str, FileDigest]  # path in the bank -> its digest
    counts: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> bytes:
        outputs = {path: list(digest) for path, digest in self.outputs.items()}
        return canonical_json({**self.__dict__, "outputs": outputs, "counts": dict(self.counts)})

    @classmethod
    def from_json(cls, data: bytes) -> "Receipt":
        value = json.loads(data)
        outputs = {path: FileDigest(*digest) for path, digest in value.pop("outputs").items()}
        return cls(outputs=outputs, **value)


def receipt_path(bank: Path, stage: str) -> Path:
    return bank / WORK / "receipts" / f"{stage}.json"


def find_receipt(bank: Path, stage: str, key: str) -> Receipt | None:
    """The receipt of a stage whose inputs are the same and whose outputs are whole, if any."""
    receipt = _read(receipt_path(bank, stage))
    if receipt is None or receipt.key != key:
        return None
    return receipt if is_whole(bank, receipt) else None


def is_whole(bank: Path, receipt: Receipt) -> bool:
    """Whether its outputs are there as they were made."""
    return all(_is_same(bank / path, digest) for path, digest in receipt.outputs.items())


def _read(path: Path) -> Receipt | None:
    try:
        return Receipt.from_json(path.read_bytes())
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _is_same(path: Path, digest: FileDigest) -> bool:
    return path.is_file() and path.stat().st_size == digest.bytes and file_digest(path) == digest


def check_agreement(bank: Path, receipt: Receipt) -> None:
    """Two results for the same inputs must be the same bytes; otherwise neither can be trusted."""
    path = receipt_path(bank, receipt.stage)
    earlier = _read(path)
    if earlier is None or earlier.key != receipt.key or earlier.outputs == receipt.outputs:
        return
    changed = sorted(
        p
        for p in earlier.outputs.keys() | receipt.outputs.keys()
        if earlier.outputs.get(p) != receipt.outputs.get(p)
    )
    raise BankError(
        f"{receipt.stage} was made twice from the same input and came out differently "
        f"({', '.join(changed)}): the workers do not run the same software, or their memory or "
        f"disk fails. Mend that, remove {path} and run the command again"
    )


@contextmanager
def workspace(bank: Path, name: str) -> Iterator[Path]:
    """A folder of this attempt's own, beside the bank's files so that a rename is enough."""
    parent = bank / WORK / "tmp"
    parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}.{os.getpid()}.", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def deliver(
    bank: Path, stage: str, key: str, partials: Mapping[str, Path], counts: Mapping[str, int]
) -> Receipt:
    """Put what was made into its place, path in the bank -> file, and leave the receipt."""
    outputs = {path: file_digest(partial) for path, partial in partials.items()}
    receipt = Receipt(stage, key, outputs, counts)
    check_agreement(bank, receipt)
    for path, partial in partials.items():
        put_in_place(partial, bank / path)
    leave_receipt(bank, receipt)
    return receipt


def leave_receipt(bank: Path, receipt: Receipt) -> None:
    check_agreement(bank, receipt)
    write_bytes(receipt_path(bank, receipt.stage), receipt.to_json())


def digests(bank: Path, paths: Iterable[Path]) -> dict[str, FileDigest]:
    """Path in the bank -> digest, in the order of the names."""
    return {p.relative_to(bank).as_posix(): file_digest(p) for p in sorted(paths)}
