"""One bank built in many ways: by other workers, in other surroundings, by other instructions.

python -m tests.endurance.matrix                         draws a toy world of 48 photos; a table
python -m tests.endurance.matrix --only zip killed       cells whose name has one of these words
python -m tests.endurance.matrix --data data/coco --limit 40 --out matrix.md

All cells but two are built in small blocks, several a stage (small_blocks.py). Some are killed once
so many shards, blocks or saved trainings are there, and resumed; in some every task is made twice,
by two workers at the same time.

Every cell must have the same content digest, and the same derived digest as all others under its
instruction setting, and no file that its manifest does not list; exit code 1 otherwise. How far
derived parts lie apart across settings is printed. Each build is a process of its own, as
`python -m jobs.build_bank`.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from argparse import ArgumentParser
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from bank.bank import Bank
from bank.compare import LEVELS, Gap, Overlap, compare, gap, overlap
from jobs import build_bank
from jobs.stages.cluster import Done, Job, Pool
from jobs.stages.receipts import WORK
from pipeline.options import run
from pipeline.toy.coco import write_toy
from tests.endurance.kills import Machines, left_over
from tests.endurance.small_blocks import make_blocks_small

ROOT = Path(__file__).parents[2]
TRAIN_PHOTOS, VAL_PHOTOS = 32, 16
HERE = "as the machine has them"  # the instructions of the first cell
BASE_NAME = "no workers"
BUILD_S = 300.0  # a build that takes longer hangs
RECIPE = (
    "--dataset", "coco", "--no-require-stuff", "--shard-photos", "4",
    "--encoder-steps", "20", "--cooccurrence-steps", "10",
)  # fmt: skip
SMALL_BLOCKS = "--small-blocks"  # first: this module in place of `jobs.build_bank`


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One way to build the bank."""

    name: str
    workers: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    photos: str = "folder"  # or in a zip
    elsewhere: bool = False  # in another working folder, by relative paths
    scheduler: bool = False  # and two workers, started by themselves
    small_blocks: bool = True
    shuffle: int | None = None  # seed of the order in which shards and blocks are made
    twice: bool = False  # every task, at the same time where there are workers
    killed_at: tuple[str, int] = ("", 0)  # once so many such files are in work/; then resumed
    instructions: str = HERE  # one derived digest within each
    by_file: bool = False  # networks are read from files, those of the first cell


