"""Quality against time of ways of choosing patches: where to start, how often to choose again, and
how many sets to try, by the E_p of trained runs of a toy world.

python -m benchmarks.choosing --run runs/demo

All ways choose for the same scenes, without noise, and none gives a scene a crop twice:

random start, medoid  the paper's greedy way from either start
tightest set          `model.retrieval.search` as it is, with so many passes
tightest set of G     the same from G random candidates of each scene, with one pass
beam of B             object after object in the order of the graph; the B tightest sets are kept
one by one            the tightest set with one pass again, in numpy, a scene and a start at a time

Spread is the mean distance between the patches of a set, in units of that of the tightest set with
one pass; beside it, the share of scenes in which a way's set is tighter than that one, and looser.
Times are of the choice alone, E_p being known, in batches of 64 scenes, processor time of one
thread, as the machine may have other work; medians of rounds, in each of which all ways take their
turn. One by one is timed once, with one batch. Prints Markdown.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.bank import Bank
from jobs.claims.scoring import HeldOut
from jobs.show.cards import scenes_to_score
from jobs.show.styles import read_styles, styles_file
from model.config import RetrievalConfig
from model.retrieval.choice import choose, draw_choice, draw_start
from model.retrieval.crops import open_slots
from model.retrieval.distance import between
from model.retrieval.search import (
    SearchSpace,
    best_of,
    grown_sets,
    refined,
    rows,
    search_space,
)
from model.retrievegan.network import RetrieveGAN
from model.retrievegan.run import bank_of, load_network
from model.scores.retrieval import compatibility_scores
from model.scores.scenes import Features, Scenes, distinct_patches, embed
from pipeline.errors import UserError
from pipeline.options import BankLocation, option, run
from pipeline.progress import progress

CPU = torch.device("cpu")
PASSES = (0, 1, 2, 3)
STARTS = (1, 5, 20)
BEAMS = (20, 100, 400)
REFERENCE = "tightest set, 1 pass"  # whose spread is 1
ONE_BY_ONE = f"{REFERENCE}, one by one"
REPEATED = 1e6  # what a crop shown twice adds to the peer's spread: more than any distance
CLOSE = 1e-5  # spreads no farther apart, relatively, are the same


@dataclass(frozen=True, kw_only=True)
class RunsOptions:
    run: Annotated[tuple[Path, ...], option("trained runs, of one bank")]
    bank: Annotated[BankLocation | None, option("where it is not where the runs say")] = None
    styles: Annotated[
        Path | None, option("each photo's hidden style; default the toy world's own file")
    ] = None
    num: Annotated[int, option("at most so many val scenes")] = 256
    seed: Annotated[int, option("of all that is random")] = 0

    @cached_property
    def opened(self) -> Bank:
        return bank_of(self.run[0], self.bank)

    def held_out(self, k: int) -> HeldOut:
        """The val scenes, with K candidates per object."""
        bank = self.opened
        path = styles_file(self.styles, bank)
        if path is None:
            raise UserError(f"{bank.path} has no styles beside it: name them with --styles")
        image_ids = scenes_to_score(bank, "val", self.num, self.seed)
        return HeldOut(bank, read_styles(path, bank), image_ids, k, draws=1, device=CPU)

    def network(self, run: Path) -> RetrieveGAN:
        return load_network(run, self.opened, CPU)[0]


@dataclass(frozen=True, kw_only=True)
class ChoosingOptions(RunsOptions):
    k: Annotated[tuple[int, ...], option("candidates per object; as many as are stored")] = (
        5, 10, 20, 50,
    )  # fmt: skip
    rounds: Annotated[int, option("times each way is measured, in turn")] = 3


Way = Callable[[Scenes, Tensor], Tensor]  # scenes, features (O, K, E) -> selected (O,)


def by_config(rule: RetrievalConfig, scenes: Scenes, features: Tensor) -> Tensor:
    """As a run with this rule chooses."""
    draws = draw_choice(rule, scenes.valid, scenes.padding, scenes.uniforms(0), noise=False)
    return choose(rule, features, scenes.valid, scenes.padding, draws, scenes.crops).selected


def offered(scenes: Scenes, features: Tensor) -> SearchSpace:
    padded = scenes.padding.pad(features).flatten(1, 2)
    apart = between(padded, padded)
    return search_space(apart, None, scenes.valid, scenes.padding, scenes.crops)


def of_starts(number: int, scenes: Scenes, features: Tensor) -> Tensor:
    """The tightest set with one pass, from so many random starts; some may be alike."""
    space = offered(scenes, features)
    uniforms = map(scenes.uniforms, range(number))
    starts = [draw_start(scenes.valid, scenes.padding, each) for each in uniforms]
    sets, _ = refined(space, *grown_sets(space, torch.stack(starts, 1)))
    return tightest_of(scenes, space, sets.slots, torch.ones_like(sets.slots[..., 0]).bool())


def tightest_of(scenes: Scenes, space: SearchSpace, sets: Tensor, valid: Tensor) -> Tensor:
    """Selected (O,): of sets (N, G, M) each image's best; valid (N, G)."""
    best = best_of(space, sets, valid)
    return scenes.padding.unpad(rows(sets, best)[:, 0] % scenes.valid.shape[1])


