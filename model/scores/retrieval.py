"""Retrieval scores of a network, with intervals, on a bank's held-out scenes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bank.bank import Bank
from bank.table import column
from model.batch import crops_of, moved, selectable
from model.config import RetrievalConfig
from model.draws import OneStream
from model.padding import Padding, padding_of
from model.retrieval.choice import choose, draw_choice
from model.retrieval.crops import Crops
from model.retrievegan.network import RetrieveGAN
from model.scores import metrics
from model.scores.metrics import PatchStyles, SceneSums
from pipeline.errors import UserError
from pipeline.progress import progress, reporting

GROUND_TRUTH = "ground-truth selection"
COMPATIBILITY = "compatibility"
SCENES_AT_ONCE = 64
PATCHES_AT_ONCE = 512
VALIDATION_SCENES = 256  # scored while a run is trained


class Scenes(NamedTuple):
    """Some scenes with their candidates, without pixels."""

    patch_ids: Tensor  # (O,) true patches
    boxes: Tensor  # (O, 4)
    padding: Padding
    candidates: Tensor  # (O, K) ids, -1 where the padding is
    valid: Tensor  # (O, K)
    crops: Crops  # (O, K)

    @property
    def num_images(self) -> int:
        return self.padding.num_images


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
        self.ids, self.vectors = ids, vectors  # (B,) rising, (B, E)

    def __call__(self, ids: Tensor) -> Tensor:
        """Patch ids (...) -> (..., E); of padding (-1) some patch's vector, to be masked."""
        rows = np.searchsorted(self.ids, ids.cpu().numpy().clip(self.ids[0]))
        return self.vectors[torch.from_numpy(rows).to(self.vectors.device)]


# Scenes, and a generator in the same state for every method -> the selected candidates, (O,).
SelectionMethod = Callable[[Scenes, torch.Generator], Tensor]


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
    candidates = bank.candidates(patch_ids, k)
    return Scenes(
        torch.from_numpy(patch_ids),
        torch.from_numpy(np.concatenate([s.boxes for s in samples])).to(device),
        padding_of(image, len(samples)),
        torch.from_numpy(candidates.ids),
        torch.from_numpy(selectable(bank, candidates)).to(device),
        moved(crops_of(bank, bank.padded_rows(candidates.ids)), device),
    )


def distinct_patches(batches: Sequence[Scenes]) -> NDArray[np.int64]:
    """Ids of all patches that take part, true ones and candidates, rising: (B,)."""
    parts = [ids.numpy().ravel() for b in batches for ids in (b.patch_ids, b.candidates)]
    ids = np.unique(np.concatenate(parts))
    return ids[ids >= 0]


@torch.no_grad()
def embed(model: RetrieveGAN, bank: Bank, ids: NDArray[np.int64]) -> Features:
    """E_p of patches (B,), each computed once."""
    device = next(model.parameters()).device
    starts = range(0, len(ids), PATCHES_AT_ONCE)
    vectors = torch.cat(
        [
            model.embed(torch.from_numpy(bank.patches(ids[i : i + PATCHES_AT_ONCE])).to(device))
            for i in progress(starts, "embedding patches", len(starts), "block")
        ]
    )
    if not vectors.isfinite().all():
        raise UserError("E_p gives values that are not finite, so nothing can be scored")
    return Features(ids, vectors)


def ground_truth_scores(
    batches: Sequence[Scenes], embeddings: Mapping[str, Features], seed: int
) -> list[Score]:
    """How often the true patch of an object is the nearest to that of another, by embedding.

    Those of a constant E_p and the chance, which must be equal, come last.
    """
    ids = distinct_patches(batches)
    scores = []
    for name, features in {**embeddings, "constant E_p": constant(ids)}.items():
        pairs = [_ground_truth(b, features, _generator(seed, i)) for i, b in enumerate(batches)]
        credits = [
            metrics.sum_by_scene(p.credit, torch.ones_like(p.credit), p.image, b.num_images)
            for p, b in zip(pairs, batches, strict=True)
        ]
        scores.append(_score(GROUND_TRUTH, name, _joined(credits), seed))
    chance = [
        metrics.sum_by_scene(p.chance, torch.ones_like(p.chance), p.image, b.num_images)
        for p, b in zip(pairs, batches, strict=True)
    ]
    return [*scores, _score(GROUND_TRUTH, "chance", _joined(chance), seed)]


def _ground_truth(
    scenes: Scenes, features: Features, generator: torch.Generator
) -> metrics.GroundTruthPairs:
    device = scenes.valid.device
    return metrics.ground_truth_pairs(
        features(scenes.patch_ids).to(device),
        features(scenes.candidates).to(device),
        scenes.valid,
        scenes.padding.image,
        scenes.boxes,
        generator,
    )


def validation_score(model: nn.Module, bank: Bank) -> Callable[[], float] | None:
    """What gives the ground-truth selection score of the network as it then is, on some val scenes
    and with as many candidates as in training: a function of its weights and the bank.

    None where there is nothing to score: retrieval is not learned, or no val scene has a pair.
    """
    if not isinstance(model, RetrieveGAN) or model.config.retrieval.mode != "learned":
        return None
    ids = bank.scene_ids("val")
    if not len(ids):
        return None
    some = np.random.default_rng(0).choice(ids, min(VALIDATION_SCENES, len(ids)), replace=False)
    device = next(model.parameters()).device
    batches = scene_batches(bank, np.sort(some), model.config.retrieval.candidates, device)
    patches = distinct_patches(batches)

    def score() -> float:
        with reporting(lambda _: None):  # no bar for these seconds
            features = embed(model, bank, patches)
        pairs = [_ground_truth(b, features, _generator(0, i)) for i, b in enumerate(batches)]
        return float(torch.cat([p.credit for p in pairs]).mean())

    credits = [_ground_truth(b, constant(patches), _generator(0)).credit for b in batches]
    return score if sum(map(len, credits)) else None


