"""Builds that are killed at random moments and run again: the same bank, nothing made twice.

python -m tests.endurance.kills                         100 kills; a table of what became of them
python -m tests.endurance.kills --count 20 --seed 7 --out kills.md

A case starts a command, kills somebody (the driver, one worker, the scheduler, or all of them) by
SIGKILL, and runs the same command again, up to three times, until it is left to end. How a moment
is drawn: one of the command's stages, each of them once in a drawn order before any comes again;
then, from when the run enters that stage, a delay that is even over the time which the stage takes
undisturbed. A stage that a rerun skips is over sooner: the kill is counted where it fell. A worker
or the scheduler is killed in a stage that has tasks, when a number of its shards or blocks that is
drawn evenly, from none to all but one, has a receipt; in a training after a delay. Blocks are
small, so that every stage has several (small_blocks.py).

Then the bank must verify, have the digests of an undisturbed run, no file besides those that its
manifest lists, and the very files (inodes) of all that had a receipt when a kill came: shards and
derived files as they lie there in the end, blocks as they were when their stage joined them.

Commands are the real ones, in forks of this process, which has imported them: that saves their
start. Exit code 1 where a case did not end well.
"""

import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from bank.manifest import Manifest, read_manifest
from jobs import build_bank, edit_bank, verify_bank
from jobs.stages import build, complete, derive, removal, staging
from jobs.stages.blocks import Block, Stage
from jobs.stages.receipts import WORK, receipt_path
from jobs.stages.staging import next_version
from pipeline.options import run
from pipeline.toy.coco import write_toy
from tests.endurance.forks import (
    EVENT,
    IS_DONE,
    JOINS,
    BadEndError,
    Event,
    Fork,
    announcing,
    children,
    show,
)
from tests.endurance.small_blocks import SAVE_OFTEN, make_blocks_small

ROOT = Path(__file__).parents[2]
# What tells that a stage begins: (module, function). Those in blocks tell by `Stage` itself.
BEFORE = {
    "cutting": [(build, "cut")],
    "copying": [(build, "copy_shards"), (removal, "copy_shards")],
    "assembling": [(build, "assemble"), (removal, "assemble")],
}
AFTER = {
    "manifest": [(complete.croissant, "write_croissant"), (complete, "write_manifest")],
    "swap": [(build, "swap_in"), (removal, "swap_in")],
    "clearing": [(staging, "_clear_work")],
}
IN_BLOCKS = [stage.name for stage in derive.STAGES]
NAMES = [*BEFORE, *IN_BLOCKS, *AFTER]
AFTER_ALL = tuple(AFTER)
# What others keep in TMPDIR: Dask, which removes what killed processes left there when it next
# starts, and torch.
NOT_OURS = ("dask-scratch-space", "global.lock", "purge.lock")
# Of torch, and of multiprocessing's fork server. It removes its own where a process ends; ours here
# end by os._exit, or are killed.
FOREIGN = ("torchinductor_", "pymp-", "listener-")
# Of pyarrow, torch and verify_bank: once here, not in every run.
LATE_IMPORTS = ("pandas", "torch._dynamo", "bank.compare", "bank.verify")
SMALL = ["--shard-photos", "2", "--image-size", "32", "--patch-size", "16", "--candidates", "5"]
MODULES = {
    "build_bank": (build_bank, build_bank.BuildBank),
    "edit_bank": (edit_bank, edit_bank.EditBank),
    "verify_bank": (verify_bank, verify_bank.VerifyBank),
}


@dataclass(frozen=True)
class Case:
    """A command, who is killed, and how many of a hundred kills are of this kind."""

    command: str
    victim: str
    percent: int  # of all kills; those with Dask take ten times as long


CASES = (
    Case("build", "driver", 18),
    Case("build, networks trained", "driver", 8),
    Case("--mode extend", "driver", 10),
    Case("--mode overwrite", "driver", 10),
    Case("--remove-photo", "driver", 10),
    Case("--workers 2", "one worker", 8),
    Case("--workers 2", "driver", 6),
    Case("--workers 2", "all", 4),
    Case("--workers 2, networks trained", "one worker", 4),
    Case("--workers 2, networks trained", "all", 2),
    Case("--workers 2 --mode extend", "all", 2),
    Case("--workers 2 --mode overwrite", "one worker", 2),
    Case("--workers 2 --remove-photo", "all", 2),
    Case("--scheduler", "scheduler", 6),
    Case("--scheduler", "one worker", 3),
    Case("--scheduler", "driver", 2),
    Case("--scheduler, networks trained", "scheduler", 2),
    Case("--scheduler, networks trained", "driver", 1),
)


