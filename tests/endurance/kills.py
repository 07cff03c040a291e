"""Builds that are killed at random moments and run again: the same bank, no shard made twice.

python -m tests.endurance.kills                         100 kills; a table of what became of them
python -m tests.endurance.kills --count 20 --seed 7 --out kills.md

A case starts a command, kills somebody (the driver, one worker, the scheduler, or all of them) by
SIGKILL, and runs the same command again, up to three times, until it is left to end. How a moment
is drawn: one of the command's stages, evenly; then, from when the run enters that stage, a delay
that is even over the time which the stage takes undisturbed. A stage that a rerun skips is over
sooner: the kill is counted where it fell. A worker or the scheduler is killed when a number of
shards that is drawn evenly, from none to all but one, has a receipt. Then the bank must verify,
have the digests of an undisturbed run, and the very files (inodes) of every shard that had a
receipt when a kill came.

Commands are the real ones, in forks of this process, which has imported them: that saves their
start. Exit code 1 where a case did not end well.
"""

import contextlib
import importlib
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from bank.manifest import Manifest, read_manifest
from jobs import build_bank, edit_bank, verify_bank
from jobs.stages import build, complete, derive, removal, staging
from jobs.stages.staging import next_version
from pipeline.options import run
from pipeline.toy.coco import write_toy

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0  # beyond, a command hangs
# What tells that a stage begins: (module, function).
STAGES: dict[str, list[tuple[Any, str]]] = {
    "cutting": [(build, "cut")],
    "copying": [(build, "copy_shards"), (removal, "copy_shards")],
    "assembling": [(build, "assemble"), (removal, "assemble")],
    "networks": [(derive, "graph_encoder"), (derive, "cooccurrence_network")],
    "features": [(derive, "object_features"), (derive, "patch_vectors")],
    "index": [(derive, "search_index")],
    "candidates": [(derive, "nearest_candidates")],
    "manifest": [(complete.croissant, "write_croissant"), (complete, "write_manifest")],
    "swap": [(build, "swap_in"), (removal, "swap_in")],
    "clearing": [(staging, "_clear_work")],
}
NAMES = list(STAGES)
NEXT = "next"
AFTER_ALL = ("manifest", "swap", "clearing")
NOT_OURS = ("dask-scratch-space", "global.lock", "purge.lock")  # what Dask and torch keep
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


class BadEndError(Exception):
    """What did not end as it must."""


@dataclass(frozen=True)
class Case:
    """A command, who is killed, and how many of a hundred kills are of this kind."""

    command: str
    victim: str
    percent: int  # of all kills; those with Dask take ten times as long


CASES = (
    Case("build", "driver", 30),
    Case("build, networks trained", "driver", 8),
    Case("--mode extend", "driver", 16),
    Case("--mode overwrite", "driver", 14),
    Case("--remove-photo", "driver", 18),
    Case("--workers 2", "one worker", 3),
    Case("--workers 2", "driver", 2),
    Case("--workers 2", "all", 3),
    Case("--scheduler", "scheduler", 3),
    Case("--scheduler", "one worker", 2),
    Case("--scheduler", "driver", 1),
)


class Run:
    """One command in a fork, in a process group of its own; it announces its stages."""

    def __init__(self, command: Sequence[str], log: Path, scratch: Path) -> None:
        self.log = log
        self.events, announce = os.pipe()
        self.stage = "reading"
        self.status: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            os.close(self.events)
            _become(command, log, scratch, announce)
        os.close(announce)

    def follow(self, stage: str = "") -> list[tuple[str, float]]:
        """Stages and when they began, until `stage` begins (NEXT: any) or the command ends."""
        began = []
        while self.stage != stage and self._hear(PATIENCE_S):
            began.append((self.stage, time.monotonic()))
            if stage == NEXT:
                break
        return began

    def catch_up(self) -> str:
        """The stage that it is in now."""
        while self._hear(0):
            pass
        return self.stage

    def _hear(self, seconds: float) -> bool:
        """Whether it announced a stage within that time."""
        if not select.select([self.events], [], [], seconds)[0]:
            if seconds:
                raise self.hanging()
            return False
        byte = os.read(self.events, 1)
        self.stage = NAMES[byte[0]] if byte else self.stage
        return bool(byte)

    def has_ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def wait(self) -> int:
        """Its exit status, negative for a signal; nothing that it started outlives it."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.has_ended() or is_group(self.pid):
            if time.monotonic() > deadline:
                raise self.hanging()
            time.sleep(0.002)
        os.close(self.events)
        assert self.status is not None
        return self.status

    def hanging(self) -> BadEndError:
        os.killpg(self.pid, signal.SIGKILL)
        return BadEndError(f"hangs in {self.stage}: {self.said()}")

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")[-2000:]


def is_group(group: int) -> bool:
    """Whether anyone in it lives: the dead of a dead parent may never be buried."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                return True
    return False


