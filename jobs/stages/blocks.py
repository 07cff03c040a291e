"""A stage in blocks: workers make the parts of a derived file, the leading process joins them.

A block is fixed by the bank's content and its recipe, never by the number of workers. Its part is a
pure function of the bank's folder and the block: whichever worker makes it, whenever and however
often, the bytes are the same.
"""

import functools
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from bank.contents import Contents
from bank.errors import BankError
from bank.files import FileDigest, file_digest, json_digest
from bank.tasks import Place, contents_at
from jobs.stages.derivation import Derivation
from jobs.stages.project import own_code_digest
from jobs.stages.receipts import (
    WORK,
    Receipt,
    deliver,
    digests,
    find_receipt,
    is_whole,
    leave_receipt,
    receipt_path,
    workspace,
)
from pipeline.codec import FAISS
from pipeline.files import writing


@dataclass(frozen=True)
class Block:
    """What a worker needs to make a part: paths, numbers, and what the part depends on."""

    stage: str
    number: int
    start: int  # of what the stage counts: scenes, patches, ...
    stop: int
    bank: Path
    tables: Place  # of its content
    content_digest: str
    needs: Mapping[str, FileDigest]  # derived files that it is made from
    software: Mapping[str, str]  # versions on which its bytes depend, where the build was started
    code: str  # digest
    settings: Mapping[str, Any]
    earlier: Place | None  # a finished bank from which equal results may be taken

    @property
    def name(self) -> str:
        return f"{self.stage}-{self.number:05d}"

    @functools.cached_property
    def key(self) -> str:
        """Of everything that goes into the part."""
        return json_digest(
            [
                self.content_digest,
                self.start,
                self.stop,
                self.needs,
                dict(self.software),
                self.code,
                dict(self.settings),
            ]
        )

    @property
    def folder(self) -> str:
        """Of the part's files, as a path in the bank; parts of other inputs do not lie there."""
        return f"{WORK}/parts/{self.stage}/{self.number:05d}-{self.key[:16]}"

    @property
    def contents(self) -> Contents:
        return contents_at(self.tables)


class Stage(ABC):
    """One kind of derived file, as the leading process has it."""

    name: ClassVar[str]
    title: ClassVar[str]  # of its progress bar; a stage of one long task shows its own
    needs: ClassVar[tuple[str, ...]] = ()  # stages whose files it reads
    outputs: ClassVar[tuple[str, ...]]  # files or folders of the bank

    def __init__(self, derivation: Derivation) -> None:
        self.derivation = derivation
        self.bank, self.contents = derivation.bank, derivation.contents

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it is made from besides content and files."""
        return {}

    @property
    def software(self) -> Mapping[str, str]:
        """What decides its bytes besides, as this machine has it."""
        return software("torch")

    def ranges(self) -> Sequence[tuple[int, int]]:
        """Start and stop of each block; none where the leading process does it all."""
        return []

    @staticmethod
    def make(block: Block, folder: Path) -> None:
        """On a worker: the files of a block's part, into an empty folder."""
        raise NotImplementedError

    @abstractmethod
    def join(self, parts: Sequence[Path]) -> None:
        """Folders of the blocks' parts, in their order -> the outputs."""

    def take_over(self, needs: Mapping[str, FileDigest]) -> Place | None:
        """The finished bank from which blocks may take equal results."""
        return None

    def key(self, needs: Mapping[str, FileDigest]) -> str:
        return json_digest(
            [
                self.derivation.content_digest,
                needs,
                dict(self.software),
                dict(self.settings),
            ]
        )

    def blocks(self, needs: Mapping[str, FileDigest]) -> list[Block]:
        earlier = self.take_over(needs)
        return [
            Block(
                stage=self.name,
                number=number,
                start=start,
                stop=stop,
                bank=self.bank,
                tables=self.derivation.tables,
                content_digest=self.derivation.content_digest,
                needs=needs,
                software=self.software,
                code=own_code_digest(),
                settings=self.settings,
                earlier=earlier,
            )
            for number, (start, stop) in enumerate(self.ranges())
        ]

    def finish(
        self, blocks: Sequence[Block], needs: Mapping[str, FileDigest], parts: Iterable[Receipt]
    ) -> Receipt:
        """Join what the workers have made; its parts are not needed any more."""
        for part in parts:
            if not is_whole(self.bank, part):
                raise BankError(
                    f"{self.bank / next(iter(part.outputs))} is not here as a worker has written "
                    f"it: do all machines see the same disk?"
                )
        self.join([self.bank / block.folder for block in blocks])
        receipt = Receipt(self.name, self.key(needs), digests(self.bank, self._files()))
        leave_receipt(self.bank, receipt)
        for block in blocks:
            receipt_path(self.bank, block.name).unlink(missing_ok=True)
        shutil.rmtree(self.bank / WORK / "parts" / self.name, ignore_errors=True)
        return receipt

    def _files(self) -> list[Path]:
        paths = [self.bank / output for output in self.outputs]
        files = [[path] if path.is_file() else path.rglob("*") for path in paths]
        return [path for some in files for path in some if path.is_file()]


def even_ranges(count: int, size: int) -> list[tuple[int, int]]:
    """0 to count in pieces of `size`; the last one may be shorter."""
    return [(start, min(start + size, count)) for start in range(0, count, size)]


# On a worker


def make_part(make: Callable[[Block, Path], None], block: Block) -> Receipt:
    """The block's part in its folder, unless it has been made from the same before."""
    _check_worker(block)
    if done := find_receipt(block.bank, block.name, block.key):
        return done
    with workspace(block.bank, block.name) as folder:
        with writing(block.bank / block.folder):
            make(block, folder)
        files = {f"{block.folder}/{p.name}": p for p in sorted(folder.iterdir())}
        return deliver(block.bank, block.name, block.key, files, {})


def _check_worker(block: Block) -> None:
    """BankError where this process does not have what the one that leads the build has; of another
    machine the error names it."""
    ours = software(*block.software)
    if unlike := [name for name in ours if ours[name] != block.software[name]]:
        name = unlike[0]
        raise BankError(
            f"{block.stage} must be made with the same {' and '.join(unlike)} everywhere, and this "
            f"worker's {name} is {ours[name]} where that of the machine that leads the build is "
            f"{block.software[name]}: install the packages of requirements.lock on both, or leave "
            f"the worker out"
        )
    for path in ("patches.arrow", *block.needs):
        if not (block.bank / path).is_file():
            raise BankError(
                f"{block.bank / path} cannot be seen here: workers on other machines need the bank "
                f"at the same path as the machine that leads the build"
            )
    for path, digest in block.needs.items():
        if path.endswith(".safetensors") and file_digest(block.bank / path) != digest:
            raise BankError(
                f"{block.bank / path} is not here as the machine that leads the build has written "
                f"it: do both see the same disk?"
            )


def software(*names: str) -> dict[str, str]:
    """The versions of packages, "none" where they are missing; "instructions": the CPU's."""
    return {name: _version(name) for name in names}


@functools.cache
def _version(name: str) -> str:
    if name == "instructions":
        import torch

        return torch.backends.cpu.get_cpu_capability()
    for package in FAISS if name == "faiss" else (name,):
        try:
            return f"{package} {version(package)}" if name == "faiss" else version(package)
        except PackageNotFoundError:
            continue
    return "none"
