"""Would distances scaled by how near other patches lie choose better sets than distances as they
are, and could the scale be found without the hidden styles?

python -m benchmarks.scaling --run runs/demo --styles data/toy/styles.json

A bland patch lies close to everything. Local scaling (Zelnik-Manor and Perona 2004; as a cure of
hubs Schnitzer et al. 2012) divides a distance by the root of the product of both patches' reach,
here their q-quantile distance to some training patches; `minus` takes off the mean of both instead.
Which q? A line for each tells, on val scenes,

ground truth  ground-truth selection by the scaled distances
precision     average precision of pairs: true patches of one scene against a true patch and
              another's candidates
true sets     the share of true patches in the tightest set of a scene whose true patches are
              offered beside their candidates
hubs          skewness of how often a training patch is among another's ten nearest
slope         of the logarithm of the reach against that of q, mean over patches
compatibility of the tightest set (needs the styles)

All but the last could pick q without the styles: the most of the first three, the fewest hubs, the
steepest slope (there the reach leaves the patches of the own style). What each would pick follows.
Prints Markdown.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.retrieval.crops import Crops
from model.retrieval.distance import between
from model.retrieval.search import offer_of, tightest
from model.scores.scenes import Features, Scenes
from pipeline.options import BankLocation, option, run
from pipeline.progress import progress

QUANTILES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.11, 0.125, 0.15, 0.2, 0.3,
             0.5)  # fmt: skip
NEIGHBOURS = 10
CANDIDATES = 20
PASSES = 1


@dataclass(frozen=True, kw_only=True)
class ScalingOptions:
    run: Annotated[tuple[Path, ...], option("trained runs, of one bank")]
    bank: Annotated[BankLocation | None, option("where it is not where the runs say")] = None
    styles: Annotated[
        Path | None, option("each photo's hidden style; default the toy world's own file")
    ] = None
    num: Annotated[int, option("val scenes")] = 300
    references: Annotated[int, option("training patches")] = 1500
    seed: Annotated[int, option("of scenes and training patches")] = 0


# Distances and the reach of both patches, broadcast -> distances
Scale = Callable[[Tensor, Tensor, Tensor], Tensor]


def as_it_is(distance: Tensor, *_: Tensor) -> Tensor:
    return distance


def divided(distance: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return distance / (left * right).clamp_min(1e-12).sqrt()


def minus(distance: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return distance - (left + right) / 2


@dataclass(frozen=True, kw_only=True)
class Line:
    """What one measure of distance gives; None where it has no quantile, or no such value."""

    ground_truth: float
    precision: float
    true_sets: float
    hubs: float
    slope: float | None
    compatibility: float


@dataclass(frozen=True)
class Embedded:
    """E_p of the patches of some scenes, and how far they lie from training patches."""

    look: Features
    sorted_reach: Tensor  # (B, R) distances of each of `look`'s patches to training patches, rising
    references: Tensor  # (R, E)
    reference_reach: Tensor  # (R, R) ... of the training patches themselves

    def reach(self, quantile: float) -> Features:
        return Features(self.look.ids, self.sorted_reach[:, [self._column(quantile)]])

    def reach_of_references(self, quantile: float) -> Tensor:
        return self.reference_reach[:, self._column(quantile)]

    def slope(self, quantile: float) -> float:
        """From quantile / 1.15 to quantile * 1.15."""
        low, high = (self._column(quantile * by) for by in (1 / 1.15, 1.15))
        ends = self.reference_reach[:, [low, high]].clamp_min(1e-12).log().mean(0)
        return float((ends[1] - ends[0]) / np.log((high + 1) / (low + 1)))

    def _column(self, quantile: float) -> int:
        return int(quantile * self.sorted_reach.shape[1])


def embedded(look: Features, references: np.ndarray) -> Embedded:
    vectors = look(torch.from_numpy(references))
    reach = torch.cat([between(part, vectors) for part in look.vectors.split(512)])
    own = between(vectors, vectors).fill_diagonal_(torch.inf)
    return Embedded(look, reach.sort(1).values, vectors, own.sort(1).values)


def pairs_of_scenes(
    scenes: Scenes, look: Features, reach: Features, scale: Scale
) -> tuple[Tensor, Tensor]:
    """Scaled distances of the true patches of ordered pairs of objects whose crops do not overlap
    (Q,), and of the first's true patch to the second's candidates (Q, K), infinite for padding."""
    from model.scores.metrics import overlapping, pairs_of

    query, target = pairs_of(scenes.padding.image)
    apart = ~overlapping(scenes.boxes[query], scenes.boxes[target])
    query, target = query[apart], target[apart]
    truth, others = look(scenes.patch_ids), look(scenes.candidates)
    own, their = reach(scenes.patch_ids)[:, 0], reach(scenes.candidates)[..., 0]
    positive = scale((truth[query] - truth[target]).norm(dim=-1), own[query], own[target])
    distance = (truth[query][:, None] - others[target]).norm(dim=-1)
    negative = scale(distance, own[query][:, None], their[target])
    return positive, negative.masked_fill(~scenes.valid[target], torch.inf)


def average_precision(positive: Tensor, negative: Tensor) -> float:
    """Of finding the positive (P,) among the negative (Q,) by small values."""
    order = torch.cat([positive, negative]).argsort(stable=True)
    found = (order < len(positive)).double()
    precision = found.cumsum(0) / torch.arange(1, len(found) + 1)
    return float(precision[found.bool()].mean())


def tightest_sets(scenes: Scenes, look: Features, reach: Features, scale: Scale) -> Tensor:
    """selected (O,) among the candidates"""
    return _tightest(
        scenes, look(scenes.candidates), reach(scenes.candidates)[..., 0], scale, scenes.valid,
        scenes.crops,
    )  # fmt: skip


def true_sets(scenes: Scenes, look: Features, reach: Features, scale: Scale) -> Tensor:
    """(O,) whether the true patch is chosen, offered after the candidates"""
    ids = torch.cat([scenes.candidates, scenes.patch_ids[:, None]], 1)
    photo = -2 - scenes.padding.image[:, None]  # of no candidate; overlapping true crops may serve
    box = torch.zeros_like(scenes.boxes)[:, None]
    crops = Crops(*(torch.cat(both, 1) for both in zip(scenes.crops, (photo, box), strict=True)))
    selected = _tightest(
        scenes, look(ids), reach(ids)[..., 0], scale, F.pad(scenes.valid, (0, 1), value=True), crops
    )
    return selected == scenes.candidates.shape[1]


def _tightest(
    scenes: Scenes, features: Tensor, reach: Tensor, scale: Scale, valid: Tensor, crops: Crops
) -> Tensor:
    padding = scenes.padding
    padded, padded_reach = padding.pad(features).flatten(1, 2), padding.pad(reach).flatten(1)
    distances = between(padded, padded)
    apart = scale(distances, padded_reach[:, :, None], padded_reach[:, None])
    slots = tightest(offer_of(apart, None, valid, padding, crops), PASSES).slots
    return padding.unpad(slots % valid.shape[1])


def hub_skewness(distances: Tensor) -> float:
    """Of how often each of R patches is among another's nearest; distances (R, R)."""
    nearest = distances.topk(NEIGHBOURS, largest=False).indices
    counts = torch.bincount(nearest.flatten(), minlength=len(distances)).double()
    deviations = counts - counts.mean()
    return float((deviations**3).mean() / (deviations**2).mean() ** 1.5)


