"""Our two loaders beside a PyTorch Dataset over memory maps, webdataset, litdata and
mosaicml-streaming, on the same scenes and patches.

python -m benchmarks.loader --folder loaders --banks bank/toy
python -m benchmarks.loader --folder loaders --banks bank/toy --prepare    all but the measuring

The folder gets a made-up bank with scenes as large as Visual Genome's, and of every bank a copy of
the training scenes in each library's format (benchmarks/loaders/). litdata and mosaicml-streaming
get virtual environments of their own (3 GB), with the torch that is here: their requirements do not
go together with ours. What is there already is kept. webdataset reads the banks' own tars; it and
the Dataset run in this project's environment.

Before anything is timed, an epoch of every loader must hold the same tensors of the same scenes.
Then each has its turn in each round, in a process of its own, in the batches of two recipes; all
files lie in the page cache. Beforehand 0, 1 and 2 worker processes are tried, in the batches of the
first recipe, and the best of them is kept. Figures are medians over the rounds, ratios medians of
the rounds' ratios. Seconds to the first batch count from the start of the process. Headspace is how
many times as fast as the training step a loader is: that of recipe demo is measured here, on the
CPU; that of recipe paper is given.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import simplejpeg
import torch

from bank.bank import Bank
from bank.manifest import is_finished
from benchmarks.loaders.ours import KINDS, write_copy
from benchmarks.recipes import WARM_UP, first_batch, seconds_of
from benchmarks.vg_like import FULL_SIZE, write_vg_like
from model.config import RetrieveGANConfig
from model.recipes import demo, paper
from model.trainers import trainer_for
from pipeline.cache import VARIABLE
from pipeline.options import option, run

# Their newest torchvision asks for another torch, one with several GB of CUDA.
TORCH = ("torch==2.13.0", "torchvision==0.28.0")
ENVIRONMENTS = {"litdata": "litdata==0.2.76", "mosaicml": "mosaicml-streaming==0.13.0"}
STREAMING = ("webdataset", *ENVIRONMENTS)
OTHERS = ("mapped", *STREAMING)
LOADERS = (*KINDS, *OTHERS)
TITLES = {"mapped": "Dataset over memory maps", "mosaicml": "mosaicml-streaming"}
WORKERS = (0, 1, 2)
STEPS = 8  # timed
PHOTO_PX, SQUARES = 1000, 25  # sides of a made-up photo
COLUMNS = (
    *("bank", "batches of", "loader", "with 0 / 1 / 2 workers", "s to the first batch"),
    *("scenes/s, epoch 1", "later epochs", "of the best other", "of the best that streams"),
    "headspace",
)


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    folder: Annotated[Path, option("for the made-up bank and the copies; they are kept")]
    environments: Annotated[Path | None, option("for those of the libraries; in --folder")] = None
    banks: Annotated[tuple[Path, ...], option("banks to measure on")] = ()
    photos: Annotated[int, option("of the made-up bank; 0: none")] = 4000
    rounds: Annotated[int, option("after the one that tries numbers of workers")] = 3
    paper_step_s: Annotated[
        float | None, option("seconds per training step of recipe paper, on some GPU")
    ] = None
    prepare: Annotated[bool, option("make what is missing, and measure nothing")] = False


class Took(NamedTuple):
    """By one process."""

    first_s: float  # from its start to the first batch
    epoch_1: float  # scenes a second
    later: float  # scenes a second of the epochs after it


def main(options: LoaderOptions) -> None:
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", VARIABLE: str(options.folder.resolve() / "cache")}
    environments = options.environments or options.folder / "environments"
    pythons = {name: _python(environments, name) for name in LOADERS}
    banks = [*options.banks]
    if options.photos:
        banks.append(_vg_like_bank(options.folder, options.photos))
    copies = [_copy(bank, options.folder, pythons) for bank in banks]
    if options.prepare:
        return
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|", flush=True)
    for bank, copy in zip(banks, copies, strict=True):
        _check_equal(copy, pythons)
        _measure(Bank.open(bank), copy, pythons, options)


def _measure(bank: Bank, copy: Path, pythons: Mapping[str, str], options: LoaderOptions) -> None:
    """Print a row for every recipe and loader."""

    def took(config: RetrieveGANConfig, name: str, workers: int) -> Took:
        command = ["--batch-size", str(config.batch_size), "--workers", str(workers)]
        command += ["--candidates", str(config.retrieval.candidates)]
        command += ["--started", str(time.monotonic())]
        return Took(*json.loads(_child(pythons[name], name, copy, *command)))

    tried = {name: [took(paper(), name, w).later for w in WORKERS] for name in LOADERS}
    best = {name: WORKERS[rates.index(max(rates))] for name, rates in tried.items()}
    scenes = f"{len(bank.scene_ids('train')):,} scenes, {bank.manifest.dataset}"
    for config, step_s in ((paper(), options.paper_step_s), (demo(), _step_s(bank, demo()))):
        all_took = [
            {name: took(config, name, best[name]) for name in LOADERS}
            for _ in range(options.rounds)
        ]
        for name in LOADERS:
            of_it = [took_by[name] for took_by in all_took]
            first_s, *rates = (statistics.median(each) for each in zip(*of_it, strict=True))
            cells = [scenes, config.recipe, TITLES.get(name, name)]
            cells += [" / ".join(f"{rate:,.0f}" for rate in tried[name])]
            cells += [f"{first_s:.2f}", *(f"{rate:,.0f}" for rate in rates)]
            cells += [f"{_ratio(all_took, name, others):.2f}" for others in (OTHERS, STREAMING)]
            cells += [f"{rates[-1] * step_s / config.batch_size:,.0f}" if step_s else ""]
            print(f"| {' | '.join(cells)} |", flush=True)


def _ratio(all_took: Sequence[Mapping[str, Took]], name: str, others: Collection[str]) -> float:
    """To the fastest of the others, after the first epoch."""
    return statistics.median(
        took[name].later / max(took[other].later for other in others if other != name)
        for took in all_took
    )


def _step_s(bank: Bank, config: RetrieveGANConfig) -> float:
    """Seconds per training step on this CPU."""
    trainer = trainer_for(config, bank, torch.device("cpu"))
    batch = first_batch(trainer, bank)
    times = [seconds_of(trainer, batch) for _ in range(WARM_UP + STEPS)]
    return statistics.median(times[WARM_UP:])


def _check_equal(copy: Path, pythons: Mapping[str, str]) -> None:
    digests = {name: _child(pythons[name], name, copy, "--digest") for name in LOADERS}
    if len({*digests.values()}) > 1:
        raise SystemExit(f"the loaders do not load the same: {digests}")


def _child(python: str, name: str, copy: Path, *command: str) -> str:
    """What it prints last."""
    child = [python, "-m", "benchmarks.loaders.child", name, str(copy), *command]
    done = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True)
    return "".join(done.stdout.splitlines()[-1:])


# What is made once


def _python(environments: Path, name: str) -> str:
    """The interpreter that has the loader's library."""
    if name not in ENVIRONMENTS:
        return sys.executable
    folder = environments.resolve() / name
    python = str(folder / "bin/python")

    def install() -> None:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *TORCH, ENVIRONMENTS[name]], check=True)

    _once(folder / "installed", install)
    return python


