"""How long a reader takes for blown-up annotation files, and how much memory: a process for each.

python -m benchmarks.annotations --dataset coco --photos 118287
python -m benchmarks.annotations --dataset vg --photos 108077

The files are made of random numbers, shaped like the published ones, in a temporary folder that is
removed at the end. Peak memory is the whole reading process's, its imports included.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from benchmarks.coco_like import FULL_SIZE as FULL_COCO
from benchmarks.coco_like import write_coco_like
from benchmarks.vg_like import FULL_SIZE as FULL_VG
from benchmarks.vg_like import write_vg_like
from pipeline.coco.reader import read_coco
from pipeline.data_folder import DataFolder
from pipeline.dataset import Dataset
from pipeline.options import option, run
from pipeline.visual_genome.reader import read_visual_genome
from pipeline.visual_genome.rules import VisualGenomeRules

DatasetName = Literal["coco", "vg"]


class Kind(NamedTuple):
    """How a dataset's files are blown up, and what reads them."""

    full_size: int  # photos
    write: Callable[[Path, int, int], None]  # folder, photos, seed
    read: Callable[[Path, float], Dataset]  # folder, share of the full size


def _read_vg(folder: Path, share: float) -> Dataset:
    """Thresholds shrink with the files, so that as large a share of them is kept."""
    full = VisualGenomeRules()
    rules = replace(
        full,
        min_object_count=max(round(full.min_object_count * share), 1),
        min_attribute_count=max(round(full.min_attribute_count * share), 1),
        min_relation_count=max(round(full.min_relation_count * share), 1),
    )
    return read_visual_genome(DataFolder(folder), rules)


def _read_coco(folder: Path, share: float) -> Dataset:
    return read_coco(folder)


KINDS: dict[DatasetName, Kind] = {
    "coco": Kind(FULL_COCO, write_coco_like, _read_coco),
    "vg": Kind(FULL_VG, write_vg_like, _read_vg),
}


@dataclass(frozen=True, kw_only=True)
class Annotations:
    dataset: Annotated[DatasetName, option("whose files")] = "vg"
    photos: Annotated[
        int, option("photos that the files are blown up to; COCO has 118,287, VG 108,077")
    ] = 10_000
    seed: Annotated[int, option("of the random numbers")] = 0
    folder: Annotated[Path | None, option("read the files here; they are made if missing")] = None
    child: Annotated[bool, option("read and report, in this process")] = False

    def __post_init__(self) -> None:
        if self.photos < 10:
            raise ValueError(f"--photos must be at least 10, but is {self.photos}")


def main(options: Annotations) -> None:
    if options.child and options.folder:
        print(json.dumps(_measure(options.folder, options)))
    elif options.folder:
        _report(options.folder, options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            _report(Path(folder) / options.dataset, options)


def _report(folder: Path, options: Annotations) -> None:
    if not folder.exists():
        KINDS[options.dataset].write(folder, options.photos, options.seed)
    command = [sys.executable, "-m", "benchmarks.annotations", "--child", "--folder", str(folder)]
    command += ["--dataset", options.dataset, "--photos", str(options.photos)]
    m = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(
        f"{options.dataset}: {options.photos:,} photos, {size / 1e6:,.0f} MB of annotations read "
        f"in {m['seconds']:.1f} s ({size / 1e6 / m['seconds']:.0f} MB/s), peak memory "
        f"{m['peak_mb']:,.0f} MB; {m['photos']:,} photos and {m['objects']:,} objects "
        f"are in"
    )


def _measure(folder: Path, options: Annotations) -> dict[str, float]:
    kind = KINDS[options.dataset]
    start = time.perf_counter()
    dataset = kind.read(folder, options.photos / kind.full_size)
    return {
        "seconds": time.perf_counter() - start,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 * 1.048576,
        "photos": len(dataset.photos),
        "objects": sum(len(photo.objects) for photo in dataset.photos),
    }


if __name__ == "__main__":
    run(main, Annotations, __doc__)
