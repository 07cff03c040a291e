"""The training step on a GPU beside a landed commit and the published sg2im: checks, then times.

python -m benchmarks.gpu --bank bank/toy --beside landed --sg2im peers --out gpu
python -m benchmarks.gpu --bank bank/toy --beside landed --sg2im peers --out gpu --tiny

--beside is a checkout of the commit to compare with (`git archive COMMIT | tar -x -C landed`),
--sg2im the folder that holds the package `sg2im` of https://github.com/google/sg2im.

Every configuration is measured in a process of its own; the sides of a ratio take turns. Checks
share the device, times have it alone. What would not end within --budget-s is left out, and said to
be. Nothing is downloaded. --tiny takes the small recipes, few steps, and any device: its figures
mean nothing, it shows that the script works.

--out gets table.md, figures.json, loss_curves.csv, loss_curves.png, and errors.txt of what failed.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from model.config import Capture, Precision
from pipeline.options import option, run

Part = Literal["capture", "runs", "first-steps", "seeds", "tests", "times"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    bank: Annotated[Path, option("folder of a built bank")]
    out: Annotated[Path, option("folder for the table, figures and curves")]
    beside: Annotated[Path | None, option("checkout of the commit to compare with")] = None
    sg2im: Annotated[Path | None, option("folder of the published package `sg2im`")] = None
    parts: Annotated[tuple[Part, ...], option("what to do")] = PARTS
    ways: Annotated[
        tuple[str, ...],
        option("--precision/--capture of ours; the first is what the others are compared with"),
    ] = ("tf32/off", "tf32/graph", "bf16/graph")
    seeds: Annotated[int, option("trainings whose losses are compared")] = 5
    steps: Annotated[int, option("of each of them")] = 200
    rounds: Annotated[int, option("turns of the settings that are compared")] = 2
    budget_s: Annotated[float, option("seconds on a GPU, after which all is stopped")] = 450.0
    device: Annotated[str, option("auto (a GPU where there is one), cpu, cuda")] = "auto"
    tiny: Annotated[bool, option("small recipes and few steps, on any device")] = False

    def __post_init__(self) -> None:
        for way in self.ways:
            precision, _, capture = way.partition("/")
            if precision not in get_args(Precision) or capture not in get_args(Capture):
                raise ValueError(f"--ways {way}: give PRECISION/CAPTURE, e.g. bf16/graph")
        if min(self.seeds, self.steps, self.rounds) < 1:
            raise ValueError("--seeds, --steps and --rounds are at least 1")
        for flag, folder, inside in (
            ("--bank", self.bank, "manifest.json"),
            ("--beside", self.beside, "model/train.py"),
            ("--sg2im", self.sg2im, "sg2im/model.py"),
        ):
            if folder is not None and not (folder / inside).is_file():
                raise ValueError(f"{flag} {folder}: there is no {inside} in it")


def main(options: GpuOptions) -> None:
    from benchmarks.gpu import checks, report, times
    from benchmarks.gpu.processes import Processes, Setting
    from model.device import choose_device

    options.out.mkdir(parents=True, exist_ok=True)
    device = str(choose_device(options.device))
    sizes = (4, 4, 8, 2) if options.tiny else (16, 32, 64, 2)
    recipes = ("demo", "sg2im-demo") if options.tiny else ("paper", "sg2im")
    paper, sg2im = (
        Setting(side="ours", recipe=recipe, batch_size=size)
        for recipe, size in zip(recipes, sizes, strict=False)
    )
    ways = [_way(each) for each in options.ways]
    times_plan = times.Plan(
        paper=paper, sg2im=sg2im, large=sizes[2], few=sizes[3], more_candidates=20, ways=ways,
        loop_steps=3 if options.tiny else 200, rounds=options.rounds,
    )  # fmt: skip
    if device == "cpu" and not options.tiny:
        none = "No GPU was at hand: nothing was measured (--tiny shows on a CPU how this works)."
        text = report.markdown(None, none, checks.Checked(), times.Measured(), times_plan)
        (options.out / "table.md").write_text(text)
        print(text)
        return
    title = report.about(device)
    if options.tiny:
        title += "; --tiny: the figures mean nothing"
    checked, measured = None, None
    with tempfile.TemporaryDirectory() as scratch:
        processes = Processes(
            device=device,
            bank=options.bank,
            beside=options.beside and options.beside.resolve(),
            sg2im=options.sg2im,
            scratch=Path(scratch),
            errors=options.out / "errors.txt",
            budget_s=options.budget_s,
            tiny=options.tiny,
        )
        processes.say(title)
        checked_parts = {*options.parts} - {"times"}
        if checked_parts:
            few = 4 if options.tiny else 12
            plan = checks.Plan(
                settings=[paper, sg2im], ways=ways, seeds=options.seeds, steps=options.steps,
                few=few,
            )  # fmt: skip
            checked = checks.check_all(processes, plan, checked_parts)
            report.write_curves(options.out, checked.curves)
            for check in checked.checks:
                processes.say(f"{report.word(check.passed)}: {check.name}: {check.note}")
        if "times" in options.parts:
            measured = times.measure_all(processes, times_plan)
        report.write_json(options.out / "figures.json", title, checked, measured)
        processes.say("done")
    text = report.markdown(processes, title, checked, measured, times_plan)
    (options.out / "table.md").write_text(text)
    print(text)


def _way(text: str) -> tuple[str, str]:
    precision, _, capture = text.partition("/")
    return precision, capture


if __name__ == "__main__":
    run(main, GpuOptions, __doc__)
