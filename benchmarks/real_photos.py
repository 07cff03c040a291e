"""Does retrieval that learned from real photos tell which patches come from one photo?

python -m benchmarks.real_photos --bank bank/coco --sets sets.png

The hit rate is ground-truth selection on all held-out photos, val and test: of ordered pairs of a
photo's objects whose boxes do not overlap, how often the target's true patch is the nearest to the
query's among itself and its candidates; also among those of its own category alone. Retrieval is
trained by itself, with no images made: recipe demo's and the paper's at the same sizes, each from
all candidates and from those of a least quality. Few photos are soon learned by heart: after how
many steps a half of the held-out photos is scored is found on the other half, over all seeds.

Beside them, by the same rule: the bank's features of objects in their graphs, by which predefined
retrieval chooses; E_p before its first step; the mean colour of a patch, alone and with its
deviation; EfficientNet-lite0 (extra `scores`), which learned from ImageNet. Seeds are averaged
scene by scene; 95 % intervals are over scenes, those of differences over the same scenes. Prints
Markdown.

The picture has, for each of a few test scenes, the photo with its true patches, then what is chosen
by the paper's retrieval from a random start, by recipe demo's as the tightest set, by predefined
retrieval, and at random.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
from PIL import Image

from bank.bank import Bank
from jobs.claims.claims import NO_IMAGES, PAPER_FLAGS, Training
from jobs.claims.training import Trainer
from jobs.show.sheets import CELL, sheet
from model.config import MinQuality, RetrievalConfig
from model.retrievegan.run import load_network
from model.scores.choices import SelectionMethod, by_rule
from model.scores.extractors import open_extractor
from model.scores.intervals import (
    Interval,
    SceneSums,
    joined,
    mean_interval,
    mean_of_draws,
    share_interval,
    sum_by_scene,
)
from model.scores.retrieval import ground_truth, offered
from model.scores.retriever import Retriever
from model.scores.scenes import (
    ANY_QUALITY,
    CANDIDATES,
    Features,
    Scenes,
    constant,
    distinct_patches,
    scene_batches,
)
from pipeline.options import option, run
from pipeline.scene import Split

CPU = torch.device("cpu")
EMPTY = np.full((1, 1, 3), 255, np.uint8)  # a cell of the picture
ACROSS = 6  # patches in a row of it, at most
HALVES: tuple[Split, ...] = ("val", "test")
ASKED = MinQuality(0.3, 48)
QUALITY = ("--min-coverage", str(ASKED.coverage), "--min-side", str(ASKED.side))
FLAGS = {"paper": (*PAPER_FLAGS, *NO_IMAGES), "demo": NO_IMAGES}  # of a training, by its name
PEERS = ("predefined", "mean colour", "paper")  # that each is compared with


@dataclass(frozen=True, kw_only=True)
class RealPhotosOptions:
    bank: Annotated[Path, option("built bank of photos, with masks")]
    work: Annotated[Path, option("folder of runs; those that are there are not trained again")] = (
        Path("runs/real-photos")
    )
    seeds: Annotated[int, option("of each training")] = 3
    steps: Annotated[int, option("of each training")] = 300
    every: Annotated[int, option("steps between two that are scored")] = 50
    efficientnet: Annotated[bool, option("score its features too (extra scores)")] = True
    sets: Annotated[Path | None, option("PNG of chosen sets")] = None
    scenes: Annotated[int, option("in the picture")] = 5


class Hits(NamedTuple):
    """Over the pairs of each scene."""

    every: SceneSums  # against all candidates
    own: SceneSums  # against those of the target's own category


HeldOut = tuple[list[Scenes], ...]  # the scenes of each half


class Row(NamedTuple):
    """Of a table: an embedding."""

    name: str
    seeds: list[Hits]  # of both halves together
    steps: tuple[int, ...] = ()  # of training, after which each half is scored


class Trained(NamedTuple):
    """A training's runs."""

    name: str
    untrained: list[Features]  # of each seed
    features: dict[int, list[Features]]  # after so many steps, of each seed


