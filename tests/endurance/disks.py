"""Disks that are full, read-only or lost during a build: one line each, and a rerun goes on.

python -m tests.endurance.disks                       all; tables
python -m tests.endurance.disks --steps 1 --out disks.md

Needs Linux and `unshare`: in a mount namespace of its own, a bank lies on a tmpfs that is full at a
given size (several within what each stage adds to the disk of an undisturbed run: the parts of its
blocks, then the file that they are joined to; then enough), on a mount that turns read-only, or on
one that is unmounted when a stage begins; the photos' mount and TMPDIR likewise. Every command must
end well, or with exit code 1 and one line that says what and where; once there is room, or the
mount is back, the same command must end in the digests of an undisturbed run, and keep all files
and blocks that had receipts.
Exit code 1 where something did not end so.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.endurance import kills
from tests.endurance.kills import BadEndError, Bench, Machines, Run, Scenario

IN_NAMESPACE = "RETRIEVEGAN_IN_NAMESPACE"
STEPS = 3  # sizes within what a stage adds
ENOUGH = 1 << 30  # bytes
FULL = r"cannot write .*(No space left|is the disk full)"
UNCLEAR = ("Traceback", "Exception ignored", "close error")
TAKEN = "was taken away while it was being written"
BLOCK = 4096  # bytes
LOST_IN = ("cutting", "assembling", *kills.IN_BLOCKS, "manifest")
LOST_BY_WORKERS = ("cutting", "features", "candidates")


@dataclass
class Tables:
    rows: list[tuple[str, str, str, str, int, int]] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def text(self) -> str:
        head = "| command | disk | stage | what was said | files kept | blocks kept |\n"
        head += "|---|---|---|---|---|---|\n"
        return head + "\n".join(f"| {' | '.join(map(str, row))} |" for row in self.rows)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def unmount(folder: Path) -> None:
    """Whoever is in it stays there; nobody else comes in."""
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def tmpfs(folder: Path, options: str = f"size={ENOUGH}") -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", options, "none", str(folder))
    try:
        yield
    finally:
        unmount(folder)


@contextmanager
def bound(source: Path, folder: Path) -> Iterator[None]:
    """`source`, to be seen at `folder` too."""
    folder.mkdir(exist_ok=True)
    mount("--bind", str(source), str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def the_line(run: Run) -> str:
    """What a command that ended with exit code 1 said; nothing where it ended well."""
    status, said = run.wait(), run.said()
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    unclear = any(words in said for words in UNCLEAR)
    if unclear or (status, len(lines)) not in ((0, 0), (1, 1)):
        raise BadEndError(f"exit {status} in {run.stage}: {said}")
    return lines[0].removeprefix("error: ") if lines else ""


def put(bench: Bench, scenario: Scenario) -> None:
    """The bank to begin with, in the folder as it is mounted now."""
    (bench.folder / "joined").unlink(missing_ok=True)
    for path in bench.bank.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if scenario.start is not None:
        shutil.copytree(scenario.start, bench.bank, dirs_exist_ok=True)


def go_on(bench: Bench, scenario: Scenario, kept: dict[str, int]) -> None:
    run = bench.run(scenario.command)
    if said := the_line(run):
        raise BadEndError(f"the rerun ends with: {said}")
    kills.check_bank(bench, scenario, kept)


def full_disk(bench: Bench, name: str, size: int, tables: Tables) -> None:
    scenario = bench.scenarios[name]
    with tmpfs(bench.bank):
        put(bench, scenario)
        mount("-o", f"remount,size={size}", str(bench.bank))
        run = bench.run(scenario.command)
        stage = last_stage(run)
        said = the_line(run)
        kept = kills.files_with_receipts(bench.bank)
        if said:
            expect(FULL, said)
            mount("-o", f"remount,size={ENOUGH}", str(bench.bank))
            go_on(bench, scenario, kept)
    tables.rows.append(
        (name, f"{size // 1024:,} KiB", stage, shown(said, bench), *counted(kept, bench))
    )


def counted(kept: dict[str, int], bench: Bench) -> tuple[int, int]:
    """Files and blocks."""
    return kills.count(kept, bench.joined())


def last_stage(run: Run) -> str:
    """In which it ends; clearing comes behind every end."""
    stages = ["reading", *(event.stage for event in run.follow() if event.stage != "clearing")]
    return stages[-1]


def shown(said: str, bench: Bench) -> str:
    return said.replace(str(bench.folder), "") or "ends well"


def sizes(bench: Bench, name: str, steps: int) -> list[int]:
    """Of disks, rising: within what each stage of an undisturbed run adds, then enough."""
    scenario = bench.scenarios[name]
    with tmpfs(bench.bank):
        put(bench, scenario)
        before = kills.used(bench.bank)
        run = bench.run(scenario.command)
        told = run.follow()
        if said := the_line(run):
            raise BadEndError(said)
    between = {
        (low + (high - low) * step // (steps + 1)) // BLOCK * BLOCK + BLOCK
        for low, high in added(before, told)
        for step in range(1, steps + 1)
        if high > low
    }
    return [*sorted(between), ENOUGH]


def added(before: int, told: Sequence[kills.Event]) -> Iterator[tuple[int, int]]:
    """From how many bytes to how many the disk is filled, by each thing that writes."""
    at_begin = dict[str, int]()
    for event in told:
        at_end = event.used
        if event.what == kills.IS_DONE:  # the parts are removed: they lay there beside the file
            at_end += before - at_begin[event.stage]
        elif event.what != kills.JOINS:
            at_begin[event.stage] = event.used
        yield before, at_end
        before = event.used


def sweep(bench: Bench, name: str, steps: int, every: int, tables: Tables) -> None:
    for size in sizes(bench, name, steps)[::every]:
        full_disk(bench, name, size, tables)


def read_only(bench: Bench, tables: Tables) -> None:
    """From the start, and in a build that was killed."""
    scenario = bench.scenarios["build"]
    for stage in ("reading", "features"):
        with tmpfs(bench.bank):
            put(bench, scenario)
            if stage != "reading":
                run = bench.run(scenario.command)
                run.follow(stage)
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
            kept = kills.files_with_receipts(bench.bank)
            mount("-o", "remount,ro", str(bench.bank))
            said = the_line(bench.run(scenario.command))
            expect("cannot write .*Read-only file system", said)
            mount("-o", "remount,rw", str(bench.bank))
            go_on(bench, scenario, kept)
        tables.rows.append(("build", "read-only", stage, shown(said, bench), *counted(kept, bench)))


def expect(pattern: str, said: str) -> None:
    if not re.search(pattern, said):
        raise BadEndError(f"said {said!r} where {pattern!r} is expected")


def lost_mount(
    bench: Bench, name: str, stage: str, what: Path, pattern: str, tables: Tables
) -> None:
    """Unmount `what` (the bank's folder, or the photos') when a stage begins."""
    scenario, backing = bench.scenarios[name], bench.folder / f"{what.name}-disk"
    if what == bench.bank:
        shutil.rmtree(backing, ignore_errors=True)
        backing.mkdir()
        bench.bank.mkdir(exist_ok=True)
    with bound(backing, what):
        if what == bench.bank:
            put(bench, scenario)
        else:
            shutil.rmtree(bench.bank, ignore_errors=True)
        run = bench.run(scenario.command)
        run.follow(stage)
        os.killpg(run.pid, signal.SIGSTOP)
        unmount(what)
        os.killpg(run.pid, signal.SIGCONT)
        run.follow()
        said = the_line(run)
        expect(pattern, said)
        mount("--bind", str(backing), str(what))
        kept = kills.files_with_receipts(bench.bank)
        go_on(bench, scenario, kept)
    disk = "the bank's is lost" if what == bench.bank else "the photos' is lost"
    tables.rows.append((name, disk, stage, shown(said, bench), *counted(kept, bench)))


def full_temporary(bench: Bench, tables: Tables) -> None:
    """Dask's workers keep a folder in TMPDIR."""
    scenario = bench.scenarios["--workers 2"]
    shutil.rmtree(bench.bank, ignore_errors=True)
    with tmpfs(bench.scratch, "nr_inodes=1"):
        run = bench.run(scenario.command)
        stage = last_stage(run)
        said = the_line(run)
    expect("cannot start 2 workers .*No space left", said)
    go_on(bench, scenario, {})
    tables.rows.append(("--workers 2", "TMPDIR is full", stage, shown(said, bench), 0, 0))


