"""Write a run's report, one page that needs no other file: RUN/report.html.

python -m jobs.report --run runs/00001-coco                       images, curves, scores
python -m jobs.report --run runs/demo --graphs examples/toy_*.json  ... and graphs of your own

Shows the bank's patches, the loss curves, the scores in RUN/metrics.jsonl, the last training
samples, and what the run makes of hand-written graphs: learned retrieval beside predefined and
random, several draws of each.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from jobs.show.options import MOST_ROWS
from model.config import Device
from pipeline.options import BankLocation, option, run


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    run: Annotated[Path, option("run folder, made by model.train")]
    graphs: Annotated[tuple[Path, ...], option("JSON files with scene graphs to try")] = ()
    draws: Annotated[int, option("sets of patches per graph and retrieval mode")] = 4
    seed: Annotated[int, option("of the first draw")] = 0
    bank: Annotated[BankLocation | None, option("the run's bank, where it has moved")] = None
    data: Annotated[
        Path | None, option("the bank's photos; by default data/<dataset>, if they are there")
    ] = None
    out: Annotated[Path | None, option("file to write; by default RUN/report.html")] = None
    device: Device = "auto"

    def __post_init__(self) -> None:
        if not 1 <= self.draws <= MOST_ROWS:
            raise ValueError(f"--draws must lie in 1 to {MOST_ROWS}, not {self.draws}")


def main(options: ReportOptions) -> None:
    from jobs.show.page import check_place
    from jobs.show.run_page import named_graphs, render_run
    from jobs.show.sheets import photos_folder
    from model.device import choose_device
    from model.retrievegan.run import RetrieveGANRun
    from pipeline.files import write_bytes

    device = choose_device(options.device)
    opened = RetrieveGANRun.open(options.run, options.bank, device)
    graphs = named_graphs(options.graphs, opened.bank)
    photos = photos_folder(opened.bank, options.data)
    seeds = range(options.seed, options.seed + options.draws)
    out = options.out or options.run / "report.html"
    check_place(out)
    page = render_run(options.run, opened, graphs, seeds, photos)
    write_bytes(out, page.encode())
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    run(main, ReportOptions, __doc__)