def main(options: RealPhotosOptions) -> None:
    bank = Bank.open(options.bank)
    rulers = {minimum: held_out(bank, minimum) for minimum in (ANY_QUALITY, ASKED)}
    batches = [batch for halves in rulers.values() for half in halves for batch in half]
    fixed = fixed_embeddings(bank, distinct_patches(batches), efficientnet=options.efficientnet)
    trained = list(all_trained(bank, batches, options))
    for minimum, halves in rulers.items():
        rows = [*fixed_rows(fixed, halves), *trained_rows(trained, halves)]
        print(f"\n{about(halves, minimum)}\n")
        print("\n".join(table(rows)), flush=True)
    if options.sets is not None:
        picture(bank, rulers[ANY_QUALITY], trained, options.scenes).save(options.sets)


def held_out(bank: Bank, minimum: MinQuality) -> HeldOut:
    return tuple(
        scene_batches(bank, bank.scene_ids(half), CANDIDATES, CPU, minimum) for half in HALVES
    )


def fixed_embeddings(bank: Bank, ids: np.ndarray, *, efficientnet: bool) -> dict[str, Features]:
    """What has not learned from the bank's patches."""
    pixels = bank.patches(ids)
    colours = torch.from_numpy(pixels).double().flatten(1, 2)  # (B, P * P, 3)
    embeddings = {
        "chance": constant(ids),
        "predefined": Features(ids, torch.from_numpy(bank.features(ids))),
        "mean colour": Features(ids, colours.mean(1)),
        "mean and deviation of colour": Features(
            ids, torch.cat([colours.mean(1), colours.std(1)], 1)
        ),
    }
    if efficientnet:
        extractor = open_extractor("efficientnet-lite0", None, CPU)
        embeddings["EfficientNet-lite0"] = Features(ids, extractor.features(pixels).vectors)
    return embeddings


def trainings(every: int) -> list[Training]:
    keep = ("--checkpoint-every", str(every), "--keep-checkpoints", "1000")
    return [
        Training(name + suffix, (*flags, *asked, *keep))
        for suffix, asked in (("", ()), (" by quality", QUALITY))
        for name, flags in FLAGS.items()
    ]


def all_trained(
    bank: Bank, batches: Sequence[Scenes], options: RealPhotosOptions
) -> Iterator[Trained]:
    """Trains what is missing."""
    trainer = Trainer(bank, options.work, "auto")
    for training in trainings(options.every):
        trained = Trained(training.name, [], defaultdict(list))
        for seed in range(options.seeds):
            folder = trainer.trained(training, options.steps, seed)
            for step in range(options.every, options.steps + 1, options.every):
                model, _ = load_network(folder, bank, CPU, step)
                retriever = Retriever(model, bank, batches, model.config.retrieval, noise=False)
                assert retriever.trained is not None
                trained.features[step].append(retriever.trained)
            trained.untrained.append(retriever.untrained())
        yield trained


def hits(batches: Sequence[Scenes], features: Features) -> Hits:
    def sums(own_category: bool) -> SceneSums:
        parts = []
        for batch in batches:
            pairs = ground_truth(batch, features, 0, own_category=own_category)
            ones = torch.ones_like(pairs.credit)
            parts.append(sum_by_scene(pairs.credit, ones, pairs.image, batch.num_images))
        return joined(parts)

    return Hits(sums(False), sums(True))


def both(halves: Sequence[Hits]) -> Hits:
    return Hits(*(joined(part) for part in zip(*halves, strict=True)))


def fixed_rows(fixed: Mapping[str, Features], halves: HeldOut) -> list[Row]:
    return [Row(name, [both([hits(half, f) for half in halves])]) for name, f in fixed.items()]


def trained_rows(trained: Sequence[Trained], halves: HeldOut) -> Iterator[Row]:
    for name, untrained, features in trained:
        if name in FLAGS:  # those by quality begin as these do
            yield Row(f"{name}, untrained", [both([hits(h, f) for h in halves]) for f in untrained])
        steps = best_steps(halves, features)
        seeds = [
            both([hits(half, f) for half, f in zip(halves, of_seed, strict=True)])
            for of_seed in zip(*(features[step] for step in steps), strict=True)
        ]
        yield Row(name, seeds, steps)


def best_steps(halves: HeldOut, features: Mapping[int, Sequence[Features]]) -> tuple[int, ...]:
    """For each half, the number of steps after which the hit rate on the other half is best, over
    all seeds; of equals the smallest.

    features  of each seed, by the number of steps
    """
    best = [
        max(features, key=lambda step: sum(hit_rate(half, f) for f in features[step]))
        for half in halves
    ]
    return tuple(reversed(best))


def hit_rate(batches: Sequence[Scenes], features: Features) -> float:
    every = hits(batches, features).every
    return float(every.totals.sum() / every.weights.sum())


