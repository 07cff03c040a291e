"""Read a bank anew and say whether it is whole; or two, and say how much of them is the same.

python -m jobs.verify_bank bank/coco            exit 0: whole, 1: damaged or unfinished

python -m jobs.verify_bank https://HOST/PATH    the same, of its copy in the cache

python -m jobs.verify_bank bank/coco other/coco    exit 0: the same bank, 1: not, or one is damaged
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from jobs.stages.workforce import Workforce
from pipeline.address import Location
from pipeline.options import DIGEST_HELP, BankLocation, option, run
from pipeline.wording import counted

if TYPE_CHECKING:
    from bank.tasks import Results


@dataclass(frozen=True, kw_only=True)
class VerifyBank(Workforce):
    bank: Annotated[
        BankLocation, tyro.conf.Positional, option("folder of a built bank, or its http(s) address")
    ]
    other: Annotated[
        BankLocation | None,
        tyro.conf.Positional,
        option("folder or address of another, to compare it with"),
    ] = None
    digest: Annotated[str | None, option(DIGEST_HELP)] = None
    quick: Annotated[
        bool, option("compare what the two banks record of themselves, without rehashing them")
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quick and self.other is None:
            raise ValueError("--quick is for comparing two banks: name the other one")


def main(options: VerifyBank) -> None:
    from jobs.stages.cluster import Pool

    banks = [(options.bank, options.digest)]
    if options.other is not None:
        banks.append((options.other, None))
    with Pool(options.workers, options.scheduler) as pool:
        whole = options.quick or all([is_whole(*bank, pool.results) for bank in banks])
    if whole and options.other is not None:
        whole = are_same(options.bank, options.other, options.digest)
    if not whole:
        sys.exit(1)


def is_whole(path: Location, digest: str | None, results: "Results") -> bool:
    """Have `results` read a bank anew, and print what was found."""
    from bank.verify import verify

    folder = whole_folder(path, digest)
    verification = verify(folder, results)
    for damage in verification.damages:
        print(f"damaged: {damage}")
    found = counted(len(verification.damages), "damage") if verification.damages else "no damage"
    print(f"{path}: {found} found")
    print(f"derived digest: {verification.derived_digest}")
    print(f"content digest: {verification.content_digest}", flush=True)
    return not verification.damages


def whole_folder(bank: Location, digest: str | None) -> Path:
    """The bank's folder; of one at an address all is fetched into that first, and what cannot be
    had is printed."""
    from bank.manifest import read_manifest
    from bank.mirror import Mirror, check_pin

    if isinstance(bank, Path):
        check_pin(read_manifest(bank), digest, bank)
        return bank
    mirror = Mirror.open(bank, digest)
    mirror.fetch(mirror.manifest.files, check=True, failed=lambda error: print(f"damaged: {error}"))
    return mirror.folder


def are_same(first: Location, second: Location, digest: str | None) -> bool:
    """Print how much of two banks is the same, what differs, and what may be why."""
    from bank.bank import Bank
    from bank.compare import LEVELS, SAME, compare

    a, b = Bank.open(first, digest), Bank.open(second)
    comparison = compare(a, b)
    for name, bank, path in (("A", a, first), ("B", b, second)):
        photos = counted(len(bank.contents.image_ids), "photo")
        print(f"{name}: {path}, {counted(len(bank), 'patch')} of {photos}")
    for title, lines in (
        ("what differs, the first first:", comparison.differences),
        ("what may be why, by the manifests:", comparison.causes),
    ):
        if lines:
            print(title, *lines, sep="\n  ")
    result = "the same bank" if comparison.level >= SAME else "not the same bank"
    print(f"{result}: level {comparison.level} of {len(LEVELS) - 1}, {LEVELS[comparison.level]}")
    return comparison.level >= SAME


if __name__ == "__main__":
    run(main, VerifyBank, __doc__)
