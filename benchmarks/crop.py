"""What the crop stage takes beside merely decoding the same JPEGs, and where its time goes.

python -m benchmarks.crop --data data/coco --limit 400               one core, in this process
python -m benchmarks.crop --data data/coco --limit 400 --jpeg 95     as baseline JPEGs of quality 95
python -m benchmarks.crop --data data/coco --limit 400 --workers 1 2     Dask's workers, longer

The stage is `jobs.stages.cutting.cut_shard`: a plan is read, photos are read, decoded, cut and
resized, patches, scenes and tables are written, hashed and synced, a receipt is left. Every way
takes its turn in each round; a ratio is the median of the rounds' ratios. Photos that are few are
cut several times over, under other ids. Pillow-SIMD is measured where it stands first on
PYTHONPATH:

pip install --no-deps --no-binary :all: --target simd pillow-simd
PYTHONPATH=simd python -m benchmarks.crop --data data/coco --limit 400
"""

import os
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from unittest.mock import patch

import simplejpeg
import torch
from PIL import Image

from jobs.stages import cutting
from jobs.stages.cluster import Pool
from jobs.stages.cut import plan
from jobs.stages.cutting import CropOptions, ShardTask, cut_shard
from pipeline import codec
from pipeline.coco.reader import CocoRules
from pipeline.crop import Resizer, pixel_box
from pipeline.dataset import Dataset
from pipeline.datasets import read_dataset
from pipeline.options import option, run
from pipeline.scene import AnnotatedPhoto, Box

PROGRESSIVE = b"\xff\xc2"
# What `cut_shard` calls, by where it looks the name up.
PARTS: Sequence[tuple[str, Any, str]] = (
    ("plan read, photos' times looked up", cutting, "read_plan"),
    ("plan read, photos' times looked up", cutting, "shard_key"),
    ("masks, relations", cutting, "usable_scene"),
    ("photo read", cutting, "read_photo"),
    ("photo decoded", cutting, "decode_photo"),
    ("patches cut and resized", cutting, "cut_patches"),
    ("picture resized", cutting, "resize_photo"),
    ("rows, digests of the patches", cutting, "patch_rows"),
    ("patches into LMDB", cutting, "write_patches"),
    ("scenes into a tar", cutting, "write_samples"),
    ("rows, digests of the scenes", cutting, "scene_row"),
    ("tables", cutting, "save_table"),
    ("digests of the files", cutting, "file_digest"),
    ("bytes forced onto the disk (fsync)", os, "fsync"),
)


@dataclass(frozen=True, kw_only=True)
class Crop:
    data: Annotated[Path, option("folder with photos and annotations in COCO's format")]
    limit: Annotated[int | None, option("photos of each annotation file")] = None
    jpeg: Annotated[int | None, option("first pack the photos anew, by this JPEG quality")] = None
    rounds: Annotated[int, option("how often everything is done")] = 7
    shard_photos: Annotated[int, option("photos per shard")] = 256
    workers: Annotated[tuple[int, ...], option("compare these numbers of workers instead")] = ()
    photos: Annotated[int, option("with --workers: photos to cut, the same ones again")] = 8192


class Times(NamedTuple):
    """Of one way in one round."""

    wall: float  # s
    cpu: float


def main(options: Crop) -> None:
    torch.set_num_threads(1)
    rules = CocoRules(require_stuff=False)
    dataset = read_dataset("coco", options.data, rules, options.limit)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        if options.jpeg:
            dataset = _packed_anew(dataset, Path(folder) / "photos", options.jpeg)
        photos = [(Path(dataset.folder) / p.photo.file).read_bytes() for p in dataset.photos]
        pixels = sum(p.photo.width * p.photo.height for p in dataset.photos)
        print(
            f"\n{len(photos):,} photos, {sum(map(len, photos)) / len(photos) / 1e3:.0f} kB and "
            f"{pixels / len(photos) / 1e6:.2f} megapixels each, "
            f"{sum(len(p.objects) for p in dataset.photos) / len(photos):.1f} objects; "
            f"{sum(PROGRESSIVE in data for data in photos):,} of them are progressive JPEGs; "
            f"{' '.join(codec.pillow())}\n"
        )
        if options.workers:
            _compare_workers(dataset, Path(folder), options)
        else:
            _compare_ways(dataset, photos, Path(folder), options)


def _packed_anew(dataset: Dataset, folder: Path, quality: int) -> Dataset:
    for annotated in dataset.photos:
        pixels = simplejpeg.decode_jpeg((Path(dataset.folder) / annotated.photo.file).read_bytes())
        path = folder / annotated.photo.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(simplejpeg.encode_jpeg(pixels, quality, colorsubsampling="420"))
    return replace(dataset, folder=str(folder))


# One core


def _compare_ways(dataset: Dataset, photos: list[bytes], work: Path, options: Crop) -> None:
    by_torch = partial(_tasks, dataset, work, options.shard_photos, "torch")
    by_pillow = partial(_tasks, dataset, work, options.shard_photos, "pillow")
    # What each way is given, which is made before the clock starts, and what it does.
    ways: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
        "JPEGs decoded, from memory": (lambda: photos, _decode),
        "crop stage": (by_torch, _cut),
        "crop stage, `--resizer pillow`": (by_pillow, _cut),
        "a photo opened, cut, resized, saved as PNG per object": (
            lambda: work / "naive",
            partial(_naive, dataset),
        ),
    }
    times: dict[str, list[Times]] = {name: [] for name in ways}
    for number in range(options.rounds + 1):
        for name, way in ways.items():
            took = _timed(*way)
            if number:  # the first is for warming up
                times[name].append(took)
    limit, stage_times, *_ = times.values()
    print("| | ms per photo | of CPU time | decoding / this | by CPU time | this / crop stage |")
    print("|---|---|---|---|---|---|")
    for name, took in times.items():
        wall, cpu = (statistics.median(t[i] for t in took) / len(photos) * 1e3 for i in (0, 1))
        print(
            f"| {name} | {wall:.2f} | {cpu:.2f} | {_ratio(limit, took, 0):.2f} | "
            f"{_ratio(limit, took, 1):.2f} | {_ratio(took, stage_times, 0):.2f} |"
        )
    _print_parts(dataset, work, options, statistics.median(t.wall for t in limit))


