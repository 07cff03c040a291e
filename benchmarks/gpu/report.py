"""What was found as Markdown, JSON, and the curves of the losses as a table and a plot."""

import csv
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import NamedTuple

import torch
from matplotlib.figure import Figure

from benchmarks.gpu.checks import Checked
from benchmarks.gpu.processes import Figures, Processes, Setting
from benchmarks.gpu.times import Measured, Plan, all_reduce_s, ours

STEPS = 140_000  # of the paper's run, in batches of 16
CARDS = 8
NVLINK = (
    300e9  # bytes/s each way that a ring is assumed to reach; the H100's links are made for 450
)
SMOOTHED = 10  # steps whose mean is drawn

TIME_COLUMNS = (
    "setting", "ms/step", "images/s", "busy ms", "busy", "kernels", "waits for the GPU",
    "GiB", "landed / this",
)  # fmt: skip


class Aim(NamedTuple):
    name: str
    wanted: str
    found: float | None  # None: not measured
    reached: bool | None
    shown: str


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def about(device: str) -> str:
    """Device and versions, in one line."""
    name = platform.processor() or platform.machine()
    if device != "cpu":
        name = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}, "
        name += f"cuDNN {torch.backends.cudnn.version()}"
    return f"{name}; Python {platform.python_version()}, torch {torch.__version__}"


def markdown(
    processes: Processes | None,
    title: str,
    checked: Checked | None,
    measured: Measured | None,
    plan: Plan,
) -> str:
    """processes: None where nothing could be measured."""
    parts = [f"# Training steps on a GPU\n\n{title}"]
    if checked is not None:
        parts.append(checks(checked))
    if measured is not None:
        times = [time_rows(measured, plan)] if processes is not None else [[]]
        parts.append("## Times\n\n" + table(TIME_COLUMNS, times[0]))
        parts += [text(measured, plan) for text in (loops, deterministic, largest)]
        if processes is None or not processes.tiny:
            parts.append("## Aims\n\n" + aims_table(aims(measured, plan)))
            parts.append(projection(measured, plan))
    if processes is not None:
        for name, texts in (("Skipped", processes.skipped), ("Failed", processes.failed)):
            if texts:
                parts.append(f"## {name}\n\n" + "\n".join(f"- {text}" for text in texts))
        if processes.sg2im is None and measured is not None:
            parts.append("The published sg2im modules: not given (--sg2im).")
    return "\n\n".join(filter(None, parts)) + "\n"


def checks(checked: Checked) -> str:
    rows = [[check.name, word(check.passed), check.note] for check in checked.checks]
    parts = ["## Checks\n\n" + table(("check", "", "note"), rows)]
    if checked.first_step:
        columns = ["recipe", "first step in", "of", "distance from float32"]
        parts.append(table(columns, checked.first_step))
    if checked.losses:
        columns = ["loss, mean of a seed's last steps", *checked.curves, "spread", "spreads apart"]
        parts.append(table(columns, checked.losses))
    return "\n\n".join(parts)


def word(passed: bool | None) -> str:
    return {True: "passes", False: "FAILS", None: "not known"}[passed]


def time_rows(measured: Measured, plan: Plan) -> list[list[str]]:
    rows = []
    for setting in measured.figures:
        seconds = measured.seconds(setting)
        assert seconds is not None
        beside = Setting(side="landed", recipe=setting.recipe, batch_size=setting.batch_size,
                         candidates=setting.candidates)  # fmt: skip
        ratio = None if setting.side == "landed" else measured.ratio(beside, setting)
        busy = _median(measured, setting, "busy_s")
        rows.append(
            [
                setting.title,
                f"{1e3 * seconds:.1f}",
                f"{setting.batch_size / seconds:,.0f}",
                f"{1e3 * busy:.1f}",
                f"{busy_share(measured, setting):.0%}",
                f"{_median(measured, setting, 'kernels'):,.0f}",
                f"{_median(measured, setting, 'synchronisations'):.0f}",
                f"{max(each['memory']['allocated'] for each in measured.figures[setting]):.1f}",
                "" if ratio is None else f"{ratio:.2f}",
            ]
        )
    return rows


def _median(measured: Measured, setting: Setting, name: str) -> float:
    return median(each[name] for each in measured.figures[setting])