def _become(command: Sequence[str], log: Path, scratch: Path, announce: int) -> None:
    """In the fork: the command, as from a command line."""
    status = 70
    try:
        os.setsid()
        with log.open("wb") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number, places in enumerate(STAGES.values()):
            for module, name in places:
                setattr(module, name, _announcing(getattr(module, name), announce, number))
        module, options = MODULES[command[0]]
        sys.argv = [f"jobs.{command[0]}", *command[1:]]
        run(module.main, options, module.__doc__)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _announcing(function: Callable[..., Any], pipe: int, number: int) -> Callable[..., Any]:
    def announced(*args: Any, **kwargs: Any) -> Any:
        os.write(pipe, bytes([number]))
        return function(*args, **kwargs)

    return announced


# What is killed


def children(pid: int) -> list[int]:
    """Of all its threads."""
    pids = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            pids += map(int, listed.read_text().split())
    return pids


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
        worker += ["--local-directory", str(self.folder)]
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
    lengths: dict[str, float]  # stage -> seconds, undisturbed


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
        if commands & {"--mode extend", "--mode overwrite"}:
            self._finish(self._build("8", *networks_by_file), small)
        if "--remove-photo" in commands:
            self._finish(self._build("14", *networks_by_file), whole)
        build = self._build("14", *networks_by_file)
        photo = str(min(p.stem for p in (self.folder / "data/train2017").iterdir()).lstrip("0"))
        known: dict[str, tuple[list[str], Path | None]] = {
            "build": (build, None),
            "build, networks trained": (self._build("14", *trained), None),
            "--mode extend": ([*build, "--mode", "extend"], small),
            "--mode overwrite": ([*build, "--mode", "overwrite"], small),
            "--remove-photo": (["edit_bank", str(self.bank), "--remove-photo", photo], whole),
            "--workers 2": ([*build, "--workers", "2"], None),
            "--scheduler": ([*build, "--scheduler", self.machines.address], None),
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
        times = [("reading", began), *run_.follow()]
        if run_.wait():
            raise BadEndError(run_.said())
        times.append(("end", time.monotonic()))
        lengths: dict[str, float] = defaultdict(float)
        for (stage, when), (_, then) in pairwise(times):
            lengths[stage] += then - when
        return Scenario(command, start, read_manifest(self.bank), dict(lengths))

    def reset(self, start: Path | None) -> None:
        shutil.rmtree(self.bank, ignore_errors=True)
        if start is not None:
            shutil.copytree(start, self.bank)

    def run(self, command: Sequence[str]) -> Run:
        if "--scheduler" in command:
            self.machines.start()
        return Run(command, self.folder / "log", self.scratch)


# A case


@dataclass
class Tally:
    kills: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # command, victim, stage
    cases: Counter[tuple[str, str]] = field(default_factory=Counter)
    went_on: Counter[tuple[str, str]] = field(default_factory=Counter)
    kept: Counter[tuple[str, str]] = field(default_factory=Counter)  # files with a receipt
    bad: list[str] = field(default_factory=list)

    def table(self) -> str:
        stages = ["reading", *NAMES]
        head = ["command", "killed", "kills", *stages, "went on", "banks", "files kept", "bad"]
        rows = [head, ["---"] * len(head)]
        pairs = list(self.cases)
        for command, victim in [*pairs, ("all", "")]:
            mine = [p for p in pairs if command == "all" or p == (command, victim)]

            def count(stage: str, mine: list[tuple[str, str]] = mine) -> int:
                return sum(self.kills[(*p, stage)] for p in mine)

            bad = sum(line.startswith(f"{c}, {v}:") for line in self.bad for c, v in mine)
            sums = [sum(c[p] for p in mine) for c in (self.went_on, self.cases, self.kept)]
            cells = [sum(map(count, stages)), *map(count, stages), *sums, bad]
            rows.append([command, victim, *map(str, cells)])
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def play(bench: Bench, case: Case, random: Random, most: int, tally: Tally) -> int:
    """One case of up to `most` kills; how many there were."""
    scenario, pair = bench.scenarios[case.command], (case.command, case.victim)
    bench.reset(scenario.start)
    tally.cases[pair] += 1
    kept: dict[str, int] = {}
    kills, wanted = 0, random.randint(1, min(3, most))
    status = -1
    while status:
        run_ = bench.run(scenario.command)
        hit = kills < wanted and strike(bench, run_, case, random)
        whole = files_with_receipts(bench.bank) if hit else {}
        status = run_.wait()
        if hit and case.victim in ("driver", "all"):
            hit = status == -signal.SIGKILL  # otherwise it had just ended
        if hit:
            kills += 1
            tally.kills[(*pair, run_.stage)] += 1
            tally.went_on[pair] += not status
            if case.command == "--mode overwrite" and run_.stage in AFTER_ALL:
                kept.clear()  # the new bank is whole: the same command builds yet another
            else:
                kept |= whole
        check_end(run_, status, case.victim if hit else "")
    check_bank(bench, scenario, kept)
    tally.kept[pair] += len(kept)
    return kills


def strike(bench: Bench, run_: Run, case: Case, random: Random) -> bool:
    """Kill the victim at a random moment, unless all is over before."""
    scenario = bench.scenarios[case.command]
    if case.victim in ("one worker", "scheduler"):
        run_.follow("cutting")
        shards = random.randrange(len(scenario.expected.shards))
        while run_.catch_up() == "cutting" and not run_.has_ended():
            if len(list(receipts(bench.bank))) >= shards:
                return kill(bench, run_, case, random)
            time.sleep(0.001)
        return False
    lengths = scenario.lengths
    stage = random.choice(list(lengths))
    run_.follow(stage)
    if run_.stage != stage:
        return False
    time.sleep(random.uniform(0, lengths[stage]))
    run_.catch_up()
    return not run_.has_ended() and kill(bench, run_, case, random)


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


def receipts(folder: Path) -> Iterator[Path]:
    return (folder / "work/receipts").glob("cut-*.json")


def files_with_receipts(bank: Path) -> dict[str, int]:
    """Path in the bank -> inode, of the shards that are finished so far."""
    folder = next_version(bank) if next_version(bank).is_dir() else bank
    inodes = {}
    for receipt in receipts(folder):
        shard = receipt.stem.removeprefix("cut-")
        for path in (f"patches/{shard}/data.mdb", f"scenes/{shard}.tar"):
            here = folder / path if (folder / path).exists() else bank / path
            inodes[path] = here.stat().st_ino
    return inodes


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
    files = {p.relative_to(bank).as_posix() for p in bank.rglob("*") if not p.is_dir()}
    if left := files ^ {*manifest.files, "manifest.json"}:
        raise BadEndError(f"left over or missing: {sorted(left)}")
    if (bank / "work").exists():
        raise BadEndError("work/ is left over")
    if left := {p.name for p in bench.scratch.rglob("*") if not is_foreign(p.name)}:
        raise BadEndError(f"left over in TMPDIR: {sorted(left)}")
    again = [path for path, inode in kept.items() if (bank / path).stat().st_ino != inode]
    if again:
        raise BadEndError(f"made again although there were receipts: {again}")
    verified = bench.run(["verify_bank", str(bank)])
    if verified.wait():
        raise BadEndError(f"does not verify: {verified.said()}")


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
            while left > 0 and len(tally.bad) < 10:
                try:
                    left -= play(bench, case, random, left, tally)
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
    seconds = time.monotonic() - start
    how = f"`python -m tests.endurance.kills --count {options.count} --seed {options.seed}`"
    table = f"{how}: {seconds:.0f} s\n\n{tally.table()}\n"
    print(table)
    if options.out:
        options.out.write_text(table, "utf-8")
    return 1 if tally.bad else 0


if __name__ == "__main__":
    sys.exit(main())