def beam(width: int, scenes: Scenes, features: Tensor) -> Tensor:
    """Object after object, the `width` sets with the smallest summed distance are kept."""
    space = offered(scenes, features)
    assert space.same is not None
    images, places, k = space.allowed.shape
    slots = torch.zeros(images, 1, places, dtype=torch.long)
    summed = torch.zeros(images, 1)
    nothing_there = torch.full((k,), torch.inf)
    nothing_there[0] = 0  # a set goes on as it is
    for place in range(places):
        own = slice(place * k, (place + 1) * k)
        more = torch.zeros(images, slots.shape[1], k)
        taken = torch.zeros_like(more, dtype=torch.bool)
        for before in slots[..., :place].unbind(2):
            more = more + rows(space.apart[:, :, own], before)
            taken = taken | rows(space.same[:, :, own], before)
        shut = ~open_slots(space.allowed[:, None, place], taken)
        present = space.present[:, place, None, None]
        more = torch.where(present, more.masked_fill(shut, torch.inf), nothing_there)
        every = (summed[..., None] + more).flatten(1)
        summed, kept = every.topk(min(width, every.shape[1]), largest=False)
        slots = rows(slots, kept // k)
        slots[..., place] = own.start + kept % k
    return tightest_of(scenes, space, slots, summed.isfinite())


def one_by_one(scenes: Scenes, features: Tensor) -> Tensor:
    """The same search as the tightest set with one pass, a scene and a start at a time."""
    space = offered(scenes, features)
    assert space.same is not None
    parts = zip(space.apart.numpy(), space.same.numpy(), space.allowed.numpy(), strict=True)
    counts = space.present.sum(1).tolist()
    chosen = [tightest_of_scene(*each, n) for each, n in zip(parts, counts, strict=True)]
    return torch.from_numpy(np.concatenate(chosen))


def tightest_of_scene(
    apart: NDArray[np.float32], same: NDArray[np.bool_], allowed: NDArray[np.bool_], objects: int
) -> NDArray[np.int64]:
    """apart, same (S, S), allowed (M, K) -> one of K for each of the objects."""
    k = allowed.shape[1]
    pairs = np.triu_indices(objects, 1)

    def costs(chosen: list[int]) -> NDArray[Any]:
        """Summed distance of each candidate to those chosen, (M, K)."""
        free = allowed & ~same[chosen].any(0).reshape(allowed.shape)
        open_to = np.where(free.any(1, keepdims=True), free, allowed)
        return np.where(open_to, apart[chosen].sum(0).reshape(allowed.shape), np.inf)

    best, least = np.zeros(objects, np.int64), np.inf
    for start in np.flatnonzero(allowed[:objects]).tolist():
        chosen = {start // k: start}
        while len(chosen) < objects:
            more = costs([*chosen.values()])[:objects]
            more[[*chosen]] = np.inf
            slot = int(more.argmin())
            chosen[slot // k] = slot
        for place in range(objects):
            others = [slot for other, slot in chosen.items() if other != place]
            chosen[place] = place * k + int(costs(others)[place].argmin())
        own = np.array([chosen[place] for place in range(objects)])
        first, second = own[pairs[0]], own[pairs[1]]
        loose = apart[first, second].sum() + REPEATED * same[first, second].sum()
        if loose < least:
            best, least = own % k, loose
    return best


def ways(rule: RetrievalConfig) -> Iterator[tuple[str, Way]]:
    """Of a run with this rule."""

    def ruled(**changes: Any) -> Way:
        learned = replace(rule, mode="learned", query="updated", same_patch_allowed=False)
        return partial(by_config, replace(learned, **changes))

    yield "random start", ruled(start="random")
    yield "medoid", ruled(start="medoid")
    for number in STARTS:
        yield f"tightest set of {number}", partial(of_starts, number)
    for passes in PASSES:
        name = f"tightest set, {passes} pass{'' if passes == 1 else 'es'}"
        yield name, ruled(start="best", passes=passes)
    for width in BEAMS:
        yield f"beam of {width}", partial(beam, width)


def mean_distance(scenes: Scenes, features: Tensor, selected: Tensor) -> Tensor:
    """Between the patches of each scene, (N,)."""
    each = scenes.padding.pad(features[torch.arange(len(selected)), selected])
    present = scenes.padding.present
    pairs = (present[:, None] & present[:, :, None]).triu(1)
    return (between(each, each) * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)


def table(held_out: HeldOut, look: Features, rule: RetrievalConfig, rounds: int) -> Iterator[str]:
    """A line for each way."""
    batches = held_out.batches
    features = [look(batch.candidates) for batch in batches]
    each = dict(ways(rule))
    choices: dict[str, list[Tensor]] = {}
    times: dict[str, list[float]] = {name: [] for name in each}
    for _ in progress(range(rounds), f"choosing of {held_out.k}", rounds, "round"):
        for name, way in each.items():
            choices[name], seconds = timed(way, batches, features)
            times[name].append(seconds / len(held_out.image_ids))
    medians = {name: statistics.median(of_rounds) for name, of_rounds in times.items()}
    scores = compatibility_scores(
        batches, {name: [chosen] for name, chosen in choices.items()}, held_out.patches
    )
    spreads = {
        name: torch.cat([mean_distance(*of) for of in zip(batches, features, chosen, strict=True)])
        for name, chosen in choices.items()
    }
    reference = spreads[REFERENCE]
    for score in scores[:-1]:  # the last is the chance
        spread_of = spreads[score.choice]
        tighter = (spread_of < reference * (1 - CLOSE)).double().mean()
        looser = (spread_of > reference * (1 + CLOSE)).double().mean()
        yield (
            f"{score.choice} | {score.value:.3f} ({score.low:.3f} to {score.high:.3f}) | "
            f"{spread_of.mean() / reference.mean():.3f} | {tighter:.1%} | {looser:.1%} | "
            f"{1000 * medians[score.choice]:.2f}"
        )
    (again,), seconds = timed(one_by_one, batches[:1], features[:1])
    alike = (again == choices[REFERENCE][0]).double().mean()
    milliseconds = 1000 * seconds / batches[0].num_images
    yield f"{ONE_BY_ONE} | {alike:.1%} of its choices alike | | | | {milliseconds:.2f}"


def timed(
    way: Way, batches: Sequence[Scenes], features: Sequence[Tensor]
) -> tuple[list[Tensor], float]:
    """What a way selects in each batch, and the seconds of all."""
    start = time.process_time()
    selected = [way(*each) for each in zip(batches, features, strict=True)]
    return selected, time.process_time() - start


def main(options: ChoosingOptions) -> None:
    torch.set_num_threads(1)
    stored = options.opened.num_candidates
    scenes = {k: options.held_out(k) for k in options.k if k <= stored}
    if not scenes:
        raise UserError(f"{options.opened.path} stores {stored} candidates per object: lower --k")
    patches = distinct_patches([batch for each in scenes.values() for batch in each.batches])
    for run_folder in options.run:
        model = options.network(run_folder)
        start = time.process_time()
        look = embed(model, options.opened, patches)
        each_ms = 1000 * (time.process_time() - start) / len(patches)
        print(f"\n{run_folder}: E_p of a patch takes {each_ms:.2f} ms\n")
        print("| K | way of choosing | compatibility | spread | tighter | looser | ms a scene |")
        print("|---:|---|---:|---:|---:|---:|---:|")
        for k, held_out in scenes.items():
            for line in table(held_out, look, model.config.retrieval, options.rounds):
                print(f"| {k} | {line} |", flush=True)


if __name__ == "__main__":
    run(main, ChoosingOptions, __doc__)
