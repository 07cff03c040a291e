"""Do distances scaled by local density choose better sets, and can the scale be found without the
hidden styles?

python -m benchmarks.scaling --run runs/demo

A bland patch lies close to everything. `divided` is local scaling (Zelnik-Manor and Perona 2004;
against hubs, Schnitzer et al. 2012): a distance divided by the root of the product of both patches'
reach, which is their q-quantile distance to training patches. `minus` takes the mean of both off.
For each q, on val scenes:

ground truth   ground-truth selection by the scaled distances
precision      average precision of pairs of one scene's true patches, against one of them and a
               candidate of the other
true sets      the share of true patches in the tightest set, where they are offered as well
hubs           skewness of how often a training patch is among the ten nearest of others
slope          of the logarithm of reach over that of q: it is steep where a patch's reach leaves
               the patches that are like it
compatibility  of the tightest set

All but the last are known without styles. The second table tells which q each would pick: that with
the most of it, the fewest hubs. Prints Markdown.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks.choosing import RunsOptions
from jobs.claims.scoring import HeldOut
from model.retrieval.crops import Crops
from model.retrieval.distance import between
from model.retrieval.search import search_space, tightest
from model.scores.metrics import overlapping, pairs_of
from model.scores.retrieval import compatibility_scores
from model.scores.scenes import (
    CANDIDATES,
    PATCHES_AT_ONCE,
    Features,
    Scenes,
    distinct_patches,
    embed,
)
from pipeline.options import option, run
from pipeline.progress import progress
from pipeline.scene import image_of

QUANTILES = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09, 0.1, 0.11, 0.125, 0.15, 0.2, 0.3,
             0.5)  # fmt: skip
NEIGHBOURS = 10
PASSES = 1  # as by default
WIDER = 1.15  # the slope at q is taken from q / WIDER to q * WIDER


@dataclass(frozen=True, kw_only=True)
class ScalingOptions(RunsOptions):
    references: Annotated[int, option("training patches by which reach is measured")] = 1500


# Distances and the reach of both patches, broadcast -> distances
Scale = Callable[[Tensor, Tensor, Tensor], Tensor]


def as_they_are(distance: Tensor, *_: Tensor) -> Tensor:
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


class Embedded:
    """E_p of the patches of some scenes, and how far they lie from R training patches."""

    def __init__(self, look: Features, references: NDArray[np.int64]) -> None:
        self.look = look
        vectors = look(torch.from_numpy(references))
        apart = [
            between(look.vectors[start : start + PATCHES_AT_ONCE], vectors)
            for start in range(0, len(look.ids), PATCHES_AT_ONCE)
        ]
        self.sorted = torch.cat(apart).sort(1).values  # (B, R) distances, rising
        self.among = between(vectors, vectors).fill_diagonal_(torch.inf)  # (R, R)
        self.sorted_among = self.among.sort(1).values

    def reach(self, quantile: float) -> Features:
        """(B, 1)"""
        return Features(self.look.ids, self.sorted[:, [self._column(quantile)]])

    def among_scaled(self, scale: "Scale", quantile: float) -> Tensor:
        """Scaled distances of training patches, (R, R); infinite to themselves."""
        reach = self.sorted_among[:, self._column(quantile)]
        return scale(self.among, reach[:, None], reach[None])

    def slope(self, quantile: float) -> float:
        columns = [self._column(quantile / WIDER), self._column(quantile * WIDER)]
        low, high = self.sorted_among[:, columns].log().mean(0).tolist()
        return float((high - low) / np.log((columns[1] + 1) / (columns[0] + 1)))

    def _column(self, quantile: float) -> int:
        return int(quantile * self.sorted.shape[1])


def pairs_of_scenes(
    scenes: Scenes, look: Features, reach: Features, scale: Scale
) -> tuple[Tensor, Tensor]:
    """Scaled distances of the true patches of ordered pairs of objects whose crops do not overlap
    (Q,), and of the first's true patch to the second's candidates (Q, K), infinite for padding."""
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
    """Selected (O,)."""
    return _tightest(scenes, scenes.candidates, scenes.valid, scenes.crops, look, reach, scale)


def true_sets(scenes: Scenes, look: Features, reach: Features, scale: Scale) -> Tensor:
    """(O,) whether the true patch is chosen, offered behind the candidates."""
    ids = torch.cat([scenes.candidates, scenes.patch_ids[:, None]], 1)
    valid = F.pad(scenes.valid, (0, 1), value=True)
    photo = -2 - scenes.padding.image[:, None]  # no candidate's, and an empty box is no other crop
    true_crops = Crops(photo, torch.zeros_like(scenes.boxes)[:, None])
    both = zip(scenes.crops, true_crops, strict=True)
    crops = Crops(*(torch.cat(parts, 1) for parts in both))
    selected = _tightest(scenes, ids, valid, crops, look, reach, scale)
    return selected == scenes.candidates.shape[1]


def _tightest(
    scenes: Scenes, ids: Tensor, valid: Tensor, crops: Crops, look: Features, reach: Features,
    scale: Scale,
) -> Tensor:  # fmt: skip
    """Of patches (O, K), the selected (O,)."""
    padding = scenes.padding
    padded = padding.pad(look(ids)).flatten(1, 2)
    padded_reach = padding.pad(reach(ids)).flatten(1, 3)
    apart = scale(between(padded, padded), padded_reach[:, :, None], padded_reach[:, None])
    slots = tightest(search_space(apart, None, valid, padding, crops), PASSES).slots
    return padding.unpad(slots % valid.shape[1])


def hub_skewness(distances: Tensor) -> float:
    """Of how often each of R patches is among another's nearest; distances (R, R)."""
    nearest = distances.topk(NEIGHBOURS, largest=False).indices
    counts = torch.bincount(nearest.flatten(), minlength=len(distances)).double()
    deviations = counts - counts.mean()
    return float((deviations**3).mean() / (deviations**2).mean() ** 1.5)