class Run(Fork):
    """One command."""

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        act = partial(_act, command, folder)
        super().__init__(act, folder, NAMES, begins_in="reading", together=IN_BLOCKS)


def _act(command: Sequence[str], folder: Path, pipe: int) -> None:
    make_blocks_small()
    _announce_stages(pipe, folder)
    module, options = MODULES[command[0]]
    sys.argv = [f"jobs.{command[0]}", *command[1:]]
    run(module.main, options, module.__doc__)


def _announce_stages(pipe: int, folder: Path) -> None:
    """Tell when stages begin, join their blocks and are done; and what is joined, in a file: a line
    for each block's receipt, with its inode."""

    def tell(stage: str, what: int) -> None:
        os.write(pipe, EVENT.pack(NAMES.index(stage), what, used(folder / "bank")))

    for stage, places in (BEFORE | AFTER).items():
        for module, name in places:
            setattr(module, name, announcing(partial(tell, stage, 0), getattr(module, name)))
    blocks, finish = Stage.blocks, Stage.finish

    def told_blocks(stage: Stage, needs: Any) -> Any:
        made = blocks(stage, needs)
        tell(stage.name, min(len(made), JOINS - 1))
        return made

    def told_finish(stage: Stage, of: Sequence[Block], *rest: Any) -> Any:
        tell(stage.name, JOINS)
        with (folder / "joined").open("a") as file:
            for path in (receipt_path(stage.bank, block.name) for block in of):
                file.write(f"{path.relative_to(stage.bank)} {path.stat().st_ino}\n")
        receipt = finish(stage, of, *rest)
        tell(stage.name, IS_DONE)
        return receipt

    Stage.blocks, Stage.finish = told_blocks, told_finish  # type: ignore[method-assign]


def used(folder: Path) -> int:
    """Bytes of its file system that are not free; 0 where there is no such folder."""
    with contextlib.suppress(OSError):
        status = os.statvfs(folder)
        return (status.f_blocks - status.f_bfree) * status.f_frsize
    return 0


# What is killed


def dask_workers(pid: int) -> list[int]:
    """Worker processes below `pid`: those that multiprocessing has started for a nanny, or that its
    fork server has."""
    pids = []
    for child in children(pid):
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        pids += [child] if b"spawn_main" in words else []
        pids += children(child) if b"forkserver" in words else []
    return pids