def line(
    batches: Sequence[Scenes], patches: Sequence[Any], of: Embedded, scale: Scale,
    quantile: float | None,
) -> Line:  # fmt: skip
    from model.scores.retrieval import compatibility_scores

    reach = of.reach(quantile or 0.5)
    pairs = [pairs_of_scenes(batch, of.look, reach, scale) for batch in batches]
    positive, negative = (torch.cat(part) for part in zip(*pairs, strict=True))
    sets = [tightest_sets(batch, of.look, reach, scale) for batch in batches]
    true = torch.cat([true_sets(batch, of.look, reach, scale) for batch in batches])
    own = of.reach_of_references(quantile or 0.5)
    among = scale(between(of.references, of.references), own[:, None], own[None])
    return Line(
        ground_truth=float((positive < negative.amin(1)).double().mean()),
        precision=average_precision(positive, negative[negative.isfinite()]),
        true_sets=float(true.double().mean()),
        hubs=hub_skewness(among.fill_diagonal_(torch.inf)),
        slope=of.slope(quantile) if quantile else None,
        compatibility=compatibility_scores(batches, {"": [sets]}, patches)[0].value,
    )


RULES: dict[str, Callable[[Line], float]] = {
    "ground truth": lambda each: each.ground_truth,
    "precision": lambda each: each.precision,
    "true sets": lambda each: each.true_sets,
    "fewest hubs": lambda each: -each.hubs,
    "slope": lambda each: -np.inf if each.slope is None else each.slope,
    "*the styles*": lambda each: each.compatibility,
}


