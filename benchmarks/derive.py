"""The stages after cutting, with 0, 1, 2, ... workers: time, memory, and how both grow.

python -m benchmarks.derive                                        65,536 and 262,144 patches
python -m benchmarks.derive --sizes 65536 --workers 1 2 --rounds 3 --together
python -m benchmarks.derive --sizes 1048576 --workers 2            17 GB on the disk
python -m benchmarks.derive --sizes 580984 --workers 1 2 --train-steps 200 --together
    --stages graph-encoder cooccurrence                            the networks, on COCO's photos

The bank is made up at random (benchmarks/made_up_bank.py), and networks are given but in the last.
Each stage is measured by itself, from its first block to the file that the parts are joined to;
`together` runs them as a build does, where one stage's parts are joined while workers make those of
another. The workers have started, and have read the bank's tables, before the clock does. Numbers
of workers take their turns in each round; figures are medians of the rounds, a speed-up the median
of the rounds' ratios. Processor time, by which growth is told, is disturbed less by other work on
the machine. Memory: benchmarks/usage.py.
"""

import functools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch

from bank.contents import Contents, content_digest
from bank.files import FileDigest
from bank.recipe import TRAIN
from bank.tasks import Place, contents_at
from benchmarks.made_up_bank import PATCH_PX, WORDS, K, shard_names, write_shards
from benchmarks.usage import Usage, watched
from jobs.stages.assemble import assemble
from jobs.stages.blocks import Stage, make_part
from jobs.stages.cluster import Pool
from jobs.stages.derivation import Derivation, DeriveOptions
from jobs.stages.derive import STAGES, run_stages
from jobs.stages.receipts import WORK
from model.graph.network import GraphEncoder
from model.retrieval.cooccurrence import CooccurrenceNetwork
from pipeline.options import option, run

AIMED_AT = ("features", "cooccurrence-vectors", "candidates")  # whose time workers shall share
SUM = " + ".join(AIMED_AT)
TOGETHER = "all, as in a build"
GIVEN = ("given_encoder.safetensors", "given_cooccurrence.safetensors")
COLUMNS = (
    *("patches", "stage", "workers", "s", "of which joining", "times one worker"),
    *("workers' CPU s", "leading process's", "growth of both"),
    *("a worker's peak of its own, MB", "with mapped files"),
    *("leading process's, MB", "with mapped files"),
)


@dataclass(frozen=True, kw_only=True)
class Derive:
    sizes: Annotated[tuple[int, ...], option("patches")] = (1 << 16, 1 << 18)
    workers: Annotated[tuple[int, ...], option("compare these numbers of workers")] = (0, 1, 2)
    rounds: Annotated[int, option("how often everything is done")] = 1
    stages: Annotated[tuple[str, ...], option("only these, and what they need; default: all")] = ()
    together: Annotated[bool, option("also run all stages as a build does")] = False
    train_steps: Annotated[int, option("train both networks so long; 0: they are given")] = 0
    folder: Annotated[Path | None, option("measure the bank here, in this process")] = None


class Took(NamedTuple):
    """By a stage, with so many workers."""

    seconds: float
    join_s: float  # of them
    workers: Usage
    leader: Usage

    @property
    def cpu_s(self) -> float:
        return self.workers.cpu_s + self.leader.cpu_s


def main(options: Derive) -> None:
    if options.folder:
        print(json.dumps(_measure(options.folder, options)))
        return
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|", flush=True)
    before: dict[tuple[str, int], tuple[int, float]] = {}
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_bank(Path(folder), size)
            rounds = [
                {workers: _in_its_process(folder, workers, options) for workers in options.workers}
                for _ in range(options.rounds)
            ]
        _print_rows(size, rounds, before)


def write_bank(folder: Path, patches: int) -> None:
    """Up to its content, and beside it the networks that are given."""
    write_shards(folder, patches, with_pixels=True)
    assemble(folder, shard_names(folder), WORDS)
    torch.manual_seed(0)
    for name, network in zip(
        GIVEN, (GraphEncoder(WORDS, masks=True), CooccurrenceNetwork()), strict=True
    ):
        network.save(folder / name)


def _in_its_process(folder: str, workers: int, options: Derive) -> dict[str, Took]:
    command = [sys.executable, "-m", "benchmarks.derive", "--folder", folder]
    command += ["--workers", str(workers)]
    command += ["--train-steps", str(options.train_steps)]
    command += ["--together"] if options.together else []
    command += ["--stages", *options.stages] if options.stages else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return {name: Took(*took, Usage(*w), Usage(*le)) for name, (*took, w, le) in told.items()}


