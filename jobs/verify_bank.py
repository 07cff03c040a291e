"""Read a bank anew and say whether it is whole; each damaged file is named.

python -m jobs.verify_bank bank/coco     exit 0: whole, 1: damaged or unfinished
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bank.verify import verify
from pipeline.options import option, run


@dataclass(frozen=True, kw_only=True)
class VerifyBank:
    bank: Annotated[Path, tyro.conf.Positional, option("folder of a built bank")]


def main(options: VerifyBank) -> None:
    verdict = verify(options.bank)
    for damage in verdict.damages:
        print(f"damaged: {damage}")
    found = len(verdict.damages)
    print(f"{options.bank}: {found or 'no'} {'damages' if found > 1 else 'damage'} found")
    print(f"derived digest: {verdict.derived_digest}")
    print(f"content digest: {verdict.content_digest}")
    if verdict.damages:
        sys.exit(1)


if __name__ == "__main__":
    run(main, VerifyBank, __doc__)