def busy_share(measured: Measured, setting: Setting) -> float:
    """Of the time of a step without a profiler, which makes launches slower."""
    return median(each["busy_s"] / fmean(each["seconds"]) for each in measured.figures[setting])


def loops(measured: Measured, _: Plan) -> str:
    if not measured.loops:
        return ""
    rows = [
        [setting.title, f"{of['images_per_s']:.0f}", f"{of['wait']:.1%}", f"{of['first_s']:.1f}"]
        for setting, of in measured.loops.items()
    ]
    return table(("model.train", "images/s", "waiting for data", "s to the first step"), rows)


def deterministic(measured: Measured, _: Plan) -> str:
    """What --deterministic costs."""
    return " ".join(
        f"{setting.title}: {measured.ratio(setting, other):.2f} times as long as without."
        for setting in measured.figures
        if setting.deterministic
        and (other := replace(setting, deterministic=False)) in measured.figures
    )


def largest(measured: Measured, plan: Plan) -> str:
    """The largest kernels of the landed step and of ours."""
    parts = []
    for setting in (_landed(plan.paper), measured.fastest(ours(plan.paper, plan.ways))):
        if setting in measured.figures:
            assert setting is not None
            rows = [
                [f"`{each['name'][:90].replace('|', '/')}`", f"{each['ms']:.2f}",
                 f"{each['calls']:,.0f}"]
                for each in measured.figures[setting][-1]["largest"]
            ]  # fmt: skip
            parts.append(table((f"largest kernels of {setting.title}", "ms/step", "calls"), rows))
    return "\n\n".join(parts)


def _landed(setting: Setting) -> Setting:
    return Setting(side="landed", recipe=setting.recipe, batch_size=setting.batch_size)


def aims(measured: Measured, plan: Plan) -> list[Aim]:
    """Those of the training step on one card, each with the fastest of our ways."""
    paper, landed = measured.fastest(ours(plan.paper, plan.ways)), _landed(plan.paper)
    large = measured.fastest(ours(plan.paper, plan.ways, batch_size=plan.large))
    sg2im = measured.fastest(ours(plan.sg2im, plan.ways))
    published = Setting(
        side="published", recipe=plan.sg2im.recipe, batch_size=plan.sg2im.batch_size
    )
    landed_s, large_s = measured.seconds(landed), measured.seconds(large)
    images = None
    if landed_s and large_s:
        images = (plan.large / large_s) / (plan.paper.batch_size / landed_s)
    loop = measured.loops.get(paper, {}) if paper else {}
    rate = loop.get("images_per_s")
    hours = rate and STEPS * plan.paper.batch_size / rate / 3600
    small, big = plan.paper.batch_size, plan.large
    return [
        _at_least(f"batch {small}: times as fast as landed", 3, measured.ratio(landed, paper)),
        _at_least(f"batch {big}: times the images/s of batch {small} as landed", 2.5, images),
        _at_least("share of the time that the GPU is busy", 0.9,
                  busy_share(measured, paper) if paper else None),
        _at_most("share of the loop's time that waits for data", 0.03, loop.get("wait")),
        _at_most("seconds to the first step", 60, loop.get("first_s")),
        _at_most("sg2im: times the published modules' time", 0.45,
                 measured.ratio(sg2im, published)),
        _at_most(f"hours for {STEPS:,} steps on one card", 2, hours),
    ]  # fmt: skip


def _at_least(name: str, wanted: float, found: float | None) -> Aim:
    return _aim(name, f"at least {wanted:g}", found, found is not None and found >= wanted)


def _at_most(name: str, wanted: float, found: float | None) -> Aim:
    return _aim(name, f"at most {wanted:g}", found, found is not None and found <= wanted)


def _aim(name: str, wanted: str, found: float | None, reached: bool) -> Aim:
    known = found is not None
    return Aim(name, wanted, found, reached if known else None, f"{found:.3g}" if known else "")


def aims_table(found: Sequence[Aim]) -> str:
    words = {True: "reached", False: "NOT reached", None: "not measured"}
    rows = [[aim.name, aim.wanted, aim.shown, words[aim.reached]] for aim in found]
    return table(("aim", "wanted", "measured", ""), rows)