def endure(folder: Path, steps: int, quick: bool) -> Tables:
    """All disks, or some."""
    bench, tables = Bench(folder, Machines(folder)), Tables()
    commands = ["build"] if quick else ["build", "--workers 2", "--mode extend", "--remove-photo"]
    stages = ["index"] if quick else LOST_IN
    bench.prepare(set(commands))
    for name in commands:
        within = steps if name == "build" else 1
        attempt(tables, sweep, bench, name, within, 5 if quick else 1, tables)
    if not quick:
        attempt(tables, read_only, bench, tables)
        attempt(tables, full_temporary, bench, tables)
    for stage in stages:
        attempt(tables, lost_mount, bench, "build", stage, bench.bank, TAKEN, tables)
    for stage in () if quick else LOST_BY_WORKERS:
        attempt(tables, lost_mount, bench, "--workers 2", stage, bench.bank, TAKEN, tables)
    photos = bench.folder / "data"
    photos.rename(bench.folder / "data-disk")
    lost = ("build", "cutting", photos, "put the photos back")
    attempt(tables, lost_mount, bench, *lost, tables)
    return tables


def attempt(tables: Tables, what: Callable[..., None], *arguments: Any) -> None:
    try:
        what(*arguments)
    except BadEndError as bad:
        tables.bad.append(str(bad))
        print(f"{what.__name__}: {bad}", flush=True)


def has_namespaces() -> bool:
    """Whether this system lets us mount something that nobody else sees."""
    try:
        probe = ["unshare", "-Urm", "mount", "-t", "tmpfs", "none", "/mnt"]
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="disks per stage of a build")
    parser.add_argument("--quick", action="store_true", help="a handful")
    parser.add_argument("--out", type=Path, help="a file for the table")
    options = parser.parse_args()
    if not os.environ.get(IN_NAMESPACE):
        if not has_namespaces():
            sys.exit("error: this needs mount namespaces: Linux, and `unshare -Urm` allowed")
        os.environ[IN_NAMESPACE] = "1"
        here = [sys.executable, "-m", "tests.endurance.disks", *sys.argv[1:]]
        os.execvp("unshare", ["unshare", "-Urm", *here])
    start = time.monotonic()
    kills.import_late()
    with tempfile.TemporaryDirectory() as folder:
        tables = endure(Path(folder), options.steps, options.quick)
    seconds = time.monotonic() - start
    how = f"`python -m tests.endurance.disks --steps {options.steps}`: {seconds:.0f} s"
    table = f"{how}, {len(tables.bad)} ended badly\n\n{tables.text()}\n"
    print(table)
    if options.out:
        options.out.write_text(table, "utf-8")
    return 1 if tables.bad else 0


if __name__ == "__main__":
    sys.exit(main())
