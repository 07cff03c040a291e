"""A network and a bank's held-out scenes in, retrieval scores with intervals out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.bank import Bank
from bank.table import column
from model.batch import CandidateBatch
from model.batch import offered as may_be_chosen
from model.retrieval.greedy import Grid, grid_of
from model.retrievegan.network import RetrieveGAN
from model.scores import metrics
from model.scores.metrics import Offered, SceneSums
from pipeline.errors import UserError
from pipeline.progress import progress

GROUND_TRUTH = "ground-truth selection"
COMPATIBILITY = "compatibility"
SCENES_AT_ONCE = 64
PATCHES_AT_ONCE = 512


class Scenes(NamedTuple):
    """Some scenes with their candidates, without pixels."""

    patch_ids: Tensor  # (O,) true patches
    boxes: Tensor  # (O, 4)
    grid: Grid
    candidates: Tensor  # (O, K) ids, -1 where the padding is
    valid: Tensor  # (O, K)

    @property
    def num_images(self) -> int:
        return len(self.grid.present)


@dataclass(frozen=True)
class Score:
    """A row of the table and a line of metrics.jsonl."""

    metric: str
    choice: str
    value: float
    low: float
    high: float
    scenes: int  # that have a pair
    pairs: float  # the mean number where choices are drawn


class Features:
    """E_p of many patches, looked up by id."""

    def __init__(self, ids: NDArray[np.int64], vectors: Tensor) -> None:
        self.ids, self.vectors = ids, vectors  # (U,) rising, (U, E)

    def __call__(self, ids: Tensor) -> Tensor:
        """(...) -> (..., E); what padding gives means nothing."""
        rows = np.searchsorted(self.ids, ids.cpu().numpy().clip(self.ids[0]))
        return self.vectors[torch.from_numpy(rows).to(self.vectors.device)]


# Scenes, and a generator that is in the same state for every way of choosing -> (O,) in [0, K).
Choose = Callable[[Scenes, torch.Generator], Tensor]


def scene_batches(
    bank: Bank, image_ids: NDArray[np.int64], k: int, device: torch.device
) -> list[Scenes]:
    """The given scenes, a few at a time, with K candidates per object."""
    parts = np.array_split(image_ids, -(-len(image_ids) // SCENES_AT_ONCE))
    return [_scenes(bank, part, k, device) for part in parts]


def _scenes(bank: Bank, image_ids: NDArray[np.int64], k: int, device: torch.device) -> Scenes:
    samples = list(bank.contents.iterate(image_ids, image=False))
    patch_ids = np.concatenate([s.patch_ids for s in samples])
    counts = torch.tensor([len(s.patch_ids) for s in samples])
    image = torch.arange(len(samples)).repeat_interleave(counts).to(device)
    found = bank.candidates(patch_ids, k)
    return Scenes(
        torch.from_numpy(patch_ids),
        torch.from_numpy(np.concatenate([s.boxes for s in samples])).to(device),
        grid_of(image, len(samples)),
        torch.from_numpy(found.ids),
        torch.from_numpy(may_be_chosen(bank, found)).to(device),
    )


def distinct_patches(batches: Sequence[Scenes]) -> NDArray[np.int64]:
    """Ids of all patches that take part, true ones and candidates, rising: (U,)."""
    parts = [ids.numpy().ravel() for b in batches for ids in (b.patch_ids, b.candidates)]
    ids = np.unique(np.concatenate(parts))
    return ids[ids >= 0]


@torch.no_grad()
def embed(model: RetrieveGAN, bank: Bank, ids: NDArray[np.int64]) -> Features:
    """E_p of patches (U,), each computed once."""
    device = next(model.parameters()).device
    starts = range(0, len(ids), PATCHES_AT_ONCE)
    vectors = torch.cat(
        [
            model.embed(torch.from_numpy(bank.patches(ids[i : i + PATCHES_AT_ONCE])).to(device))
            for i in progress(starts, "embedding patches", len(starts), "block")
        ]
    )
    if not vectors.isfinite().all():
        raise UserError("E_p gives values that are not finite: no score can be told from it")
    return Features(ids, vectors)


def ground_truth_scores(
    batches: Sequence[Scenes], embeddings: Mapping[str, Features], seed: int
) -> list[Score]:
    """How often the true patch of an object is the nearest to that of another, by embedding.

    A constant E_p and the chance, which must be equal, come last.
    """
    ids = distinct_patches(batches)
    constant = Features(ids, torch.zeros(len(ids), 1))
    scores = []
    for name, features in {**embeddings, "constant E_p": constant}.items():
        found = [_ground_truth(b, features, _generator(seed, i)) for i, b in enumerate(batches)]
        earned = [
            metrics.sum_by_scene(p.credit, torch.ones_like(p.credit), p.image, b.num_images)
            for p, b in zip(found, batches, strict=True)
        ]
        scores.append(_score(GROUND_TRUTH, name, _joined(earned), seed))
    blind = [
        metrics.sum_by_scene(p.chance, torch.ones_like(p.chance), p.image, b.num_images)
        for p, b in zip(found, batches, strict=True)
    ]
    return [*scores, _score(GROUND_TRUTH, "chance", _joined(blind), seed)]


def _ground_truth(
    scenes: Scenes, features: Features, generator: torch.Generator
) -> metrics.GroundTruthPairs:
    device = scenes.valid.device
    return metrics.ground_truth_pairs(
        features(scenes.patch_ids).to(device),
        features(scenes.candidates).to(device),
        scenes.valid,
        scenes.grid.image,
        scenes.boxes,
        generator,
    )


def compatibility_scores(
    bank: Bank,
    batches: Sequence[Scenes],
    styles: NDArray[np.int64],
    ways: Mapping[str, Choose],
    *,
    draws: int,
    seed: int,
) -> list[Score]:
    """How often two chosen patches of a scene agree in style, for each way of choosing.

    styles (P,) of the photos of the bank's patches, in the order of `bank.patch_ids`. The chance,
    an even draw from the candidates, comes last.
    """
    offers = [_offered(bank, batch.candidates, styles) for batch in batches]
    scores = []
    for name, choose in ways.items():
        sums = [
            _agreement(batch, offered, choose, [_generator(seed, i, d) for d in range(draws)])
            for i, (batch, offered) in enumerate(zip(batches, offers, strict=True))
        ]
        scores.append(_score(COMPATIBILITY, name, _joined(sums), seed))
    blind = []
    for batch, offered in zip(batches, offers, strict=True):
        pairs = metrics.expected_compatibility(offered, batch.valid.cpu(), batch.grid.image.cpu())
        blind.append(
            metrics.sum_by_scene(pairs.agree, pairs.counted, pairs.image, batch.num_images)
        )
    return [*scores, _score(COMPATIBILITY, "chance", _joined(blind), seed)]


@torch.no_grad()
def _agreement(
    scenes: Scenes, offered: Offered, choose: Choose, generators: Sequence[torch.Generator]
) -> SceneSums:
    """Sums over a scene's pairs, the mean of the draws."""
    found = []
    for generator in generators:
        chosen = offered.take(choose(scenes, generator).cpu())
        pairs = metrics.compatibility(chosen, scenes.grid.image.cpu())
        found.append(
            metrics.sum_by_scene(pairs.agree, pairs.counted, pairs.image, scenes.num_images)
        )
    return SceneSums(*(np.mean(part, axis=0) for part in zip(*found, strict=True)))