AVX2 = {"ATEN_CPU_CAPABILITY": "avx2"}
DEFAULT = {"ATEN_CPU_CAPABILITY": "default"}
MKL_AVX2 = {"MKL_ENABLE_INSTRUCTIONS": "AVX2"}
MKL_FREE = {"MKL_CBWR": "OFF"}
INSTRUCTIONS = {
    "ATEN_CPU_CAPABILITY=avx2": AVX2,
    "ATEN_CPU_CAPABILITY=default": DEFAULT,
    "MKL_ENABLE_INSTRUCTIONS=AVX2": MKL_AVX2,
    "MKL_CBWR=OFF": MKL_FREE,
}
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
KILLED_AT = {
    "while cutting": ("receipts/cut-*", 3),
    "in a network's training": ("graph-encoder-*.safetensors", 1),
    "in the other's": ("cooccurrence-*.safetensors", 1),
    "after the networks": ("receipts/cooccurrence.json", 1),
    **{
        f"in {stage}": (f"receipts/{stage}-[0-9]*", count)
        for stage, count in (
            ("quality", 2),
            ("features", 3),
            ("cooccurrence-vectors", 3),
            ("index", 2),
            ("candidates", 3),
        )
    },
}
KILLED_ELSEWHERE = ("in a network's training", "in features", "in candidates")
CELLS = (
    Cell(name=BASE_NAME, small_blocks=False),
    Cell(name="2 workers, large blocks", workers=2, small_blocks=False),
    Cell(name="small blocks"),
    *(Cell(name=f"{n} workers", workers=n) for n in (1, 2, 4)),
    Cell(name="scheduler", scheduler=True),
    *(Cell(name=f"shuffled, seed {n}", shuffle=n) for n in (1, 2)),
    Cell(name="shuffled, 2 workers", shuffle=3, workers=2),
    Cell(name="every task twice", twice=True),
    Cell(name="every task twice, 2 workers", twice=True, workers=2),
    Cell(name="every task twice, shuffled, 4 workers", twice=True, shuffle=5, workers=4),
    Cell(name="another working folder", elsewhere=True),
    Cell(name="TZ=Pacific/Kiritimati", env={"TZ": "Pacific/Kiritimati"}),
    Cell(name="TZ=America/St_Johns", env={"TZ": "America/St_Johns"}),
    Cell(name="LC_ALL=C, ASCII", env=ASCII),
    Cell(name="LC_ALL=C.UTF-8", env={"LC_ALL": "C.UTF-8"}),
    Cell(name="LC_ALL=tr_TR.UTF-8", env={"LC_ALL": "tr_TR.UTF-8"}),
    *(Cell(name=f"PYTHONHASHSEED={n}", env={"PYTHONHASHSEED": str(n)}) for n in (0, 1)),
    Cell(name="another TMPDIR", env={"TMPDIR": "."}),
    Cell(name="photos in a zip", photos="zip"),
    Cell(name="photos in a zip, 2 workers", photos="zip", workers=2),
    *(Cell(name=f"killed {when}, resumed", killed_at=at) for when, at in KILLED_AT.items()),
    *(
        Cell(name=f"killed {when}, 2 workers", killed_at=at, workers=2)
        for when, at in KILLED_AT.items()
    ),
    *(
        Cell(name=f"killed {when}, scheduler", killed_at=KILLED_AT[when], scheduler=True)
        for when in KILLED_ELSEWHERE
    ),
    *(Cell(name=f"OMP_NUM_THREADS={n}", env={"OMP_NUM_THREADS": str(n)}) for n in (1, 2)),
    Cell(
        name="all of it at once",
        env={
            **ASCII, "TZ": "Pacific/Kiritimati", "PYTHONHASHSEED": "7", "TMPDIR": ".",
            "OMP_NUM_THREADS": "1",
        },
        photos="zip", elsewhere=True, shuffle=4, killed_at=("receipts/cut-*", 2),
    ),
    *(
        Cell(name=f"{name}{more}", env={**env, **threads}, instructions=name)
        for name, env in INSTRUCTIONS.items()
        for more, threads in (("", {}), (", 1 thread", {"OMP_NUM_THREADS": "1"}))
    ),
    Cell(name="networks given", by_file=True),
    *(
        Cell(name=f"networks given, {name}", env=env, instructions=name, by_file=True)
        for name, env in INSTRUCTIONS.items()
    ),
)  # fmt: skip


class Result(NamedTuple):
    """What became of a cell, beside the first one."""

    cell: Cell
    seconds: float
    content: str  # digests
    derived: str
    level: int  # of bank.compare.LEVELS
    features: Gap
    cooccurrence: Gap
    candidates: Overlap