class Machines:
    """A scheduler and two workers as processes of their own; whoever is dead is started anew.

    Workers end when their scheduler does, a little later: they are started anew with it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.port, self.address = port, f"tcp://127.0.0.1:{port}"

    def start(self) -> None:
        if "scheduler" in self.processes and self.processes["scheduler"].poll() is not None:
            self.close()
        here = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        worker = ["worker", self.address, "--nthreads", "1", "--no-dashboard"]
        worker += ["--local-directory", str(self.folder), "--preload", SAVE_OFTEN]
        for name, command in (
            ("scheduler", ["scheduler", *here]),
            ("worker 0", worker),
            ("worker 1", worker),
        ):
            old = self.processes.get(name)
            if old is None or old.poll() is not None:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "dask", *command],
                    cwd=self.folder,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )

    def kill_scheduler(self) -> None:
        self._kill("scheduler")

    def a_nanny(self, random: Random) -> int:
        return self.processes[f"worker {random.randrange(2)}"].pid

    def close(self) -> None:
        for name in self.processes:
            self._kill(name)

    def _kill(self, name: str) -> None:
        process = self.processes[name]
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


# A command with all that belongs to it


@dataclass
class Scenario:
    """What is run, on what, and how it goes undisturbed."""

    command: list[str]
    start: Path | None  # a finished bank to begin with
    expected: Manifest
    lengths: Mapping[str, float]  # stage -> seconds, undisturbed
    tasks: Mapping[str, int] = field(default_factory=dict)  # of stages that have some


@dataclass
class Bench:
    """Toy photos, networks, and the commands on them."""

    folder: Path
    machines: Machines
    scenarios: dict[str, Scenario] = field(default_factory=dict)

    @property
    def bank(self) -> Path:
        return self.folder / "bank"

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    def prepare(self, commands: set[str]) -> None:
        """Toy photos; networks, for commands that take them; each command, undisturbed."""
        write_toy(self.folder / "data", train_photos=24, val_photos=16)
        self.scratch.mkdir()
        networks = self.folder / "networks"
        trained = ["--encoder-steps", "8", "--cooccurrence-steps", "8"]
        self._finish(self._build("14", *trained), networks)
        networks_by_file = ["--graph-encoder", str(networks / "graph_encoder.safetensors")]
        networks_by_file += ["--cooccurrence", str(networks / "cooccurrence.safetensors")]
        small, whole = self.folder / "small", self.folder / "whole"
        self._finish(self._build("8", *networks_by_file), small)
        self._finish(self._build("14", *networks_by_file), whole)
        build, train = self._build("14", *networks_by_file), self._build("14", *trained)
        photo = str(min(p.stem for p in (self.folder / "data/train2017").iterdir()).lstrip("0"))
        remove = ["edit_bank", str(self.bank), "--remove-photo", photo]
        extend, overwrite = ([*build, "--mode", mode] for mode in ("extend", "overwrite"))
        two, elsewhere = ["--workers", "2"], ["--scheduler", self.machines.address]
        known: dict[str, tuple[list[str], Path | None]] = {
            "build": (build, None),
            "build, networks trained": (train, None),
            "--mode extend": (extend, small),
            "--mode overwrite": (overwrite, small),
            "--remove-photo": (remove, whole),
            "--workers 2": ([*build, *two], None),
            "--workers 2, networks trained": ([*train, *two], None),
            "--workers 2 --mode extend": ([*extend, *two], small),
            "--workers 2 --mode overwrite": ([*overwrite, *two], small),
            "--workers 2 --remove-photo": ([*remove, *two], whole),
            "--scheduler": ([*build, *elsewhere], None),
            "--scheduler, networks trained": ([*train, *elsewhere], None),
        }
        for name in commands:
            self.scenarios[name] = self._undisturbed(*known[name])

    def _build(self, limit: str, *others: str) -> list[str]:
        data = ["--data", str(self.folder / "data"), "--out", str(self.bank)]
        return ["build_bank", "--dataset", "toy", *data, "--limit", limit, *SMALL, *others]

    def _finish(self, command: list[str], target: Path) -> None:
        run_ = self.run(command)
        if run_.wait():
            raise BadEndError(run_.said())
        self.bank.rename(target)

    def _undisturbed(self, command: list[str], start: Path | None) -> Scenario:
        self.reset(start)
        began = time.monotonic()
        run_ = self.run(command)
        told = [Event("reading", 0, began), *run_.follow()]
        if run_.wait():
            raise BadEndError(run_.said())
        told.append(Event("end", 0, time.monotonic()))
        expected = read_manifest(self.bank)
        tasks = {event.stage: event.what for event in told if 0 < event.what < JOINS}
        if "cutting" in {event.stage for event in told}:
            tasks["cutting"] = len(expected.shards)
        return Scenario(command, start, expected, lengths(told), tasks)

    def reset(self, start: Path | None) -> None:
        shutil.rmtree(self.bank, ignore_errors=True)
        (self.folder / "joined").unlink(missing_ok=True)
        if start is not None:
            shutil.copytree(start, self.bank)

    def joined(self) -> dict[str, int]:
        """Receipt of a block -> its inode, when its stage last joined it."""
        lines = (self.folder / "joined").read_text().splitlines()
        return {path: int(inode) for path, inode in map(str.split, lines)}

    def run(self, command: Sequence[str]) -> Run:
        if "--scheduler" in command:
            self.machines.start()
        (self.folder / "joined").touch()
        return Run(command, self.folder)


def lengths(told: Sequence[Event]) -> dict[str, float]:
    """Stage -> seconds: until it was done, or until the next began."""
    begun = [event for event in told if event.what not in (JOINS, IS_DONE)]
    done = {event.stage: event.when for event in told if event.what == IS_DONE}
    seconds: dict[str, float] = defaultdict(float)
    for event, then in pairwise(begun):
        seconds[event.stage] += done.get(event.stage, then.when) - event.when
    return dict(seconds)


# A case


@dataclass
class Tally:
    kills: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # command, victim, stage
    cases: Counter[tuple[str, str]] = field(default_factory=Counter)
    went_on: Counter[tuple[str, str]] = field(default_factory=Counter)
    files: Counter[tuple[str, str]] = field(default_factory=Counter)  # that had a receipt
    blocks: Counter[tuple[str, str]] = field(default_factory=Counter)  # likewise
    bad: list[str] = field(default_factory=list)

    def table(self) -> str:
        stages = ["reading", *NAMES]
        head = ["command", "killed", "kills", *stages, "went on", "banks"]
        head += ["files kept", "blocks kept", "bad"]
        rows = [head, ["---"] * len(head)]
        pairs = list(self.cases)
        for command, victim in [*pairs, ("all", "")]:
            mine = [p for p in pairs if command == "all" or p == (command, victim)]

            def count(stage: str, mine: list[tuple[str, str]] = mine) -> int:
                return sum(self.kills[(*p, stage)] for p in mine)

            bad = sum(line.startswith(f"{c}, {v}:") for line in self.bad for c, v in mine)
            counters = (self.went_on, self.cases, self.files, self.blocks)
            sums = [sum(c[p] for p in mine) for c in counters]
            cells = [sum(map(count, stages)), *map(count, stages), *sums, bad]
            rows.append([command, victim, *map(str, cells)])
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def play(
    bench: Bench, case: Case, stages: deque[str], random: Random, most: int, tally: Tally
) -> int:
    """One case of up to `most` kills; how many there were."""
    scenario, pair = bench.scenarios[case.command], (case.command, case.victim)
    bench.reset(scenario.start)
    tally.cases[pair] += 1
    kept: dict[str, int] = {}
    kills, wanted = 0, random.randint(1, min(3, most))
    status = -1
    while status:
        run_ = bench.run(scenario.command)
        where = strike(bench, run_, case, stages, random) if kills < wanted else ""
        whole = files_with_receipts(bench.bank) if where else {}
        status = run_.wait()
        if where and case.victim in ("driver", "all"):
            where = where if status == -signal.SIGKILL else ""  # otherwise it had just ended
        if where:
            kills += 1
            tally.kills[(*pair, where)] += 1
            tally.went_on[pair] += not status
            if "--mode overwrite" in case.command and where in AFTER_ALL:
                kept.clear()  # the new bank is whole: the same command builds yet another
            else:
                kept = whole | kept
        check_end(run_, status, case.victim if where else "")
    check_bank(bench, scenario, kept)
    files, blocks = count(kept, bench.joined())
    tally.files[pair] += files
    tally.blocks[pair] += blocks
    return kills


def strike(bench: Bench, run_: Run, case: Case, stages: deque[str], random: Random) -> str:
    """Kill the victim at a random moment, unless all is over before; in which stage that was."""
    scenario, of_dask = bench.scenarios[case.command], case.victim in ("one worker", "scheduler")
    if not stages:
        of = sorted(scenario.tasks if of_dask else scenario.lengths)
        stages.extend(random.sample(of, len(of)))
    stage = stages[0]
    run_.follow(stage)
    if of_dask:
        comes = wait_for_tasks(bench, run_, scenario, stage, random)
    else:
        comes = run_.stage == stage
        time.sleep(random.uniform(0, scenario.lengths[stage]) if comes else 0)
    where = stage if run_.is_in(stage) else run_.stage
    if not comes or run_.has_ended() or not kill(bench, run_, case, random):
        stages.rotate(-1)
        return ""
    stages.popleft()
    return where


def wait_for_tasks(bench: Bench, run_: Run, scenario: Scenario, stage: str, random: Random) -> bool:
    """Until some of the stage's tasks are done; False where all are before."""
    count = random.randrange(scenario.tasks[stage])
    alone = scenario.tasks[stage] == 1
    then = time.monotonic() + (random.uniform(0, scenario.lengths[stage]) if alone else 0)
    pattern = "cut-*.json" if stage == "cutting" else f"{stage}-[0-9]*.json"
    while run_.is_in(stage) and not run_.has_ended():
        done = len(list((staging_of(bench.bank) / WORK / "receipts").glob(pattern)))
        if done >= count and time.monotonic() >= then:
            return True
        time.sleep(0.001)
    return False