def ways_to_choose(
    model: RetrieveGAN,
    bank: Bank,
    styles: NDArray[np.int64],
    embeddings: Mapping[str, Features],
) -> dict[str, Choose]:
    """Name -> way of choosing: the run's own, what it is measured against, and the oracle.

    embeddings: E_p by name, of which "trained" may be missing.
    """
    ways: dict[str, Choose] = {}
    own = embeddings.get("trained")
    if own is not None:
        ways["learned"] = _by_embedding(model, own, noise=False)
        ways["learned, noise on"] = _by_embedding(model, own, noise=True)
    ways["untrained"] = _by_embedding(model, embeddings["untrained"], noise=False)
    ways["predefined"] = lambda scenes, _: metrics.predefined_choice(scenes.valid)
    ways["random"] = lambda scenes, generator: metrics.random_choice(scenes.valid, generator)
    ways["start-conditioned oracle"] = _by_style(
        model, bank, styles, own or embeddings["untrained"]
    )
    return ways


def _by_embedding(model: RetrieveGAN, features: Features, *, noise: bool) -> Choose:
    def choose(scenes: Scenes, generator: torch.Generator) -> Tensor:
        nothing = scenes.valid.new_zeros(0)  # a choice by features looks at no pixels
        candidates = CandidateBatch(scenes.candidates, nothing, scenes.valid, nothing)
        embedded = features(scenes.candidates)
        return model.choose(candidates, embedded, scenes.grid, generator, noise=noise).chosen

    return choose


def _by_style(
    model: RetrieveGAN, bank: Bank, styles: NDArray[np.int64], features: Features
) -> Choose:
    start = model.config.retrieval.start

    def choose(scenes: Scenes, generator: torch.Generator) -> Tensor:
        known = _offered(bank, scenes.candidates, styles).styles.to(scenes.valid.device)
        return metrics.oracle_choice(
            known,
            scenes.valid,
            scenes.grid,
            generator,
            num_styles=int(styles.max()) + 1,
            start=start,
            features=features(scenes.candidates) if start == "medoid" else None,
        ).chosen

    return choose


def _offered(bank: Bank, ids: Tensor, styles: NDArray[np.int64]) -> Offered:
    """What the table says of patches; padding gets the first row, which nothing may use."""
    rows = bank.rows(ids.numpy().clip(bank.patch_ids[0]))
    corners = [column(bank.table, name)[rows] for name in ("x0", "y0", "x1", "y1")]
    return Offered(
        ids, torch.from_numpy(styles[rows]), torch.from_numpy(np.stack(corners, axis=-1))
    )


def _generator(*seed: int) -> torch.Generator:
    word = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word) >> 1)


def _joined(sums: Sequence[SceneSums]) -> SceneSums:
    return SceneSums(*(np.concatenate(part) for part in zip(*sums, strict=True)))


def _score(metric: str, choice: str, sums: SceneSums, seed: int) -> Score:
    if not sums.weights.any():
        raise UserError(
            f"{metric}: no scene has two objects that lie apart, so there is nothing to score; "
            f"score more scenes"
        )
    interval = metrics.bootstrap_interval(sums, seed)
    scenes, pairs = int((sums.weights > 0).sum()), float(sums.weights.sum())
    return Score(metric, choice, *interval, scenes, round(pairs, 2))
