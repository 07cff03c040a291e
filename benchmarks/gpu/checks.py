"""What must hold before a time counts: capture, determinism, resuming, precision, the gpu tests."""

import filecmp
import math
import re
import statistics
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file

from benchmarks.gpu.processes import ROOT, Figures, Processes, Setting

AT_ONCE = 6  # checks are not timed: they share the device, whose memory must hold so many
LAST = 50  # steps of a seed whose mean loss counts
# The gradient's yardstick is a step in float32 whose weights are rounded to bf16, once; bf16 rounds
# in every layer.
ROUNDINGS = 4.0
BF16 = 2.0**-8  # how far a number is from its rounding, at most, relatively
SPREADS = 2.0  # between 5 seeds and 5 others: over 3 standard errors of the difference

Way = tuple[str, str]  # precision and capture


class Check(NamedTuple):
    name: str
    passed: bool | None  # None: not known
    note: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    settings: Sequence[Setting]  # of each recipe
    ways: Sequence[Way]  # of ours, today's first
    seeds: int
    steps: int  # of a seed
    few: int  # steps of a run that is taken twice


@dataclass
class Checked:
    checks: list[Check] = field(default_factory=list)
    first_step: list[list[str]] = field(default_factory=list)  # rows
    losses: list[list[str]] = field(default_factory=list)  # rows
    curves: dict[str, list[Figures]] = field(default_factory=dict)  # way -> of each seed


def check_all(processes: Processes, plan: Plan, parts: Collection[str]) -> Checked:
    """All parts at once, as far as the device's memory allows."""
    checked = Checked()
    with ThreadPoolExecutor(1 if processes.tiny else AT_ONCE) as pool:
        tests = pool.submit(_gpu_tests, processes) if "tests" in parts else None
        capture = _submit_capture(pool, processes, plan) if "capture" in parts else {}
        runs = _submit_runs(pool, processes, plan) if "runs" in parts else {}
        first_steps = _submit_first_steps(pool, processes, plan) if "first-steps" in parts else {}
        seeds = _submit_seeds(pool, processes, plan) if "seeds" in parts else {}
        checked.checks += [_same_digest(name, sides) for name, sides in capture.items()]
        checked.checks += [_same_runs(name, folders) for name, folders in runs.items()]
        _compare_first_steps(checked, first_steps, processes.scratch)
        if seeds:
            _compare_losses(checked, seeds)
        if tests:
            checked.checks.append(tests.result())
    return checked


Found = Future[Figures | None]


def _submit_capture(
    pool: ThreadPoolExecutor, processes: Processes, plan: Plan
) -> dict[str, list[Found]]:
    """Eager and captured steps over the same batches, of several shapes."""
    precisions = dict.fromkeys(precision for precision, capture in plan.ways if capture != "off")
    return {
        f"{setting.recipe}, {precision}: captured equals eager": [
            pool.submit(
                processes.figures,
                "train",
                replace(setting, precision=precision, capture=capture, deterministic=True),
                steps=plan.few,
                batches=plan.few,
                filled=processes.device != "cpu",
            )
            for capture in ("off", "graph")
        ]
        for setting in plan.settings
        for precision in precisions
    }


def _same_digest(name: str, sides: Sequence[Found]) -> Check:
    eager, captured = (side.result() for side in sides)
    if eager is None or captured is None:
        return Check(name, None, "not run")
    if eager["device"] == "cpu":
        return Check(name, None, "on a CPU nothing is captured")
    shapes = len(set(eager["shapes"]))
    note = f"{len(eager['losses'])} steps, {shapes} shapes, weights, moments and losses"
    if eager["digest"] == captured["digest"] and eager["losses"] == captured["losses"]:
        return Check(name, True, note)
    pairs = zip(eager["losses"], captured["losses"], strict=True)
    differ = next((step for step, (a, b) in enumerate(pairs, 1) if a != b), None)
    where = "losses equal, weights not" if differ is None else f"losses differ from step {differ}"
    return Check(name, False, f"{note}: {where}")