def _ratio(above: list[Times], below: list[Times], which: int) -> float:
    return statistics.median(a[which] / b[which] for a, b in zip(above, below, strict=True))


def _timed(prepare: Callable[[], Any], way: Callable[[Any], None]) -> Times:
    prepared = prepare()
    wall, cpu = time.perf_counter(), time.process_time()
    way(prepared)
    return Times(time.perf_counter() - wall, time.process_time() - cpu)


def _decode(photos: list[bytes]) -> None:
    for data in photos:
        simplejpeg.decode_jpeg(data)


def _tasks(dataset: Dataset, work: Path, shard_photos: int, resizer: Resizer) -> list[ShardTask]:
    """Of a bank that is not there yet."""
    shutil.rmtree(work / "bank", ignore_errors=True)
    return plan(dataset, work / "bank", shard_photos, CropOptions(128, 64, resizer))


def _cut(tasks: list[ShardTask]) -> None:
    for task in tasks:
        cut_shard(task)


def _naive(dataset: Dataset, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for annotated in dataset.photos:
        for thing in annotated.objects:
            with Image.open(Path(dataset.folder) / annotated.photo.file) as image:
                W, H = image.size
                x, y, width, height = thing.box_px
                box = pixel_box(Box(x / W, y / H, (x + width) / W, (y + height) / H), W, H)
                patch = image.convert("RGB").crop(box).resize((64, 64), Image.Resampling.BILINEAR)
                patch.save(folder / f"{annotated.photo.image_id}_{thing.object_index}.png")


def _print_parts(dataset: Dataset, work: Path, options: Crop, decoding_s: float) -> None:
    """Where the stage's time goes, from as many rounds of their own."""
    rounds: dict[str, list[float]] = defaultdict(list)
    for _ in range(options.rounds):
        with _parts_timed() as parts:
            total = _timed(partial(_tasks, dataset, work, options.shard_photos, "torch"), _cut)
        for name, seconds in parts.items():
            rounds[name].append(seconds)
        rounds["all else"].append(total.wall - sum(parts.values()))
        rounds["the whole stage"].append(total.wall)
    print("\n| part of the crop stage | ms per photo | as a share of decoding |\n|---|---|---|")
    for name, seconds in rounds.items():
        median = statistics.median(seconds)
        print(f"| {name} | {median / len(dataset.photos) * 1e3:.3f} | {median / decoding_s:.3f} |")


@contextmanager
def _parts_timed() -> Iterator[dict[str, float]]:
    """Seconds by part, complete when the `with` block ends; a part within a part counts once."""
    seconds: dict[str, float] = defaultdict(float)
    inner = [0.0]  # of the parts within each that is running, and within none

    def clocked(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                took = time.perf_counter() - start
                seconds[name] += took - inner.pop()
                inner[-1] += took

        return call

    with ExitStack() as stack:
        for name, module, function in PARTS:
            replacement = clocked(getattr(module, function), name)
            stack.enter_context(patch.object(module, function, replacement))
        yield seconds


# Workers


class Told(NamedTuple):
    """By a worker, of one shard."""

    start: float  # s, by this machine's clock
    end: float
    peak_mb: float  # of the process until then


def _compare_workers(dataset: Dataset, work: Path, options: Crop) -> None:
    photos = tuple(islice(_again(dataset), options.photos))
    many = replace(dataset, photos=tuple(sorted(photos, key=lambda p: p.photo.image_id)))
    print(
        "| workers | s, with Dask's start | photos per s without it | times the first | "
        "peak memory of a worker, MB |\n|---|---|---|---|---|"
    )
    first = 0.0
    for workers in options.workers:
        bank = work / f"bank{workers}"
        tasks = plan(many, bank, options.shard_photos, CropOptions(128, 64, "torch"))
        start = time.perf_counter()
        with Pool(workers) as pool:
            times = list(pool.results(_cut_and_tell, tasks))
        took = time.perf_counter() - start
        rate = len(photos) / (max(t.end for t in times) - min(t.start for t in times))
        first = first or rate
        peak = max(t.peak_mb for t in times)
        print(f"| {workers} | {took:.1f} | {rate:.0f} | {rate / first:.2f} | {peak:.0f} |")
        shutil.rmtree(bank)


def _again(dataset: Dataset) -> Iterator[AnnotatedPhoto]:
    """Its photos over and over, as training photos with ids of their own."""
    for number, annotated in enumerate(cycle(dataset.photos)):
        yield replace(annotated, photo=replace(annotated.photo, image_id=number, split="train"))


def _cut_and_tell(task: ShardTask) -> Told:
    start = time.time()
    cut_shard(task)
    return Told(start, time.time(), _peak_mb())


def _peak_mb() -> float:
    """Not getrusage's: that counts what the process was before it became this program."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


if __name__ == "__main__":
    run(main, Crop, __doc__)
