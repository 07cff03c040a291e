"""One loader in a process of its own, in the environment that has its library.

python -m benchmarks.loaders.child litdata FOLDER --convert    its copy of the scenes in FOLDER
python -m benchmarks.loaders.child litdata FOLDER --digest     what an epoch of it holds
python -m benchmarks.loaders.child litdata FOLDER              its epochs, timed
"""

import argparse
import importlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.loaders.scenes import Batch, SceneCopy, digest
from pipeline.memory import keep_freed_memory

LATER_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of a loader")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--convert", action="store_true")
    parser.add_argument("--digest", action="store_true")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--candidates", type=int, default=5)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--started", type=float, default=time.monotonic(), help="monotonic, in s")
    options = parser.parse_args()
    keep_freed_memory()  # as a training does
    copy = SceneCopy(options.folder)
    module, kind = loader_of(options.name)
    if options.convert:
        module.convert(copy, **kind)
        return
    batches = module.batches(copy, options.batch_size, options.candidates, options.workers, **kind)
    told = (
        digest(batches, len(copy)) if options.digest else times(batches, len(copy), options.started)
    )
    print(json.dumps(told))


def loader_of(name: str) -> tuple[Any, dict[str, str]]:
    """Its module, and what this project's own needs to know besides."""
    own = name in ("resident", "stream")
    module = importlib.import_module(f"benchmarks.loaders.{'ours' if own else f'{name}_peer'}")
    return module, {"kind": name} if own else {}


def times(batches: Iterator[Batch], scenes: int, started: float) -> list[float]:
    """Seconds from the process's start to the first batch; scenes a second in the rest of the first
    epoch, and in as many later epochs as fill LATER_S, with all that these begin with."""
    first = take(batches, 1)
    has_first = time.monotonic()
    rest = take(batches, scenes - first)
    epoch_1 = now = time.monotonic()
    later = 0
    while now < epoch_1 + LATER_S:
        later += take(batches, scenes)
        now = time.monotonic()
    return [has_first - started, rest / (epoch_1 - has_first), later / (now - epoch_1)]


def take(batches: Iterator[Batch], least: int) -> int:
    """Batches of so many scenes or a few more; how many there were."""
    scenes = 0
    while scenes < least:
        scenes += len(next(batches)["image_ids"])
    return scenes


if __name__ == "__main__":
    main()