def projection(measured: Measured, plan: Plan) -> str:
    """Hours of the paper's run on several cards, from one card's steps and an assumed exchange."""
    paper = measured.fastest(ours(plan.paper, plan.ways))
    few = measured.fastest(ours(plan.paper, plan.ways, batch_size=plan.few))
    if paper is None or few is None:
        return f"Projection on {CARDS} cards: not measured."
    parameters = measured.figures[paper][0]["parameters"]
    exchange = all_reduce_s(parameters, CARDS, NVLINK)
    few_s, whole_s = measured.seconds(few), measured.seconds(paper)
    assert few_s is not None
    assert whole_s is not None
    kept = STEPS * (few_s + exchange) / 3600
    larger = STEPS / CARDS * (whole_s + exchange) / 3600
    return (
        f"Projection on {CARDS} cards, not measured: an exchange of the gradients of "
        f"{parameters / 1e6:.1f} M parameters is taken as {1e3 * exchange:.1f} ms "
        f"(a ring at {NVLINK / 1e9:.0f} GB/s, nothing of it hidden behind the step), and is added "
        f"to a card's own step. The global batch kept ({plan.few} scenes per card, "
        f"{1e3 * few_s:.1f} ms): {STEPS:,} steps in {kept:.1f} h. The batch per card kept "
        f"({plan.paper.batch_size} scenes, {1e3 * whole_s:.1f} ms): as many images, "
        f"{STEPS // CARDS:,} steps, in {larger:.2f} h."
    )


def write_json(path: Path, title: str, checked: Checked | None, measured: Measured | None) -> None:
    value = {
        "about": title,
        "checks": [check._asdict() for check in checked.checks] if checked else [],
        "first_step": checked.first_step if checked else [],
        "losses": checked.losses if checked else [],
        "times": [
            {"title": setting.title, "setting": asdict(setting), "processes": found}
            for setting, found in (measured.figures.items() if measured else ())
        ],
        "loops": {each.title: of for each, of in measured.loops.items()} if measured else {},
    }
    path.write_text(json.dumps(value, indent=1))


def write_curves(folder: Path, curves: Mapping[str, Sequence[Figures]]) -> None:
    """loss_curves.csv: every loss of every step and seed; loss_curves.png."""
    if not any(curves.values()):
        return
    names = next(found for found in curves.values() if found)[0]["names"]
    with (folder / "loss_curves.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["way", "seed", "step", *names])
        for way, seeds in curves.items():
            for seed, found in enumerate(seeds):
                for step, values in enumerate(found["losses"], 1):
                    rows.writerow([way, seed, step, *(f"{value:.6g}" for value in values)])
    plot(folder / "loss_curves.png", curves, [name for name in names if "/" not in name])


def plot(path: Path, curves: Mapping[str, Sequence[Figures]], losses: Sequence[str]) -> None:
    """A panel for each loss: the mean over the seeds, and a standard deviation around it."""
    columns = min(len(losses), 4)
    rows = math.ceil(len(losses) / columns)
    figure = Figure((4 * columns, 2.8 * rows), layout="constrained")
    panels = [*figure.subplots(rows, columns, squeeze=False).flat]
    for panel, loss in zip(panels, losses, strict=False):
        for way, seeds in curves.items():
            if seeds:
                column = seeds[0]["names"].index(loss)
                of_seeds = [smoothed([row[column] for row in each["losses"]]) for each in seeds]
                by_step = [*zip(*of_seeds, strict=True)]
                mean = [fmean(values) for values in by_step]
                spread = [stdev(values) if len(values) > 1 else 0.0 for values in by_step]
                steps = range(1, len(mean) + 1)
                (line,) = panel.plot(steps, mean, label=way)
                low = [m - s for m, s in zip(mean, spread, strict=True)]
                high = [m + s for m, s in zip(mean, spread, strict=True)]
                panel.fill_between(steps, low, high, color=line.get_color(), alpha=0.2)
        panel.set_title(loss)
    for panel in panels[len(losses) :]:
        panel.set_axis_off()
    figure.axes[0].legend()
    figure.suptitle(f"mean over the seeds, and their standard deviation; means of {SMOOTHED} steps")
    figure.savefig(path, dpi=100)


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of a step and those before it."""
    return [fmean(values[max(0, i + 1 - SMOOTHED) : i + 1]) for i in range(len(values))]