def about(halves: HeldOut, minimum: MinQuality) -> str:
    """In words, what there is to score."""
    found = offered([batch for half in halves for batch in half])
    below = f"; for {found.below:,} none has the quality, and the best is offered"
    return (
        f"Candidates of {minimum.flags or 'any quality'}: {found.mean_candidates:.1f} on average "
        f"for {found.objects:,} objects, {found.without_own_category:,} of which have none of "
        f"their category{below if minimum.asks else ''}. {found.overlapping_pairs:,} of "
        f"{found.pairs:,} pairs overlap and are left out."
    )


def table(rows: Sequence[Row]) -> Iterator[str]:
    means = {row.name: mean_over(row.seeds) for row in rows}
    columns = ["embedding", "steps", "hit rate", "of each seed", "own category"]
    columns += [f"less {peer}" for peer in PEERS]
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for name, seeds, steps in rows:
        every, own = means[name]
        rates = [f"{share_interval(seed.every).value:.3f}" for seed in seeds]
        cells = [name, " / ".join(map(str, steps)), cell(share_interval(every))]
        cells += [" ".join(rates) if len(seeds) > 1 else "", cell(share_interval(own))]
        for peer in PEERS:
            less = SceneSums(every.totals - means[peer].every.totals, every.weights)
            cells.append("" if peer == name else cell(mean_interval(less), "+"))
        yield f"| {' | '.join(cells)} |"


def mean_over(seeds: Sequence[Hits]) -> Hits:
    return Hits(*(mean_of_draws(part) for part in zip(*seeds, strict=True)))


def cell(interval: Interval, sign: str = "") -> str:
    value, low, high = (f"{bound:{sign}.3f}" for bound in interval if bound is not None)
    return f"{value} ({low} to {high})"


def picture(bank: Bank, halves: HeldOut, trained: Sequence[Trained], number: int) -> Image.Image:
    """For each of some test scenes, a row of true patches and one for each way of choosing."""
    (batch,) = scene_batches(bank, some_scenes(halves, number), CANDIDATES, CPU)
    rows = {"photo and true patches": batch.patch_ids.numpy()}
    for name, method in ways_of_choosing(halves, trained).items():
        rows[name] = batch.chosen(method.select(batch, 0))
    counts = np.array([len(objects) for objects, _ in batch.graphs])
    cells, labels = [], []
    for i, (image_id, (objects, _)) in enumerate(zip(batch.image_ids, batch.graphs, strict=True)):
        own = slice(*np.r_[0, counts.cumsum()][i : i + 2])
        for name, ids in rows.items():
            shown = list(bank.patches(ids[own]))
            first = bank.scene(image_id).image if name == next(iter(rows)) else EMPTY
            rest = [EMPTY] * (counts.max() - len(shown))
            cells += [Image.fromarray(p).resize((CELL, CELL)) for p in (first, *shown, *rest)]
            labels += [name, *objects, *("" for _ in rest)]
    return sheet(cells, labels, across=counts.max() + 1)


def some_scenes(halves: HeldOut, number: int) -> np.ndarray:
    """Of the test scenes of few objects, to fit on a page, those with the most candidates for each,
    all of their own categories: where there is one, all ways choose alike."""
    fit = [
        (-float(own.sum(1).double().mean()), image_id)
        for batch in halves[HALVES.index("test")]
        for image_id, (own,) in zip(batch.image_ids, batch.apart(batch.own_category), strict=True)
        if len(own) <= ACROSS and own.any(1).all()
    ]
    return np.array(sorted(image_id for _, image_id in sorted(fit)[:number]))


def ways_of_choosing(halves: HeldOut, trained: Sequence[Trained]) -> dict[str, SelectionMethod]:
    """By the first seed, after the steps that are best on the other half."""
    methods = {}
    for name, rule in (
        ("paper", RetrievalConfig(start="random")),
        ("demo", RetrievalConfig(start="best")),
    ):
        (features,) = (each.features for each in trained if each.name == name)
        steps = best_steps(halves, features)[HALVES.index("test")]
        methods[f"{name}, start {rule.start}"] = by_rule(rule, features[steps][0], noise=False)
    for rule in (RetrievalConfig(mode="predefined"), RetrievalConfig(mode="random")):
        methods[rule.mode] = by_rule(rule, None, noise=False)
    return methods


if __name__ == "__main__":
    run(main, RealPhotosOptions, __doc__)