class Bench:
    """Data in both forms, and a folder for each cell."""

    def __init__(self, folder: Path, data: Path, arguments: Sequence[str] = RECIPE) -> None:
        self.folder, self.arguments = folder, tuple(arguments)
        self.machines = Machines(folder)
        self.data = {"folder": data, "zip": zipped(data, folder / "zipped")}

    def bank(self, cell: Cell) -> Path:
        return self.folder / "banks" / re.sub(r"\W+", "-", cell.name)

    def build(self, cell: Cell) -> None:
        """Make the cell's bank; RuntimeError with the command's last lines where it fails."""
        place = self.folder / "places" / self.bank(cell).name
        place.mkdir(parents=True)
        argv = self._command(cell, place)
        env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT), **cell.env}
        if "TMPDIR" in env:
            env["TMPDIR"] = str(place)
        if cell.killed_at[0]:
            self._kill(cell, argv, place, env)
        done = subprocess.run(
            argv, cwd=place if cell.elsewhere else ROOT, env=env, capture_output=True, text=True,
            timeout=BUILD_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{cell.name}: {' '.join(argv)}\n{done.stderr[-3000:]}")
        if (
            cell.killed_at[0].startswith("receipts/cut")
            and "kept from an earlier run" not in done.stdout
        ):
            raise RuntimeError(f"{cell.name}: no shard was kept\n{done.stdout[-1000:]}")
        if left := left_over(self.bank(cell)):
            raise RuntimeError(f"{cell.name}: left over or missing: {sorted(left)}")

    def _command(self, cell: Cell, place: Path) -> list[str]:
        argv = [sys.executable, "-m", "jobs.build_bank"]
        if cell.small_blocks:
            argv = [sys.executable, "-m", "tests.endurance.matrix", SMALL_BLOCKS]
            argv += [] if cell.shuffle is None else ["--shuffle", str(cell.shuffle)]
            argv += ["--twice"] if cell.twice else []
        data, out = self.data[cell.photos], self.bank(cell)
        if cell.elsewhere:
            data, out = (Path(os.path.relpath(path, place)) for path in (data, out))
        argv += [*self.arguments, "--data", str(data), "--out", str(out)]
        argv += ["--workers", str(cell.workers)]
        if cell.scheduler:
            self.machines.start()
            argv += ["--scheduler", self.machines.address]
        if cell.by_file:
            base = self.bank(CELLS[0])
            argv += ["--graph-encoder", str(base / "graph_encoder.safetensors")]
            argv += ["--cooccurrence", str(base / "cooccurrence.safetensors")]
        return argv

    def _kill(self, cell: Cell, argv: list[str], place: Path, env: Mapping[str, str]) -> None:
        """Start a build and kill it and its workers at the wanted moment."""
        pattern, count = cell.killed_at
        work = self.bank(cell) / WORK
        build = subprocess.Popen(
            argv, cwd=place if cell.elsewhere else ROOT, env=env, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + BUILD_S
        while len(list(work.glob(pattern))) < count:
            if build.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{cell.name}: the build ended before it could be killed")
            time.sleep(0.001)
        os.killpg(build.pid, signal.SIGKILL)
        build.wait()
        if (self.bank(cell) / "manifest.json").exists():
            raise RuntimeError(f"{cell.name}: the build was finished before it was killed")

    def result(self, cell: Cell, seconds: float) -> Result:
        base, bank = Bank.open(self.bank(CELLS[0])), Bank.open(self.bank(cell))
        return Result(
            cell, seconds, bank.content_digest, bank.manifest.derived_digest,
            compare(base, bank).level, gap(base, bank, Bank.features),
            gap(base, bank, Bank.cooccurrence), overlap(base, bank),
        )  # fmt: skip


def zipped(data: Path, folder: Path) -> Path:
    """The same dataset with its photos in zips, in no good order, and its annotations beside."""
    folder.mkdir(parents=True)
    shutil.copytree(data / "annotations", folder / "annotations")
    for photos in sorted(p for p in data.iterdir() if p.is_dir() and p.name != "annotations"):
        files = sorted(photos.iterdir())
        Random(0).shuffle(files)
        with zipfile.ZipFile(folder / f"{photos.name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, f"{photos.name}/{file.name}")
    return folder


def build_all(bench: Bench, cells: Sequence[Cell]) -> list[Result]:
    """The first of CELLS, and these."""
    results = []
    for cell in (CELLS[0], *(c for c in cells if c is not CELLS[0])):
        start = time.monotonic()
        bench.build(cell)
        results.append(bench.result(cell, time.monotonic() - start))
        print(f"{cell.name}: {results[-1].seconds:.1f} s", file=sys.stderr, flush=True)
        if cell is not CELLS[0]:
            shutil.rmtree(bench.bank(cell))
    return results


def broken(results: Sequence[Result]) -> list[str]:
    """A line for each promise that was not kept."""
    lines = [
        f"{r.cell.name}: content digest {r.content[:12]}, and not {results[0].content[:12]}"
        for r in results
        if r.content != results[0].content
    ]
    first: dict[tuple[str, bool], Result] = {}
    for r in results:
        like = first.setdefault((r.cell.instructions, r.cell.by_file), r)
        if r.derived != like.derived:
            lines.append(
                f"{r.cell.name}: derived digest {r.derived[:12]}, and not {like.derived[:12]} as "
                f"with {like.cell.name}"
            )
    return lines


def table(results: Sequence[Result]) -> str:
    rows = [
        "| built with | content digest | derived digest | level | candidates shared | "
        "largest gap of features | of co-occurrence |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        rows.append(
            f"| {r.cell.name} | `{r.content[:12]}` | `{r.derived[:12]}` | {r.level} | "
            f"{100 * r.candidates.fraction:.2f} % | {_amount(r.features)} | "
            f"{_amount(r.cooccurrence)} |"
        )
    rows.append("")
    rows += [
        f"level {n}: {text}" for n, text in enumerate(LEVELS) if n in {r.level for r in results}
    ]
    return "\n".join(rows)


def _amount(measured: Gap) -> str:
    return f"{measured.relative:.1e} of their length" if measured.differ else "none"


class Queue:
    """The jobs of a pool in another order, each of them perhaps twice in a row."""

    def __init__(self, jobs: deque[Job], seed: int | None, *, twice: bool) -> None:
        self.jobs, self.twice = jobs, twice
        self.random = None if seed is None else Random(seed)
        self.again: Job | None = None

    def __bool__(self) -> bool:
        return bool(self.jobs or self.again)

    def popleft(self) -> Job:
        if self.again:
            job, self.again = self.again, None
            return job
        if self.random:
            self.jobs.rotate(self.random.randrange(len(self.jobs)))
        job = self.jobs.popleft()
        self.again = job if self.twice else None
        return job


def run_otherwise(seed: int | None, *, twice: bool) -> None:
    """Let pools run jobs in an order drawn from `seed`; and each of them `twice`."""
    in_order: Any = Pool.run

    def run_queue(self: Pool, jobs: deque[Job]) -> Iterator[Done]:
        first = dict[int, Done]()
        for done in in_order(self, Queue(jobs, seed, twice=twice)):
            if twice and id(done.job) not in first:
                first[id(done.job)] = done
                continue
            before = first.pop(id(done.job), done)
            if made(before.result) != made(done.result):
                raise RuntimeError(f"{done.job.task!r} came out in two ways")
            yield before

    Pool.run = run_queue  # type: ignore[method-assign]


def locale_is_here(cell: Cell) -> bool:
    wanted = cell.env.get("LC_ALL", "C").replace("UTF-8", "utf8")
    known = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=True).stdout
    return wanted in known.split()


def made(result: Any) -> Any:
    """A block's receipt, or a shard's: who comes second finds it made."""
    return getattr(result, "receipt", result)


def build_in_small_blocks() -> None:
    """`jobs.build_bank`, its options behind those of this module."""
    parser = ArgumentParser(allow_abbrev=False)
    parser.add_argument(SMALL_BLOCKS, action="store_true")
    parser.add_argument("--shuffle", type=int)
    parser.add_argument("--twice", action="store_true")
    options, rest = parser.parse_known_args()
    sys.argv[1:] = rest
    make_blocks_small()
    run_otherwise(options.shuffle, twice=options.twice)
    run(build_bank.main, build_bank.BuildBank, build_bank.__doc__)


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", help="words of the cells that are wanted")
    parser.add_argument("--data", type=Path, help="a folder in COCO's format; default: drawn")
    parser.add_argument("--limit", type=int, help="photos of each of its files")
    parser.add_argument("--out", type=Path, help="a file for the table")
    options = parser.parse_args()
    wanted = [c for c in CELLS if not options.only or any(w in c.name for w in options.only)]
    cells = [c for c in wanted if locale_is_here(c)]
    limit = [] if options.limit is None else ["--limit", str(options.limit)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        data = options.data.resolve() if options.data else folder / "toy"
        if not options.data:
            write_toy(data, train_photos=TRAIN_PHOTOS, val_photos=VAL_PHOTOS)
        bench = Bench(folder, data, [*RECIPE, *limit])
        with closing(bench.machines):
            results = build_all(bench, cells)
    text = table(results)
    for cell in wanted:
        if cell not in cells:
            text += f"\nnot run, as this machine has no such locale: {cell.name}"
    print(text)
    if options.out:
        options.out.write_text(text + "\n", "utf-8")
    broken_promises = broken(results)
    print(*broken_promises, sep="\n", end="\n" if broken_promises else "")
    return 1 if broken_promises else 0


if __name__ == "__main__":
    if sys.argv[1:2] == [SMALL_BLOCKS]:
        build_in_small_blocks()
    else:
        sys.exit(main())