def constant(ids: NDArray[np.int64]) -> Features:
    """Of an E_p that tells no patches apart."""
    return Features(ids, torch.zeros(len(ids), 1))


def compatibility_scores(
    bank: Bank,
    batches: Sequence[Scenes],
    styles: NDArray[np.int64],
    methods: Mapping[str, SelectionMethod],
    *,
    draws: int,
    seed: int,
) -> list[Score]:
    """How often two selected patches of a scene agree in style, for each method of selection.

    styles: of the photos of the bank's patches, in the order of `bank.patch_ids`. The chance, where
    each candidate is equally likely, comes last.
    """
    patches = [_patch_styles(bank, batch.candidates, styles) for batch in batches]
    scores = []
    for name, method in methods.items():
        sums = [
            _agreement(batch, candidates, method, [_generator(seed, i, d) for d in range(draws)])
            for i, (batch, candidates) in enumerate(zip(batches, patches, strict=True))
        ]
        scores.append(_score(COMPATIBILITY, name, _joined(sums), seed))
    chance = []
    for batch, candidates in zip(batches, patches, strict=True):
        pairs = metrics.expected_compatibility(
            candidates, batch.valid.cpu(), batch.padding.image.cpu()
        )
        chance.append(
            metrics.sum_by_scene(pairs.agree, pairs.counted, pairs.image, batch.num_images)
        )
    return [*scores, _score(COMPATIBILITY, "chance", _joined(chance), seed)]


@torch.no_grad()
def _agreement(
    scenes: Scenes,
    candidates: PatchStyles,
    method: SelectionMethod,
    generators: Sequence[torch.Generator],
) -> SceneSums:
    """Sums over a scene's pairs, the mean over the draws."""
    sums = []
    for generator in generators:
        selected = candidates.take(method(scenes, generator).cpu())
        pairs = metrics.compatibility(selected, scenes.padding.image.cpu())
        sums.append(
            metrics.sum_by_scene(pairs.agree, pairs.counted, pairs.image, scenes.num_images)
        )
    return SceneSums(*(np.mean(part, axis=0) for part in zip(*sums, strict=True)))


def selection_methods(
    rule: RetrievalConfig,
    bank: Bank,
    styles: NDArray[np.int64],
    embeddings: Mapping[str, Features],
) -> dict[str, SelectionMethod]:
    """The methods of selection by name: the run's own, those it is compared with, the oracle.

    embeddings: E_p by name, of which "trained" may be missing.
    """
    methods: dict[str, SelectionMethod] = {}
    learned = replace(rule, mode="learned")
    own = embeddings.get("trained")
    if own is not None:
        methods["learned"] = _by_rule(learned, own, noise=False)
        methods["learned, noise on"] = _by_rule(learned, own, noise=True)
    methods["untrained"] = _by_rule(learned, embeddings["untrained"], noise=False)
    for mode in ("predefined", "random"):
        methods[mode] = _by_rule(replace(rule, mode=mode), None, noise=False)
    methods["start-conditioned oracle"] = _by_style(
        rule, bank, styles, own or embeddings["untrained"]
    )
    return methods


def _by_rule(rule: RetrievalConfig, features: Features | None, *, noise: bool) -> SelectionMethod:
    def select(scenes: Scenes, generator: torch.Generator) -> Tensor:
        draws = draw_choice(rule, scenes.valid, scenes.padding, OneStream(generator), noise=noise)
        device = scenes.valid.device
        embedded = None if features is None else features(scenes.candidates)
        return choose(
            rule, embedded, scenes.valid, scenes.padding, moved(draws, device), scenes.crops
        ).selected

    return select


def _by_style(
    rule: RetrievalConfig, bank: Bank, styles: NDArray[np.int64], features: Features
) -> SelectionMethod:
    def select(scenes: Scenes, generator: torch.Generator) -> Tensor:
        patches = _patch_styles(bank, scenes.candidates, styles)
        return metrics.oracle_choice(
            patches.styles.to(scenes.valid.device),
            scenes.valid,
            scenes.padding,
            generator,
            num_styles=int(styles.max()) + 1,
            start=rule.start,
            features=features(scenes.candidates),
            crops=None if rule.same_patch_allowed else scenes.crops,
        ).selected

    return select


def _patch_styles(bank: Bank, ids: Tensor, styles: NDArray[np.int64]) -> PatchStyles:
    """Styles and boxes of patches (O, K); of padding (-1) those of some patch, to be masked."""
    rows = bank.rows(ids.numpy().clip(bank.patch_ids[0]))
    corners = [column(bank.table, name)[rows] for name in ("x0", "y0", "x1", "y1")]
    return PatchStyles(
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
            f"{metric}: no scene has two objects that do not overlap, so nothing can be scored; "
            f"score more scenes"
        )
    interval = metrics.bootstrap_interval(sums, seed)
    scenes, pairs = int((sums.weights > 0).sum()), float(sums.weights.sum())
    return Score(metric, choice, *interval, scenes, round(pairs, 2))
