"""How far the gradient of each relaxation is from the true one: bias, deviation and cosine.

python -m benchmarks.gradient

What is differentiated is the expected loss of the patches chosen in a scene of two or three
objects with three random candidates each, by the candidates' features. Two losses: the squared
distance of what the chosen patches look like, summed, to a target, and its pairs alone, which are
linear in each object's weights. The true gradient is found by enumeration of all choices, which is
exact in two of three cases:

query fixed    `retrieve` as it is: candidates of one object are chosen among by their softmax,
               whatever the other objects are given
fresh noise    the updated query, but new noise at every step, and exclusions without noise
updated query  `retrieve` as it trains. Its noise is kept over the steps, and after a choice what
               is left of it is no longer Gumbel noise: enumeration does not hold, and differences
               of the loss over many draws take its place

No relaxation has the gradient of which object wins a step: it reaches only the candidates of the
object that did. "Winners held" is the true gradient without that part. "Differences" are those of
a fixed query, to tell how exact differences are. Prints Markdown; bias and deviation are in lengths
of the true gradient, cosines are means over the scenes.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from model.config import Query, Relaxation
from model.padding import padding_of
from model.retrieval.distance import distances
from model.retrieval.greedy import MASKED, retrieve
from model.retrieval.relaxation import (
    gumbel,
    log_exclusion,
    one_hot_of_largest,
    straight_through,
)
from pipeline.options import option, run

K, E, LOOKS = 3, 2, 4  # candidates, width of a feature, width of what the losses see of a patch
LOSSES = ("pairs", "squared")
AVERAGED = 8  # draws of conditional noise of Gumbel-Rao
STEP = 0.05  # of a feature, for differences
ESTIMATORS: tuple[tuple[Any, float], ...] = (
    ("straight-through", 1.0), ("straight-through", 0.5), ("soft", 1.0), ("marginal", 1.0),
    ("gumbel-rao", 1.0), ("gumbel-rao", 0.5),
)  # fmt: skip


def gumbel_rao(
    logits: Tensor, chosen: Tensor, log_total: Tensor, uniform: Tensor, temperature: float
) -> Tensor:
    """Softmax of noisy logits averaged over noise by which the same candidate is chosen.

    Its gradient is the straight-through one with less variance (Paulus, Maddison & Krause 2021,
    arXiv 2010.04838).

    logits     (..., K)     of one object, without noise
    chosen     (..., K)     one-hot
    log_total  (...)        log of the summed exponentials of all logits that were chosen among,
                            other objects' too
    uniform    (S, ..., K)  random numbers in [0, 1), for S draws
    """
    noise = gumbel(uniform)
    largest = log_total[..., None] + (noise * chosen).sum(-1, keepdim=True)
    smaller = -torch.logaddexp(-logits - noise, -largest)
    noisy = torch.where(chosen.bool(), largest, smaller)
    return torch.softmax((logits + (noisy - logits).detach()) / temperature, dim=-1).mean(0)


@dataclass(frozen=True, kw_only=True)
class GradientOptions:
    scenes: Annotated[int, option("random scenes of each size")] = 20
    draws: Annotated[int, option("of noise, for each scene")] = 8192
    difference_draws: Annotated[int, option("... for differences of the loss")] = 1 << 16
    seed: int = 0


class Scene(NamedTuple):
    """One image. What the losses see of a patch is unlike its feature, as are pixels."""

    features: Tensor  # (O, K, E)
    query: Tensor  # (E,)
    looks: Tensor  # (O, K, G)
    target: Tensor  # (G,)


Chosen = Callable[[Tensor], Tensor]  # features (D, O, K, E) of D draws -> weights (D, O, K)


def random_scene(objects: int, generator: torch.Generator) -> Scene:
    shapes = (objects, K, E), (E,), (objects, K, LOOKS), (LOOKS,)
    return Scene(*(torch.randn(shape, generator=generator) for shape in shapes))


def losses(scene: Scene, weights: Tensor) -> Tensor:
    """Both losses of weights (..., O, K): (2, ...)."""
    looks = torch.einsum("...ok,okg->...og", weights, scene.looks)
    squared = (looks.sum(-2) - scene.target).square().sum(-1)
    return torch.stack([squared - looks.square().sum((-1, -2)), squared])


def expected_losses(scene: Scene, query_rule: Query, *, winners_held: bool = False) -> Tensor:
    """(2,) with fresh Gumbel noise at every step, by enumeration. A fixed query is without
    exclusions: these keep the order of kept noise, and so change no choice of `retrieve`.

    winners_held  which object wins a step has its probability, but no gradient
    """
    objects = len(scene.features)

    def after(path: list[tuple[int, int]], bias: Tensor) -> Tensor:
        """Expected losses after the choices (object, candidate) of a path."""
        if len(path) == objects:
            weights = torch.zeros(objects, K)
            weights[tuple(zip(*path, strict=True))] = 1
            return losses(scene, weights)
        query = scene.query
        if path and query_rule == "updated":
            query = torch.stack([scene.features[choice] for choice in path]).mean(0)
        won = [o for o, _ in path]
        closed = torch.tensor([o in won for o in range(objects)])[:, None]
        reach = distances(query[None], scene.features[None])[0]
        logits = (bias - reach).masked_fill(closed, MASKED)
        probabilities = torch.softmax(logits.flatten(), -1).view_as(logits)
        if query_rule == "updated":
            bias = bias + log_exclusion(probabilities)
        if winners_held:
            of_object = probabilities.sum(-1, keepdim=True).detach()
            probabilities = torch.softmax(logits, -1) * of_object
        return torch.stack([
            probabilities[o, i] * after([*path, (o, i)], bias)
            for o in range(objects) if o not in won for i in range(K)
        ]).sum(0)  # fmt: skip

    return after([], torch.zeros(objects, K))


def kept_noise(
    scene: Scene, noise: Tensor, query_rule: Query, features: Tensor, *, relaxation: Relaxation,
    temperature: float,
) -> Tensor:  # fmt: skip
    """Weights by `retrieve`, for each row of features (D, O, K, E) with its noise (D, O, K)."""
    draws, objects = noise.shape[:2]
    weights = retrieve(
        features.flatten(0, 1), torch.ones(draws * objects, K, dtype=torch.bool),
        padding_of(torch.arange(draws).repeat_interleave(objects), draws),
        scene.query.expand(draws, -1), noise=noise.flatten(0, 1), temperature=temperature,
        relaxation=relaxation, query_rule=query_rule,
    ).weights  # fmt: skip
    return weights.view_as(noise)


def fresh_noise(
    scene: Scene, uniform: Tensor, averaged: Tensor, features: Tensor, *, relaxation: str,
    temperature: float,
) -> Tensor:  # fmt: skip
    """Weights by the updated query with new noise at every step, features (D, O, K, E).

    uniform   (D, O, O, K)  random numbers of each step
    averaged  (S, D, O, K)  ... of each step's winner, for the conditional noise of Gumbel-Rao
    """
    draws, steps, objects, _ = uniform.shape
    bias = weights = torch.zeros(draws, objects, K)
    unassigned = torch.ones(draws, objects, 1, dtype=torch.bool)
    query, feature_sum = scene.query.expand(draws, -1), torch.zeros(draws, E)
    every = torch.arange(draws)
    for step in range(steps):
        logits = (bias - distances(query, features)).masked_fill(~unassigned, MASKED)
        bias = bias + log_exclusion(torch.softmax(logits.flatten(1), -1).view_as(logits))
        noisy = logits + gumbel(uniform[:, step])
        winner = noisy.flatten(1).argmax(-1) // K
        own, own_noisy = logits[every, winner], noisy[every, winner]
        hard = one_hot_of_largest(own_noisy)
        if relaxation == "marginal":
            own_weights = torch.softmax(own, -1)
        elif relaxation == "gumbel-rao":
            among = logits.flatten(1).logsumexp(-1)
            own_weights = gumbel_rao(own, hard, among, averaged[:, :, step], temperature)
        else:
            own_weights = torch.softmax(own_noisy / temperature, -1)
        if relaxation != "soft":
            own_weights = straight_through(own_weights, hard)
        won = F.one_hot(winner, objects)[:, :, None]
        weights = weights + won * own_weights[:, None]
        feature_sum = feature_sum + torch.einsum("dk,dke->de", own_weights, features[every, winner])
        query = feature_sum / (step + 1)
        unassigned = unassigned & ~won.bool()
    return weights


def enumerated(scene: Scene, query_rule: Query, *, winners_held: bool = False) -> Tensor:
    """Gradients of the expected losses, (2, O * K * E)."""
    features = scene.features.clone().requires_grad_()
    expected = expected_losses(
        scene._replace(features=features), query_rule, winners_held=winners_held
    )
    return _each_gradient(expected, features).flatten(1)


def by_differences(scene: Scene, query_rule: Query, draws: int, seed: int) -> Tensor:
    """Gradients of the expected losses of kept noise, (2, O * K * E): the same noise on both sides
    of each feature, from a scrambled Sobol sequence."""
    shape = scene.features.shape[:2]
    uniform = torch.quasirandom.SobolEngine(shape.numel(), scramble=True, seed=seed).draw(draws)
    noise = gumbel(uniform.view(draws, *shape))

    def mean_losses(features: Tensor) -> Tensor:
        rows = features.view_as(scene.features).expand(draws, -1, -1, -1)
        weights = kept_noise(
            scene, noise, query_rule, rows, relaxation="straight-through", temperature=1.0
        )
        return losses(scene, weights).mean(-1)

    middle = scene.features.flatten()
    with torch.no_grad():
        differences = [
            mean_losses(middle + step) - mean_losses(middle - step)
            for step in STEP * torch.eye(len(middle))
        ]
    return torch.stack(differences, -1) / (2 * STEP)


def of_each_draw(scene: Scene, chosen: Chosen, draws: int) -> Tensor:
    """Gradients of both losses by an estimator, (2, D, O * K * E)."""
    features = scene.features.expand(draws, -1, -1, -1).clone().requires_grad_()
    summed = losses(scene, chosen(features)).sum(-1)
    return _each_gradient(summed, features).flatten(2)


def _each_gradient(values: Tensor, features: Tensor) -> Tensor:
    """(2,) -> (2, ...) by features (...)."""
    return torch.stack(
        [torch.autograd.grad(value, features, retain_graph=True)[0] for value in values]
    )


def estimators(
    scene: Scene, draws: int, generator: torch.Generator
) -> Iterator[tuple[str, str, Chosen]]:
    """Case, name, and how it chooses. Gumbel-Rao is told of fresh noise alone."""
    objects = len(scene.features)
    uniform = torch.rand(draws, objects, objects, K, generator=generator)
    averaged = torch.rand(AVERAGED, draws, objects, K, generator=generator)
    kept = gumbel(uniform[:, 0])
    for relaxation, temperature in ESTIMATORS:
        name = relaxation if temperature == 1 else f"{relaxation}, temperature {temperature:g}"
        how = {"relaxation": relaxation, "temperature": temperature}
        yield "fresh noise", name, partial(fresh_noise, scene, uniform, averaged, **how)
        if relaxation != "gumbel-rao":
            yield "query fixed", name, partial(kept_noise, scene, kept, "fixed", **how)
            yield "updated query", name, partial(kept_noise, scene, kept, "updated", **how)


class Comparison:
    """Of an estimator's gradients with the true ones, over scenes; of both losses."""

    def __init__(self) -> None:
        self.bias, self.variance, self.true, self.of_mean, self.of_draw = torch.zeros(5, 2)
        self.draws = self.scenes = 0

    def add(self, found: Tensor, true: Tensor) -> None:
        """found (2, D, n), true (2, n)"""
        self.draws = found.shape[1]
        self.scenes += 1
        mean, variance = found.mean(1), found.var(1, correction=0).sum(-1)
        # The mean of D draws is off by a D-th of the variance besides.
        self.bias += (mean - true).square().sum(-1) - variance / self.draws
        self.variance += variance
        self.true += true.square().sum(-1)
        self.of_mean += F.cosine_similarity(mean, true, dim=-1)
        self.of_draw += F.cosine_similarity(found, true[:, None], dim=-1).mean(1)

    def cells(self) -> str:
        """For each loss: bias, cosine of the mean; of what has draws, deviation, cosine of one."""
        bias, deviation = (
            (square.clamp_min(0) / self.true).sqrt() for square in (self.bias, self.variance)
        )
        columns = bias, self.of_mean / self.scenes, deviation, self.of_draw / self.scenes
        told = len(columns) if self.draws > 1 else 2
        values = torch.stack(columns, 1).flatten().tolist()
        return " | ".join(
            f"{value:.2f}" if i % len(columns) < told else "" for i, value in enumerate(values)
        )


