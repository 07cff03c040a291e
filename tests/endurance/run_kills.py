"""Trainings that are killed at random moments and resumed: the very run of one that never was.

python -m tests.endurance.run_kills                          50 kills; a table of where they hit
python -m tests.endurance.run_kills --count 20 --seed 7 --out run-kills.md

A case trains a small network on a small toy bank to its last step, and kills by SIGKILL up to five
times: the trainer, one of its loader's processes, or one of two ranks. Each time it is resumed,
with either kind of loader and 0 to 3 loader workers. How a moment is drawn: one of the phases of a
training, each of them once in a drawn order before any comes again; the first time that the run
enters it, or a later one where it often does; then a delay that is even over the time which the
phase takes undisturbed. The kill is counted in the phase where it fell.

Then every file of the run must have the bytes of an undisturbed run's (weights, optimisers, state
and grids), and its log the same losses; there must be no further file, none left over in TMPDIR,
and no process. A training whose loader's process was killed must end by itself, with exit code 1
and one line; so must the rank that is left, with at most one. Ranks are told what torchrun would
tell them, but are not started by it, as it would end the other one; while they start, when one
waits for the other, both are killed.

Trainings are the real command, in forks of this process, which has imported it. Exit code 1 where
a case did not end well.
"""

import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

from jobs import build_bank
from model import loop, train
from model.monitor import LOG
from model.retrievegan.trainer import RetrieveGANTrainer
from model.run_folder import CONFIG, LOCK
from pipeline.cache import VARIABLE
from pipeline.options import run
from pipeline.toy.coco import write_toy
from tests.endurance.forks import (
    EVENT,
    NEXT,
    BadEndError,
    Event,
    Fork,
    announcing,
    children,
    show,
)
from tests.endurance.kills import import_late, is_foreign

STARTING, LOADER, LOADING, STEP, LOGGING, GRID, EVALUATION, CHECKPOINT = PHASES = (
    "starting", "loader starts", "loading", "step", "log", "grid", "evaluation", "checkpoint",
)  # fmt: skip
OF_THE_FIRST_RANK = (GRID, EVALUATION, CHECKPOINT)
TRAINER, LOADERS_PROCESS, RANK = VICTIMS = ("trainer", "loader's process", "one of two ranks")
LOADERS_SHARE = 0.3  # of the kills of trainings that have such processes
RANKS_SHARE = 0.35  # of the cases
STEPS = 12
MOST_KILLS = 5  # of a run
OFTEN = 4  # a phase that comes n times is entered up to n / OFTEN times before a kill
TORCHS = "tmp"  # files that it opens to see whether it may, when a loader's process has died
LEAVE_S = 15.0  # for processes to notice that their parent is dead
BANK = ["--shard-photos", "4", "--image-size", "64", "--patch-size", "16", "--candidates", "6",
        "--encoder-steps", "2", "--cooccurrence-steps", "2"]  # fmt: skip
SMALL = ["--recipe", "demo", "--steps", str(STEPS), "--batch-size", "4"]
SMALL += ["--grid-every", "5", "--checkpoint-every", "2", "--eval-every", "3"]
NOT_COMPARED = (CONFIG, LOCK, LOG, "tensorboard")


