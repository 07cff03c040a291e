"""Seconds per step beside the landed commit and the published modules; the loop of model.train."""

import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.gpu.checks import Way
from benchmarks.gpu.processes import Figures, Processes, Setting

BATCHES = 6  # held on the device and given in turn
LOOP_S = 60.0  # at most, of a run of model.train
LOOP_USUAL_S = 30.0
LINE = re.compile(r"step ([\d,]+) of [\d,]+: .*?(\d+)% waiting for data")


@dataclass(frozen=True, kw_only=True)
class Plan:
    paper: Setting
    sg2im: Setting
    large: int  # the other batch size
    few: int  # scenes per card
    more_candidates: int  # K
    ways: Sequence[Way]
    loop_steps: int
    rounds: int


@dataclass
class Measured:
    """Of each setting what each of its processes found."""

    figures: dict[Setting, list[Figures]] = field(default_factory=dict)
    loops: dict[Setting, dict[str, float]] = field(default_factory=dict)  # of model.train

    def seconds(self, setting: Setting | None) -> float | None:
        """Per step: the median of all steps of all rounds."""
        found = self.figures.get(setting, []) if setting else []
        return statistics.median(s for each in found for s in each["seconds"]) if found else None

    def ratio(self, setting: Setting | None, other: Setting | None) -> float | None:
        """How many times as long the first takes: median over the rounds that both were in."""
        if setting is None or other is None:
            return None
        pairs = zip(self.figures.get(setting, []), self.figures.get(other, []), strict=False)
        ratios = [
            statistics.median(a["seconds"]) / statistics.median(b["seconds"]) for a, b in pairs
        ]
        return statistics.median(ratios) if ratios else None

    def fastest(self, settings: Sequence[Setting]) -> Setting | None:
        """Of those that were measured."""
        known = {each: s for each in settings if (s := self.seconds(each)) is not None}
        return min(known, key=lambda each: known[each]) if known else None


def ours(setting: Setting, ways: Sequence[Way], **changes: Any) -> list[Setting]:
    """A setting in all our ways."""
    return [
        replace(setting, side="ours", precision=precision, capture=capture, **changes)
        for precision, capture in ways
    ]


def measure_all(processes: Processes, plan: Plan) -> Measured:
    """The most wanted first: what no longer fits into the budget is left out."""
    measured = Measured()
    landed = [replace(plan.paper, side="landed")] if processes.beside else []
    sg2im_landed = [replace(plan.sg2im, side="landed")] if processes.beside else []
    published = [replace(plan.sg2im, side="published")] if processes.sg2im else []
    _measure(processes, measured, [*landed, *ours(plan.paper, plan.ways)])
    best = measured.fastest(ours(plan.paper, plan.ways))
    fast = [(best.precision, best.capture)] if best else [plan.ways[-1]]
    _measure(processes, measured, ours(plan.paper, fast, batch_size=plan.large))
    _measure(processes, measured, [*published, *ours(plan.sg2im, plan.ways)])
    _loop(processes, measured, plan, ours(plan.paper, fast)[0])
    _measure(processes, measured, ours(plan.paper, fast, deterministic=True))
    _measure(processes, measured, ours(plan.paper, fast, batch_size=plan.few))
    _measure(processes, measured, sg2im_landed)
    others = [way for way in plan.ways if way not in fast]
    _measure(processes, measured, ours(plan.paper, others, batch_size=plan.large))
    k = plan.more_candidates
    _measure(processes, measured, [replace(each, candidates=k) for each in landed])
    _measure(processes, measured, ours(plan.paper, fast, candidates=k))
    _measure(processes, measured, ours(plan.paper, others[:1], deterministic=True))
    for setting in landed:
        _loop(processes, measured, plan, setting)
    for _ in range(1, plan.rounds):
        _measure(processes, measured, [*landed, *ours(plan.paper, plan.ways)])
        _measure(processes, measured, [*published, *sg2im_landed, *ours(plan.sg2im, fast)])
    return measured


def _measure(processes: Processes, measured: Measured, settings: Sequence[Setting]) -> None:
    """One round: each setting in turn."""
    for setting in settings:
        task = "time published" if setting.side == "published" else "time"
        found = processes.figures(task, setting, batches=1 if processes.tiny else BATCHES)
        if found is not None:
            measured.figures.setdefault(setting, []).append(found)
            processes.say(
                f"{setting.title}: {1e3 * statistics.median(found['seconds']):.1f} ms, "
                f"{1e3 * found['busy_s']:.1f} of them busy, {found['kernels']:,.0f} kernels, "
                f"{found['memory']['allocated']:.1f} GiB"
            )


def _loop(processes: Processes, measured: Measured, plan: Plan, setting: Setting) -> None:
    """model.train from its start: seconds to the first step's line, images/s after it."""
    title = f"model.train, {setting.title}"
    if not processes.room_for(title, LOOP_USUAL_S):
        return
    command = [sys.executable, "-u", "-m", "model.train", *processes.flags(setting)]
    command += ["--device", processes.device, "--steps", str(plan.loop_steps)]
    command += ["--out", str(processes.scratch / f"loop-{setting.side}")]
    started = time.monotonic()
    lines: list[tuple[float, str]] = []
    with subprocess.Popen(
        command,
        cwd=processes.checkout(setting),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        stop = threading.Timer(600 if processes.device == "cpu" else LOOP_S, process.terminate)
        stop.start()
        assert process.stdout is not None
        lines += [(time.monotonic() - started, line) for line in process.stdout]
        stop.cancel()
    found = of_lines(lines, setting.batch_size)
    if found is None:
        processes.failed.append(f"{title}: {lines[-1][1].strip() if lines else 'no output'}")
        processes.say(f"{title}: FAILED")
        return
    measured.loops[setting] = found
    processes.say(
        f"{title}: {found['images_per_s']:.0f} images/s, {found['wait']:.1%} waiting, first step "
        f"after {found['first_s']:.1f} s"
    )


def of_lines(lines: Sequence[tuple[float, str]], batch_size: int) -> dict[str, float] | None:
    """What the console's lines of a run say, each with the seconds since the run's start."""
    told = [
        (seconds, int(match[1].replace(",", "")), int(match[2]) / 100)
        for seconds, line in lines
        if (match := LINE.search(line))
    ]
    if len(told) < 2:
        return None
    (first_s, first, _), *later = told
    last_s, last, _ = later[-1]
    before = first_s
    waited = 0.0
    for seconds, _, share in later:
        waited += share * (seconds - before)
        before = seconds
    return {
        "first_s": first_s,
        "images_per_s": (last - first) * batch_size / (last_s - first_s),
        "wait": waited / (last_s - first_s),
    }


def all_reduce_s(parameters: int, cards: int, bytes_per_s: float) -> float:
    """Of float32 gradients around a ring."""
    return 2 * (cards - 1) / cards * 4 * parameters / bytes_per_s