def kill(bench: Bench, run_: Run, case: Case, random: Random) -> bool:
    """Whether there was somebody to kill."""
    remote = case.command == "--scheduler"
    if case.victim == "driver":
        os.kill(run_.pid, signal.SIGKILL)
    elif case.victim == "all":
        os.killpg(run_.pid, signal.SIGKILL)
    elif case.victim == "scheduler":
        bench.machines.kill_scheduler()
    else:
        nanny = bench.machines.a_nanny(random) if remote else run_.pid
        if not (workers := dask_workers(nanny)):
            return False
        os.kill(random.choice(workers), signal.SIGKILL)
    return True


def files_with_receipts(bank: Path) -> dict[str, int]:
    """Path in the bank -> inode: of what is finished so far, and of all receipts."""
    folder, inodes = staging_of(bank), {}
    for receipt in (folder / WORK / "receipts").glob("*.json"):
        with contextlib.suppress(FileNotFoundError):  # of blocks that are joined meanwhile
            made = [p for p in json.loads(receipt.read_bytes())["outputs"] if not is_record(p)]
            places = [folder / p if (folder / p).exists() else bank / p for p in made]
            found = {path: place.stat().st_ino for path, place in zip(made, places, strict=True)}
            found[receipt.relative_to(folder).as_posix()] = receipt.stat().st_ino
            inodes |= found
    return inodes


