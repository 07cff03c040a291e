"""Are the stand-ins of the image scores sane, and what does each score take?

RETRIEVEGAN_DATA=FOLDER python -m benchmarks.scores --squeezenet FILE.h5 --plot scores.png

The folder's COCO photos (coco/train2017, coco/val2017) are cut into squares: those of half the
photos are the reference set; those of the other half are blurred, given noise, or partly replaced
by squares of toy photos, more and more. A sane distance rises with each step, and two sane ones
rank all of the sets alike. Prints Markdown.

With extra `eval`, --inception FILE and --alexnet FILE time Inception and LPIPS too, with whatever
weights these hold.
"""

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from pipeline.errors import UserError
from pipeline.options import option, run
from pipeline.progress import progress

SIDE = 128  # px, of a picture
DEGRADATIONS: dict[str, tuple[float, ...]] = {  # the least first
    "blur, px": (0.5, 1, 2, 4),
    "noise, of 255": (4, 8, 16, 32),
    "toy, share": (0.1, 0.2, 0.4, 0.8),
}
DISTANCES = ("Fréchet distance", "kernel distance")
TIMED = 200  # pictures
STAND_INS = ("efficientnet-lite0", "squeezenet")


@dataclass(frozen=True, kw_only=True)
class ScoresOptions:
    squeezenet: Annotated[Path, option("SqueezeNet's weights, a Keras file")]
    curves: Annotated[bool, option("degrade photos; without, what scores take is all")] = True
    squares: Annotated[int, option("squares along each side of a photo")] = 3
    seed: Annotated[int, option("of noise, subsets and order")] = 0
    plot: Annotated[Path | None, option("draw the curves into this PNG")] = None
    inception: Annotated[Path | None, option("also time Inception, with this file")] = None
    alexnet: Annotated[Path | None, option("also time LPIPS, with this file")] = None