def line(held_out: HeldOut, of: Embedded, scale: Scale, quantile: float | None) -> Line:
    batches = held_out.batches
    reach = of.reach(quantile or 0.5)
    pairs = [pairs_of_scenes(batch, of.look, reach, scale) for batch in batches]
    positive, negative = (torch.cat(part) for part in zip(*pairs, strict=True))
    true = torch.cat([true_sets(batch, of.look, reach, scale) for batch in batches])
    sets = [tightest_sets(batch, of.look, reach, scale) for batch in batches]
    return Line(
        ground_truth=float((positive < negative.amin(1)).double().mean()),
        precision=average_precision(positive, negative[negative.isfinite()]),
        true_sets=float(true.double().mean()),
        hubs=hub_skewness(of.among_scaled(scale, quantile or 0.5)),
        slope=of.slope(quantile) if quantile else None,
        compatibility=compatibility_scores(batches, {"": [sets]}, held_out.patches)[0].value,
    )


RULES: dict[str, Callable[[Line], float]] = {
    "ground truth": lambda each: each.ground_truth,
    "precision": lambda each: each.precision,
    "true sets": lambda each: each.true_sets,
    "fewest hubs": lambda each: -each.hubs,
    "steepest slope": lambda each: each.slope or -np.inf,
    "*the styles*": lambda each: each.compatibility,
}


def table(lines: dict[tuple[str, float | None], Line]) -> Iterator[str]:
    """Of all distances, and of what each rule picks."""
    columns = [name.replace("_", " ") for name in Line.__annotations__]
    yield f"| distances | q | {' | '.join(columns)} |"
    yield "|---|" + "---:|" * (1 + len(columns))
    for (name, quantile), each in lines.items():
        values = ("" if value is None else f"{value:.3f}" for value in asdict(each).values())
        yield f"| {name} | {quantile or ''} | {' | '.join(values)} |"
    yield "\n| picked by | q, divided | compatibility | q, minus | compatibility |"
    yield "|---|---:|---:|---:|---:|"
    for rule, value in RULES.items():
        cells = []
        for scale in (divided, minus):
            own = {q: each for (name, q), each in lines.items() if name == scale.__name__}
            best = max(own, key=lambda q: value(own[q]))
            cells.append(f"{best} | {own[best].compatibility:.3f}")
        yield f"| {rule} | {' | '.join(cells)} |"


def main(options: ScalingOptions) -> None:
    bank = options.opened
    held_out = options.held_out(min(CANDIDATES, bank.num_candidates))
    training = bank.patch_ids[np.isin(image_of(bank.patch_ids), bank.scene_ids("train"))]
    random = np.random.default_rng(options.seed)
    references = random.choice(training, min(options.references, len(training)), replace=False)
    patches = np.union1d(distinct_patches(held_out.batches), references)
    for run_folder in options.run:
        of = Embedded(embed(options.network(run_folder), bank, patches), references)
        asked: list[tuple[str, Scale, float | None]] = [("as they are", as_they_are, None)]
        asked += [(scale.__name__, scale, q) for scale in (divided, minus) for q in QUANTILES]
        lines = {
            (name, quantile): line(held_out, of, scale, quantile)
            for name, scale, quantile in progress(asked, "scaling", len(asked), "measure")
        }
        print(f"\n{run_folder}\n", *table(lines), sep="\n")


if __name__ == "__main__":
    run(main, ScalingOptions, __doc__)