def main(options: ScalingOptions) -> None:
    from jobs.show.cards import scenes_to_score
    from jobs.show.styles import read_styles, styles_file
    from model.retrievegan.run import bank_of, load_network
    from model.scores.choices import patch_styles
    from model.scores.scenes import distinct_patches, embed, scene_batches
    from pipeline.errors import UserError

    cpu = torch.device("cpu")
    bank = bank_of(options.run[0], options.bank)
    path = styles_file(options.styles, bank)
    if path is None:
        raise UserError(f"{bank.path} has no styles beside it: name them with --styles")
    styles = read_styles(path, bank)
    scenes = scenes_to_score(bank, "val", options.num, options.seed)
    batches = scene_batches(bank, scenes, min(CANDIDATES, bank.num_candidates), cpu)
    patches = [patch_styles(bank, batch.candidates, styles) for batch in batches]
    training = bank.patch_ids[np.isin(bank.patch_ids >> 16, bank.scene_ids("train"))]
    random = np.random.default_rng(options.seed)
    references = random.choice(training, min(options.references, len(training)), replace=False)
    ids = np.union1d(distinct_patches(batches), references)
    for each in options.run:
        model, _ = load_network(each, bank, cpu)
        of = embedded(embed(model, bank, ids), references)
        asked: list[tuple[str, Scale, float | None]] = [("as they are", as_it_is, None)]
        asked += [(s.__name__, s, q) for s in (divided, minus) for q in QUANTILES]
        lines = {
            (name, quantile): line(batches, patches, of, scale, quantile)
            for name, scale, quantile in progress(asked, "distances", len(asked), "measure")
        }
        print(f"\n{each}\n")
        for text in table(lines):
            print(text)


def table(lines: dict[tuple[str, float | None], Line]) -> Iterator[str]:
    """Of all measures of distance, and of what each rule would pick of those that divide."""
    columns = [name.replace("_", " ") for name in asdict(next(iter(lines.values())))]
    yield f"| distances | q | {' | '.join(columns)} |"
    yield "|---|" + "---:|" * (1 + len(columns))
    for (name, quantile), each in lines.items():
        values = ("" if value is None else f"{value:.3f}" for value in asdict(each).values())
        yield f"| {name} | {quantile or ''} | {' | '.join(values)} |"
    raw = lines["as they are", None].compatibility
    yield "\n| rule | q, divided | compatibility | as they are | q, minus | compatibility |"
    yield "|---|---:|---:|---:|---:|---:|"
    for rule, value in RULES.items():
        cells = []
        for way in ("divided", "minus"):
            own = {q: each for (name, q), each in lines.items() if name == way}
            best = max(own, key=lambda q: value(own[q]))
            told = value(own[best]) > -np.inf
            cells += [f"{best} | {own[best].compatibility:.3f}" if told else " | "]
        yield f"| {rule} | {cells[0]} | {raw:.3f} | {cells[1]} |"


if __name__ == "__main__":
    run(main, ScalingOptions, __doc__)