def compare(objects: int, options: GradientOptions) -> dict[tuple[str, str], Comparison]:
    """By case and name of the gradient."""
    generator = torch.Generator().manual_seed(options.seed)
    table: dict[tuple[str, str], Comparison] = defaultdict(Comparison)
    for number in range(options.scenes):
        scene = random_scene(objects, generator)
        differences = {
            rule: by_differences(scene, rule, options.difference_draws, options.seed + number)
            for rule in get_args(Query)
        }
        true = {
            "query fixed": enumerated(scene, "fixed"),
            "fresh noise": enumerated(scene, "updated"),
            "updated query": differences["updated"],
        }
        held = {rule: enumerated(scene, rule, winners_held=True) for rule in get_args(Query)}
        for case, name, other in (
            ("query fixed", "*differences*", differences["fixed"]),
            ("query fixed", "*winners held*", held["fixed"]),
            ("fresh noise", "*winners held*", held["updated"]),
            ("updated query", "*fresh noise*", true["fresh noise"]),
        ):
            table[case, name].add(other[:, None], true[case])
        for case, name, chosen in estimators(scene, options.draws, generator):
            table[case, name].add(of_each_draw(scene, chosen, options.draws), true[case])
    return table


def main(options: GradientOptions) -> None:
    each = ("bias", "cosine", "deviation", "cosine of a draw")
    columns = [f"{loss}: {what}" for loss in LOSSES for what in each]
    for objects in (2, 3):
        print(f"\n{objects} objects\n\n| case | gradient | {' | '.join(columns)} |")
        print("|---" * (2 + len(columns)) + "|")
        for (case, name), comparison in sorted(
            compare(objects, options).items(), key=lambda item: item[0][0]
        ):
            print(f"| {case} | {name} | {comparison.cells()} |", flush=True)


if __name__ == "__main__":
    run(main, GradientOptions, __doc__)
