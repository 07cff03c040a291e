"""Scores of sets of pictures on their features: Fréchet and kernel distance, precision and recall,
inception score.

All in float64, and written out here, a few lines each. torchmetrics takes the Fréchet distance from
eigenvalues of a product of covariances, which for equal sets of fewer pictures than dimensions is
not 0, draws from torch's global generator, and has neither precision nor recall; torch-fidelity
needs torchvision. Subsets and orders are drawn as torch-fidelity draws them, so that a seed gives
its numbers. Tests compare with the answers of both.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.scores.extractors import Extractor, PictureFeatures
from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.wording import counted

SUBSETS, SUBSET_SIZE = 100, 1000  # of the kernel distance, as torch-fidelity has them
SPLITS = 10  # of the inception score, as in the paper that brought it
NEIGHBOURS = 3  # of precision and recall
ROWS_AT_ONCE = 1024  # of a matrix with a row per picture, and a column per picture


class Spread(NamedTuple):
    """A mean over subsets or splits, and their standard deviation; None where there is one."""

    mean: float
    deviation: float | None


class PrecisionRecall(NamedTuple):
    """Shares from 0 to 1."""

    precision: float
    recall: float


@dataclass(frozen=True)
class NamedValue:
    """A score of a set of pictures, under the name by which it may be printed."""

    name: str
    value: float
    spread: float | None = None  # standard deviation over subsets or splits
    unreliable: str | None = None  # why it is, with the counts; None: it is not


def distribution_scores(
    extractor: Extractor,
    reference: PictureFeatures,
    pictures: PictureFeatures,
    seed: int,
    per_scene: int = 1,
) -> list[NamedValue]:
    """All scores of a set of pictures against a reference set, in the order of a table.

    per_scene  pictures of each scene, which follow each other. Precision and recall are of the
               first of each: with a few alike, a picture's neighbours are those of its own scene

    The names of the literature are for its networks with its weights alone. UserError where a set
    has too few pictures.
    """
    for what, of in (("reference", reference), ("pictures", pictures)):
        if len(of.vectors) <= NEIGHBOURS:
            raise UserError(
                f"{what}: {counted(len(of.vectors), 'picture')}; "
                f"scores of sets need at least {NEIGHBOURS + 1}"
            )
    names = names_of(extractor)
    few = _too_few_for_covariance(reference.vectors, pictures.vectors)
    kernel = kernel_distance(pictures.vectors, reference.vectors, seed)
    manifolds = precision_recall(reference.vectors, pictures.vectors[::per_scene])
    distance = frechet_distance(reference.vectors, pictures.vectors)
    scores = [
        NamedValue(names.frechet, distance, unreliable=few),
        NamedValue(names.kernel, kernel.mean, kernel.deviation),
        NamedValue(names.precision, manifolds.precision),
        NamedValue(names.recall, manifolds.recall),
    ]
    if pictures.logits is not None:
        classes = inception_score(pictures.logits, seed)
        few = _too_few_for_classes(pictures.logits)
        scores.append(NamedValue(names.classes, classes.mean, classes.deviation, few))
    return scores


class Names(NamedTuple):
    """The names of an extractor's scores."""

    frechet: str
    kernel: str
    precision: str
    recall: str
    classes: str  # of what an inception score is with Inception
    diversity: str  # of `pair_distances` in its features


def names_of(extractor: Extractor) -> Names:
    """Those of the literature only for the published weights of Inception and DINOv2."""
    of = f"({extractor.name})"
    if extractor.name in ("inception", "dinov2") and not extractor.published:
        of = f"({extractor.name}, weights {extractor.sha256[:8]})"
    own = Names(
        *(f"{score} {of}" for score in ("Fréchet distance", "kernel distance")),
        *(f"{score} {of}" for score in ("precision", "recall", "classifier score", "diversity")),
    )
    if not extractor.published:
        return own
    if extractor.name == "inception":
        return own._replace(
            frechet="FID", kernel="KID", precision="precision", recall="recall", classes="IS"
        )
    return own._replace(frechet="FD-DINOv2")


def _too_few_for_covariance(*sets: Tensor) -> str | None:
    least, width = min(map(len, sets)), sets[0].shape[1]
    return f"{counted(least, 'picture')} for {width:,} dimensions" if least <= width else None


def _too_few_for_classes(logits: Tensor) -> str | None:
    n, classes = logits.shape
    return f"{counted(n, 'picture')} for {classes:,} classes" if n < classes else None


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Between the Gaussians with the means and covariances of two sets, (n, D) and (m, D).

    Heusel et al. (2017), equation 6. With covariances A^T A and B^T B, the trace of the root of
    their product is the sum of the singular values of A B^T: of equal sets the distance is 0 to
    rounding, with however few pictures.
    """
    (mean, root), (other_mean, other_root) = _gaussian(first), _gaussian(second)
    overlap = torch.linalg.svdvals(root @ other_root.T).sum()
    spreads = root.square().sum() + other_root.square().sum()
    return float((mean - other_mean).square().sum() + spreads - 2 * overlap)


def _gaussian(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (n, D) -> their mean (D,), and a matrix A (at most D, D) with covariance A^T A."""
    values = vectors.double()
    mean = values.mean(0)
    root = torch.linalg.qr(values - mean, mode="r").R
    return mean, root / (len(values) - 1) ** 0.5