def _print_rows(
    size: int,
    rounds: list[dict[int, dict[str, Took]]],
    before: dict[tuple[str, int], tuple[int, float]],
) -> None:
    """`before` has the processor time of the size before, and gets that of this one."""
    for name in next(iter(rounds[0].values())):
        for workers in rounds[0]:
            all_took = [r[workers][name] for r in rounds]
            cpu_s = statistics.median(t.cpu_s for t in all_took)
            times = growth = "-"
            if workers > 1 and 1 in rounds[0]:
                ratios = [r[1][name].seconds / r[workers][name].seconds for r in rounds]
                times = f"{statistics.median(ratios):.2f}"
            if (name, workers) in before:
                size_before, cpu_before = before[name, workers]
                slope = math.log(cpu_s / cpu_before) / math.log(size / size_before)
                growth = f"{slope:.2f}"
            before[name, workers] = size, max(cpu_s, 0.01)
            cells = [f"{size:,}", name, str(workers)]
            cells += [f"{_median(all_took, i):.1f}" for i in ("seconds", "join_s")] + [times]
            cells += [f"{_median(all_took, who, 'cpu_s'):.1f}" for who in ("workers", "leader")]
            cells += [growth]
            cells += [
                f"{_median(all_took, who, peak):.0f}"
                for who in ("workers", "leader")
                for peak in ("own_mb", "mapped_mb")
            ]
            print(f"| {' | '.join(cells)} |", flush=True)


def _median(all_took: Sequence[Took], *names: str) -> float:
    """Of a field, or of a field's field."""
    return statistics.median(functools.reduce(getattr, names, took) for took in all_took)


# One number of workers, in a process of its own


def _measure(folder: Path, options: Derive) -> dict[str, Took]:
    contents = Contents(folder, PATCH_PX)
    derivation = Derivation(contents, content_digest(folder), _derive_options(folder, options))
    stages = _wanted([stage(derivation) for stage in STAGES], options.stages)
    (workers,) = options.workers
    with Pool(workers) as pool:
        pids = _started(pool, workers, derivation)
        took = _one_by_one(stages, pool, folder, pids)
        if options.together:
            _clear(folder)
            with watched(pids) as of_workers, watched([os.getpid()]) as of_leader:
                start = time.perf_counter()
                run_stages(stages, pool)
                seconds = time.perf_counter() - start
                took[TOGETHER] = Took(seconds, 0.0, of_workers(), of_leader())
    if took.keys() >= set(AIMED_AT):
        took[SUM] = _sum([took[name] for name in AIMED_AT])
    return took


def _derive_options(folder: Path, options: Derive) -> DeriveOptions:
    steps = options.train_steps
    encoder, f_occur = (TRAIN if steps else str(folder / name) for name in GIVEN)
    return DeriveOptions(encoder, "given", steps, f_occur, "given", steps, K, "category")


def _sum(all_took: Sequence[Took]) -> Took:
    seconds, join_s, *usages = zip(*all_took, strict=True)
    of_both = []
    for some in usages:
        cpu_s, *peaks = zip(*some, strict=True)
        of_both.append(Usage(sum(cpu_s), *map(max, peaks)))
    return Took(sum(seconds), sum(join_s), *of_both)


def _wanted(stages: list[Stage], names: Sequence[str]) -> list[Stage]:
    if not names:
        return stages
    needed = {need for stage in stages if stage.name in names for need in stage.needs}
    if needed <= set(names):
        return [stage for stage in stages if stage.name in names]
    return _wanted(stages, [*names, *needed])


def _one_by_one(
    stages: Sequence[Stage], pool: Pool, folder: Path, pids: set[int]
) -> dict[str, Took]:
    _clear(folder)
    took: dict[str, Took] = {}
    outputs: dict[str, dict[str, FileDigest]] = {}
    for stage in stages:
        needs = {path: digest for name in stage.needs for path, digest in outputs[name].items()}
        with watched(pids) as of_workers, watched([os.getpid()]) as of_leader:
            start = time.perf_counter()
            blocks = stage.blocks(needs)
            parts = list(pool.results(functools.partial(make_part, stage.make), blocks))
            made = time.perf_counter()
            outputs[stage.name] = dict(stage.finish(blocks, needs, parts).outputs)
            end = time.perf_counter()
            took[stage.name] = Took(end - start, end - made, of_workers(), of_leader())
    return took


def _clear(folder: Path) -> None:
    """So that nothing is taken over from a run before."""
    for path in (folder / WORK).iterdir():
        if path.name == "shards":
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _started(pool: Pool, workers: int, derivation: Derivation) -> set[int]:
    """Process ids, once all of them have read the tables."""
    pids: set[int] = set()
    while len(pids) < workers:
        pids = set(pool.results(_arrive, [derivation.tables] * 2 * workers))
    return pids


def _arrive(tables: Place) -> int:
    contents_at(tables)
    time.sleep(0.2)  # so that the others get some too
    return os.getpid()


if __name__ == "__main__":
    run(main, Derive, __doc__)