def staging_of(bank: Path) -> Path:
    return next_version(bank) if next_version(bank).is_dir() else bank


def count(kept: Collection[str], joined: Collection[str]) -> tuple[int, int]:
    """How many files of the bank, and how many blocks."""
    return sum(not is_record(path) for path in kept), sum(path in joined for path in kept)


def is_record(path: str) -> bool:
    """Whether it is there only while a bank is made."""
    return path.startswith(f"{WORK}/")


def check_end(run_: Run, status: int, victim: str) -> None:
    """How a command may end after such a kill: killed, or on its way, or in one line."""
    allowed = {"": (0,), "one worker": (0,), "scheduler": (0, 1)}.get(victim, (-signal.SIGKILL,))
    said = run_.said()
    errors = sum(line.startswith("error: ") for line in said.splitlines())
    if status not in allowed or "Traceback" in said or errors != (status == 1):
        raise BadEndError(
            f"exit {status} in {run_.stage} after {victim or 'nobody'} was killed: {said}"
        )


def check_bank(bench: Bench, scenario: Scenario, kept: dict[str, int]) -> None:
    bank, expected = bench.bank, scenario.expected
    manifest = read_manifest(bank)
    for name in ("content_digest", "derived_digest"):
        if getattr(manifest, name) != getattr(expected, name):
            raise BadEndError(f"another {name}")
    if left := left_over(bank):
        raise BadEndError(f"left over or missing: {sorted(left)}")
    scratch = {path.relative_to(bench.scratch) for path in bench.scratch.rglob("*")}
    if left := {str(path) for path in scratch if not any(map(is_foreign, path.parts))}:
        raise BadEndError(f"left over in TMPDIR: {sorted(left)}")
    made = {path: (bank / path).stat().st_ino for path in kept if not is_record(path)}
    made |= bench.joined()
    again = [path for path, inode in kept.items() if made.get(path, inode) != inode]
    if again:
        raise BadEndError(f"made again although there were receipts: {again}")
    verified = bench.run(["verify_bank", str(bank)])
    if verified.wait():
        raise BadEndError(f"does not verify: {verified.said()}")


def left_over(bank: Path) -> set[str]:
    """Files that the manifest does not list, those that it lists in vain, and work/."""
    files = {p.relative_to(bank).as_posix() for p in bank.rglob("*") if not p.is_dir()}
    unlisted = files ^ {*read_manifest(bank).files, "manifest.json"}
    return unlisted | ({WORK} if (bank / WORK).exists() else set())


def is_foreign(name: str) -> bool:
    return name in NOT_OURS or name.startswith(FOREIGN)


def endure(folder: Path, count: int, seed: int, only: str = "") -> Tally:
    """About `count` kills, of all kinds in proportion to their percents."""
    machines = Machines(folder)
    bench, tally, random = Bench(folder, machines), Tally(), Random(seed)
    cases = [case for case in CASES if f"{case.command}, {case.victim}".startswith(only)]
    total = sum(case.percent for case in cases)
    try:
        bench.prepare({case.command for case in cases})
        for case in cases:
            began, left = time.monotonic(), max(1, round(count * case.percent / total))
            stages = deque[str]()
            while left > 0 and len(tally.bad) < 10:
                try:
                    left -= play(bench, case, stages, random, left, tally)
                except BadEndError as bad:
                    left -= 1
                    tally.bad.append(f"{case.command}, {case.victim}: {bad}")
                    print(tally.bad[-1], flush=True)
            seconds = time.monotonic() - began
            print(f"{case.command}, {case.victim}: {seconds:.0f} s", file=sys.stderr, flush=True)
    finally:
        machines.close()
    return tally


def import_late() -> None:
    for name in LATE_IMPORTS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="kills")
    parser.add_argument("--seed", type=int, default=0, help="of all moments")
    parser.add_argument("--only", default="", help="commands that begin so, e.g. '--mode'")
    parser.add_argument("--out", type=Path, help="a file for the table")
    options = parser.parse_args()
    import_late()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tally = endure(Path(folder), options.count, options.seed, options.only)
    show("tests.endurance.kills", options, time.monotonic() - start, tally.table())
    return 1 if tally.bad else 0


if __name__ == "__main__":
    sys.exit(main())
