"""Numbers of a finished bank, and one page with contact sheets that needs no other file.

python -m jobs.inspect_bank bank/coco     reads every patch once, writes bank/coco/report.html
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from jobs.stages.workforce import Workforce
from pipeline.address import Address
from pipeline.options import DIGEST_HELP, BankLocation, option, run


@dataclass(frozen=True, kw_only=True)
class InspectBank(Workforce):
    bank: Annotated[
        BankLocation, tyro.conf.Positional, option("folder of a built bank, or its http(s) address")
    ]
    out: Annotated[
        Path | None,
        option("page to write; by default BANK/report.html, or NAME-report.html of an address"),
    ] = None
    digest: Annotated[str | None, option(DIGEST_HELP)] = None


def main(options: InspectBank) -> None:
    from bank.statistics import collect_statistics, open_checked
    from jobs.show.bank_page import lines, render
    from jobs.show.page import check_place
    from jobs.stages.cluster import Pool
    from pipeline.files import write_bytes

    bank = open_checked(options.bank, options.digest)
    out = options.out or (
        Path(f"{options.bank.name}-report.html")
        if isinstance(options.bank, Address)
        else options.bank / "report.html"
    )
    check_place(out)
    with Pool(options.workers, options.scheduler) as pool:
        statistics = collect_statistics(bank, pool.results)
    print("\n".join(lines(options.bank, bank, statistics)), flush=True)
    write_bytes(out, render(bank, statistics).encode())
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    run(main, InspectBank, __doc__)