class Training(Fork):
    """One `model.train`, or one rank of it."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, rank: int, environment: Mapping[str, str]
    ) -> None:
        act = partial(_act, arguments, {**environment, VARIABLE: str(folder / "cache")})
        super().__init__(act, folder, PHASES, begins_in=STARTING, log=f"log-{rank}")


def _act(arguments: Sequence[str], environment: Mapping[str, str], pipe: int) -> None:
    os.environ.update(environment)
    _announce_phases(pipe)
    sys.argv = ["model.train", *arguments]
    run(train.main, train.TrainOptions, train.__doc__, train.prepare)


def environment_of(ranks: int) -> list[dict[str, str]]:
    """What torchrun would tell each rank; nothing where there is but one."""
    if ranks == 1:
        return [{}]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    here |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    return [{**here, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def _announce_phases(pipe: int) -> None:
    def tell(phase: str) -> None:
        os.write(pipe, EVENT.pack(PHASES.index(phase), 0, 0))

    def told(phase: str, function: Callable[..., Any], after: str = LOGGING) -> Callable[..., Any]:
        """Both when it is called and when it has ended."""

        def call(*args: Any, **kwargs: Any) -> Any:
            result = announcing(partial(tell, phase), function)(*args, **kwargs)
            tell(after)
            return result

        return call

    begin, train_ = loop.training_batches, loop.train

    def told_batches(*args: Any, **kwargs: Any) -> Iterator[Any]:
        tell(LOADER)
        batches = begin(*args, **kwargs)
        try:
            while True:
                batch = next(batches)
                yield batch
                tell(LOADING)
        finally:
            batches.close()

    def told_train(trainer: Any, bank: Any, folder: Path, *score: Any) -> None:
        train_(trainer, bank, folder, *(each and told(EVALUATION, each) for each in score))

    loop.training_batches, loop.train = told_batches, told_train
    loop.save = told(CHECKPOINT, loop.save)
    for phase, method in ((STEP, "step"), (GRID, "image_grid")):
        setattr(RetrieveGANTrainer, method, told(phase, getattr(RetrieveGANTrainer, method)))


@dataclass
class Bench:
    """A toy bank, and undisturbed runs on it."""

    folder: Path
    lengths: dict[str, float] = field(default_factory=dict)  # phase -> seconds, undisturbed
    times: Counter[str] = field(default_factory=Counter)  # how often it comes

    @property
    def bank(self) -> Path:
        return self.folder / "bank"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def expected(self, ranks: int) -> Path:
        return self.folder / f"undisturbed-{ranks}"

    def prepare(self) -> None:
        (self.folder / "scratch").mkdir()
        write_toy(self.folder / "data", train_photos=30, val_photos=8)
        build = Fork(partial(_build, self.folder), self.folder, ("all",), begins_in="all")
        if build.wait():
            raise BadEndError(build.said())
        for ranks in (2, 1):
            began = time.monotonic()
            first, *others = self.train(ranks)
            told = [Event(STARTING, 0, began), *first.follow()]
            if any([training.wait() for training in (first, *others)]):
                raise BadEndError(first.said())
            self.run.rename(self.expected(ranks))
        told.append(Event(LOGGING, 0, time.monotonic()))
        seconds = defaultdict[str, list[float]](list)
        for event, then in pairwise(told):
            seconds[event.stage].append(then.when - event.when)
        self.lengths = {phase: fmean(each) for phase, each in seconds.items()}
        self.times = Counter({phase: len(each) for phase, each in seconds.items()})

    def train(self, ranks: int, *execution: str) -> list[Training]:
        """All ranks of a run that begins, or goes on where it had begun."""
        begins = ["--bank", str(self.bank), "--out", str(self.run), *SMALL]
        goes_on = ["--resume", str(self.run)]
        arguments = goes_on if (self.run / CONFIG).is_file() else begins
        return [
            Training([*arguments, *execution], self.folder, rank, environment)
            for rank, environment in enumerate(environment_of(ranks))
        ]


def _build(folder: Path, _: int) -> None:
    data = ["--dataset", "toy", "--data", str(folder / "data"), "--out", str(folder / "bank")]
    sys.argv = ["jobs.build_bank", *data, *BANK]
    run(build_bank.main, build_bank.BuildBank, build_bank.__doc__)


# A case


@dataclass
class Tally:
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)  # victim, phase
    begun: Counter[str] = field(default_factory=Counter)  # by such a loader
    equal: int = 0  # runs
    bad: list[str] = field(default_factory=list)

    def table(self) -> str:
        rows = [["killed", "kills", *PHASES], ["---"] * (len(PHASES) + 2)]
        for name, victims in (*((victim, (victim,)) for victim in VICTIMS), ("all", VICTIMS)):
            counts = [sum(self.kills[victim, phase] for victim in victims) for phase in PHASES]
            rows.append([name, *map(str, [sum(counts), *counts])])
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        begun = ", ".join(f"{name} {count}" for name, count in sorted(self.begun.items()))
        lines += ["", f"Equal to the undisturbed run: {self.equal} runs. Begun, by loader and its"]
        lines += [f"workers: {begun}."]
        return "\n".join(lines + self.bad)


def play(bench: Bench, phases: deque[str], random: Random, most: int, tally: Tally) -> int:
    """A run of up to `most` kills; how many there were."""
    for folder in (bench.run, bench.folder / "cache"):
        shutil.rmtree(folder, ignore_errors=True)
    ranks = 2 if random.random() < RANKS_SHARE else 1
    kills, wanted = 0, random.randint(1, min(MOST_KILLS, most))
    goes_on, started = True, set[int]()
    while goes_on:
        workers, kind = random.randrange(4), random.choice(("resident", "stream"))
        trainings = bench.train(ranks, "--loader", kind, "--loader-workers", str(workers))
        tally.begun[f"{kind} {workers}"] += 1
        victim = RANK if ranks > 1 else TRAINER
        if workers and random.random() < LOADERS_SHARE:
            victim = LOADERS_PROCESS
        where = ""
        if kills < wanted:
            where = strike(bench, trainings, victim, phases, random, started)
        goes_on = check_ends(trainings, victim if where else "")
        if goes_on:
            kills += 1
            tally.kills[victim, where] += 1
    check_run(bench.run, bench.expected(ranks))
    check_left_over(bench, started)
    tally.equal += 1
    return kills


def strike(
    bench: Bench,
    trainings: Sequence[Training],
    victim: str,
    phases: deque[str],
    random: Random,
    started: set[int],
) -> str:
    """Kill the victim at a random moment, unless all is over before; in which phase that was."""
    if not phases:
        phases.extend(random.sample(sorted(bench.lengths), len(bench.lengths)))
    phase = phases[0]
    training = trainings[0] if phase in OF_THE_FIRST_RANK else random.choice(trainings)
    for _ in range(random.randint(1, max(1, bench.times[phase] // OFTEN))):
        while phase != STARTING and (told := training.follow(NEXT)) and told[0].stage != phase:
            pass
    time.sleep(random.uniform(0, bench.lengths[phase]))
    where = phase if training.is_in(phase) else training.stage
    started.update(pid for each in trainings for pid in children(each.pid))
    pids = children(training.pid)
    if victim != LOADERS_PROCESS:
        pids = [] if training.has_ended() else [training.pid]
    if not pids:
        phases.rotate(-1)
        return ""
    if victim == RANK and where == STARTING:
        pids = [each.pid for each in trainings]  # for which the other would wait ten minutes
    else:
        pids = [random.choice(pids)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    phases.popleft()
    return where


def check_ends(trainings: Sequence[Training], victim: str) -> bool:
    """Whether a kill ended the training, as such a kill may; it may just have been done."""
    statuses = [training.wait() for training in trainings]
    said = [training.said() for training in trainings]
    errors = sum(line.startswith("error: ") for each in said for line in each.splitlines())
    killed = {"": set[int](), LOADERS_PROCESS: {1}}.get(victim, {-signal.SIGKILL, 1})
    # What a killed trainer's workers say about that is theirs.
    unclear = any(
        "Traceback" in each for each, code in zip(said, statuses, strict=True) if code > 0
    )
    lines = {"": 0, TRAINER: 0}.get(victim, len(trainings))
    if {*statuses} - {0} - killed or unclear or errors > lines:
        whose = f"after a {victim} was killed" if victim else "undisturbed"
        where = ", ".join(training.stage for training in trainings)
        raise BadEndError(f"exit {statuses} in {where}, {whose}: {' / '.join(said)}")
    return any(statuses)


def check_run(run: Path, expected: Path) -> None:
    """BadEndError where a file is not that of the undisturbed run, or its log has other losses."""
    ours, theirs = files_of(run), files_of(expected)
    if ours.keys() != theirs.keys():
        raise BadEndError(f"left over or missing: {sorted(ours.keys() ^ theirs.keys())}")
    if changed := [name for name, data in ours.items() if data != theirs[name]]:
        raise BadEndError(f"not the bytes of the undisturbed run: {changed}")
    for ours_line, theirs_line in zip(*map(log_of, (run, expected)), strict=True):
        if ours_line != theirs_line:
            raise BadEndError(f"another line in {LOG}: {ours_line}, not {theirs_line}")


def files_of(run: Path) -> dict[str, bytes]:
    """What a run leaves that does not tell how it was executed."""
    names = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    kept = (name for name in names if name.split("/")[0] not in NOT_COMPARED)
    return {name: (run / name).read_bytes() for name in kept}


def log_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / LOG).read_text("utf-8").splitlines()]


def check_left_over(bench: Bench, started: set[int]) -> None:
    """BadEndError for what killed trainings have left besides the run."""
    partial_ = [path.name for path in bench.run.rglob("*.partial")]
    scratch = [path.name for path in (bench.folder / "scratch").iterdir()]
    left = [name for name in partial_ + scratch if not is_foreign(name) and name[:3] != TORCHS]
    if left:
        raise BadEndError(f"left over: {sorted(left)}")
    deadline = time.monotonic() + LEAVE_S
    while living := [pid for pid in started if is_running(pid)]:
        if time.monotonic() > deadline:
            raise BadEndError(f"processes of the loader outlive the training: {living}")
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    """False for the dead whom nobody has buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def endure(folder: Path, count: int, seed: int, first: Sequence[str] = ()) -> Tally:
    """About `count` kills, the first ones in the phases named."""
    bench, tally, random = Bench(folder), Tally(), Random(seed)
    bench.prepare()
    phases, left = deque(first), count
    while left > 0 and len(tally.bad) < 10:
        try:
            left -= play(bench, phases, random, left, tally)
        except BadEndError as bad:
            left -= 1
            tally.bad.append(f"bad: {bad}")
            print(tally.bad[-1], flush=True)
    return tally


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50, help="kills")
    parser.add_argument("--seed", type=int, default=0, help="of all moments")
    parser.add_argument(
        "--first", nargs="*", choices=PHASES, default=(), help="phases to begin with"
    )
    parser.add_argument("--out", type=Path, help="a file for the table")
    options = parser.parse_args()
    import_late()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = endure(Path(folder), options.count, options.seed, options.first)
    show("tests.endurance.run_kills", options, time.monotonic() - start, tally.table())
    return 1 if tally.bad else 0


if __name__ == "__main__":
    sys.exit(main())
