"""Ways of choosing a patch for each object of held-out scenes: a run's own, those that it is
compared with, and the oracles."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.bank import Bank
from bank.table import column
from model.batch import moved
from model.config import RetrievalConfig
from model.retrieval.choice import choose, draw_choice, draws_differ
from model.scores import oracles
from model.scores.metrics import PatchStyles
from model.scores.scenes import Features, Scenes
from pipeline.progress import Bar

# The selected candidates (O,) of each batch of scenes, for each draw; by the method's name.
Choices = Mapping[str, Sequence[Sequence[Tensor]]]


@dataclass(frozen=True)
class SelectionMethod:
    """A way of choosing."""

    select: Callable[[Scenes, int], Tensor]  # scenes, the seed of a draw -> (O,)
    is_drawn: bool  # whether draws differ


def choose_all(
    batches: Sequence[Scenes], methods: Mapping[str, SelectionMethod], draws: int, seed: int
) -> dict[str, list[list[Tensor]]]:
    """What each method selects: by its name, for each draw and batch, (O,) on the CPU.

    A method that draws nothing chooses once, and that counts as every draw.
    """
    scenes = sum(batch.num_images for batch in batches)
    times = {name: draws if method.is_drawn else 1 for name, method in methods.items()}
    chosen: dict[str, list[list[Tensor]]] = {}
    with Bar("choosing patches", sum(times.values()) * scenes, "scene") as bar, torch.no_grad():
        for name, method in methods.items():
            own: list[list[Tensor]] = [[] for _ in range(times[name])]
            for draw, of_draw in enumerate(own):
                for batch in batches:
                    of_draw.append(method.select(batch, seed + draw).cpu())
                    bar.advance(batch.num_images)
            chosen[name] = own * (draws // times[name])
    return chosen


def selection_methods(
    rule: RetrievalConfig, embeddings: Mapping[str, Features]
) -> dict[str, SelectionMethod]:
    """The methods of selection by name: the run's own, and those it is compared with.

    embeddings: E_p by name, of which "trained" may be missing.
    """
    methods: dict[str, SelectionMethod] = {}
    learned = replace(rule, mode="learned")
    own = embeddings.get("trained")
    if own is not None:
        methods["learned"] = by_rule(learned, own, noise=False)
        methods["learned, noise on"] = by_rule(learned, own, noise=True)
    methods["untrained"] = by_rule(learned, embeddings["untrained"], noise=False)
    for mode in ("predefined", "random"):
        methods[mode] = by_rule(replace(rule, mode=mode), None, noise=False)
    return methods


def oracle_methods(
    rule: RetrievalConfig, bank: Bank, styles: NDArray[np.int64], features: Features
) -> dict[str, SelectionMethod]:
    """What the methods of selection come to at most, by name.

    styles    of the photos of the bank's patches, in the order of `bank.patch_ids`
    features  the run's E_p, by which a start is found that is not drawn
    """
    own = "oracle from every start" if rule.start == "best" else "start-conditioned oracle"
    return {
        own: by_style(rule, bank, styles, features),
        "global oracle": globally_by_style(bank, styles),
    }


def by_rule(rule: RetrievalConfig, features: Features | None, *, noise: bool) -> SelectionMethod:
    """As a run with this rule chooses; `features` None unless it learns."""

    def select(scenes: Scenes, seed: int) -> Tensor:
        uniforms = scenes.uniforms(seed)
        draws = draw_choice(rule, scenes.valid, scenes.padding, uniforms, noise=noise)
        device = scenes.valid.device
        embedded = None if features is None else features(scenes.candidates)
        return choose(
            rule, embedded, scenes.valid, scenes.padding, moved(draws, device), scenes.crops
        ).selected

    return SelectionMethod(select, draws_differ(rule, noise))


def by_style(
    rule: RetrievalConfig, bank: Bank, styles: NDArray[np.int64], features: Features
) -> SelectionMethod:
    """As a run with this rule would choose by the true styles, from where it starts."""

    def select(scenes: Scenes, seed: int) -> Tensor:
        patches = patch_styles(bank, scenes.candidates, styles)
        return oracles.oracle_choice(
            patches.styles.to(scenes.valid.device),
            scenes.valid,
            scenes.padding,
            scenes.uniforms(seed),
            num_styles=int(styles.max()) + 1,
            start=rule.start,
            features=features(scenes.candidates),
            crops=None if rule.same_patch_allowed else scenes.crops,
        ).selected

    return SelectionMethod(select, is_drawn=rule.start != "best")  # else ties are drawn


def globally_by_style(bank: Bank, styles: NDArray[np.int64]) -> SelectionMethod:
    """With the fewest pairs of unlike styles, wherever a run may start."""

    def select(scenes: Scenes, _: int) -> Tensor:
        own = patch_styles(bank, scenes.candidates, styles).styles
        apart = scenes.apart(own, scenes.valid.cpu(), scenes.crops.photo.cpu())
        return torch.cat([oracles.global_choice(*scene) for scene in apart])

    return SelectionMethod(select, is_drawn=False)


def patch_styles(bank: Bank, ids: Tensor, styles: NDArray[np.int64]) -> PatchStyles:
    """Styles and boxes of patches (O, K); of padding (-1) those of some patch, to be masked."""
    rows = bank.rows(ids.numpy().clip(bank.patch_ids[0]))
    corners = [column(bank.table, name)[rows] for name in ("x0", "y0", "x1", "y1")]
    return PatchStyles(
        ids, torch.from_numpy(styles[rows]), torch.from_numpy(np.stack(corners, axis=-1))
    )
