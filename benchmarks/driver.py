"""What the process that leads a build needs for large banks: time and memory, and how both grow.

python -m benchmarks.driver --what receipts     1 million photos' receipts, no file
python -m benchmarks.driver --what tables       assembling tables of up to 10 million patches
python -m benchmarks.driver --what joins        joining parts, of up to 10 million patches

Every size is measured in a process of its own, on what is made up in a temporary folder
(benchmarks/made_up_bank.py; tables of 10 million patches take 5 GB, joining them 21 GB). The growth
exponent is the slope between two sizes, in logarithms. Memory: benchmarks/usage.py.
"""

import json
import math
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from bank.contents import Contents, content_digest
from bank.files import FileDigest, canonical_json
from benchmarks.made_up_bank import (
    FEATURES,
    PATCH_PX,
    PHOTOS_PER_SHARD,
    WORDS,
    K,
    shard_names,
    write_candidate_parts,
    write_index_parts,
    write_quality_parts,
    write_shards,
    write_tables,
    write_vector_parts,
)
from benchmarks.usage import watched
from jobs.stages.assemble import assemble
from jobs.stages.blocks import Stage
from jobs.stages.cut import content_files
from jobs.stages.cutting import CutShard
from jobs.stages.derivation import Derivation, DeriveOptions, training_rows
from jobs.stages.quality import QualityStage
from jobs.stages.receipts import WORK, Receipt
from jobs.stages.search import PLAN, NearestCandidates, QueryPlanStage, SearchIndex
from jobs.stages.vectors import ObjectFeatures
from pipeline.options import option, run

What = Literal["receipts", "tables", "joins"]
SIZES: dict[What, tuple[int, ...]] = {
    "receipts": (10_000, 100_000, 1_000_000),  # photos
    "tables": (100_000, 1_000_000, 10_000_000),  # patches
    "joins": (1_000_000, 10_000_000),
}


@dataclass(frozen=True, kw_only=True)
class Driver:
    what: Annotated[What, option("receipts of photos, tables of patches, or their parts joined")]
    sizes: Annotated[
        tuple[int, ...], option("how many; default: three sizes up to the largest")
    ] = ()
    folder: Annotated[Path | None, option("measure the shards here, in this process")] = None


def main(options: Driver) -> None:
    if options.folder:
        print(json.dumps(MEASURES[options.what](options.folder, options.sizes[0])))
        return
    print("| what | how many | s | growth exponent | peak of its own, MB | with mapped files, MB |")
    print("|---|---|---|---|---|---|")
    before: dict[str, tuple[int, float]] = {}
    for size in options.sizes or SIZES[options.what]:
        with tempfile.TemporaryDirectory() as folder:
            if options.what == "tables":
                write_shards(Path(folder), size, with_pixels=False)
            elif options.what == "joins":
                write_tables(Path(folder), size)
            command = [sys.executable, "-m", "benchmarks.driver", "--what", options.what]
            command += ["--sizes", str(size), "--folder", folder]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        for name, (seconds, own_mb, all_mb) in json.loads(done.stdout.splitlines()[-1]).items():
            growth = "-"
            if name in before:
                size_before, seconds_before = before[name]
                growth = f"{math.log(seconds / seconds_before) / math.log(size / size_before):.2f}"
            print(f"| {name} | {size:,} | {seconds:.2f} | {growth} | {own_mb:.0f} | {all_mb:.0f} |")
            before[name] = size, seconds


# What is measured: name -> seconds, and the process's peaks meanwhile in MB.

Measured = dict[str, tuple[float, float, float]]


def _measured(steps: dict[str, Callable[[], object]]) -> Measured:
    measured: Measured = {}
    for name, step in steps.items():
        with watched([os.getpid()]) as usage:
            start = time.perf_counter()
            kept = step()  # until its memory was looked at
            seconds = time.perf_counter() - start
            _, *peaks = usage()
            measured[name] = seconds, *peaks
            del kept
    return measured


def _receipts(folder: Path, photos: int) -> Measured:
    """As `jobs.stages.cut.cut` collects them, and what a manifest keeps of them."""

    def collect() -> object:
        done = {f"train-{i:05d}": _receipt(i) for i in range(math.ceil(photos / PHOTOS_PER_SHARD))}
        counts = {name: shard.receipt.counts for name, shard in done.items()}
        return done, canonical_json([content_files(done), counts])

    return _measured({"receipts of photos": collect})


def _receipt(number: int) -> CutShard:
    """As it comes over the wire: with strings of its own."""
    name = f"train-{number:05d}"
    rows = f"{WORK}/shards/{name}"
    paths = [f"patches/{name}/data.mdb", f"scenes/{name}.tar", f"{rows}.failures.json"]
    paths += [f"{rows}.{table}.arrow" for table in ("patches", "scenes", "photos")]
    outputs = {path: FileDigest(f"{number:064x}", number) for path in paths}
    counts = {"photos": PHOTOS_PER_SHARD, "scenes": PHOTOS_PER_SHARD, "patches": 2048}
    receipt = Receipt(f"cut-{name}", f"{number:064x}", outputs, counts)
    return CutShard(name, Receipt.from_json(receipt.to_json()), fresh=True)


def _tables(folder: Path, patches: int) -> Measured:
    opened: list[Contents] = []
    return _measured(
        {
            "process started": lambda: None,
            "tables assembled": lambda: assemble(folder, shard_names(folder), WORDS),
            "content digest": lambda: content_digest(folder),
            "contents opened": lambda: opened.append(Contents(folder, PATCH_PX)),
            "training rows": lambda: training_rows(opened[0]),
            "categories": lambda: opened[0].strings("category"),
        }
    )


def _joins(folder: Path, patches: int) -> Measured:
    """Parts are written by another process, before each join, and removed after it."""
    contents = Contents(folder, PATCH_PX)
    options = DeriveOptions("given", "", 0, "given", "", 0, K, "category")
    derivation = Derivation(contents, "", options)
    (folder / WORK).mkdir()
    steps: dict[str, Callable[[], object]] = {
        "process started": lambda: None,
        "query plan": lambda: QueryPlanStage(derivation).join([]),
    }
    measured = _measured(steps)
    writers: dict[type[Stage], tuple[str, Callable[[Path, Path], None]]] = {
        ObjectFeatures: (f"features joined, {FEATURES} numbers", write_vector_parts),
        NearestCandidates: (f"candidates joined, K = {K}", write_candidate_parts),
        SearchIndex: ("index joined", write_index_parts),
        QualityStage: ("quality joined", write_quality_parts),
    }
    for kind, (name, write) in writers.items():
        stage, parts = kind(derivation), folder / WORK / "parts"
        _in_another_process(write, folder / PLAN, parts)
        made = sorted(parts.iterdir())
        measured |= _measured({name: lambda stage=stage, made=made: stage.join(made)})
        for path in (parts, *(folder / output for output in stage.outputs)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return measured


def _in_another_process(write: Callable[[Path, Path], None], plan: Path, parts: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=write, args=(plan, parts))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{write.__name__} ended with {process.exitcode}")


MEASURES = {"receipts": _receipts, "tables": _tables, "joins": _joins}


if __name__ == "__main__":
    run(main, Driver, __doc__)