def squares_of(photos: list[Path], along: int) -> np.ndarray:
    """along x along squares of each photo, side by side in its middle: (n, SIDE, SIDE, 3) uint8."""
    from PIL import Image

    squares = []
    for path in photos:
        with Image.open(path) as photo:
            side = min(photo.size)
            left, top = ((length - side) // 2 for length in photo.size)
            whole = photo.convert("RGB").crop((left, top, left + side, top + side))
            pixels = np.asarray(whole.resize((along * SIDE,) * 2, Image.Resampling.BICUBIC))
        grid = pixels.reshape(along, SIDE, along, SIDE, 3).swapaxes(1, 2)
        squares.append(grid.reshape(-1, SIDE, SIDE, 3))
    return np.concatenate(squares)


def real_photos(data: Path) -> list[Path]:
    photos = sorted((data / "coco").glob("*2017/*.jpg"))
    if not photos:
        raise UserError(f"{data}/coco has no photos; let RETRIEVEGAN_DATA name a folder with some")
    return photos


def toy_squares(num: int, along: int) -> np.ndarray:
    """At least so many squares of toy photos."""
    from pipeline.toy.coco import write_toy

    with tempfile.TemporaryDirectory() as folder:
        toy = Path(folder) / "toy"
        write_toy(toy, train_photos=-(-num // along**2), val_photos=2)
        return squares_of(sorted((toy / "train2017").glob("*.jpg")), along)


def degraded(
    pictures: np.ndarray, others: np.ndarray, kind: str, level: float, seed: int
) -> np.ndarray:
    """Pictures (n, H, W, 3) uint8 of which a degradation is made; others (at least n, H, W, 3)."""
    from PIL import Image, ImageFilter

    random = np.random.default_rng(seed)
    if kind.startswith("blur"):
        blur = ImageFilter.GaussianBlur(level)
        return np.stack([np.asarray(Image.fromarray(p).filter(blur)) for p in pictures])
    if kind.startswith("noise"):
        noise = random.normal(scale=level, size=pictures.shape)
        return (pictures + noise).round().clip(0, 255).astype(np.uint8)
    replaced = random.permutation(len(pictures))[: round(level * len(pictures))]
    mixed = pictures.copy()
    mixed[replaced] = others[replaced]
    return mixed


def scores_of_degraded(
    extractor: Any, reference: np.ndarray, pictures: np.ndarray, others: np.ndarray, seed: int
) -> dict[tuple[str, float], dict[str, float]]:
    """By degradation and level, the scores; level 0 is the pictures as they are."""
    from model.scores.distributions import distribution_scores

    against = extractor.features(reference)
    sets = [("none", 0.0), *((kind, x) for kind, xs in DEGRADATIONS.items() for x in xs)]
    scores = {}
    for kind, level in progress(sets, extractor.name, len(sets), "set"):
        made = degraded(pictures, others, kind, level, seed) if level else pictures
        values = distribution_scores(extractor, against, extractor.features(made), seed)
        scores[kind, level] = {v.name.partition(" (")[0]: v.value for v in values}
    return scores


def curve(scores: dict[tuple[str, float], dict[str, float]], kind: str, name: str) -> list[float]:
    """A score over the levels of a degradation, from the pictures as they are."""
    return [scores["none", 0.0][name], *(scores[kind, x][name] for x in DEGRADATIONS[kind])]


def rises(values: list[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


def rank_agreement(first: list[float], second: list[float]) -> tuple[float, float]:
    """Spearman's and Kendall's (tau-a)."""
    ranks = np.argsort(np.argsort([first, second]))
    a, b = (np.sign(np.subtract.outer(x, x)) for x in (first, second))
    n = len(first)
    return float(np.corrcoef(ranks)[0, 1]), float((a * b).sum() / (n * (n - 1)))


def print_curves(by_extractor: dict[str, dict[tuple[str, float], dict[str, float]]]) -> None:
    names = ("Fréchet distance", "kernel distance", "precision", "recall")
    print("\n| extractor | score | degradation | none | levels, rising | monotone |")
    print("|---|---|---|---|---|---|")
    for extractor, scores in by_extractor.items():
        for name in names:
            for kind, levels in DEGRADATIONS.items():
                values = curve(scores, kind, name)
                worse = values if name in DISTANCES else [-v for v in values]
                told = ", ".join(f"{x:g}: {v:.4g}" for x, v in zip(levels, values[1:], strict=True))
                cells = (extractor, name, kind, f"{values[0]:.4g}", told)
                print(f"| {' | '.join(cells)} | {'yes' if rises(worse) else 'no'} |")
    print(f"\n| score | Spearman | Kendall | of {len(scores)} sets |\n|---|---|---|---|")
    for name in names:
        both = [[s[name] for s in scores.values()] for scores in by_extractor.values()]
        spearman, kendall = rank_agreement(*both)
        print(f"| {name} | {spearman:.3f} | {kendall:.3f} | {' and '.join(by_extractor)} |")


def draw(by_extractor: dict[str, dict[tuple[str, float], dict[str, float]]], path: Path) -> None:
    """A column per degradation, a row per score; distances over the extractor's greatest."""
    from matplotlib.figure import Figure

    names = ("Fréchet distance", "kernel distance", "precision", "recall")
    figure = Figure((10, 9), layout="constrained")
    axes = figure.subplots(len(names), len(DEGRADATIONS), sharey="row", sharex="col")
    for row, name in zip(axes, names, strict=True):
        row[0].set_ylabel(f"{name}\n/ the greatest" if name in DISTANCES else name)
        for axis, (kind, levels) in zip(row, DEGRADATIONS.items(), strict=True):
            for extractor, scores in by_extractor.items():
                most = max(s[name] for s in scores.values()) if name in DISTANCES else 1
                values = [v / most for v in curve(scores, kind, name)]
                axis.plot((0, *levels), values, marker="o", label=extractor)
            axis.grid(alpha=0.3)
    for axis, kind in zip(axes[-1], DEGRADATIONS, strict=True):
        axis.set_xlabel(kind)
    axes[0][0].legend()
    figure.savefig(path, dpi=100)


def measured(make: Callable[..., Callable[[], Any]], *arguments: Any) -> tuple[float, float]:
    """Seconds of a call, and how many MiB this process had at most, beyond those before."""
    call = make(*arguments)
    before = _kib("VmRSS")
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    return seconds, (_kib("VmHWM") - before) / 1024


def _kib(of: str) -> int:
    """A line of what Linux says of this process."""
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[of].split()[0])


def _extraction(name: Any, weights: Path | None) -> Callable[[], Any]:
    import torch

    from model.scores.extractors import open_extractor

    extractor = open_extractor(name, weights, torch.device("cpu"))
    pixels = np.random.default_rng(0).integers(0, 256, (TIMED, SIDE, SIDE, 3), dtype=np.uint8)
    extractor.features(pixels[:2])
    return lambda: extractor.features(pixels)


def _lpips(weights: Path) -> Callable[[], Any]:
    import torch

    from model.scores.perceptual import open_lpips

    lpips = open_lpips(weights, torch.device("cpu"))
    pixels = np.random.default_rng(0).integers(0, 256, (TIMED, 2, SIDE, SIDE, 3), dtype=np.uint8)
    return lambda: lpips.pair_distances(pixels)


def _score(name: str, n: int, width: int) -> Callable[[], Any]:
    import torch

    from model.scores import distributions

    x, y = torch.rand(2, n, width, generator=torch.Generator().manual_seed(0))
    scores: dict[str, Callable[[], Any]] = {
        "Fréchet distance": lambda: distributions.frechet_distance(x, y),
        "kernel distance": lambda: distributions.kernel_distance(x, y, 0),
        "precision and recall": lambda: distributions.precision_recall(x, y),
        "inception score": lambda: distributions.inception_score(x[:, :1000], 0),
    }
    return scores[name]


def print_costs(options: ScoresOptions) -> None:
    extractions: list[tuple[str, Path | None]] = [
        ("efficientnet-lite0", None),
        ("squeezenet", options.squeezenet),
    ]
    if options.inception:
        extractions.append(("inception", options.inception))
    jobs: list[tuple[str, Callable[..., Any], tuple[Any, ...]]] = [
        (f"features by {name}, {TIMED} pictures of {SIDE} px", _extraction, (name, weights))
        for name, weights in extractions
    ]
    if options.alexnet:
        jobs.append((f"LPIPS, {TIMED} pairs of {SIDE} px", _lpips, (options.alexnet,)))
    for n, width in ((1500, 512), (1500, 1280), (5000, 2048)):
        for name in ("Fréchet distance", "kernel distance", "precision and recall"):
            jobs.append((f"{name}, {n:,} by {n:,}, width {width:,}", _score, (name, n, width)))
    jobs.append(
        ("inception score, 5,000 by 1,000 classes", _score, ("inception score", 5000, 1000))
    )
    print("\n| what | s | peak memory, MiB more |\n|---|---|---|")
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for what, make, arguments in jobs:
            seconds, mib = pool.submit(measured, make, *arguments).result()
            print(f"| {what} | {seconds:.1f} | {mib:,.0f} |", flush=True)


def main(options: ScoresOptions) -> None:
    if options.curves:
        print_sanity(options)
    print_costs(options)


def print_sanity(options: ScoresOptions) -> None:
    import torch

    from model.scores.extractors import open_extractor

    if not (data := os.environ.get("RETRIEVEGAN_DATA")):
        raise UserError("let RETRIEVEGAN_DATA name a folder with COCO photos, coco/val2017/*.jpg")
    photos = real_photos(Path(data))
    reference, pictures = (squares_of(photos[i::2], options.squares) for i in (0, 1))
    others = toy_squares(len(pictures), options.squares)
    files = (None, options.squeezenet)
    by_extractor = {
        name: scores_of_degraded(
            open_extractor(name, weights, torch.device("cpu")),
            reference,
            pictures,
            others,
            options.seed,
        )
        for name, weights in zip(STAND_INS, files, strict=True)
    }
    print(f"{len(pictures):,} squares of {SIDE} px against {len(reference):,} of other photos")
    print_curves(by_extractor)
    if options.plot:
        draw(by_extractor, options.plot)


if __name__ == "__main__":
    run(main, ScoresOptions, __doc__)
