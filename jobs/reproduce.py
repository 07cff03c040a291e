"""Measure the paper's claims on the toy world: train what each needs, score it, write its page.

python -m jobs.reproduce --claim losses     runs/claims, results/losses.md
python -m jobs.reproduce --claim all

Run it again to go on with what was interrupted; what is trained and scored is kept in --work. That
knows settings, not code: where the code was changed, name another --work. All claims take about two
hours on two cores. A look in minutes, on the demo's bank:

python -m jobs.reproduce --claim compatible --bank bank/toy --seeds 2 --steps 20 --out runs/look
"""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from jobs.claims.claims import CLAIMS, asked_for
from model.config import Device
from pipeline.options import QUIET, BankLocation, option, run

PHOTOS = 7000  # of the toy world that is built where no bank is named
BANK = Path(f"bank/toy-{PHOTOS}")


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    claim: Annotated[str, option(f"{', '.join(CLAIMS)}, or all")]
    bank: Annotated[
        BankLocation | None,
        option(f"of a toy world; default {BANK}, built from {PHOTOS:,} photos where it is missing"),
    ] = None
    styles: Annotated[
        Path | None, option("each photo's hidden style; default the toy world's own file")
    ] = None
    seeds: Annotated[int, option("trainings of each kind, with seeds from 0")] = 5
    num: Annotated[int | None, option("at most so many test scenes; default: all")] = None
    # Fewer than recipe demo's 500, to bound the time.
    steps: Annotated[int, option("steps of each training")] = 300
    draws: Annotated[int, option("choices of patches per scene")] = 10
    work: Annotated[Path, option("folder of the trainings")] = Path("runs/claims")
    out: Annotated[Path, option("folder of the pages")] = Path("results")
    device: Device = "auto"

    def __post_init__(self) -> None:
        if self.claim not in (*CLAIMS, "all"):
            raise ValueError(f"--claim {self.claim}: give {', '.join(CLAIMS)}, or all")
        for name, least in (("seeds", 2), ("draws", 2), ("num", 1), ("steps", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name} must be at least {least}, not {value}")


def main(options: ReproduceOptions) -> None:
    from bank.bank import Bank
    from jobs.claims.record import (
        Settings,
        check_records,
        check_settings,
        measure,
        read_records,
        record_path,
    )
    from jobs.claims.scoring import HeldOut
    from jobs.claims.training import Trainer
    from jobs.claims.writing import OVERVIEW, judge, write_results
    from jobs.show.cards import scenes_to_score
    from jobs.show.styles import read_styles, styles_file
    from model.device import choose_device
    from model.scores.scenes import CANDIDATES
    from pipeline.commands import run_command
    from pipeline.errors import UserError
    from pipeline.files import writing
    from pipeline.options import write_json

    device = choose_device(options.device)
    with writing(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    # All that could refuse the pages comes before hours of work.
    found = read_records(options.out)
    claims = asked_for(options.claim)
    kept = {name: found[name] for name in found if name not in {claim.name for claim in claims}}
    check_records(kept)
    if options.bank is None:
        run_command("jobs.build_bank", "--dataset", "toy", "--toy-photos", PHOTOS)
    bank = Bank.open(options.bank or BANK)
    styles = styles_file(options.styles, bank)
    if styles is None:
        raise UserError(
            f"the hidden styles of {bank.path} are not known, and claims are measured by them: "
            f"give a toy bank and, by --styles FILE, the styles.json beside its photos; or leave "
            f"out --bank"
        )
    held_out = HeldOut(
        bank=bank,
        styles=read_styles(styles, bank),
        image_ids=scenes_to_score(bank, "test", options.num, seed=0),
        k=min(CANDIDATES, bank.num_candidates),
        draws=options.draws,
        device=device,
    )
    settings = Settings(
        seeds=options.seeds,
        steps=options.steps,
        scenes=len(held_out.image_ids),
        candidates=held_out.k,
        draws=options.draws,
        content_digest=bank.content_digest,
    )
    check_settings(options.out, [found[c.name] for c in claims if c.name in found], settings)
    trainer = Trainer(bank, options.work, options.device)
    for claim in claims:
        record = measure(claim, trainer, held_out, settings, typed())
        write_json(record_path(options.out, claim.name), record)
        kept[claim.name] = record
        records = {name: kept[name] for name in CLAIMS if name in kept}
        write_results(options.out, records)
        verdict = judge(records)[claim.name].verdict
        print(f"{claim.name}: {verdict} ({options.out / claim.name}.md)")
    print(f"{options.out / OVERVIEW}")


def typed() -> str:
    """The command as it was given."""
    arguments = [argument for argument in sys.argv[1:] if argument != QUIET]
    return f"python -m jobs.reproduce {shlex.join(arguments)}"


if __name__ == "__main__":
    run(main, ReproduceOptions, __doc__)