def kernel_distance(
    first: Tensor, second: Tensor, seed: int, subsets: int = SUBSETS, size: int = SUBSET_SIZE
) -> Spread:
    """The unbiased squared maximum mean discrepancy of two sets, (n, D) and (m, D), with the kernel
    (x y / D + 1)^3: Binkowski et al. (2018).

    Over random subsets of that size; where a set has no more pictures, once over all of both.
    Below 0 where the sets are nearer than two of one distribution are on average.
    """
    x, y = first.double(), second.double()
    chosen, other_chosen = _subsets(len(x), len(y), seed, subsets, size)
    n, m = chosen.sum(0), other_chosen.sum(0)
    within = _sums_of_others(x, chosen) / (n * (n - 1))
    within_other = _sums_of_others(y, other_chosen) / (m * (m - 1))
    across = _kernel_sums(x, y, chosen, other_chosen) / (n * m)
    values = within + within_other - 2 * across
    deviation = float(values.std(correction=0)) if len(values) > 1 else None
    return Spread(float(values.mean()), deviation)


def _subsets(n: int, m: int, seed: int, subsets: int, size: int) -> tuple[Tensor, Tensor]:
    """(n, S) and (m, S): 1 for what is in a subset, else 0."""
    if min(n, m) <= size:
        return torch.ones(n, 1).double(), torch.ones(m, 1).double()
    chosen = np.zeros((n, subsets)), np.zeros((m, subsets))
    random = np.random.RandomState(seed)
    for subset in range(subsets):
        for of_set in chosen:
            of_set[random.choice(len(of_set), size, replace=False), subset] = 1
    return torch.from_numpy(chosen[0]), torch.from_numpy(chosen[1])


def _kernel_sums(x: Tensor, y: Tensor, chosen: Tensor, other_chosen: Tensor) -> Tensor:
    """Over all pairs of a subset of x (n, D), by chosen (n, S), and the one of y: (S,)."""
    sums = torch.zeros(chosen.shape[1], dtype=torch.float64)
    weights = torch.split(chosen, ROWS_AT_ONCE)
    for rows, weight in zip(_blocks(x, "kernel distance"), weights, strict=True):
        sums += (weight * (_kernel(rows @ y.T / x.shape[1]) @ other_chosen)).sum(0)
    return sums


def _sums_of_others(x: Tensor, chosen: Tensor) -> Tensor:
    """Over all pairs of two of a subset: (S,)."""
    with_itself = _kernel(x.square().sum(1) / x.shape[1]) @ chosen
    return _kernel_sums(x, x, chosen, chosen) - with_itself


def _kernel(products: Tensor) -> Tensor:
    return (products + 1) ** 3


def precision_recall(reference: Tensor, pictures: Tensor) -> PrecisionRecall:
    """The shares of the pictures that lie among the reference, and the other way round.

    reference (n, D), pictures (m, D). A vector lies among a set where it is no farther from one of
    the set's vectors than that one's third neighbour: Kynkäänniemi et al. (2019).
    """
    real, made = reference.double(), pictures.double()
    return PrecisionRecall(
        _share_among(real, made, "precision"), _share_among(made, real, "recall")
    )


def _share_among(around: Tensor, vectors: Tensor, what: str) -> float:
    """The share of `vectors` that lie among the others."""
    radii = torch.cat(
        [
            _squared_distances(rows, around).kthvalue(NEIGHBOURS + 1).values  # the first is itself
            for rows in _blocks(around, f"{what}, neighbours")
        ]
    )
    among = [(_squared_distances(rows, around) <= radii).any(1) for rows in _blocks(vectors, what)]
    return float(torch.cat(among).double().mean())


def _blocks(vectors: Tensor, what: str) -> Iterable[Tensor]:
    """Some rows at a time; with progress where that takes a while."""
    blocks = torch.split(vectors, ROWS_AT_ONCE)
    return progress(blocks, what, len(blocks), "block") if len(blocks) > 3 else blocks


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """x (n, D), y (m, D) -> (n, m)."""
    return x.square().sum(1)[:, None] + y.square().sum(1) - 2 * (x @ y.T)


def inception_score(logits: Tensor, seed: int, splits: int = SPLITS) -> Spread:
    """exp of the mean divergence of the pictures' classes from their mean, by splits of the
    pictures (n, C) in a random order: Salimans et al. (2016)."""
    order = np.random.RandomState(seed).permutation(len(logits))
    p = logits.double()[torch.from_numpy(order)].softmax(1)
    splits = min(splits, len(p))
    ends = [i * len(p) // splits for i in range(splits + 1)]
    scores = [_classifier_score(p[a:b]) for a, b in pairwise(ends)]
    return Spread(float(np.mean(scores)), float(np.std(scores)))


def _classifier_score(p: Tensor) -> float:
    """The divergence is the entropy of the mean less the mean entropy."""
    of_mean, of_each = torch.special.entr(p.mean(0)).sum(), torch.special.entr(p).sum(1).mean()
    return float((of_mean - of_each).exp())
