"""Scores of ways of choosing patches, for one run: the same test scenes for all, and the same
random numbers for all of a seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from bank.bank import Bank
from bank.files import file_digest, json_digest
from jobs.claims.claims import Method
from jobs.claims.training import SCORING, timed
from model import checkpoint
from model.config import RetrievalConfig
from model.retrievegan.run import load_network
from model.scores.choices import (
    SelectionMethod,
    by_rule,
    by_style,
    choose_all,
    globally_by_style,
    patch_styles,
)
from model.scores.intervals import score_of, sum_by_scene
from model.scores.metrics import PatchStyles
from model.scores.retrieval import (
    GROUND_TRUTH,
    compatibility_scores,
    ground_truth,
    styles_shown_scores,
    unlike_choice_scores,
)
from model.scores.retriever import Retriever
from model.scores.scenes import Features, Scenes, scene_batches
from pipeline.errors import UserError
from pipeline.options import write_json
from pipeline.output import log
from pipeline.wording import counted

KEPT = "claims.json"  # in a run's folder: scores by a digest of all that they depend on


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Of one method and seed."""

    compatibility: float  # the share of pairs of chosen patches whose hidden styles agree
    unlike_choices: float  # the share of a scene's draws that differ from those before them
    styles_shown: float  # in how many styles a scene's draws show it
    ground_truth: float | None  # ground-truth selection; None where no embedding was learned


@dataclass(frozen=True)
class HeldOut:
    """The test scenes, and what they are scored with."""

    bank: Bank
    styles: NDArray[np.int64]  # of the photos of the bank's patches, as `bank.patch_ids`
    image_ids: NDArray[np.int64]
    k: int  # candidates per object
    draws: int  # choices of patches per scene, at least two
    device: torch.device

    def parts(self, number: int) -> list["HeldOut"]:
        """The scenes in so many parts, each scene in one; UserError where there are too few."""
        if len(self.image_ids) < number:
            raise UserError(
                f"{counted(len(self.image_ids), 'test scene')} for {number} seeds, each of which "
                f"is scored on scenes of its own: give a larger bank or fewer --seeds"
            )
        return [replace(self, image_ids=self.image_ids[part::number]) for part in range(number)]

    @cached_property
    def batches(self) -> list[Scenes]:
        return scene_batches(self.bank, self.image_ids, self.k, self.device)

    @cached_property
    def patches(self) -> list[PatchStyles]:
        """Styles of the candidates of each batch."""
        return [patch_styles(self.bank, batch.candidates, self.styles) for batch in self.batches]

    @property
    def num_styles(self) -> int:
        return int(self.styles.max()) + 1

    @cached_property
    def chance(self) -> float:
        """The compatibility where each candidate is equally likely."""
        return compatibility_scores(self.batches, {}, self.patches)[-1].value

    @cached_property
    def digest(self) -> str:
        """Of all that scores depend on but the run, the method and the code."""
        about = {
            "bank": [self.bank.content_digest, self.bank.manifest.derived_digest],
            "styles": self.styles.tolist(),
            "scenes": self.image_ids.tolist(),
            "k": self.k,
            "draws": self.draws,
        }
        return json_digest(about)


def scores_of(
    run: Path, seed: int, methods: Sequence[Method], held_out: HeldOut
) -> dict[str, Scores]:
    """By the method's name. What the run's folder keeps is not computed again.

    seed  of the run: runs with other seeds have other random numbers
    """
    weights = file_digest(checkpoint.last(run) / checkpoint.MODEL).sha256
    keys = {
        method.name: json_digest(
            [method.chooser, method.choice, method.noise, weights, held_out.digest]
        )
        for method in methods
    }
    kept = read_kept(run / KEPT)
    missing = [method for method in methods if keys[method.name] not in kept]
    if missing:
        log.info(f"{run}: scoring {', '.join(method.name for method in missing)}")
        with timed(run / SCORING):
            found = measured(run, seed, missing, held_out)
        kept |= {keys[name]: scores for name, scores in found.items()}
        write_json(run / KEPT, kept)
    return {name: kept[key] for name, key in keys.items()}


def read_kept(path: Path) -> dict[str, Scores]:
    """By key; none where there is no such file."""
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Scores])
    except msgspec.MsgspecError as error:
        raise UserError(f"{path} is damaged ({error}): remove it, and run this again") from error


def measured(
    run: Path, seed: int, methods: Sequence[Method], held_out: HeldOut
) -> dict[str, Scores]:
    """Choose by each method, and score what was chosen."""
    bank, batches, patches = held_out.bank, held_out.batches, held_out.patches
    model, _ = load_network(run, bank, held_out.device)
    retriever = Retriever(model, bank, batches, model.config.retrieval, noise=False)
    assert retriever.trained is not None, "the trainings of claims learn"
    embeddings = {"trained": retriever.trained}
    if any(method.chooser == "untrained" for method in methods):
        embeddings["untrained"] = retriever.untrained()
    first = seed * held_out.draws
    selection = {
        method.name: selection_method(method, retriever.rule, embeddings, held_out)
        for method in methods
    }
    choices = choose_all(batches, selection, held_out.draws, first)
    compatibility, unlike, shown = (
        {score.choice: score.value for score in scores}
        for scores in (
            compatibility_scores(batches, choices, patches),
            unlike_choice_scores(batches, choices),
            styles_shown_scores(batches, choices, patches, held_out.num_styles),
        )
    )
    truth = {name: ground_truth_share(e, batches, first) for name, e in embeddings.items()}
    return {
        method.name: Scores(
            compatibility=compatibility[method.name],
            unlike_choices=unlike[method.name],
            styles_shown=shown[method.name],
            ground_truth=None if "mode" in method.choice else truth.get(method.chooser),
        )
        for method in methods
    }


def selection_method(
    method: Method, trained: RetrievalConfig, embeddings: Mapping[str, Features], held_out: HeldOut
) -> SelectionMethod:
    """
    trained     the rule that the run was trained with
    embeddings  "trained", and "untrained" where the method asks for it
    """
    bank, styles = held_out.bank, held_out.styles
    # As `jobs.sample` chooses: no crop serves two objects of a scene.
    rule = replace(trained, **{"same_patch_allowed": False, **method.choice})
    match method.chooser:
        case "global oracle":
            return globally_by_style(bank, styles)
        case "start-conditioned oracle":
            return by_style(rule, bank, styles, embeddings["trained"])
        case embedding:
            features = embeddings[embedding] if rule.mode == "learned" else None
            return by_rule(rule, features, noise=method.noise)


def ground_truth_share(features: Features, batches: Sequence[Scenes], seed: int) -> float:
    """How often the true patch of an object is the nearest to that of another."""
    parts = [
        sum_by_scene(pairs.credit, torch.ones_like(pairs.credit), pairs.image, batch.num_images)
        for batch in batches
        for pairs in [ground_truth(batch, features, seed)]
    ]
    return score_of(GROUND_TRUTH, "trained", parts).value