def _submit_runs(
    pool: ThreadPoolExecutor, processes: Processes, plan: Plan
) -> dict[str, list[Future[Path | None]]]:
    """Deterministic runs of model.train: a whole one, another, and one that stops and goes on."""
    found = {}
    for setting in plan.settings:
        for precision, capture in dict.fromkeys([plan.ways[0], plan.ways[-1]]):
            way = replace(setting, precision=precision, capture=capture)
            found[f"{way.title}: two runs and a resumed one are equal"] = [
                pool.submit(_run, processes, way, str(number), steps)
                for number, steps in enumerate(([plan.few], [plan.few], [plan.few // 2, plan.few]))
            ]
    return found


def _run(
    processes: Processes, setting: Setting, name: str, all_steps: Sequence[int]
) -> Path | None:
    """The folder of a run that stops after some steps, and goes on."""
    title = f"{setting.title} (model.train {name})"
    folder = processes.scratch / re.sub(r"\W+", "-", title)
    how = [*processes.flags(setting), "--out", str(folder)]
    how += ["--decay-from", "1"]  # else the rates depend on how many steps there are in all
    for steps in all_steps:
        command = ["-m", "model.train", *how, "--device", processes.device, "--deterministic"]
        command += ["--steps", str(steps), "--grid-every", "100000", "--checkpoint-every", "100000"]
        if not processes.room_for(title) or processes.run(title, command, ROOT) is None:
            return None
        how = ["--resume", str(folder)]
    return folder


def _same_runs(name: str, folders: Sequence[Future[Path | None]]) -> Check:
    found = [folder.result() for folder in folders]
    first, *others = found
    if first is None or None in others:
        return Check(name, None, "not run")
    files = ["log.jsonl", *_weights(first)]
    differ = [
        f"{file} of the {which}"
        for which, other in zip(("second", "resumed"), others, strict=True)
        for file in files
        if other and not filecmp.cmp(first / file, other / file, shallow=False)
    ]
    return Check(name, not differ, ", ".join(differ) or f"{len(files)} files, byte for byte")


def _weights(run: Path) -> list[str]:
    last = max((run / "checkpoints").iterdir())
    return [str(path.relative_to(run)) for path in sorted(last.glob("*.safetensors"))]


def _submit_first_steps(
    pool: ThreadPoolExecutor, processes: Processes, plan: Plan
) -> dict[str, dict[str, Found]]:
    """In float32, in the other precisions, and in float32 with weights rounded to bf16."""
    others = dict.fromkeys(["tf32", *(precision for precision, _ in plan.ways)])
    found: dict[str, dict[str, Found]] = {}
    for setting in plan.settings:
        of_recipe = found[setting.recipe] = {}
        for name in ("float32", ROUNDED, *others):
            precision = "float32" if name == ROUNDED else name
            of_recipe[name] = pool.submit(
                processes.figures,
                "first step",
                replace(setting, precision=precision, deterministic=True),
                round_weights=name == ROUNDED,
                gradients=str(_gradients(processes.scratch, setting.recipe, name)),
            )
    return found


ROUNDED = "float32, weights rounded to bf16"


def _gradients(scratch: Path, recipe: str, name: str) -> Path:
    return scratch / f"{recipe}-{name.replace(' ', '-')}.safetensors"


def _compare_first_steps(
    checked: Checked, found: Mapping[str, Mapping[str, Found]], scratch: Path
) -> None:
    for recipe, by_name in found.items():
        figures = {name: each.result() for name, each in by_name.items()}
        exact = figures.pop("float32")
        distances: dict[str, dict[str, float]] = {}
        for name, other in figures.items():
            if exact is not None and other is not None:
                files = [_gradients(scratch, recipe, each) for each in ("float32", name)]
                distances[name] = {
                    "losses": _rms_relative(exact["losses"], other["losses"]),
                    **gradient_distances(*files),
                }
                checked.first_step += [
                    [recipe, name, what, f"{value:.2e}"] for what, value in distances[name].items()
                ]
        check = f"{recipe}: the first step in bf16 differs by its rounding"
        yardstick, measured = distances.get(ROUNDED), distances.get("bf16")
        if yardstick is None or measured is None:
            checked.checks.append(Check(check, None, "not run"))
            continue
        losses = measured.pop("losses")
        ratios = {what: value / yardstick[what] for what, value in measured.items()}
        worst = max(ratios, key=lambda what: ratios[what])
        note = (
            f"losses by {losses:.1e} (at most {BF16:.1e}); {worst} by {measured[worst]:.1e}, "
            f"{ratios[worst]:.1f} times what rounded weights do (at most {ROUNDINGS:g})"
        )
        passed = losses <= BF16 and ratios[worst] <= ROUNDINGS
        checked.checks.append(Check(check, passed, note))


def _rms_relative(exact: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Root mean square over all losses."""
    squares = [((other[n] - v) / v) ** 2 for n, v in exact.items() if "/" not in n and v]
    return math.sqrt(statistics.fmean(squares))


def gradient_distances(exact: Path, other: Path) -> dict[str, float]:
    """Relative l2 distance of the gradients of each network."""
    a, b = load_file(exact), load_file(other)
    found = {}
    for network in dict.fromkeys(name.split("/")[0] for name in a):
        names = [name for name in a if name.startswith(f"{network}/")]
        whole = torch.cat([a[name].reshape(-1) for name in names]).double()
        apart = torch.cat([b[name].reshape(-1) for name in names]).double() - whole
        found[f"gradient of {network}"] = (apart.norm() / whole.norm()).item()
    return found


def _submit_seeds(
    pool: ThreadPoolExecutor, processes: Processes, plan: Plan
) -> dict[str, list[Found]]:
    """Trainings of the first recipe in today's way and in the last of ours."""
    return {
        f"{precision}/{capture}": [
            pool.submit(
                processes.figures,
                "train",
                replace(plan.settings[0], precision=precision, capture=capture),
                seed=seed,
                steps=plan.steps,
                batches=plan.steps,
            )
            for seed in range(plan.seeds)
        ]
        for precision, capture in dict.fromkeys([plan.ways[0], plan.ways[-1]])
    }


def _compare_losses(checked: Checked, seeds: Mapping[str, Sequence[Found]]) -> None:
    """Means of the last steps: how far apart the two ways are, in spreads over the seeds."""
    for way, found in seeds.items():
        checked.curves[way] = [each for f in found if (each := f.result()) is not None]
    name = f"losses over seeds: {' and '.join(seeds)} agree"
    ways = [*checked.curves.values()]
    if len(ways) < 2 or min(map(len, ways)) < 2:
        checked.checks.append(Check(name, None, "not run, or one way or seed only"))
        return
    far: dict[str, float] = {}
    for column, loss in enumerate(ways[0][0]["names"]):
        if "/" not in loss:
            a, b = ([_last(each, column) for each in of_way] for of_way in ways)
            far[loss], row = _apart(a, b)
            checked.losses.append([loss, *row])
    worst = max(far, key=lambda loss: far[loss])
    note = f"{worst}: {far[worst]:.2f} spreads apart (at most {SPREADS:g})"
    checked.checks.append(Check(name, far[worst] <= SPREADS, note))


def _last(figures: Figures, column: int) -> float:
    return statistics.fmean(row[column] for row in figures["losses"][-LAST:])


def _apart(a: Sequence[float], b: Sequence[float]) -> tuple[float, list[str]]:
    """The difference of two means in spreads over the seeds; both means, spread and difference."""
    spread = math.sqrt((statistics.variance(a) + statistics.variance(b)) / 2)
    means = statistics.fmean(a), statistics.fmean(b)
    apart = abs(means[1] - means[0])
    far = apart / spread if spread else (math.inf if apart else 0.0)
    return far, [*(f"{mean:.4g}" for mean in means), f"{spread:.2g}", f"{far:.2f}"]


def _gpu_tests(processes: Processes) -> Check:
    name = "tests marked gpu"
    if not processes.room_for(name):
        return Check(name, None, "not run")
    files = [p for p in (ROOT / "tests").rglob("test_*.py") if "mark.gpu" in p.read_text("utf-8")]
    # Warnings of torch.compile are not the tests' matter.
    command = [
        "-m",
        "pytest",
        "-q",
        "-W",
        "default",
        "-m",
        "gpu",
        "-p",
        "no:benchmark",
        "-p",
        "no:cacheprovider",
    ]
    printed = processes.run(name, [*command, *map(str, sorted(files))], ROOT)
    if printed is None:
        return Check(name, False, "failed, or stopped by the budget: see errors.txt")
    last = printed.strip().splitlines()[-1].strip("= ")
    return Check(name, True if "passed" in last else None, last)