def _copy(bank: Path, folder: Path, pythons: Mapping[str, str]) -> Path:
    """The folder of the bank's scenes in all formats."""
    opened = Bank.open(bank)
    copy = folder.resolve() / f"scenes-{opened.content_digest[:12]}"

    def convert() -> None:
        write_copy(opened, copy)
        for name in LOADERS:
            _child(pythons[name], name, copy, "--convert")

    _once(copy / "converted", convert)
    return copy


def _once(done: Path, make: Callable[[], None]) -> None:
    if not done.exists():
        make()
        done.touch()


def _vg_like_bank(folder: Path, photos: int) -> Path:
    """Of photos of coloured squares, built by the real command."""
    bank, data = folder / f"vg-like-{photos}", folder / f"vg-like-{photos}-data"
    if is_finished(bank):
        return bank
    _once(data / "written", lambda: _write_photos(data, photos))
    build = [sys.executable, "-m", "jobs.build_bank", "--dataset", "vg", "--data", str(data)]
    build += ["--out", str(bank), "--encoder-steps", "20", "--cooccurrence-steps", "20"]
    for flag, published in (("object", 2000), ("attribute", 2000), ("relation", 500)):
        build += [f"--vg-min-{flag}-count", str(max(1, published * photos // FULL_SIZE))]
    subprocess.run(build, check=True)
    return bank


def _write_photos(data: Path, photos: int) -> None:
    """All of a size that every box lies in."""
    write_vg_like(data, photos, seed=0)
    described = data / "image_data.json"
    rows = json.loads(described.read_text("utf-8"))
    rows = [{**row, "width": PHOTO_PX, "height": PHOTO_PX} for row in rows]
    described.write_text(json.dumps(rows), "utf-8")
    random = np.random.default_rng(0)
    for row in rows:
        squares = random.integers(0, 256, (SQUARES, SQUARES, 3), np.uint8)
        pixels = squares.repeat(PHOTO_PX // SQUARES, 0).repeat(PHOTO_PX // SQUARES, 1)
        photo = data / "VG_100K" / f"{row['image_id']}.jpg"
        photo.write_bytes(simplejpeg.encode_jpeg(pixels, quality=75))


if __name__ == "__main__":
    run(main, LoaderOptions, __doc__)
